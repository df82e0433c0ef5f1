"""`tectum downstream`: what each way to make an image is worth to a network that looks at it."""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from tectum.console import (
    Flag,
    check_path_exists,
    optional,
    parse_named,
    progress_bar,
    say,
    say_failures,
    use_threads,
)
from tectum.errors import UserError

if TYPE_CHECKING:
    from tectum.data.labelled import LabelledPairs
    from tectum.downstream.frames import Frames
    from tectum.downstream.run import Cell, Comparison, Input
    from tectum.downstream.tables import Table
    from tectum.pair import Pairs
    from tectum.protocols import Task

SHORT = {"segformer": "segformer-b0", "yolov8": "yolov8n", "yolov5": "yolov5n", "dfine": "dfine-n"}
"""Names without a size mean the smallest."""


@dataclass(frozen=True)
class Downstream:
    """Train and score a task network on each of several inputs, with one budget and the same seeds.

    --images takes the sources (visible, infrared), baselines and systems (average, tdfusion, tdfusion@WEIGHTS,
    package.module:Class) and folders of fused images of any method, named like the pairs (DIR, or DIR/train and
    DIR/test); NAME=... gives a row another name. Systems are fused here, once.

    RUN receives table.md, table.csv, summary.json, report.html, and a folder for each cell (input and seed). A cell
    that is finished is never done again; the same command goes on where it was cut short, also with more inputs or
    seeds, and several such processes share a run. Exit code: 0 all cells finished, 1 not all, 2 a mistake found before
    the start, 130 Ctrl-C.
    """

    task: Annotated[Positional[str], arg(metavar="TASK")]
    """segformer, yolov8, yolov5, dfine (each the smallest), a name with a size such as segformer-b2 or yolov8s, or your
    own task as package.module:Class."""

    data: Annotated[str, arg(metavar="DIR")]
    """The labelled set, or the folder that holds it."""

    images: Annotated[tuple[str, ...], arg(metavar="[NAME=]INPUT")]
    """What is compared; the rows of the table."""

    out: Annotated[str, arg(aliases=["-o"], metavar="RUN")]
    """Folder of the run."""

    set: Annotated[str | None, optional("SET")] = None
    """Which set it is (msrs, fmb, m3fd, llvip, mfnet, voc, folder); told by the names of folders without it."""

    split: Literal["test", "validation"] = "test"
    """test: train on all training pairs, score the test pairs. validation: score some of the training pairs and train
    on the others, to choose settings without the test pairs."""

    validation: Annotated[str | None, optional("LIST")] = None
    """The pairs that --split validation scores: a file with a name a line, or a list of ours; without it the set's own
    list (msrs-validation), or every sixth pair."""

    epochs: int = 30
    """How often each training image is seen."""

    seeds: int = 3
    """Seeds 0 to N-1."""

    size: Annotated[str, arg(metavar="WIDTHxHEIGHT")] = "160x128"
    """Of the images that the network sees. Masks are scored at their own size."""

    batch: int = 4
    """Images a step."""

    lr: Annotated[float | None, optional("RATE")] = None
    """Highest learning rate."""

    balance: Annotated[float, arg(metavar="POWER")] = 0.0
    """Weigh the pixels of a class by 1 / frequency ** POWER in the loss, so that small things are learnt in few epochs;
    0 weighs all alike, as published. For masks."""

    weights: Annotated[str | None, optional("FILE")] = None
    """Weights that every task network starts from; random without it."""

    reference: Annotated[str | None, optional("NAME")] = None
    """The input that the others are compared with; the first one without it."""

    without: Annotated[tuple[str, ...], optional("CLASS")] = ()
    """Classes to leave out in a second pair of columns, such as one too rare to be scored."""

    predict: Annotated[str | None, optional("DIR")] = None
    """Draw what the networks of the first seed find in every test image: DIR/INPUT/NAME.png."""

    person: Annotated[str | None, optional("CLASS")] = None
    """The class whose missed and found things the report marks; person without it, where there is that class."""

    device: str = "auto"
    """Where the networks run: auto takes CUDA, then MPS, then the CPU."""

    threads: int = 1
    """Processor threads of this process; small images are slower with more."""

    no_report: Flag = False
    """Only the tables."""

    quiet: Flag = False
    """No progress; problems are still told."""

    def run(self) -> int:
        if self.seeds < 1:
            raise UserError(f"--seeds must be at least 1, got {self.seeds}")
        check_path_exists("data", self.data)
        if Path(self.out).exists() and not Path(self.out).is_dir():
            raise NotADirectoryError(f"{self.out} is a file; a run is a folder, choose another name with -o")
        use_threads(self.threads)
        from tectum.downstream import tables

        if not self.no_report:
            from tectum.report.style import need_report_extra

            need_report_extra()
        comparison, classes = self.comparison()
        tables.check_names([self.reference], [i.name for i in comparison.inputs], "input")
        tables.check_names([*self.without, self.person], classes, "class")
        with Progress(len(comparison.inputs) * self.seeds, quiet=self.quiet) as progress:
            comparison.prepare(progress.images)
            try:
                cells = comparison.run(progress.cell)
            except KeyboardInterrupt:
                say(f"interrupted; finished cells are kept in {self.out}, the same command goes on")
                return 130
        title = f"{self.task} on {self.known()}, {self.split} pairs"
        found = tables.table(comparison, cells, classes, title=title, reference=self.reference, without=self.without)
        tables.write_tables(found, cells, Path(self.out))
        if not self.quiet:
            print(tables.text_table(found))
        self.draw(comparison, cells, found)
        say_failures("not scored", comparison.failures)
        return 0 if all(cell.row is not None for cell in cells) else 1

    def draw(self, comparison: "Comparison", cells: "Sequence[Cell]", table: "Table") -> None:
        """The page and the pictures of predictions."""
        if not self.no_report:
            from tectum.downstream.page import write_page
            from tectum.evaluation.command import command_line

            page = Path(self.out) / "report.html"
            write_page(page, comparison, cells, table, person=self.person or "person", command=command_line())
            if not self.quiet:
                print(f"report: {page}")
        if self.predict is not None:
            from tectum.downstream.page import draw_predictions

            num = draw_predictions(comparison, cells, table.classes, Path(self.predict))
            if not self.quiet:
                print(f"{num} pictures of predictions and labels: {self.predict}")

    def comparison(self) -> "tuple[Comparison, tuple[str, ...]]":
        """The run as the engine takes it, and the names of the task's classes."""
        from tectum.downstream.cell import Budget
        from tectum.downstream.run import Comparison
        from tectum.protocols import resolve
        from tectum.tasks import TASKS
        from tectum.weights.loading import find_device

        name = SHORT.get(self.task, self.task)
        short = {few: TASKS[full] for few, full in SHORT.items() if full in TASKS}
        make = resolve({**TASKS, **short}, name, noun="task")
        pairs, classes = self.pairs(kind(make))
        device, lr = find_device(self.device), Budget.lr if self.lr is None else self.lr
        settings = {"task": name, "classes": list(classes), "balance": self.balance, "weights": file_mark(self.weights)}
        comparison = Comparison(
            self.network(make, classes),
            self.inputs(device),
            pairs,
            Path(self.out),
            budget=Budget(epochs=self.epochs, size=parse_size(self.size), batch=self.batch, lr=lr),
            seeds=range(self.seeds),
            settings=settings,
            device=device,
        )
        return comparison, classes

    def network(self, make: "Callable[..., Task]", classes: Sequence[str]) -> "Callable[[Frames], Task]":
        """What makes the task networks, all from the same options."""
        from tectum.downstream.frames import balanced

        if not 0 <= self.balance <= 1:
            raise UserError(f"--balance must be between 0 and 1, got {self.balance}")
        if self.balance and (kind(make) != "masks" or not takes(make, "class_weights")):
            raise UserError(f"--balance weighs the pixels of classes, which {self.task} cannot; leave it out")

        def network(frames: "Frames") -> "Task":
            options: dict[str, Any] = {} if self.weights is None else {"weights": self.weights}
            if self.balance:
                options["class_weights"] = balanced(frames, len(classes), self.balance)
            return make(classes, **options)

        return network

    def known(self) -> str:
        """The key of the set."""
        from tectum.data.check import detect

        return detect(self.data)[0] if self.set is None else self.set

    def pairs(self, target: str) -> "tuple[dict[str, Pairs], tuple[str, ...]]":
        """{"train": ..., "test": ...} and the names of the classes."""
        from tectum.data.datasets import open_set
        from tectum.data.folders import packaged_splits, without
        from tectum.data.parts import shared
        from tectum.evaluation.command import read_names

        known = self.known()

        def part(split: str) -> "LabelledPairs":
            return open_set(known, self.data, split=split, target=target, memory_gib=0)  # read once

        train = part("train")
        if self.split == "test":
            if self.validation is not None:
                raise UserError("--validation names the pairs of --split validation; add that, or leave it out")
            test = part("test")
            if test.classes != train.classes:
                raise UserError(
                    f"training and test pairs must share their classes, got {', '.join(train.classes)} and "
                    f"{', '.join(test.classes)}; complete the labels"
                )
            both = shared(*({name: visible for name, (visible, _) in x.files.items()} for x in (train, test)))
            if both:
                raise UserError(
                    f"training and test pairs must be different, {len(both)} of {len(test)} test pairs are trained on, "
                    f"the first is {both[0]}; take them out of one part, see tectum data check"
                )
            return {"train": train, "test": test}, train.classes
        if self.validation is not None:
            kept = read_names(self.validation)
        else:
            own = f"{known}-validation"
            kept = read_names(own) if own in packaged_splits() else []
            if not set(kept) & set(train.names):  # our list is of another part of the set
                kept = train.names[::6]
        parts = {"train": without(train.names, kept), "test": kept}
        if not parts["train"]:
            raise UserError("--validation must leave pairs to train on, but names all of them; shorten the list")
        return {name: train.subset(names) for name, names in parts.items()}, train.classes

    def inputs(self, device: str) -> "list[Input]":
        """What --images names, each under a name of its own."""
        from tectum.downstream.inputs import chosen

        found: dict[str, Input] = {}
        for text in self.images:
            name, what = parse_named(text, "--images", metavar="INPUT")
            if name in found:
                raise UserError(f"every input needs a name of its own, got '{name}' twice; write NAME={what}")
            found[name] = chosen(name, what, device, scored="train" if self.split == "validation" else "test")
        if not found:
            raise UserError("--images needs at least one input, such as visible infrared average DIR")
        return list(found.values())


