"""`tectum downstream`: trains and scores a task network on each of several inputs."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from tectum.console import Flag, command_line, optional, say, say_failures, use_threads
from tectum.downstream.inputs import Data
from tectum.downstream.options import Budget
from tectum.errors import UserError
from tectum.io.files import check_path_exists, file_sha256
from tectum.options import option_values

if TYPE_CHECKING:
    from tectum.downstream.frames import Frames
    from tectum.downstream.run import Comparison
    from tectum.protocols import Task

_SMALLEST = {"segformer": "segformer-b0", "yolov8": "yolov8n", "yolov5": "yolov5n", "dfine": "dfine-n"}
"""Names without a size mean the smallest."""


@dataclass(frozen=True, kw_only=True)
class Downstream(Budget, Data):
    """Train and score a task network on each of several inputs, with one budget and the same seeds.

    --images takes the sources (visible, infrared), baselines and systems (average, tdfusion, tdfusion@WEIGHTS,
    package.module:Class) and folders of fused images of any method, named like the pairs (DIR, or DIR/train and
    DIR/test); NAME=... gives a row another name. Systems are fused here, once.

    RUN receives table.md, table.csv, summary.json, report.html, and a folder for each cell (input and seed). The same
    command continues where it stopped, also with more inputs or seeds; a finished cell is never run again, and several
    processes can share a run. Exit code: 0 all cells finished, 1 not all, 2 a mistake found before the start, 130
    Ctrl-C.
    """

    task: Annotated[Positional[str], arg(metavar="TASK")]
    """segformer, yolov8, yolov5, dfine (each the smallest), a name with a size such as segformer-b2 or yolov8s, or your
    own task as package.module:Class."""

    out: Annotated[str, arg(aliases=["-o"], metavar="RUN")]
    """Folder of the run."""

    seeds: int = 3
    """Seeds 0 to N-1."""

    balance: Annotated[float, arg(metavar="POWER")] = 0.0
    """Weigh the pixels of a class by 1 / frequency ** POWER in the loss, so that small objects are learned in few
    epochs; 0 weighs all alike, as published. For masks."""

    weights: Annotated[str | None, optional("FILE")] = None
    """Weights that every task network starts from; random without it."""

    reference: Annotated[str | None, optional("NAME")] = None
    """The input that the others are compared with; the first one without it."""

    without: Annotated[tuple[str, ...], optional("CLASS")] = ()
    """Classes to leave out in a second pair of columns, such as one too rare to be scored."""

    predict: Annotated[str | None, optional("DIR")] = None
    """Draw the predictions of the first seed's networks for every test image: DIR/INPUT/NAME.png."""

    person: Annotated[str | None, optional("CLASS")] = None
    """The class whose missed and found objects the report marks; person without it, where there is that class."""

    device: str = "auto"
    """Where the networks run: auto takes CUDA, then MPS, then the CPU."""

    threads: int = 1
    """Processor threads of this process; small images are slower with more."""

    no_report: Flag = False
    """Only the tables."""

    quiet: Flag = False
    """No progress and no tables; problems are still printed."""

    def run(self) -> int:
        """Execute the command and return the exit code."""
        check_path_exists("data", self.data)
        if Path(self.out).exists() and not Path(self.out).is_dir():
            raise NotADirectoryError(f"{self.out} is a file; a run is a folder, choose another name with -o")
        use_threads(self.threads)
        from tectum.downstream.tables import check_names, summarise, text_table, write_tables

        if not self.no_report:
            from tectum.report.style import need_report_extra

            need_report_extra()
        comparison, classes = self.comparison()
        check_names([self.reference], [i.name for i in comparison.inputs], "input")
        check_names([*self.without, self.person], classes, "class")
        comparison.prepare(quiet=self.quiet)
        try:
            cells = comparison.run(quiet=self.quiet)
        except KeyboardInterrupt:
            say(f"interrupted; finished cells are kept in {self.out}, the same command continues")
            return 130
        title = f"{self.task} on {self.set_name()}, {self.split} pairs"
        summary = summarise(comparison, cells, classes, title=title, reference=self.reference, without=self.without)
        write_tables(summary, cells, Path(self.out))
        lines = [text_table(summary)]
        if not self.no_report:
            from tectum.downstream.page import write_page

            page = Path(self.out) / "report.html"
            write_page(page, comparison, cells, summary, person=self.person or "person", command=command_line())
            lines.append(f"report: {page}")
        if self.predict is not None:
            from tectum.downstream.page import draw_predictions

            num = draw_predictions(comparison, cells, classes, Path(self.predict))
            lines.append(f"{num} pictures of predictions and labels: {self.predict}")
        if not self.quiet:
            print("\n".join(lines))
        say_failures("not scored", comparison.failures)
        return 0 if all(cell.result is not None for cell in cells) else 1

    def comparison(self) -> "tuple[Comparison, tuple[str, ...]]":
        """Returns the comparison, not yet prepared, and the names of the task's classes."""
        from tectum.downstream.run import Comparison
        from tectum.nn.stages import find_device
        from tectum.protocols import resolve
        from tectum.tasks import TASKS

        name = _SMALLEST.get(self.task, self.task)
        short = {few: TASKS[full] for few, full in _SMALLEST.items()}
        task = resolve({**TASKS, **short}, name, noun="task")
        pairs, classes = self.read_pairs(label_type(task))
        device = find_device(self.device)
        comparison = Comparison(
            self._task_maker(task, classes),
            self.read_inputs(device),
            pairs,
            Path(self.out),
            budget=Budget(**option_values(self, Budget)),
            num_seeds=self.seeds,
            settings={
                "task": name,
                "classes": list(classes),
                "balance": self.balance,
                "weights": None if self.weights is None else _file_mark(Path(self.weights)),
            },
            device=device,
        )
        return comparison, classes

    def _task_maker(self, task: "Callable[..., Task]", classes: Sequence[str]) -> "Callable[[Frames], Task]":
        """The function that makes the task networks, all with the same options."""
        from tectum.downstream.frames import class_weights

        if not 0 <= self.balance <= 1:
            raise UserError(f"--balance must be between 0 and 1, got {self.balance}")
        if self.balance and (label_type(task) != "masks" or not _takes(task, "class_weights")):
            raise UserError(f"--balance weighs the pixels of classes, which {self.task} cannot; leave it out")

        def make(frames: "Frames") -> "Task":
            options: dict[str, Any] = {} if self.weights is None else {"weights": self.weights}
            if self.balance:
                options["class_weights"] = class_weights(frames, len(classes), self.balance)
            return task(classes, **options)

        return make


def label_type(task: "Callable[..., Task]") -> str:
    """Returns "masks" or "boxes", the type of labels that a task (a class, or a partial of one) learns from.

    Raises:
        UserError: it has neither.
    """
    labels = getattr(getattr(task, "func", task), "label_type", None)
    labels = labels or getattr(task(("background", "thing")), "label_type", None)
    if labels not in ("masks", "boxes"):
        raise UserError(
            f"a task must have a label_type, 'masks' or 'boxes', to be given its labels, got {labels!r}; add it"
        )
    return str(labels)


def _takes(task: "Callable[..., Task]", option: str) -> bool:
    parameters = inspect.signature(task).parameters.values()
    return any(p.name == option or p.kind is p.VAR_KEYWORD for p in parameters)


def _file_mark(path: Path) -> str:
    """Name of a file and start of its SHA-256."""
    return f"{path.name} {file_sha256(path)[:16]}"
