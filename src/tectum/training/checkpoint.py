"""Saving and loading checkpoints: networks, optimisers and progress of a run, to continue it to the same bits.

`last.pt` also holds what makes the run what it is (`tectum.training.identity`), so that another run in its folder is
refused, and the SHA-256 of the files of the best weights. Its own archive has a CRC, which is checked.
"""

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tectum.console import say
from tectum.errors import UserError
from tectum.io.files import changed_settings, file_sha256, load_state, write_whole
from tectum.pair import Pairs
from tectum.training.identity import (
    check_data,
    check_options,
    check_settings,
    describe_machine,
    hash_pairs,
    run_settings,
)
from tectum.training.old_names import use_new_names
from tectum.training.trainer import Trainer

FILES = {"fuser": "best.safetensors", "objective": "objective.safetensors", "task": "task.safetensors"}
"""Files of the weights of the best validation, by the network's name."""


@dataclass
class Progress:
    """Progress of a run: the steps taken so far, its log, and its best validation.

    Attributes:
        step: fit steps done.
        meta: meta steps done.
        first: steps of the task alone done.
        ended: fit steps done at the last validation.
        seconds: time spent.
        best: log line of the best validation.
        saved: SHA-256 of the files of the best weights, by their names.
        log: lines of the log.
        sums: (sum, count) of the numbers of this epoch's log line, by name.
    """

    step: int = 0
    meta: int = 0
    first: int = 0
    ended: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    saved: dict[str, str] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)


class Checkpoint:
    """The checkpoint `last.pt` of a run folder.

    Args:
        folder: of the run.
        trainer: whose networks and optimisers are saved and loaded.
        pairs: of the run, without those held out.
        sets: {"training": ..., "validation": ...}: all pairs, whose content must stay.
    """

    def __init__(self, folder: Path, trainer: Trainer, pairs: Pairs, sets: dict[str, Pairs]) -> None:
        self._folder, self._path, self._trainer, self._sets = folder, folder / "last.pt", trainer, sets
        self._settings = run_settings(trainer, pairs)
        self._data: dict[str, list[str]] = {}

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
        content["state"] |= {"data": self._data, "machine": describe_machine(trainer)}

        def write(path: Path) -> None:
            try:
                torch.save(content, path)
            except RuntimeError as error:  # torch's error on a full disk
                raise OSError(f"{self._path} cannot be written, the disk may be full; make room") from error

        write_whole(self._path, write)

    def load(self) -> Progress:
        """Put the checkpoint into the trainer and return the progress of the run; without a file, that of a new run.

        Raises:
            UserError: the folder holds a run with other settings, networks or data, or a damaged file.
        """
        trainer, saved = self._trainer, read_checkpoint(self._path) if self._path.exists() else None
        if saved is not None:
            check_settings(self._folder, trainer, self._settings, saved)
        trainer.world.on_main(lambda: self._check_data(saved))
        if saved is None:
            return Progress()
        state = saved["state"]
        advice = "repeat the settings and classes of the run, or choose a new folder"
        for name, module in trainer.modules.items():
            load_state(module, saved[name], self._path, advice=advice)
        check_options(self._folder, self._settings, state)
        for name, optimizer in trainer.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        trainer.ema.load(saved.get("average", {}))
        trainer.balance.load_state_dict(state.get("balance", trainer.balance.state_dict()))
        progress = Progress(**{name: state[name] for name in asdict(Progress()) if name in state})
        progress.sums = use_new_names(progress.sums)
        progress.best = progress.best and use_new_names(progress.best)
        if trainer.world.is_main:
            if "log" not in state:
                progress.log = self._read_log(progress.ended)
            self._check_best(progress)
            if progress.step < trainer.schedule.steps:
                self._compare_machine(state)
        return progress

    def _check_data(self, saved: dict[str, Any] | None) -> None:
        self._data = {part: hash_pairs(pairs) for part, pairs in self._sets.items()}
        if saved is None:
            return
        if (there := saved["state"].get("data")) is None:
            say(f"{self._path} is of an earlier version, which kept no hashes of the data: it is taken for the same")
        else:
            check_data(self._folder, self._data, there, self._sets)

    def _check_best(self, progress: Progress) -> None:
        """Choose the best weights anew where their files are not those of the checkpoint; refuse a finished run."""
        changed = [name for name, sha256 in progress.saved.items() if not _is_file(self._folder / name, sha256)]
        if not changed:
            return
        if progress.step == self._trainer.schedule.steps == progress.ended:
            raise UserError(
                f"{self._folder / changed[0]} is not the file that the run has saved (SHA-256 differs); put that file "
                "back, or train again in a new folder"
            )
        say(f"{self._folder / changed[0]} is not of the last checkpoint; the best weights are chosen anew from here")
        progress.best, progress.saved = None, {}

    def _read_log(self, step: int) -> list[dict[str, Any]]:
        """Lines of the log up to a step, for a checkpoint of an earlier version, which has none; damaged ones are left
        out."""
        log = self._folder / "log.jsonl"
        lines, num_damaged = [], 0
        for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
            try:
                line = use_new_names(json.loads(text))
                lines += [line] if line["step"] <= step else []
            except (ValueError, TypeError, KeyError, AttributeError):
                num_damaged += 1
        if num_damaged:
            say(f"{num_damaged} damaged lines of {log} are left out")
        return lines

    def _compare_machine(self, state: dict[str, Any]) -> None:
        here = describe_machine(self._trainer)
        there = state.get("machine", here)
        if changes := changed_settings(there, here):
            say(f"the run was begun elsewhere ({changes}): its result is that of an uninterrupted run up to rounding")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint.

    Raises:
        UserError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the CRC
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("its CRC differs")
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        saved["state"]["schedule"], saved["optimizers"]
    except PermissionError:
        raise
    except Exception as error:  # zipfile, pickle and torch each raise their own
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it to start the run again") from error
    return saved


def _is_file(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256
