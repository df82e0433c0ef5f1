"""`tectum eval`: score any method's fused images, or our systems, against their sources."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from tectum.commands.messages import Flag, check_place, optional, say

if TYPE_CHECKING:
    from tectum.engine.evaluate import Evaluation, Evaluator
    from tectum.inference.measure import Cost


@dataclass(frozen=True)
class Eval:
    """Score fused images with the field's metrics: table, CSV, JSON, and a report page with pictures.

    --fused and --system may be given several times; the first one is what the others are compared with. Sources are two
    folders (--visible, --infrared) or a known set (--data). Beside the methods stand baselines with nothing learned,
    which several metrics prefer to any method: docs/metrics.md says which.

    OUT receives report.html, scores.csv, summary.csv, evaluation.json, and scores.jsonl, from which the same command
    goes on where it was cut short. Exit code: 0 all scored, 1 some images failed (the others are kept), 2 a mistake
    found before the start, 130 Ctrl-C.
    """

    out: Annotated[str, arg(aliases=["-o"], metavar="OUT")]
    """Folder for the results."""

    fused: Annotated[UseAppendAction[tuple[str, ...]], optional("[NAME=]DIR")] = ()
    """Fused images of any method, named like their sources."""

    system: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="[NAME=]SYSTEM[@WEIGHTS]", help_behavior_hint="")
    ] = ()
    """A system of ours, or your own as package.module:Class; the images are fused here."""

    visible: Annotated[str | None, optional("DIR")] = None
    """Visible sources, a folder or quoted pattern."""

    infrared: Annotated[str | None, optional("DIR")] = None
    """Infrared sources of the same names."""

    data: Annotated[str | None, optional("SET")] = None
    """A known set in place of the two folders: msrs, tno, roadscene, m3fd, llvip, fmb."""

    root: Annotated[str | None, optional("DIR")] = None
    """The folder that holds the known sets; $TECTUM_DATA without it."""

    split: Literal["test", "train"] = "test"
    """Which part of a known set."""

    names: Annotated[str | None, optional("FILE")] = None
    """Only the pairs named in this file, separated by spaces or lines."""

    convention: Literal["tectum", "tdfusion", "cddfuse", "adasffuse"] = "tectum"
    """Whose published tables the numbers can stand beside."""

    metrics: Annotated[str | None, optional("A,B,C")] = None
    """These metrics in place of the convention's; all takes every one."""

    reference: Annotated[str | None, optional("NAME")] = None
    """Compare the others with this method; the first one without it."""

    no_baselines: Flag = False
    """Leave out average, maximum, Laplacian pyramid and the sources themselves."""

    visible_range: Annotated[str, arg(metavar="RANGE")] = "auto"
    """Raw values that became black and white, for sources that are not 8-bit; as in `tectum fuse`."""

    infrared_range: Annotated[str, arg(metavar="RANGE")] = "auto"
    """The same for the infrared."""

    costs: Annotated[str | None, optional("FILE")] = None
    """Time and MACs for the report, from `tectum bench --json`, other methods added by hand; measured without it."""

    no_report: Flag = False
    """Only the tables."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where systems run; metrics are computed on the CPU."""

    workers: Annotated[int | None, optional("N")] = None
    """Pairs at a time, each on one processor thread; one for each core without it."""

    overwrite: Flag = False
    """Score everything anew."""

    quiet: Flag = False
    """No progress bar and no table; problems are still told."""

    def run(self) -> int:
        visible, infrared = self.sources()
        methods = self.methods()
        names = None if self.names is None else Path(self.names).read_text(encoding="utf-8").split()
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise ValueError(f"--workers must be between 1 and 1024, got {self.workers}")
        if Path(self.out).exists() and not Path(self.out).is_dir():
            raise NotADirectoryError(f"{self.out} is a file; results go into a folder, choose another name with -o")
        if not self.no_report:
            need_report()
        costs = read_costs(self.costs)

        from tectum.engine.evaluate import Evaluator
        from tectum.inference.methods import BASELINES
        from tectum.report import tables

        evaluator = Evaluator(
            methods,
            visible,
            infrared,
            out=Path(self.out),
            convention=self.convention,
            metrics=None if self.metrics is None else [name.strip() for name in self.metrics.split(",")],
            baselines=() if self.no_baselines else BASELINES,
            reference=self.reference,
            names=names,
            visible_range=self.visible_range,
            infrared_range=self.infrared_range,
            device=self.device,
            data=f"{self.data} {self.split}" if self.data else "",
            command=command_line(),
        )
        try:
            found = evaluator.run(workers=self.workers, overwrite=self.overwrite, quiet=self.quiet)
        except KeyboardInterrupt:
            say(f"interrupted; what was scored is kept in {self.out}, the same command goes on")
            return 130
        tables.write_tables(found, Path(self.out))
        if not self.quiet:
            print(tables.text_table(found))
        if not self.no_report:
            self.report(evaluator, found, costs)
        return self.tell(found)

    def sources(self) -> tuple[str, str]:
        """The two folders."""
        if self.data is None:
            if self.visible is None or self.infrared is None:
                raise ValueError(
                    "eval needs the sources: --visible DIR --infrared DIR, or --data SET; see tectum eval --help"
                )
            check_place("visible", self.visible)
            check_place("infrared", self.infrared)
            return self.visible, self.infrared
        if self.visible is not None or self.infrared is not None:
            raise ValueError("give either --data or --visible and --infrared, got both")
        import os

        from tectum.data.datasets import find_set

        root = self.root or os.environ.get("TECTUM_DATA")
        if not root:
            raise ValueError(f"--data {self.data} needs the folder it lies in; give --root DIR or set TECTUM_DATA")
        visible, infrared = find_set(self.data, root, self.split)
        return str(visible), str(infrared)

    def methods(self) -> dict[str, Any]:
        """{name: folder as Path, or system as str}, as `Evaluator` takes them."""
        found: dict[str, Any] = {}
        for option, given in (("--fused", self.fused), ("--system", self.system)):
            for text in given:
                name, what = named(text, option)
                if name in found:
                    raise ValueError(
                        f"every method needs a name of its own, got '{name}' twice; write {option} NAME={what}"
                    )
                if option == "--fused":
                    check_place("fused", what)
                    found[name] = Path(what)
                else:
                    found[name] = what
        return found

    def report(self, evaluator: "Evaluator", found: "Evaluation", costs: "Sequence[Cost] | None") -> None:
        from tectum.inference.image import px
        from tectum.report.page import write_page
        from tectum.systems import SYSTEMS

        if costs is None:
            systems = {name: name for name in found.scores.methods if name in SYSTEMS}
            systems |= {name: what.partition("@")[0] for name, what in self.methods().items() if isinstance(what, str)}
            size = px(evaluator.picture(found.scores.images[0], "visible").shape)
            costs = measured(systems, size, self.device, quiet=self.quiet)
        page = Path(self.out) / "report.html"
        write_page(page, found, evaluator.picture, costs)
        if not self.quiet:
            print(f"report: {page}")

    def tell(self, found: "Evaluation") -> int:
        """Problems on stderr, and the exit code."""
        for note in found.notes:
            say(note)
        reasons: dict[str, list[str]] = {}
        for image, reason in found.failures.items():
            reasons.setdefault(reason, []).append(image)
        from tectum.inference.folders import some

        for reason, images in reasons.items():
            say(f"not scored: {some(images)}: {reason}")
        return 1 if found.failures else 0


