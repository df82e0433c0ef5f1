"""What stands in the tables of the page: numbers as text, with their marks, intervals and explanations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.statistics import Cell, Difference, Mark
from tectum.evaluation.tables import decimals
from tectum.metrics.metric import SourceMetric
from tectum.report.tables import number_text

Verdict = Literal["better", "worse", "not clear", "n/a", "reference"]


@dataclass(frozen=True)
class Column:
    """A metric of the table; `places` are its decimals."""

    metric: str
    title: str
    reduction: str
    source: str
    unit: str
    higher: bool
    places: int

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher else "lower is better"

    @property
    def arrow(self) -> str:
        return "↑" if self.higher else "↓"


@dataclass(frozen=True)
class Entry:
    """A mean, or a difference of means, as it is printed.

    Attributes:
        text: the number.
        value: to sort by; empty where there is none.
        interval: 95 % of the bootstrap.
        mark: of means.
        verdict, share: of differences.
        missing: "12 n/a" where some images have no value, "1 ∞" where one has an infinite value.
        hint: the same in words.
    """

    text: str
    value: str
    interval: str
    hint: str
    mark: Mark = ""
    verdict: Verdict = "n/a"
    share: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """A method with its entries, one a column, and in a table of differences how many of them are clear."""

    name: str
    baseline: bool
    entries: tuple[Entry, ...]

    def count(self, verdict: Verdict) -> int:
        return sum(entry.verdict == verdict for entry in self.entries)


def columns(evaluation: Evaluation) -> list[Column]:
    """One a metric, with enough decimals to tell the best mean from the second."""
    found = []
    for metric in evaluation.scores.metrics:
        about = evaluation.convention.metrics[metric]()  # a convention's column may be another metric of that name
        found.append(
            Column(
                metric,
                about.title,
                f"{about.reduction} over the two sources" if isinstance(about, SourceMetric) else "",
                about.source,
                evaluation.units[metric].replace("^2", "²"),
                evaluation.higher_is_better[metric],
                places(evaluation, metric),
            )
        )
    return found


def places(evaluation: Evaluation, metric: str) -> int:
    cells = {method: row[metric].mean for method, row in evaluation.summary.cells.items()}
    means = [mean for mean in cells.values() if math.isfinite(mean)]
    num = small(means, decimals(means))
    leading = [cells[names[0]] for names in evaluation.summary.ranks[metric][:2]]
    for more in (0, 1, 2):
        if len(leading) < 2 or number_text(leading[0], num + more) != number_text(leading[1], num + more):
            return num + more
    return num


def small(values: Sequence[float], num: int) -> int:
    """Decimals that leave two digits of the largest value, when it is so small that `num` would not.

    >>> small([0.0021], 3), small([0.3], 3), small([0.0], 3)
    (4, 3, 3)
    """
    largest = max((abs(value) for value in values), default=0.0)
    return max(num, min(9, 1 - math.floor(math.log10(largest)))) if largest > 0 else num


def score_rows(evaluation: Evaluation, table: Sequence[Column]) -> list[Row]:
    summary = evaluation.summary
    rows = []
    for method, kind in summary.kinds.items():
        cells = summary.cells[method]
        entries = (mean_entry(cells[k.metric], k, summary.mark(method, k.metric)) for k in table)
        rows.append(Row(method, kind == "baseline", tuple(entries)))
    return rows


def mean_entry(cell: Cell, column: Column, mark: Mark) -> Entry:
    total = cell.num + cell.num_undefined
    if not cell.num:
        hint = f"{column.metric} is not defined for any of {total} images"
        return Entry("n/a", "", "", hint, missing=f"{total} n/a" if total > 1 else "")
    text = number_text(cell.mean, column.places)
    span = interval(cell.low, cell.high, column.places) if cell.num > 1 else ""
    hint = f"{column.metric} {text}{' ' * bool(column.unit)}{column.unit} over {cell.num} images"
    hint += f", 95 % interval {span}" if span else ""
    hint += f"; not defined for {cell.num_undefined} of {total}" if cell.num_undefined else ""
    hint += f"; infinite for {cell.num_infinite} of {total}, so there is no interval" if cell.num_infinite else ""
    missing = ", ".join(f"{n} {what}" for n, what in ((cell.num_undefined, "n/a"), (cell.num_infinite, "∞")) if n)
    value = "" if math.isnan(cell.mean) else repr(float(cell.mean))
    return Entry(text, value, span, hint, mark=mark, missing=missing)


def difference_rows(evaluation: Evaluation, table: Sequence[Column]) -> list[Row]:
    summary = evaluation.summary
    rows = []
    for method, gaps in summary.differences.items():
        entries = []
        for column in table:
            largest = [abs(row[column.metric].mean) for row in summary.differences.values()]
            num = small([x for x in largest if math.isfinite(x)], column.places)
            entries.append(difference_entry(gaps[column.metric], column, num))
        rows.append(Row(method, summary.kinds[method] == "baseline", tuple(entries)))
    return rows


def difference_entry(gap: Difference, column: Column, num: int) -> Entry:
    if not gap.num:
        return Entry(
            "n/a", "", "", f"no image has a {'finite ' * bool(gap.num_infinite)}value of {column.metric} for both"
        )
    verdict: Verdict = "not clear"
    if gap.clear:
        verdict = "better" if (gap.mean > 0) == column.higher else "worse"
    text = ("+" if gap.mean > 0 else "") + number_text(gap.mean, num)
    share = f"{100 * gap.better:.0f}\u00a0%"
    span = interval(gap.low, gap.high, num) if gap.num > 1 else ""
    hint = f"{column.metric} {text}{f', 95 % interval {span}' if span else ''}; better on {share} of {gap.num} images"
    hint += f"; p = {gap.p:.2g}"
    hint += f"; {gap.num_infinite} with an infinite value left out" if gap.num_infinite else ""
    return Entry(text, repr(float(gap.mean)), span, hint, verdict=verdict, share=share)


def interval(low: float, high: float, num: int) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number_text(low, num)}{'–' if low >= 0 else ' to '}{number_text(high, num)}"


def at_a_glance(evaluation: Evaluation) -> list[str]:
    """What the table says in two or three sentences."""
    summary, metrics = evaluation.summary, evaluation.scores.metrics
    ranked = [name for name, kind in summary.kinds.items() if kind == "method"]
    found = []
    if len(ranked) > 1:
        wins = {name: sum(name in (r[0] if (r := summary.ranks[k]) else ()) for k in metrics) for name in ranked}
        order = sorted((name for name in ranked if wins[name]), key=lambda name: -wins[name])
        leaders = ", ".join(f"{name} on {wins[name]}" for name in order[:4]) + (", …" if len(order) > 4 else "")
        found.append(f"Best mean of {len(ranked)} methods: {leaders} of {len(metrics)} metrics.")
    gamed = [metric for metric in metrics if summary.beaten_by[metric]]
    if gamed:
        found.append(
            f"On {len(gamed)} of {len(metrics)} metrics a baseline that learned nothing is at least as good as every "
            f"method: {', '.join(gamed)}. A high value of these is no evidence of a good fusion."
        )
    return found
