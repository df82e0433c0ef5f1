"""The tables of a downstream comparison, in the layout of TDFusion's Table 2: a row an input, a column a score.

Numbers are percentages: mean over the finished seeds, with the standard deviation between them. A cell that is not
finished is n/a, and a mean over fewer seeds than asked for says how many.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tectum.downstream.cell import load_predictions
from tectum.downstream.run import Cell, Comparison
from tectum.downstream.statistics import Confusions, Counts, Detections, Gap, Spread, gaps, spread
from tectum.errors import UserError, unknown
from tectum.io.files import write_whole
from tectum.report import tables
from tectum.report.tables import json_ready

MASKS, BOXES = ("mAcc", "mIoU"), ("mAP50", "mAP75")


@dataclass(frozen=True)
class Table:
    """What a comparison has found so far.

    Attributes:
        title: task and data in words.
        classes: of the task.
        inputs: the rows.
        seeds: those asked for.
        scores: the columns; "mIoU without guardrail" where classes are left out.
        reference: the input that the others are compared with.
        cells: {input: {score: Spread}}.
        differences: {input: {score: Gap}} of all but the reference.
        per_class: {"IoU" or "AP50": {input: {class: Spread}}}.
        num_images: of the test set.
        seconds: of a step, the median over the finished cells; NaN without any.
        finished: {input: its finished seeds}.
        without: classes that are left out of some columns.
    """

    title: str
    classes: tuple[str, ...]
    inputs: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[str, ...]
    reference: str
    cells: Mapping[str, Mapping[str, Spread]]
    differences: Mapping[str, Mapping[str, Gap]]
    per_class: Mapping[str, Mapping[str, Mapping[str, Spread]]]
    num_images: int
    seconds: float
    finished: Mapping[str, tuple[int, ...]]
    without: tuple[str, ...]


def table(
    comparison: Comparison,
    cells: Sequence[Cell],
    classes: Sequence[str],
    *,
    title: str = "",
    reference: str | None = None,
    without: Sequence[str] = (),
) -> Table:
    """Sum up the cells of a run.

    Args:
        comparison: prepared.
        cells: as `Comparison.run` returns them.
        classes: names of the task's classes.
        title: task and data in words.
        reference: what the others are compared with; the first input without it.
        without: classes that a second pair of columns leaves out.

    Raises:
        ValueError: an unknown class or input.
    """
    inputs = tuple(i.name for i in comparison.inputs)
    reference = inputs[0] if reference is None else reference
    check_names([reference], inputs, "input")
    check_names(without, classes, "class")
    done = [cell for cell in cells if cell.row is not None]
    num_images = len(comparison.frames[inputs[0]]["test"])
    found: dict[str, dict[str, Spread]] = {name: {} for name in inputs}
    differences: dict[str, dict[str, Gap]] = {name: {} for name in inputs if name != reference}
    left_out: list[tuple[int, ...]] = [(), tuple(classes.index(name) for name in without)]
    for out in left_out if without else left_out[:1]:
        suffix = f" without {', '.join(without)}" if out else ""
        counts = counted(comparison, done, len(classes), out)
        for name in inputs:
            rows = [c.scores(np.ones((1, num_images))) for c in counts[name].values()]
            for score in columns(comparison):
                found[name][score + suffix] = spread([float(row[score][0]) for row in rows])
        for name, row in gaps(counts, reference, num_images).items():
            differences[name] |= {score + suffix: value for score, value in row.items()}
    rows = [cell.row for cell in done if cell.row is not None]
    return Table(
        title=title,
        classes=tuple(classes),
        inputs=inputs,
        seeds=tuple(comparison.seeds),
        scores=tuple(found[inputs[0]]),
        reference=reference,
        cells=found,
        differences=differences,
        per_class={kind: by_class(kind, inputs, rows, classes) for kind in ("IoU", "AP50") if rows and kind in rows[0]},
        num_images=num_images,
        seconds=float(np.median([row["seconds a step"] for row in rows])) if rows else math.nan,
        finished={name: tuple(cell.seed for cell in done if cell.input == name) for name in inputs},
        without=tuple(without),
    )


def check_names(names: Sequence[str | None], known: Sequence[str], kind: str) -> None:
    """Refuse names of inputs or classes that are not there; None is no name."""
    for name in names:
        if name is not None and name not in known:
            raise UserError(unknown(name, dict.fromkeys(known), noun=kind))


def columns(comparison: Comparison) -> tuple[str, ...]:
    target = next(iter(comparison.frames.values()))["test"].targets[0]
    return MASKS if isinstance(target, Tensor) else BOXES


def counted(
    comparison: Comparison, done: Sequence[Cell], num_classes: int, without: tuple[int, ...]
) -> dict[str, dict[int, Counts]]:
    """{input: {seed: what can be scored again}} of the finished cells."""
    found: dict[str, dict[int, Counts]] = {i.name: {} for i in comparison.inputs}
    for cell in done:
        assert cell.row is not None
        if "confusion" in cell.row:
            found[cell.input][cell.seed] = Confusions(np.array(cell.row["confusion"], np.float64), without)
        else:
            frames = comparison.frames[cell.input]["test"]
            boxes = load_predictions(cell.folder, frames.names)
            found[cell.input][cell.seed] = Detections.of(boxes, frames.targets, num_classes, without=without)
    return found


def by_class(
    kind: str, inputs: Sequence[str], rows: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> dict[str, dict[str, Spread]]:
    """The scores of each class; what is not defined for a seed is left out."""
    return {
        name: {
            c: spread([row[kind][c] for row in rows if row["input"] == name and row[kind].get(c) is not None])
            for c in classes
        }
        for name in inputs
    }


def percent(value: float, places: int = 2) -> str:
    """
    >>> percent(0.3141592), percent(math.nan)
    ('31.42', 'n/a')
    """
    return "n/a" if math.isnan(value) else f"{100 * value:.{places}f}"


def plus_minus(x: Spread, asked: int) -> str:
    """Mean and spread of a cell of the table, with the number of seeds where some are missing."""
    if not x.seeds:
        return "n/a"
    text = percent(x.mean) + (f" ± {percent(x.sd)}" if len(x.seeds) > 1 else "")
    return text if len(x.seeds) == asked else f"{text} ({len(x.seeds)} of {asked} seeds)"


def signed(value: float) -> str:
    """
    >>> signed(-0.0125)
    '−1.25'
    """
    if math.isnan(value):
        return "n/a"
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def difference(x: Gap) -> str:
    """`+1.20 [+0.31, +2.09] better`."""
    if math.isnan(x.mean):
        return "n/a"
    return f"{signed(x.mean)} [{signed(x.low)}, {signed(x.high)}] {x.verdict}"


def grids(found: Table) -> list[tuple[str, list[list[str]]]]:
    """The tables as (title, rows of text); the first row is the head."""
    asked = len(found.seeds)
    rows = [[name, *(plus_minus(found.cells[name][s], asked) for s in found.scores)] for name in found.inputs]
    tables = [("Scores, %", [["", *found.scores], *rows])]
    if any(found.differences.values()):
        rows = [
            [name, *(difference(row[s]) if s in row else "n/a" for s in found.scores)]
            for name, row in found.differences.items()
        ]
        tables.append((f"Minus {found.reference}, points [95 %]", [["", *found.scores], *rows]))
    for kind, by_input in found.per_class.items():
        rows = [[name, *(percent(by_input[name][c].mean, 1) for c in found.classes)] for name in found.inputs]
        tables.append((f"{kind} of each class, %", [["", *found.classes], *rows]))
    return tables


def notes(found: Table) -> list[str]:
    """What a reader of the tables must know."""
    told = [
        f"Mean ± standard deviation over {len(found.seeds)} seeds, {found.num_images} images; the weights of the last "
        "step, no checkpoint is chosen."
        if len(found.seeds) > 1
        else f"One seed, {found.num_images} images: nothing tells how far another seed would be off."
    ]
    if missing := {name: len(found.seeds) - len(done) for name, done in found.finished.items()}:
        unfinished = {name: num for name, num in missing.items() if num}
        if unfinished:
            told.append("Not finished: " + ", ".join(f"{num} of {name}" for name, num in unfinished.items()) + ".")
    if any(found.differences.values()):
        told.append(
            "Intervals count other seeds (Student's t) and other images (bootstrap); better, worse: zero lies outside."
        )
    return told


def text_table(found: Table) -> str:
    """For a terminal."""
    parts = []
    for title, rows in grids(found):
        parts.append(f"{title}\n{tables.text_table(rows[0], rows[1:])}")
    return "\n\n".join([*parts, "\n".join(notes(found))])


def markdown(found: Table) -> str:
    """For a page of documentation."""
    parts = [f"# {found.title}"] if found.title else []
    parts += [tables.markdown_table([title, *head[1:]], rows) for title, (head, *rows) in grids(found)]
    return "\n\n".join([*parts, *notes(found)]) + "\n"


def write_tables(found: Table, cells: Sequence[Cell], out: Path) -> None:
    """table.md, table.csv (a line a cell) and summary.json."""
    rows = [cell.row for cell in cells if cell.row is not None]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    kinds = list(found.per_class)
    names = list(rows[0]["scores"]) if rows else []
    writer.writerow(["input", "seed", *names, *(f"{kind} {c}" for kind in kinds for c in found.classes), "seconds"])
    for cell in cells:
        row = cell.row
        values = (
            [] if row is None else [row["scores"][k] for k in names] + [row[k][c] for k in kinds for c in found.classes]
        )
        writer.writerow([cell.input, cell.seed, *("n/a" if v is None else v for v in values), row and row["seconds"]])
    summary = json.dumps(json_ready({**asdict(found), "notes": notes(found)}), indent=1) + "\n"
    for name, text in (("table.md", markdown(found)), ("table.csv", stream.getvalue()), ("summary.json", summary)):
        write_whole(out / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))  # type: ignore[misc]