def named(text: str, option: str) -> tuple[str, str]:
    """`ours=results/ours` -> (ours, results/ours); without a name the folder's, or the system's, own."""
    name, equals, what = text.partition("=")
    if not equals:
        what = text
        name = Path(text).name if option == "--fused" else text.partition("@")[0].rpartition(":")[2]
    if not what or not name or "/" in name or "\\" in name or name.startswith("."):
        raise ValueError(f"{option} must be NAME={'DIR' if option == '--fused' else 'SYSTEM'}, got {text!r}")
    return name, what


def command_line() -> str:
    return shlex.join(["tectum", *sys.argv[1:]])


def need_report() -> None:
    """Say before the work starts that the page cannot be drawn at its end."""
    from importlib.util import find_spec

    missing = [package for package in ("matplotlib", "jinja2") if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"the report needs {' and '.join(missing)}: pip install 'tectum[report]', or leave it out with --no-report"
        )


def read_costs(path: str | None) -> "list[Cost] | None":
    """What `tectum bench --json` wrote."""
    if path is None:
        return None
    from tectum.inference.measure import Cost

    try:
        return [Cost(**entry) for entry in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"--costs must be a file of tectum bench --json, but {path} is not ({error})") from None


def measured(systems: Mapping[str, str], size: str, device: str, *, quiet: bool) -> "list[Cost]":
    """Time and MACs of systems, {name in the table: system}, here and now."""
    from dataclasses import replace

    from tectum.inference.measure import measure

    if not quiet:
        say(f"measuring what {', '.join(dict.fromkeys(systems.values()))} cost at {size}; --costs FILE saves the time")
    costs = {cost.name: cost for cost in measure(list(systems.values()), sizes=[size], device=device, rounds=3)}
    return [replace(costs[system], name=name) for name, system in systems.items() if system in costs]
