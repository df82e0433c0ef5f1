"""What a run is at a moment, in one file: all that is needed to go on, to the same bits.

`last.pt` holds the networks, their optimisers and the state: steps done, sums of the epoch, the best validation, and
what the run was asked for, so that another run in its folder is refused.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tectum.balance import Constant
from tectum.errors import UserError
from tectum.io.files import write_whole
from tectum.pair import Pairs
from tectum.protocols import Balance
from tectum.training.bilevel import Named
from tectum.training.schedule import Schedule
from tectum.training.steps import Learners

FILES = {"fuser": "best.safetensors", "objective": "objective.safetensors", "task": "task.safetensors"}
"""The weights of the best validation, by what they are of."""


def resume(folder: Path, learners: Learners, pairs: Pairs) -> dict[str, Any]:
    """The state of a run: that of its checkpoint, put into the learners, or a new one.

    Raises:
        ValueError: the folder holds a run with other settings, networks or pairs, or a damaged checkpoint.
    """
    path, asked = folder / "last.pt", json.loads(json.dumps(asdict(learners.schedule)))
    here = [len(pairs), *(" ".join(pairs[index].name) or "unnamed" for index in (0, len(pairs) - 1))]
    balance = {"balance": learners.weigher.state_dict(), "balanced_by": settings(learners.weigher)}
    if not path.exists():
        new = {
            "step": 0,
            "meta": 0,
            "first": 0,
            "ended": 0,
            "seconds": 0.0,
            "best": None,
            "sums": {},
            "schedule": asked,
            "pairs": here,
        }
        return new | balance
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        known = saved["state"]["schedule"]
    except Exception as error:  # zipfile, pickle and torch each raise their own
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it to start the run again") from error
    known = asdict(Schedule()) | known  # runs of before a setting was there had its default
    if changed := [k for k, v in asked.items() if json.loads(json.dumps(known[k])) != v]:
        raise UserError(
            f"{folder} holds a run with another {', '.join(changed)}; repeat its settings, or choose a new folder"
        )
    before_balances = balance["balanced_by"] if isinstance(learners.weigher, Constant) else None
    if saved["state"].get("balanced_by", before_balances) != balance["balanced_by"]:
        raise UserError(f"{folder} holds a run with another balance; repeat its settings, or choose a new folder")
    if (there := saved["state"].get("pairs", here)) != here:
        raise UserError(
            f"{folder} holds a run on {there[0]} pairs, {there[1]} to {there[-1]}, these are {here[0]}, {here[1]} to "
            f"{here[-1]}; repeat its --data, or choose a new folder"
        )
    for name in FILES:
        module = learners.modules().get(name)
        if (module is None) != (name not in saved):
            which = "with" if module is None else "without"
            raise UserError(f"{folder} holds a run {which} a {name}; repeat its settings, or choose a new folder")
        if module is not None:
            refuse_another(name, module, saved[name], folder)
            module.load_state_dict(saved[name])
    for name, optimizer in learners.optimizers.items():
        optimizer.load_state_dict(saved["optimizers"][name])
    learners.average.load(saved.get("average", {}))
    state: dict[str, Any] = balance | saved["state"]  # runs of before there were balances have none
    learners.weigher.load_state_dict(state["balance"])
    return state


def settings(balance: Balance) -> list[Any]:
    """What a balance was made as: its class, and its numbers but for those that move."""
    kept = {name: x for name, x in getattr(balance, "__dict__", {}).items() if isinstance(x, int | float)}
    return [type(balance).__name__, {name: x for name, x in kept.items() if name not in balance.state_dict()}]


def refuse_another(name: str, module: nn.Module, saved: Named, folder: Path) -> None:
    """The tensors of a checkpoint must be those of the module."""
    own = module.state_dict()
    for key in own | saved:
        here, there = (str(tuple(x[key].shape)) if key in x else "missing" for x in (own, saved))
        if here != there:
            raise UserError(
                f"{folder} holds a run of another {name} than this {type(module).__name__}: {key} is {there} there and "
                f"{here} here; repeat its settings and its classes, or choose a new folder"
            )


def keep(folder: Path, learners: Learners, state: dict[str, Any]) -> None:
    """Write what is needed to go on from here."""
    content: dict[str, Any] = {name: module.state_dict() for name, module in learners.modules().items()}
    content["optimizers"] = {name: optimizer.state_dict() for name, optimizer in learners.optimizers.items()}
    content["average"] = learners.average.mean
    content["state"] = state

    def write(path: Path) -> None:
        try:
            torch.save(content, path)
        except RuntimeError as error:  # what it makes of a full disk
            raise OSError(
                f"{folder / 'last.pt'} cannot be written, the disk may be full; make room and repeat the command, it "
                "goes on from the last checkpoint"
            ) from error

    write_whole(folder / "last.pt", write)