def kind(make: "Callable[..., Task]") -> str:
    """ "masks" or "boxes": what a task learns from."""
    told = getattr(getattr(make, "func", make), "kind", None)  # of a class, or a partial of one
    found = told or getattr(make(("background", "thing")), "kind", None)
    if found not in ("masks", "boxes"):
        raise UserError(f"a task must have a kind, 'masks' or 'boxes', to be given its labels, got {found!r}; add it")
    return str(found)


def takes(make: "Callable[..., Task]", option: str) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return any(p.name == option or p.kind is p.VAR_KEYWORD for p in parameters)


def file_mark(path: str | None) -> str | None:
    """A name that changes with the content of a file."""
    if path is None:
        return None
    import hashlib

    return f"{Path(path).name} {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"


def parse_size(text: str) -> tuple[int, int]:
    """
    >>> parse_size("160x128")
    (128, 160)
    """
    width, x, height = text.lower().partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise UserError(f"--size must be WIDTHxHEIGHT, such as 160x128, got {text!r}")
    return int(height), int(width)


class Progress:
    """A bar over the steps of the cell in work, and a line for each finished cell."""

    def __init__(self, num_cells: int, *, quiet: bool) -> None:
        self.quiet, self.num_cells = quiet, num_cells
        self.bar: Any = None
        self.what: object = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def at(self, what: str, done: int, total: int, unit: str) -> None:
        if self.what != what:
            self.__exit__()
            self.bar = progress_bar(total, unit, label=what, quiet=self.quiet, leave=False)
            self.what = what
        self.bar.update(done - self.bar.n)

    def images(self, part: str, done: int, total: int) -> None:
        self.at(f"reading {part} images", done, total, "pair")

    def cell(self, cell: "Cell", line: dict[str, Any]) -> None:
        if "loss" in line:
            self.at(f"{cell.input}, seed {cell.seed}", line["step"], line["steps"], "step")
            self.bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
            return
        self.__exit__()
        if not self.quiet:
            scores = ", ".join(f"{k} {100 * v:.2f}" for k, v in line["scores"].items() if v is not None)
            print(
                f"{cell.input}, seed {cell.seed}: {scores} ({line['seconds']:.0f} s, {line['seconds a step']:.3f} s a "
                "step)",
                file=sys.stderr,
                flush=True,
            )
