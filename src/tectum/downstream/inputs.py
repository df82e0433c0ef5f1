"""What --images names: a source, a baseline, a system, a folder of fused images."""

from pathlib import Path
from typing import TYPE_CHECKING

from tectum.console import check_place
from tectum.errors import UserError

if TYPE_CHECKING:
    from tectum.downstream.run import Input


def named(text: str) -> tuple[str, str]:
    """`ours=results/ours` -> (ours, results/ours); without a name the folder's, or the system's, own.

    >>> named("results/ours"), named("tdfusion@run/best.safetensors"), named("a=average")
    (('ours', 'results/ours'), ('tdfusion', 'tdfusion@run/best.safetensors'), ('a', 'average'))
    """
    name, equals, what = text.partition("=")
    if not equals:
        what = text
        known = text.partition("@")[0]
        name = Path(text).name if Path(text).is_dir() else known.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    if not what or not name or any(sign in name for sign in "/\\*?[\0") or name.startswith("."):
        raise UserError(f"--images must be given as INPUT or NAME=INPUT with a plain name, got {text!r}")
    return name, what


def chosen(name: str, what: str, device: str, *, scored: str) -> "Input":
    """A source, a baseline, a folder or a system."""
    from tectum.downstream.run import Input
    from tectum.errors import unknown
    from tectum.evaluation.methods import BASELINES, Folder, baseline, system
    from tectum.systems import SYSTEMS

    if what in BASELINES:
        return Input(name, baseline(what), baseline(what))
    if Path(what).is_dir():
        parts = [place if place.is_dir() else Path(what) for place in (Path(what) / "train", Path(what) / scored)]
        return Input(name, *(Folder(name, str(place)) for place in parts))
    known = what.partition("@")[0]
    if known not in SYSTEMS and ":" not in known:
        if "/" in what:
            check_place("fused", what)
        everything = dict.fromkeys([*BASELINES, *SYSTEMS])
        raise UserError(f"{unknown(known, everything, kind='input')}, or a folder of fused images")
    from tectum.color import to_levels

    made = system(name, what, saved=("levels", to_levels), reading={}, device=device)
    return Input(name, made, made)
