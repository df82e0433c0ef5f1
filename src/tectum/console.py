"""What the verbs share: how they speak, and two kinds of flags."""

import difflib
import glob
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from tectum.errors import UserError

Flag = Annotated[bool, arg(help_behavior_hint="")]


def optional(metavar: str) -> Any:
    """A flag that may be left out, its help without `(default: None)`."""
    return arg(metavar=metavar, help_behavior_hint="")


def sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read or write {error.filename}: {error.strerror}; check the path, its permissions and the disk"
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def say(sentence: str) -> None:
    """One line on stderr."""
    print(f"tectum: {' '.join(sentence.split())}", file=sys.stderr)


def say_failures(what: str, failures: Mapping[str, str]) -> None:
    """A line for each reason in {name: why}, with the names it holds for."""
    from tectum.io.folders import some

    reasons: dict[str, list[str]] = {}
    for name, reason in failures.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        say(f"{what}: {some(names)}: {reason}")


def check_place(role: str, where: str) -> None:
    """A quick answer to a misspelt path, before torch is imported."""
    if not Path(where).exists() and not glob.has_magic(where):
        close = difflib.get_close_matches(Path(where).name, neighbours(Path(where)), n=1)
        hint = f"did you mean {Path(where).with_name(close[0])}?" if close else "check the path"
        raise FileNotFoundError(f"{role} image or folder {where} does not exist; {hint}")


def neighbours(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir()]
    except OSError:
        return []


def use_threads(threads: int | None) -> None:
    """Have torch use so many threads; refuses numbers it crashes on."""
    if threads is None:
        return
    if not 1 <= threads <= 1024:
        raise UserError(f"--threads must be between 1 and 1024, got {threads}")
    import torch

    torch.set_num_threads(threads)
