"""Saving and loading checkpoints: networks, optimisers and progress of a run, to continue it to the same bits.

`last.pt` also holds the settings of the run, so that another run in its folder is refused.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tectum.balance import Constant
from tectum.errors import UserError
from tectum.io.files import load_state, write_whole
from tectum.pair import Pairs
from tectum.protocols import Balance
from tectum.training.old_names import OLD_NAMES, use_new_names
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer

FILES = {"fuser": "best.safetensors", "objective": "objective.safetensors", "task": "task.safetensors"}
"""Files of the weights of the best validation, by the network's name."""


@dataclass
class Progress:
    """Progress of a run: the steps taken so far, and its best validation.

    Attributes:
        step: fit steps done.
        meta: meta steps done.
        first: steps of the task alone done.
        ended: fit steps done at the last validation.
        seconds: time spent.
        best: log line of the best validation.
        sums: (sum, count) of the numbers of this epoch's log line, by name.
    """

    step: int = 0
    meta: int = 0
    first: int = 0
    ended: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)


class Checkpoint:
    """The checkpoint `last.pt` of a run folder.

    Args:
        folder: of the run.
        trainer: whose networks and optimisers are saved and loaded.
        pairs: of the run; their number and names must stay.
    """

    def __init__(self, folder: Path, trainer: Trainer, pairs: Pairs) -> None:
        self._folder, self._path, self._trainer = folder, folder / "last.pt", trainer
        ends = (" ".join(pairs[index].name) or "unnamed" for index in (0, len(pairs) - 1))
        self._settings = {
            "schedule": json.loads(json.dumps(asdict(trainer.schedule))),
            "pairs": [len(pairs), *ends],
            "balanced_by": _balance_settings(trainer.balance),
        }

    def save(self, progress: Progress) -> None:
        """Write what is needed to continue from here.

        Raises:
            OSError: the disk is full.
        """
        trainer = self._trainer
        content: dict[str, Any] = {name: module.state_dict() for name, module in trainer.modules.items()}
        content["optimizers"] = {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.items()}
        content["average"] = trainer.ema.mean
        content["state"] = asdict(progress) | {"balance": trainer.balance.state_dict()} | self._settings

        def write(path: Path) -> None:
            try:
                torch.save(content, path)
            except RuntimeError as error:  # torch's error on a full disk
                raise OSError(
                    f"{self._path} cannot be written, the disk may be full; make room and repeat the command, it "
                    "goes on from the last checkpoint"
                ) from error

        write_whole(self._path, write)

    def load(self) -> Progress:
        """Put the checkpoint into the trainer and return the progress of the run; without a file, that of a new run.

        Raises:
            UserError: the folder holds a run with other settings, networks or pairs, or a damaged checkpoint.
        """
        if not self._path.exists():
            return Progress()
        try:
            saved = torch.load(self._path, weights_only=True, map_location="cpu")
            self._check_settings(saved)
        except UserError:
            raise
        except Exception as error:  # zipfile, pickle and torch each raise their own
            raise UserError(
                f"{self._path} is damaged ({type(error).__name__}); delete it to start the run again"
            ) from error
        trainer, state = self._trainer, saved["state"]
        advice = "repeat the settings and classes of the run, or choose a new folder"
        for name, module in trainer.modules.items():
            load_state(module, saved[name], self._path, advice=advice)
        for name, optimizer in trainer.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        trainer.ema.load(saved.get("average", {}))
        trainer.balance.load_state_dict(state.get("balance", trainer.balance.state_dict()))
        progress = Progress(**{name: state[name] for name in asdict(Progress())})
        progress.sums = use_new_names(progress.sums)
        progress.best = progress.best and use_new_names(progress.best)
        return progress

    def _check_settings(self, saved: dict[str, Any]) -> None:
        """Refuse to continue with other settings; those that an old checkpoint does not have had their default."""
        asked, state = self._settings["schedule"], saved["state"]
        schedule = json.loads(json.dumps(asdict(Schedule()) | use_new_names(state["schedule"])))
        if changed := [name for name, value in asked.items() if schedule[name] != value]:
            raise UserError(
                f"{self._folder} holds a run with another {', '.join(changed)}; repeat its settings, or choose a new "
                "folder"
            )
        if other := [name for name in FILES if (name in saved) != (name in self._trainer.modules)]:
            has = "with" if other[0] in saved else "without"
            raise UserError(
                f"{self._folder} holds a run {has} a {other[0]}; repeat its settings, or choose a new folder"
            )
        asked = self._settings["balanced_by"]
        no_balance = asked if isinstance(self._trainer.balance, Constant) else None
        balanced_by = state.get("balanced_by", no_balance)
        if balanced_by is not None:
            balanced_by = [OLD_NAMES.get(balanced_by[0], balanced_by[0]), *balanced_by[1:]]
        if balanced_by != asked:
            raise UserError(
                f"{self._folder} holds a run with another balance; repeat its settings, or choose a new folder"
            )
        asked = self._settings["pairs"]
        if (pairs := state.get("pairs", asked)) != asked:
            raise UserError(
                f"{self._folder} holds a run on {pairs[0]} pairs, {pairs[1]} to {pairs[-1]}, these are {asked[0]}, "
                f"{asked[1]} to {asked[-1]}; repeat its --data, or choose a new folder"
            )


def _balance_settings(balance: Balance) -> list[Any]:
    """Class of a balance and the numbers it was made with, without those that move."""
    numbers = {name: x for name, x in getattr(balance, "__dict__", {}).items() if isinstance(x, int | float)}
    return [type(balance).__name__, {name: x for name, x in numbers.items() if name not in balance.state_dict()}]
