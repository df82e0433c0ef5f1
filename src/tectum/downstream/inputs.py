"""What --images names: a source, a baseline, a system, a folder of fused images."""

from pathlib import Path
from typing import TYPE_CHECKING

from tectum.console import check_path_exists
from tectum.errors import UserError

if TYPE_CHECKING:
    from tectum.downstream.run import Input


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
            check_path_exists("fused", what)
        everything = dict.fromkeys([*BASELINES, *SYSTEMS])
        raise UserError(f"{unknown(known, everything, noun='input')}, or a folder of fused images")
    from tectum.color import to_levels

    made = system(name, what, saved=("levels", to_levels), reading={}, device=device)
    return Input(name, made, made)
