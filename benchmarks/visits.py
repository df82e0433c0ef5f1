"""Count the modules of tectum that one image goes through, and how often control passes from one to another.

    python benchmarks/visits.py            prints both for `tectum fuse` and `tectum eval` on one packaged pair

A module is visited when one of its functions runs, whatever the import of modules does. A crossing is a call from a
function of one module straight into a function of another.
"""

import contextlib
import io
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import tectum
from tectum.cli import main

PACKAGE = Path(tectum.__file__).parent
DEMO = PACKAGE / "data" / "demo"


def visits(action: Callable[[], object]) -> tuple[list[str], Counter[tuple[str, str]]]:
    """Run `action` and watch the calls inside tectum, in all its threads.

    Returns:
        The modules whose functions ran, and {(caller's module, module called): number of calls}, for two modules that
        differ.
    """
    names: dict[str, str | None] = {}
    modules: set[str] = set()
    crossings: Counter[tuple[str, str]] = Counter()

    def module_of(frame: FrameType | None) -> str | None:
        if frame is None:
            return None
        file = frame.f_code.co_filename
        if file not in names:
            inside = Path(file).is_relative_to(PACKAGE)
            names[file] = ".".join(Path(file).relative_to(PACKAGE).with_suffix("").parts) if inside else None
        return names[file]

    def runs_at_import(frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_name == "<module>" and module_of(frame) is not None:
                return True
            frame = frame.f_back
        return False

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or (module := module_of(frame)) is None or runs_at_import(frame):
            return
        modules.add(module)
        caller = module_of(frame.f_back)
        if caller is not None and caller != module:
            crossings[caller, module] += 1

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return sorted(modules), crossings


def fuse_one(folder: Path) -> None:
    """`tectum fuse` on one packaged pair."""
    pair = (str(DEMO / side / "street-1.png") for side in ("vi", "ir"))
    assert main(["fuse", *pair, "-o", str(folder / "fused.png")]) == 0


def eval_one(folder: Path) -> None:
    """`tectum eval` of one fused image."""
    for side in ("vi", "ir"):
        (folder / side).mkdir()
        shutil.copy(DEMO / side / "street-1.png", folder / side)
    places = ("--visible", str(folder / "vi"), "--infrared", str(folder / "ir"), "--fused", f"ours={folder / 'vi'}")
    assert main(["eval", *places, "-o", str(folder / "scores"), "--no-report", "--quiet"]) == 0


if __name__ == "__main__":
    for verb in (fuse_one, eval_one):
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
            modules, crossings = visits(lambda verb=verb, at=Path(temporary): verb(at))  # type: ignore[misc]
        print(f"{verb.__doc__} {len(modules)} modules, {sum(crossings.values())} crossings")
        print(f"  {', '.join(modules)}")
        for (caller, called), num in crossings.most_common():
            print(f"  {num:5} {caller} -> {called}")
