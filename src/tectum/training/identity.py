"""Identity of a run: the settings, data and options of networks that must be the same when it is resumed.

The pixels and labels of all pairs are compared by hashes (of the files, where the pairs are files), whatever their
folder is called. Of fuser, objective and task the class counts, and every option that is an attribute, as far as both
the checkpoint and the network have it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tectum.balance import Constant
from tectum.errors import UserError, abbreviate
from tectum.io.files import fingerprint
from tectum.pair import Pairs
from tectum.protocols import Balance
from tectum.training.old_names import OLD_NAMES, use_new_names
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer

_ADVICE = "repeat its settings, or choose a new folder"


def hash_pairs(pairs: Pairs) -> list[str]:
    """Returns a hash of the content of each pair: of its files, if the pairs know them, else of pixels and target."""
    of_files = getattr(pairs, "fingerprint", None)
    if of_files is None:
        return [_hash_pair(pairs, index) for index in range(len(pairs))]
    with ThreadPoolExecutor(4) as pool:  # hashing frees Python's lock
        return list(pool.map(of_files, range(len(pairs))))


def _hash_pair(pairs: Pairs, index: int) -> str:
    pair = pairs[index]
    return fingerprint(pair.a, pair.b, pair.target)


def run_settings(trainer: Trainer, pairs: Pairs) -> dict[str, Any]:
    """Returns the settings of a run that a checkpoint keeps, as JSON types.

    Args:
        trainer: its schedule, balance, precision and networks count.
        pairs: to train on; their number and the names of the first and the last count.
    """
    ends = (" ".join(pairs[index].name) or "unnamed" for index in (0, len(pairs) - 1))
    settings = {
        "schedule": asdict(trainer.schedule),
        "pairs": [len(pairs), *ends],
        "balanced_by": _balance_settings(trainer.balance),
        "precision": trainer.world.precision,
        "options": {name: _module_options(name, module) for name, module in trainer.modules.items()},
    }
    return dict(json.loads(json.dumps(settings)))


def describe_machine(trainer: Trainer) -> dict[str, Any]:
    """Returns what may change the rounding of a run: version of torch, kind and number of devices, threads."""
    device = next(trainer.fuser.parameters()).device.type
    threads = torch.get_num_threads()
    return {"torch": str(torch.__version__), "device": device, "devices": trainer.world.size, "threads": threads}


def check_settings(folder: Path, trainer: Trainer, asked: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other settings; those that an old checkpoint does not have are not compared.

    Args:
        folder: of the run, for the messages.
        trainer: of this session.
        asked: its `run_settings`.
        saved: content of the checkpoint.

    Raises:
        UserError: settings, networks or pairs are others; the sentence says which.
    """
    state = saved["state"]
    schedule = json.loads(json.dumps(asdict(Schedule()) | use_new_names(state["schedule"])))
    if changed := [name for name, value in asked["schedule"].items() if schedule[name] != value]:
        raise UserError(f"{folder} holds a run with another {', '.join(changed)}; {_ADVICE}")
    if other := [name for name in ("fuser", "objective", "task") if (name in saved) != (name in trainer.modules)]:
        has = "with" if other[0] in saved else "without"
        raise UserError(f"{folder} holds a run {has} a {other[0]}; {_ADVICE}")
    no_balance = asked["balanced_by"] if isinstance(trainer.balance, Constant) else None
    balanced_by = state.get("balanced_by", no_balance)
    if balanced_by is not None:
        balanced_by = [OLD_NAMES.get(balanced_by[0], balanced_by[0]), *balanced_by[1:]]
    if balanced_by != asked["balanced_by"]:
        raise UserError(f"{folder} holds a run with another balance; {_ADVICE}")
    if (precision := state.get("precision", asked["precision"])) != asked["precision"]:
        raise UserError(f"{folder} holds a run in precision {precision}, got {asked['precision']}; {_ADVICE}")
    if (pairs := state.get("pairs", asked["pairs"])) != asked["pairs"]:
        raise UserError(
            f"{folder} holds a run on {pairs[0]} pairs, {pairs[1]} to {pairs[-1]}, these are {asked['pairs'][0]}, "
            f"{asked['pairs'][1]} to {asked['pairs'][-1]}; repeat its --data, or choose a new folder"
        )


def check_options(folder: Path, asked: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Refuse to resume a run with networks of other classes or options; arguments as those of `check_settings`.

    Raises:
        UserError: the sentence says which.
    """
    for name, options in state.get("options", {}).items():
        here = asked["options"][name]
        common = [key for key in options if key in here]
        changes = [f"{key} {options[key]} there, {here[key]} here" for key in common if options[key] != here[key]]
        if changes:
            raise UserError(f"{folder} holds a run with another {name} ({abbreviate(changes)}); {_ADVICE}")


def check_data(
    folder: Path, data: Mapping[str, Sequence[str]], there: Mapping[str, Sequence[str]], sets: Mapping[str, Pairs]
) -> None:
    """Refuse to resume a run on other pixels or labels.

    Args:
        folder: of the run, for the messages.
        data: hashes of today's pairs, by the name of their part.
        there: those in the checkpoint.
        sets: the pairs themselves, by the same names.

    Raises:
        UserError: the sentence counts the pairs that have changed. A set whose pairs are drawn at random every time
            they are read is not compared.
    """
    for part, hashes in data.items():
        if len(hashes) != len(there[part]):
            raise UserError(
                f"{folder} holds a run with {len(there[part])} {part} pairs, these are {len(hashes)}; repeat its "
                "--data, or choose a new folder"
            )
        changed = [i for i, (one, other) in enumerate(zip(hashes, there[part], strict=True)) if one != other]
        pairs = sets[part]
        if changed and (hasattr(pairs, "fingerprint") or all(_hash_pair(pairs, i) == hashes[i] for i in changed)):
            names = abbreviate(" ".join(pairs[i].name) or f"number {i}" for i in changed)
            raise UserError(
                f"{folder} holds a run on other data: {len(changed)} of {len(hashes)} {part} pairs have other pixels "
                f"or labels now ({names}); put the files back, or choose a new folder"
            )


def _balance_settings(balance: Balance) -> list[Any]:
    """Class of a balance and the numbers it was made with, without those that move."""
    numbers = {name: x for name, x in getattr(balance, "__dict__", {}).items() if isinstance(x, int | float)}
    return [type(balance).__name__, {name: x for name, x in numbers.items() if name not in balance.state_dict()}]


def _module_options(name: str, network: nn.Module) -> dict[str, Any]:
    """Class of a network, and the finite numbers among the attributes of its parts; of the objective texts too.

    A text of another network may be the path of a file or a device, which may change.
    """
    plain = (int, float, str) if name == "objective" else (int, float)
    options: dict[str, Any] = {"class": type(network).__name__}
    for prefix, part in network.named_modules():
        for key, value in vars(part).items():
            values = value if isinstance(value, tuple | list) else (value,)
            if key.startswith("_") or key == "training" or not all(isinstance(x, plain) for x in values):
                continue
            if all(isinstance(x, str) or math.isfinite(x) for x in values):
                options[f"{prefix}.{key}".lstrip(".")] = value
    return options
