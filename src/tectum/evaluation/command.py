"""`tectum eval`: score any method's fused images, or our systems, against their sources."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from tectum.console import Flag, check_path_exists, optional, parse_named, say, say_failures, sentence
from tectum.errors import UserError

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost
    from tectum.evaluation.evaluate import Evaluation, Evaluator
    from tectum.io.folders import Matches


@dataclass(frozen=True)
class Eval:
    """Score fused images with the field's metrics: table, CSV, JSON, and a report page with pictures.

    --fused and --system may be given several times; the first one is what the others are compared with. Sources are two
    folders (--visible, --infrared) or a known set (--data). Beside the methods stand baselines with nothing learned,
    which several metrics prefer to any method: docs/metrics.md says which.

    OUT receives report.html, scores.csv, summary.csv, evaluation.json, and scores.jsonl, from which the same command
    goes on where it was cut short. Exit code: 0 all scored, 1 some images failed (the others are kept), 2 a mistake
    found before the start, 130 Ctrl-C. Images that a method lacks are told and do not change it.
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

    kind: Annotated[str | None, optional("KIND")] = None
    """What the pairs are: infrared, exposure (--visible is the over-exposed side), focus or medical (--infrared is the
    MRI); a known set says it itself."""

    data: Annotated[str | None, optional("SET")] = None
    """A known set in place of the two folders: msrs, tno, roadscene, m3fd, llvip, fmb; mefb, lytro, ... (tectum data
    list)."""

    root: Annotated[str | None, optional("DIR")] = None
    """The folder that holds the known sets; $TECTUM_DATA without it."""

    split: Literal["test", "train"] = "test"
    """Which part of a known set."""

    names: Annotated[str | None, optional("FILE")] = None
    """Only the pairs that this file names, one a line; or a list of ours: msrs-test, roadscene-test."""

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

    both_colour: Flag = False
    """The second source may be in colour too: two exposures, two foci. Luminances are compared."""

    costs: Annotated[str | None, optional("FILE")] = None
    """Time and MACs for the report, from `tectum bench --json`; other methods may be added by hand, with any of the
    fields. Without it, systems are measured when all is scored."""

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
        kind, pairs = self.kind_of_pairs()
        visible, infrared = self.sources() if pairs is None else ("", "")
        methods = self.methods()
        names = None if self.names is None else read_names(self.names)
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise UserError(f"--workers must be between 1 and 1024, got {self.workers}")
        if Path(self.out).exists() and not Path(self.out).is_dir():
            raise NotADirectoryError(f"{self.out} is a file; results go into a folder, choose another name with -o")
        if not self.no_report:
            from tectum.report.style import need_report_extra

            need_report_extra()
        costs = read_costs(self.costs)

        from tectum.evaluation import tables
        from tectum.evaluation.evaluate import Evaluator
        from tectum.evaluation.methods import BASELINES

        evaluator = Evaluator(
            methods,
            visible,
            infrared,
            out=Path(self.out),
            convention=self.convention,
            metrics=self.metrics,
            baselines=() if self.no_baselines else BASELINES,
            reference=self.reference,
            names=names,
            visible_range=self.visible_range,
            infrared_range=self.infrared_range,
            both_colour=self.both_colour,
            device=self.device,
            data=f"{self.data} {self.split}" if self.data else "",
            command=command_line(),
            kind=kind,
            pairs=pairs,
        )
        try:
            found = evaluator.run(workers=self.workers, overwrite=self.overwrite, quiet=self.quiet)
        except KeyboardInterrupt:
            say(f"interrupted; what was scored is kept in {self.out}, the same command goes on")
            return 130
        except ValueError as error:  # not one image could be scored
            say(sentence(error))
            return 1
        tables.write_tables(found, Path(self.out))
        if not self.quiet:
            print(tables.text_table(found))
        code = self.tell(found)
        if not self.no_report:
            self.report(evaluator, found, costs)
        elif (Path(self.out) / "report.html").exists():
            say(f"{Path(self.out) / 'report.html'} is of an earlier evaluation; leave out --no-report to renew it")
        return code

    def kind_of_pairs(self) -> "tuple[str, Matches | None]":
        """The kind, and the pairs where a known set of another kind says which files they are."""
        from tectum.kinds import KINDS

        kind = "infrared" if self.kind is None else KINDS[self.kind].name
        if self.data is None:
            return kind, None
        from tectum.data.datasets import DATASETS, find_pairs, known_set
        from tectum.io.folders import Matches, PairFiles

        known = DATASETS.get(self.data)
        if known is None or (known.kind == "infrared" and self.kind is None):
            return kind, None
        known = known_set(self.data, self.kind)
        if known.kind == "infrared":
            return kind, None
        self.refuse_folders()
        found, names = find_pairs(self.data, self.data_root(), self.split)
        pairs = tuple(PairFiles(name, found.visible[name], found.infrared[name]) for name in names)
        return known.kind, Matches(pairs, {}, {}, dict.fromkeys(known.role.roles, found.home))

    def refuse_folders(self) -> None:
        if self.visible is not None or self.infrared is not None:
            raise UserError("give either --data or --visible and --infrared, got both")

    def data_root(self) -> str:
        import os

        root = self.root or os.environ.get("TECTUM_DATA")
        if not root:
            raise UserError(f"--data {self.data} needs the folder it lies in; give --root DIR or set TECTUM_DATA")
        return root

    def sources(self) -> tuple[str, str]:
        """The two folders."""
        if self.data is None:
            if self.visible is None or self.infrared is None:
                raise UserError("eval needs both sources; give --visible DIR and --infrared DIR, or --data SET")
            check_path_exists("visible", self.visible)
            check_path_exists("infrared", self.infrared)
            return self.visible, self.infrared
        self.refuse_folders()
        from tectum.data.datasets import find_set

        visible, infrared = find_set(self.data, self.data_root(), self.split)
        return str(visible), str(infrared)

    def methods(self) -> dict[str, Any]:
        """{name: folder as Path, or system as str}, as `Evaluator` takes them."""
        found: dict[str, Any] = {}
        for option, given in (("--fused", self.fused), ("--system", self.system)):
            for text in given:
                name, what = parse_named(text, option, metavar="DIR" if option == "--fused" else "SYSTEM")
                if name in found:
                    raise UserError(
                        f"every method needs a name of its own, got '{name}' twice; write {option} NAME={what}"
                    )
                if option == "--fused":
                    check_path_exists("fused", what)
                    found[name] = Path(what)
                else:
                    found[name] = what
        return found

    def report(self, evaluator: "Evaluator", found: "Evaluation", costs: "Sequence[Cost] | None") -> None:
        from tectum.evaluation.page import write_page
        from tectum.io.image import px

        if costs is None and self.system:
            systems = {method.name: method.system for method in evaluator.methods if method.system is not None}
            size = px(evaluator.picture(found.scores.images[0], evaluator.kind.roles[0]).shape)
            costs = measured(systems, size, self.device, quiet=self.quiet)
        page = Path(self.out) / "report.html"
        write_page(page, found, evaluator.picture, costs or ())
        if not self.quiet:
            print(f"report: {page}")

    def tell(self, found: "Evaluation") -> int:
        """Problems on stderr, and the exit code."""
        for note in found.notes:
            say(note)
        say_failures("not scored", found.failures)
        return 1 if found.failures else 0


