"""The tables of an evaluation: as text for a terminal, as CSV for a spreadsheet, as JSON for a program."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.statistics import Mark
from tectum.io.files import write_whole
from tectum.report import tables
from tectum.report.tables import json_ready

BEST, SECOND, BEATS_ALL = "*", "+", "!"
SIGNS: dict[Mark, str] = {"best": BEST, "second": SECOND, "gamed": BEATS_ALL, "": " "}
LEGEND = f"{BEST} best, {SECOND} second of the methods; {BEATS_ALL} a baseline that beats or equals every method"


def text_table(evaluation: Evaluation) -> str:
    """The means, one row a method, baselines below a rule; marks and missing values are explained under it."""
    head, methods, baselines = rows(evaluation)
    lines = [tables.text_table(head, methods, baselines)]
    if len(methods) > 1 or any(evaluation.summary.beaten_by.values()):
        lines.append(LEGEND)
    told = [f"{sentence}." for sentence in (*undefined(evaluation), *infinite(evaluation), *stretched(evaluation))]
    return writable("\n".join(lines + told))


def markdown_table(evaluation: Evaluation) -> str:
    """The same for a page of documentation."""
    head, methods, baselines = rows(evaluation)
    return writable(tables.markdown_table(head, [*methods, *([f"*{name}*", *rest] for name, *rest in baselines)]))


Rows = list[list[str]]


def rows(evaluation: Evaluation) -> tuple[list[str], Rows, Rows]:
    """The head, the rows of methods, the rows of baselines, as cells."""
    scores, kinds = evaluation.scores, evaluation.summary.kinds
    head = ["", *(f"{metric}{'' if evaluation.higher_is_better[metric] else ' (low)'} " for metric in scores.metrics)]
    columns = [column(evaluation, metric) for metric in scores.metrics]
    found = {method: [method, *(cells[m] for cells in columns)] for m, method in enumerate(scores.methods)}
    methods, baselines = ([found[name] for name in found if kinds[name] == kind] for kind in ("method", "baseline"))
    return head, methods, baselines


def column(evaluation: Evaluation, metric: str) -> list[str]:
    """The cells of one metric, with as many decimals as its largest value leaves room for, and marks."""
    summary, methods = evaluation.summary, evaluation.scores.methods
    means = [summary.cells[method][metric].mean for method in methods]
    places = decimals([mean for mean in means if math.isfinite(mean)])
    numbers = ["n/a" if math.isnan(mean) else f"{mean:.{places}f}" for mean in means]
    return [text + SIGNS[summary.mark(method, metric)] for text, method in zip(numbers, methods, strict=True)]


def decimals(values: Sequence[float]) -> int:
    """Decimals that leave about four digits.

    >>> decimals([0.2, 0.71]), decimals([6.5]), decimals([43.1, 7.0]), decimals([1700.0, 20.0])
    (3, 3, 2, 0)
    """
    largest = max((abs(value) for value in values), default=0.0)
    return next((places for bound, places in ((10, 3), (100, 2), (1000, 1)) if largest < bound), 0)


def undefined(evaluation: Evaluation) -> list[str]:
    """A sentence, without its full stop, for every metric that is not defined for some images of some method."""
    total = len(evaluation.scores.images)
    found = []
    for metric in evaluation.scores.metrics:
        counts = {method: row[metric].num_undefined for method, row in evaluation.summary.cells.items()}
        if all(num == total for num in counts.values()):
            found.append(f"{metric} is not defined for any image of any method")
        elif any(counts.values()):
            found.append(f"{metric} is not defined (n/a) for {counted(counts, total)}; the means leave these out")
    return found


def infinite(evaluation: Evaluation) -> list[str]:
    """The same for every metric that is infinite for some images of some method."""
    total = len(evaluation.scores.images)
    found = []
    for metric in evaluation.scores.metrics:
        counts = {method: row[metric].num_infinite for method, row in evaluation.summary.cells.items()}
        if any(counts.values()):
            found.append(
                f"{metric} is infinite for {counted(counts, total)}; a mean with one is infinite and has no interval, "
                "differences leave these images out"
            )
    return found


def counted(counts: Mapping[str, int], total: int) -> str:
    """Which methods lack how many images.

    >>> counted({"ours": 1, "theirs": 0, "visible": 3}, 3)
    'ours on 1 of 3, visible on all of 3 images'
    """
    return (
        ", ".join(f"{name} on {'all' if n == total else n} of {total}" for name, n in counts.items() if n) + " images"
    )


RAISED = ("EN", "SD", "SF", "AG")
"""Metrics of the fused image alone, which a stretch to the full range raises."""


def stretched(evaluation: Evaluation) -> list[str]:
    """The same where the convention stretches the images of systems, but not those of the baselines beside them."""
    if not evaluation.convention.stretch or "baseline" not in evaluation.summary.kinds.values():
        return []
    metrics = [name for name in RAISED if name in evaluation.scores.metrics]
    named = f"{', '.join(metrics[:-1])} and {metrics[-1]}" if len(metrics) > 1 else "".join(metrics)
    raises = f"raises {named} of systems" if metrics else "changes the values of systems"
    return [
        f"The convention {evaluation.convention.name} stretches each image that a system makes here to the full range, "
        f"which {raises} beside the baselines; those are never stretched"
    ]


def write_tables(evaluation: Evaluation, out: Path) -> None:
    """Write scores.csv (a row per image and method), summary.csv (a row per method and metric), evaluation.json."""
    write_csv(out / "scores.csv", ["image", "method", *evaluation.scores.metrics], score_rows(evaluation))
    head = ["method", "kind", "metric", "unit", "mean", "low", "high", "num", "undefined", "infinite"]
    against = ["difference", "difference_low", "difference_high", "difference_num", "better", "p"]
    write_csv(out / "summary.csv", head + against, summary_rows(evaluation))
    text = json.dumps(as_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(out / "evaluation.json", lambda file: file.write_text(writable(text), encoding="utf-8"))


def writable(text: str) -> str:
    r"""Text that UTF-8 can hold: a byte of a file's name that is none of it becomes \\udcXX, which JSON reads back.

    >>> print(writable("caf\udce9.png"))
    caf\udce9.png
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """NaN becomes an empty cell, infinity inf."""

    def write(file: Path) -> None:
        with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(head)
            writer.writerows(
                [["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows]
            )

    write_whole(path, write)


def score_rows(evaluation: Evaluation) -> list[list[Any]]:
    scores = evaluation.scores
    return [
        [image, method, *scores.values[i, m].tolist()]
        for i, image in enumerate(scores.images)
        for m, method in enumerate(scores.methods)
    ]


def summary_rows(evaluation: Evaluation) -> list[list[Any]]:
    summary = evaluation.summary
    rows = []
    for method, cells in summary.cells.items():
        for metric, cell in cells.items():
            found = summary.differences.get(method, {}).get(metric)
            gap = [found.mean, found.low, found.high, found.num, found.better, found.p] if found else [None] * 6
            unit = evaluation.units[metric]
            rows.append([method, summary.kinds[method], metric, unit, *asdict(cell).values(), *gap])
    return rows


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the pictures, in JSON types; NaN becomes null, infinity the text "inf"."""
    summary, scores = evaluation.summary, evaluation.scores

    def by_method(rows: list[list[float]]) -> dict[str, Any]:
        named = zip(scores.methods, rows, strict=True)
        return {method: dict(zip(scores.metrics, row, strict=True)) for method, row in named}

    content = {
        "data": evaluation.data,
        "date": evaluation.date,
        "command": evaluation.command,
        "convention": evaluation.convention.name,
        "reference": summary.reference,
        "metrics": {
            name: {"unit": evaluation.units[name], "higher_is_better": evaluation.higher_is_better[name]}
            for name in scores.metrics
        },
        "methods": dict(summary.kinds),
        "summary": {m: {k: asdict(cell) for k, cell in row.items()} for m, row in summary.cells.items()},
        "differences": json_ready(
            {m: {k: asdict(d) for k, d in row.items()} for m, row in summary.differences.items()}
        ),
        "ranks": {metric: [list(names) for names in ranks] for metric, ranks in summary.ranks.items()},
        "beaten_by": {metric: list(names) for metric, names in summary.beaten_by.items() if names},
        "notes": list(evaluation.warnings),
        "failures": dict(evaluation.failures),
        "scores": dict(zip(scores.images, map(by_method, scores.values.tolist()), strict=True)),
    }
    json_content: dict[str, Any] = json_ready(content)
    return json_content
