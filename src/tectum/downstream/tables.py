"""Summary and tables of a downstream comparison, in the layout of TDFusion's Table 2: a row an input, a column a score.

Numbers are percentages: mean over the finished seeds, with the standard deviation between them. An input without a
finished cell is n/a, and a mean over fewer seeds than asked for says how many.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tectum.downstream.cell import load_predictions
from tectum.downstream.run import Cell, Comparison
from tectum.downstream.statistics import (
    Scorer,
    SeedDifference,
    SeedMean,
    confusion_scorer,
    detection_scorer,
    differences_to,
    seed_mean,
)
from tectum.errors import UserError, unknown
from tectum.io.files import write_json, write_text
from tectum.report import tables
from tectum.report.tables import json_ready


@dataclass(frozen=True)
class Summary:
    """Scores and differences of a comparison's finished cells.

    Attributes:
        title: task and data in words.
        classes: of the task.
        inputs: the rows.
        seeds: those asked for.
        scores: names of the columns; "mIoU without guardrail" where classes are left out.
        reference: the input that the others are compared with.
        means: {input: {score: SeedMean}}.
        differences: {input: {score: SeedDifference}} of all but the reference.
        per_class: {"IoU" or "AP50": {input: {class: SeedMean}}}.
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
    means: Mapping[str, Mapping[str, SeedMean]]
    differences: Mapping[str, Mapping[str, SeedDifference]]
    per_class: Mapping[str, Mapping[str, Mapping[str, SeedMean]]]
    num_images: int
    seconds: float
    finished: Mapping[str, tuple[int, ...]]
    without: tuple[str, ...]


def summarise(
    comparison: Comparison,
    cells: Sequence[Cell],
    classes: Sequence[str],
    *,
    title: str = "",
    reference: str | None = None,
    without: Sequence[str] = (),
) -> Summary:
    """Summary of the cells of a run.

    Args:
        comparison: prepared.
        cells: as `Comparison.run` returns them.
        classes: names of the task's classes.
        title: task and data in words.
        reference: the input that the others are compared with; the first one without it.
        without: classes that a second pair of columns leaves out.

    Raises:
        UserError: an unknown class or input.
    """
    inputs = tuple(i.name for i in comparison.inputs)
    reference = inputs[0] if reference is None else reference
    check_names([reference], inputs, "input")
    check_names(without, classes, "class")
    score_names = ("mAcc", "mIoU") if comparison.test_frames.has_masks else ("mAP50", "mAP75")
    num_images = len(comparison.test_frames)
    means: dict[str, dict[str, SeedMean]] = {name: {} for name in inputs}
    differences: dict[str, dict[str, SeedDifference]] = {name: {} for name in inputs if name != reference}
    for left_out in ((), tuple(without)) if without else ((),):
        suffix = f" without {', '.join(left_out)}" if left_out else ""
        scorers = _scorers(comparison, cells, len(classes), [list(classes).index(name) for name in left_out])
        for name in inputs:
            by_seed = [scorer(np.ones((1, num_images))) for scorer in scorers[name].values()]
            means[name] |= {s + suffix: seed_mean([float(row[s][0]) for row in by_seed]) for s in score_names}
        for name, row in differences_to(reference, scorers, num_images).items():
            differences[name] |= {score + suffix: value for score, value in row.items()}
    results = [cell.result for cell in cells if cell.result is not None]
    return Summary(
        title=title,
        classes=tuple(classes),
        inputs=inputs,
        seeds=tuple(range(comparison.num_seeds)),
        scores=tuple(means[inputs[0]]),
        reference=reference,
        means=means,
        differences=differences,
        per_class=_class_means(results, inputs, classes),
        num_images=num_images,
        seconds=float(np.median([result["seconds a step"] for result in results])) if results else math.nan,
        finished={
            name: tuple(cell.seed for cell in cells if cell.input == name and cell.result is not None)
            for name in inputs
        },
        without=tuple(without),
    )


def _class_means(
    results: Sequence[Mapping[str, Any]], inputs: Sequence[str], classes: Sequence[str]
) -> dict[str, dict[str, dict[str, SeedMean]]]:
    """{"IoU" or "AP50": {input: {class: mean}}}; a seed without a value of a class is left out."""
    per_class: dict[str, dict[str, dict[str, SeedMean]]] = {}
    for score in ("IoU", "AP50"):
        if results and score in results[0]:
            per_class[score] = {}
            for name in inputs:
                rows = [result[score] for result in results if result["input"] == name]
                values = {c: [row[c] for row in rows if row.get(c) is not None] for c in classes}
                per_class[score][name] = {c: seed_mean(values[c]) for c in classes}
    return per_class


def check_names(names: Sequence[str | None], known: Sequence[str], noun: str) -> None:
    """Refuse names of inputs or classes that are not there; None is no name."""
    for name in names:
        if name is not None and name not in known:
            raise UserError(unknown(name, known, noun=noun))


