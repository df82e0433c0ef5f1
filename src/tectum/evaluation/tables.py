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
from tectum.io.files import write_text, write_whole
from tectum.report import tables
from tectum.report.tables import json_ready

_BEST, _SECOND, _BEATS_ALL = "*", "+", "!"
_SIGNS: dict[Mark, str] = {"best": _BEST, "second": _SECOND, "gamed": _BEATS_ALL, "": " "}
_LEGEND = f"{_BEST} best, {_SECOND} second of the methods; {_BEATS_ALL} a baseline that beats or equals every method"
_STRETCHED = ("EN", "SD", "SF", "AG")
"""Metrics of the fused image alone, which a stretch to the full range raises."""

_Rows = list[list[str]]


def text_table(evaluation: Evaluation) -> str:
    """Returns the means, one row a method, baselines below a rule; marks and missing values are explained below."""
    head, methods, baselines = _rows(evaluation)
    lines = [tables.text_table(head, methods, baselines)]
    if len(methods) > 1 or any(evaluation.summary.beaten_by.values()):
        lines.append(_LEGEND)
    explanations = (*explain_undefined(evaluation), *explain_infinite(evaluation), *explain_stretch(evaluation))
    return _writable("\n".join([*lines, *(f"{sentence}." for sentence in explanations)]))


def markdown_table(evaluation: Evaluation) -> str:
    """Returns the means in Markdown, one row a method, baselines in italics."""
    head, methods, baselines = _rows(evaluation)
    return _writable(tables.markdown_table(head, [*methods, *([f"*{name}*", *rest] for name, *rest in baselines)]))


def _rows(evaluation: Evaluation) -> tuple[list[str], _Rows, _Rows]:
    """The head, the rows of methods, the rows of baselines."""
    scores, summary = evaluation.scores, evaluation.summary
    head = ["", *(f"{metric}{'' if evaluation.higher_is_better[metric] else ' (low)'} " for metric in scores.metrics)]
    rows: dict[bool, _Rows] = {False: [], True: []}
    places = {
        metric: decimals([row[metric].mean for row in summary.means.values()]) for metric in evaluation.scores.metrics
    }
    for method, row in summary.means.items():
        means = {metric: row[metric].mean for metric in scores.metrics}
        texts = ("n/a" if math.isnan(mean) else f"{mean:.{places[metric]}f}" for metric, mean in means.items())
        signs = (_SIGNS[summary.mark(method, metric)] for metric in means)
        rows[summary.is_baseline[method]].append([method, *map(str.__add__, texts, signs)])
    return head, rows[False], rows[True]


