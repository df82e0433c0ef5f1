"""`tectum eval`: score any method's fused images, or our systems, against their sources."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from tectum.console import Flag, command_line, optional, parse_named, say, say_failures, sentence, show_metavars
from tectum.errors import UserError
from tectum.evaluation.options import EvaluationOptions
from tectum.io.files import check_path_exists, read_text
from tectum.options import option_values

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost
    from tectum.evaluation.evaluate import Evaluation, Evaluator
    from tectum.io.folders import Matches


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """Flags that stand before those of the options in the help."""

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
    """A known set in place of the two folders: msrs, tno, roadscene, m3fd, llvip, fmb; mefb, lytro, ... (tectum data
    list)."""

    root: Annotated[str | None, optional("DIR")] = None
    """The folder that holds the known sets; $TECTUM_DATA without it."""

    split: Literal["test", "train", "val", "all"] = "test"
    """Which part of a known set: divided by its folders, lists such as test.txt, or a draw, as for training; all takes
    the pairs of a folder that nothing divides."""


@show_metavars(
    kind="KIND",
    variant="NAME",
    metrics="A,B,C",
    baselines="A,B,C",
    reference="NAME",
    names="FILE",
    visible_range="RANGE",
    infrared_range="RANGE",
    nodata="VALUE|none",
    both_colour="",
    device="DEVICE",
    workers="N",
)
@dataclass(frozen=True, kw_only=True)
class Eval(EvaluationOptions, _Inputs):
    """Score fused images with the field's metrics: table, CSV, JSON, and a report page with pictures.

    --fused and --system may be given several times; the first one is what the others are compared with. Sources are two
    folders (--visible, --infrared) or a known set (--data). Beside the methods stand baselines with nothing learned,
    which several metrics prefer to any method: docs/metrics.md says which.

    OUT receives report.html, scores.csv, summary.csv, evaluation.json, and scores.jsonl, from which the same command
    continues where it was cut short. Exit code: 0 all scored, 1 some images failed (the others are kept), 2 a mistake
    found before the start, 130 Ctrl-C. Images that a method lacks are reported and do not change it.
    """

    no_baselines: Flag = False
    """Leave out the baselines."""

    costs: Annotated[str | None, optional("FILE")] = None
    """Time and MACs for the report, from `tectum bench --json`; other methods may be added by hand, with any of the
    fields. Without it, systems are measured when all is scored."""

    no_report: Flag = False
    """Only the tables."""

    overwrite: Flag = False
    """Score everything anew."""

    quiet: Flag = False
    """No progress bar and no table; problems are still reported."""

    def run(self) -> int:
        visible, infrared, kind, pairs = self._sources()
        methods = self._methods()
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise UserError(f"--workers must be between 1 and 1024, got {self.workers}")
        out = Path(self.out)
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"{self.out} is a file; results go into a folder, choose another name with -o")
        if not self.no_report:
            from tectum.report.style import need_report_extra

            need_report_extra()
        costs = None if self.costs is None else _read_costs(self.costs)

        from tectum.evaluation.evaluate import Evaluator
        from tectum.evaluation.tables import text_table, write_tables

        options = option_values(self, EvaluationOptions) | {"kind": kind}
        if self.no_baselines:
            options["baselines"] = ()
        data = f"{self.data} {self.split}" if self.data else ""
        evaluator = Evaluator(
            methods, visible, infrared, out=out, pairs=pairs, data=data, command=command_line(), **options
        )
        try:
            evaluation = evaluator.run(overwrite=self.overwrite, quiet=self.quiet)
        except KeyboardInterrupt:
            say(f"interrupted; what was scored is kept in {self.out}, the same command continues")
            return 130
        except ValueError as error:  # not one image could be scored
            say(sentence(error))
            return 1
        write_tables(evaluation, out)
        if not self.quiet:
            print(text_table(evaluation))
        for warning in evaluation.warnings:
            say(warning)
        say_failures("not scored", evaluation.failures)
        if not self.no_report:
            self._write_report(evaluator, evaluation, costs)
        elif (out / "report.html").exists():
            say(f"{out / 'report.html'} is of an earlier evaluation; leave out --no-report to renew it")
        return 1 if evaluation.failures else 0

    def _sources(self) -> "tuple[str, str, str | None, Matches | None]":
        """The two folders and the kind; or, of a known set, the kind and the pairs."""
        if self.data is None:
            if self.visible is None or self.infrared is None:
                raise UserError("eval needs both sources; give --visible DIR and --infrared DIR, or --data SET")
            check_path_exists("visible", self.visible)
            check_path_exists("infrared", self.infrared)
            return self.visible, self.infrared, self.kind, None
        if self.visible is not None or self.infrared is not None:
            raise UserError("give either --data or --visible and --infrared, got both")
        import os

        root = self.root or os.environ.get("TECTUM_DATA")
        if not root:
            raise UserError(f"--data {self.data} needs the folder it lies in; give --root DIR or set TECTUM_DATA")
        from tectum.data.datasets import find_pairs, get_known_set

        known = get_known_set(self.data, self.kind)
        return "", "", known.kind, find_pairs(self.data, root, self.split, self.kind)

    def _methods(self) -> dict[str, Any]:
        """{name: folder as Path, or system as str}, as `Evaluator` takes them."""
        methods: dict[str, Any] = {}
        for option, texts, metavar in (("--fused", self.fused, "DIR"), ("--system", self.system, "SYSTEM")):
            for text in texts:
                name, spec = parse_named(text, option, metavar=metavar)
                if name in methods:
                    raise UserError(
                        f"every method needs a name of its own, got '{name}' twice; write {option} NAME={spec}"
                    )
                if option == "--fused":
                    check_path_exists("fused", spec)
                methods[name] = Path(spec) if option == "--fused" else spec
        return methods

    def _write_report(self, evaluator: "Evaluator", evaluation: "Evaluation", costs: "Sequence[Cost] | None") -> None:
        from tectum.evaluation.page import write_page
        from tectum.io.image import px

        if costs is None and self.system:
            systems = {method.name: method.system for method in evaluator.methods if method.system is not None}
            size = px(evaluator.picture(evaluation.scores.images[0], evaluator.kind.roles[0]).shape)
            costs = _measure_costs(systems, size, self.device, quiet=self.quiet)
        page = Path(self.out) / "report.html"
        write_page(page, evaluation, evaluator.picture, costs or ())
        if not self.quiet:
            print(f"report: {page}")


def _read_costs(path: str) -> "list[Cost]":
    """Read the costs in a file of `tectum bench --json`, or of a person: entries may lack anything but a name."""
    from tectum.benchmark.measure import Cost

    try:
        return [Cost(**entry).checked() for entry in json.loads(read_text(Path(path)))]
    except (ValueError, TypeError) as error:
        raise UserError(f"--costs must be a file as tectum bench --json writes it, {path} is not ({error})") from None


def _measure_costs(systems: Mapping[str, str], size: str, device: str, *, quiet: bool) -> "list[Cost]":
    """Time and MACs of systems, {name in the table: system}, here and now; what cannot be measured is reported."""
    from tectum.benchmark.measure import Measurement

    if not quiet:
        say(f"measuring what {', '.join(dict.fromkeys(systems.values()))} cost at {size}; --costs FILE saves the time")
    try:
        run = Measurement(list(systems.values()), size=[size], device=device, rounds=1)
    except ValueError as error:  # images too small to be worth it
        say(f"costs are not measured: {sentence(error)}")
        return []
    run.run(quiet=quiet)
    for job, reason in run.failures.items():
        say(f"not measured: {job}: {reason}")
    costs = {cost.name: cost for cost in reversed(run.costs())}  # of several variants the first is the default
    return [replace(costs[system], name=name) for name, system in systems.items() if system in costs]