def _scorers(
    comparison: Comparison, cells: Sequence[Cell], num_classes: int, without: Sequence[int]
) -> dict[str, dict[int, Scorer]]:
    """{input: {seed: scorer}} of the finished cells."""
    scorers: dict[str, dict[int, Scorer]] = {i.name: {} for i in comparison.inputs}
    frames = comparison.test_frames
    for cell in cells:
        if cell.result is None:
            continue
        if "confusion" in cell.result:
            scorer = confusion_scorer(np.array(cell.result["confusion"], np.float64), without)
        else:
            boxes = load_predictions(cell.folder, frames.names)
            scorer = detection_scorer(boxes, frames.targets, num_classes, without)
        scorers[cell.input][cell.seed] = scorer
    return scorers


def percent(value: float, digits: int = 2) -> str:
    """Returns a score in percent.

    >>> percent(0.3141592), percent(math.nan)
    ('31.42', 'n/a')
    """
    return "n/a" if math.isnan(value) else f"{100 * value:.{digits}f}"


def signed_percent(value: float) -> str:
    """Returns a difference in percent, with its sign.

    >>> signed_percent(-0.0125)
    '−1.25'
    """
    if math.isnan(value):
        return "n/a"
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def _mean_text(x: SeedMean, num_seeds: int) -> str:
    """`41.20 ± 0.53`, with the number of seeds where some are missing."""
    if not x.seeds:
        return "n/a"
    text = percent(x.mean) + (f" ± {percent(x.sd)}" if len(x.seeds) > 1 else "")
    return text if len(x.seeds) == num_seeds else f"{text} ({len(x.seeds)} of {num_seeds} seeds)"


def _difference_text(x: SeedDifference | None) -> str:
    """`+1.20 [+0.31, +2.09] better`."""
    if x is None or math.isnan(x.mean):
        return "n/a"
    return f"{signed_percent(x.mean)} [{signed_percent(x.low)}, {signed_percent(x.high)}] {x.verdict}"


def _text_rows(summary: Summary) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables as (title, names of the columns, rows of text)."""
    s, heads = summary, list(summary.scores)
    rows = [[name, *(_mean_text(s.means[name][score], len(s.seeds)) for score in s.scores)] for name in s.inputs]
    blocks = [("Scores, %", heads, rows)]
    if any(s.differences.values()):
        rows = [
            [name, *(_difference_text(row.get(score)) for score in s.scores)] for name, row in s.differences.items()
        ]
        blocks.append((f"Minus {s.reference}, points [95 %]", heads, rows))
    for score, by_input in s.per_class.items():
        rows = [[name, *(percent(by_input[name][c].mean, 1) for c in s.classes)] for name in s.inputs]
        blocks.append((f"{score} of each class, %", list(s.classes), rows))
    return blocks


def notes(summary: Summary) -> list[str]:
    """Returns sentences on how the numbers were made and what is missing."""
    num_seeds = len(summary.seeds)
    sentences = [
        f"Mean ± standard deviation over {num_seeds} seeds, {summary.num_images} images; the weights of the last step, "
        "no checkpoint is chosen."
        if num_seeds > 1
        else f"One seed, {summary.num_images} images: nothing tells how far another seed would be off."
    ]
    missing = {name: num_seeds - len(seeds) for name, seeds in summary.finished.items()}
    if any(missing.values()):
        counts = ", ".join(f"{num} of {name}" for name, num in missing.items() if num)
        sentences.append(f"Not finished: {counts}.")
    if any(summary.differences.values()):
        sentences.append(
            "Intervals count other seeds (Student's t) and other images (bootstrap); better, worse: zero lies outside."
        )
    return sentences


def text_table(summary: Summary) -> str:
    """Returns the tables and notes for a terminal."""
    blocks = [f"{title}\n{tables.text_table(['', *head], rows)}" for title, head, rows in _text_rows(summary)]
    return "\n\n".join([*blocks, "\n".join(notes(summary))])


def _markdown(summary: Summary) -> str:
    blocks = [f"# {summary.title}"] if summary.title else []
    blocks += [tables.markdown_table([title, *head], rows) for title, head, rows in _text_rows(summary)]
    return "\n\n".join([*blocks, *notes(summary)]) + "\n"


def write_tables(summary: Summary, cells: Sequence[Cell], out: Path) -> None:
    """Write table.md, table.csv (a line a cell) and summary.json into a folder."""
    per_class = [(score, c) for score in summary.per_class for c in summary.classes]
    names = next((list(cell.result["scores"]) for cell in cells if cell.result is not None), [])
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["input", "seed", *names, *(f"{score} {c}" for score, c in per_class), "seconds"])
    for cell in cells:
        if (result := cell.result) is None:
            writer.writerow([cell.input, cell.seed, None])
            continue
        values = [result["scores"][name] for name in names] + [result[score][c] for score, c in per_class]
        texts = ["n/a" if value is None else value for value in values]
        writer.writerow([cell.input, cell.seed, *texts, result["seconds"]])
    content = {**asdict(summary), "notes": notes(summary)}
    content["cells"] = content.pop("means")
    write_text(out / "table.md", _markdown(summary))
    write_text(out / "table.csv", stream.getvalue())
    write_json(out / "summary.json", json_ready(content), indent=1)