def decimals(values: Sequence[float]) -> int:
    """Returns how many decimals leave about four digits of the largest finite value.

    >>> decimals([0.2, 0.71]), decimals([6.5]), decimals([43.1, 7.0]), decimals([1700.0, 20.0])
    (3, 3, 2, 0)
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return next((places for bound, places in ((10, 3), (100, 2), (1000, 1)) if largest < bound), 0)


def explain_undefined(evaluation: Evaluation) -> list[str]:
    """Returns a sentence, without its full stop, for every metric that is not defined for some images of a method."""
    total = len(evaluation.scores.images)
    sentences = []
    for metric in evaluation.scores.metrics:
        counts = {method: row[metric].num_undefined for method, row in evaluation.summary.means.items()}
        if all(num == total for num in counts.values()):
            sentences.append(f"{metric} is not defined for any image of any method")
        elif any(counts.values()):
            where = _count_images(counts, total)
            sentences.append(f"{metric} is not defined (n/a) for {where}; the means leave these out")
    return sentences


def explain_infinite(evaluation: Evaluation) -> list[str]:
    """Returns a sentence, without its full stop, for every metric that is infinite for some images of a method."""
    counts_of = {
        metric: {method: row[metric].num_infinite for method, row in evaluation.summary.means.items()}
        for metric in evaluation.scores.metrics
    }
    return [
        f"{metric} is infinite for {_count_images(counts, len(evaluation.scores.images))}; a mean with one is infinite "
        "and has no interval, differences leave these images out"
        for metric, counts in counts_of.items()
        if any(counts.values())
    ]


def _count_images(counts: Mapping[str, int], total: int) -> str:
    """`ours on 1 of 3, visible on all of 3 images`."""
    parts = (f"{name} on {'all' if num == total else num} of {total}" for name, num in counts.items() if num)
    return f"{', '.join(parts)} images"


def explain_stretch(evaluation: Evaluation) -> list[str]:
    """Returns a sentence where the convention stretches images of systems, but not of the baselines beside them."""
    if not evaluation.convention.stretch or not any(evaluation.summary.is_baseline.values()):
        return []
    metrics = [name for name in _STRETCHED if name in evaluation.scores.metrics]
    names = f"{', '.join(metrics[:-1])} and {metrics[-1]}" if len(metrics) > 1 else "".join(metrics)
    raises = f"raises {names} of systems" if metrics else "changes the values of systems"
    return [
        f"The convention {evaluation.convention.name} stretches each image that a system makes here to the full range, "
        f"which {raises} beside the baselines; those are never stretched"
    ]


def write_tables(evaluation: Evaluation, out: Path) -> None:
    """Write scores.csv (a row per image and method), summary.csv (a row per method and metric), evaluation.json."""
    scores, summary = evaluation.scores, evaluation.summary
    rows: list[list[Any]] = [
        [image, method, *scores.values[i, m].tolist()]
        for i, image in enumerate(scores.images)
        for m, method in enumerate(scores.methods)
    ]
    _write_csv(out / "scores.csv", ["image", "method", *scores.metrics], rows)
    rows = []
    for method, row in summary.means.items():
        for metric, mean in row.items():
            d = summary.differences.get(method, {}).get(metric)
            difference = [d.mean, d.low, d.high, d.num, d.better, d.p] if d else [None] * 6
            role = "baseline" if summary.is_baseline[method] else "method"
            rows.append([method, role, metric, evaluation.units[metric], *asdict(mean).values(), *difference])
    head = ["method", "kind", "metric", "unit", "mean", "low", "high", "num", "undefined", "infinite"]
    head += ["difference", "difference_low", "difference_high", "difference_num", "better", "p"]
    _write_csv(out / "summary.csv", head, rows)
    text = json.dumps(_json_content(evaluation), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(out / "evaluation.json", _writable(text))


def _writable(text: str) -> str:
    r"""Text that UTF-8 can hold: a byte of a file's name that is none of it becomes \\udcXX, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """NaN becomes an empty cell, infinity inf."""

    def write(file: Path) -> None:
        with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(head)
            writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])  # only NaN is not itself

    write_whole(path, write)


def _json_content(evaluation: Evaluation) -> Any:
    """Everything but the pictures, in JSON types."""
    summary, scores = evaluation.summary, evaluation.scores

    def by_method(rows: list[list[float]]) -> dict[str, Any]:
        return {m: dict(zip(scores.metrics, row, strict=True)) for m, row in zip(scores.methods, rows, strict=True)}

    return json_ready(
        {
            "data": evaluation.data,
            "date": evaluation.date,
            "command": evaluation.command,
            "convention": evaluation.convention.name,
            "reference": summary.reference,
            "metrics": {
                name: {"unit": evaluation.units[name], "higher_is_better": evaluation.higher_is_better[name]}
                for name in scores.metrics
            },
            "methods": {name: "baseline" if baseline else "method" for name, baseline in summary.is_baseline.items()},
            "summary": {m: {k: asdict(mean) for k, mean in row.items()} for m, row in summary.means.items()},
            "differences": {m: {k: asdict(d) for k, d in row.items()} for m, row in summary.differences.items()},
            "ranks": summary.ranks,
            "beaten_by": {metric: names for metric, names in summary.beaten_by.items() if names},
            "notes": evaluation.warnings,
            "failures": evaluation.failures,
            "scores": dict(zip(scores.images, map(by_method, scores.values.tolist()), strict=True)),
        }
    )