def command_line() -> str:
    return shlex.join(["tectum", *sys.argv[1:]])


def read_names(where: str) -> list[str]:
    """The names in a file, one a line, or in a packaged list; lines that start with # are comments."""
    from tectum.data.folders import packaged_splits, split_names
    from tectum.io.codecs import EXTENSIONS

    if not Path(where).exists() and where in packaged_splits():
        return split_names(where)
    try:
        lines = Path(where).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"--names must be a text file in UTF-8, {where} is not; name one pair a line") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [Path(name).stem if Path(name).suffix.lower() in EXTENSIONS else name for name in names]


def read_costs(path: str | None) -> "list[Cost] | None":
    """What `tectum bench --json` wrote, or a person: entries may lack anything but a name."""
    if path is None:
        return None
    from tectum.benchmark.measure import Cost

    try:
        return [Cost(**entry).checked() for entry in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise UserError(f"--costs must be a file as tectum bench --json writes it, {path} is not ({error})") from None


def measured(systems: Mapping[str, str], size: str, device: str, *, quiet: bool) -> "list[Cost]":
    """Time and MACs of systems, {name in the table: system}, here and now; what cannot be measured is told."""
    from dataclasses import replace

    from tectum.benchmark.measure import Measurement

    if not quiet:
        say(f"measuring what {', '.join(dict.fromkeys(systems.values()))} cost at {size}; --costs FILE saves the time")
    try:
        run = Measurement(list(systems.values()), sizes=[size], device=device, rounds=1)
    except ValueError as error:  # images too small to be worth it
        say(f"costs are not measured: {sentence(error)}")
        return []
    run.run(quiet=quiet)
    for what, why in run.failures.items():
        say(f"not measured: {what}: {why}")
    costs = {cost.name: cost for cost in reversed(run.costs())}  # of several variants the first is the default
    return [replace(costs[system], name=name) for name, system in systems.items() if system in costs]
