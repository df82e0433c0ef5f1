"""The cells of the page's tables: numbers as text, with their marks, intervals and explanations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.statistics import Difference, Mark, MeanScore
from tectum.evaluation.tables import decimals
from tectum.metrics.metric import SourceMetric
from tectum.report.tables import number_text

_Verdict = Literal["better", "worse", "not clear", "n/a"]


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
        """The direction of better values in words."""
        return "higher is better" if self.higher else "lower is better"

    @property
    def arrow(self) -> str:
        """The direction of better values as an arrow."""
        return "↑" if self.higher else "↓"


@dataclass(frozen=True)
class Entry:
    """A mean, or a difference of means, as it is printed.

    Attributes:
        text: the number.
        value: to sort by; empty where there is none.
        interval: 95 % of the bootstrap.
        hint: all of it in words.
        mark: of means.
        verdict, share: of differences.
        missing: "12 n/a" where some images have no value, "1 ∞" where one has an infinite value.
    """

    text: str
    value: str
    interval: str
    hint: str
    mark: Mark = ""
    verdict: _Verdict = "n/a"
    share: str = ""
    missing: str = ""


@dataclass(frozen=True)
class _Row:
    """A method with its entries, one a column."""

    name: str
    is_baseline: bool
    entries: tuple[Entry, ...]

    def count(self, verdict: _Verdict) -> int:
        """Returns the number of entries with a verdict."""
        return sum(entry.verdict == verdict for entry in self.entries)


def make_columns(evaluation: Evaluation) -> list[Column]:
    """One column a metric, with enough decimals to tell the best mean from the second."""
    columns = []
    for name in evaluation.scores.metrics:
        metric = evaluation.convention.metrics[name]()  # a convention's column may be another metric of that name
        columns.append(
            Column(
                metric=name,
                title=metric.title,
                reduction=f"{metric.reduction} over the two sources" if isinstance(metric, SourceMetric) else "",
                source=metric.source,
                unit=evaluation.units[name].replace("^2", "²"),
                higher=evaluation.higher_is_better[name],
                places=_places(evaluation, name),
            )
        )
    return columns


def _places(evaluation: Evaluation, metric: str) -> int:
    means = {method: row[metric].mean for method, row in evaluation.summary.means.items()}
    finite = [mean for mean in means.values() if math.isfinite(mean)]
    num = _places_of_small(finite, decimals(finite))
    leading = [means[names[0]] for names in evaluation.summary.ranks[metric][:2]]
    for more in (0, 1, 2):
        if len(leading) < 2 or number_text(leading[0], num + more) != number_text(leading[1], num + more):
            return num + more
    return num


def _places_of_small(values: Sequence[float], num: int) -> int:
    """Decimals that leave two digits of the largest value, when it is so small that `num` would not.

    >>> _places_of_small([0.0021], 3), _places_of_small([0.3], 3), _places_of_small([0.0], 3)
    (4, 3, 3)
    """
    largest = max((abs(value) for value in values), default=0.0)
    return max(num, min(9, 1 - math.floor(math.log10(largest)))) if largest > 0 else num


def score_rows(evaluation: Evaluation, columns: Sequence[Column]) -> list[_Row]:
    """Returns the rows of the table of means."""
    summary = evaluation.summary
    return [
        _Row(
            method,
            summary.is_baseline[method],
            tuple(_mean_entry(row[k.metric], k, summary.mark(method, k.metric)) for k in columns),
        )
        for method, row in summary.means.items()
    ]


def _mean_entry(mean: MeanScore, column: Column, mark: Mark) -> Entry:
    total = mean.num + mean.num_undefined
    if not mean.num:
        hint = f"{column.metric} is not defined for any of {total} images"
        return Entry("n/a", "", "", hint, missing=f"{total} n/a" if total > 1 else "")
    text = number_text(mean.mean, column.places)
    interval = _interval(mean.low, mean.high, column.places) if mean.num > 1 else ""
    hint = f"{column.metric} {text}{' ' * bool(column.unit)}{column.unit} over {mean.num} images"
    hint += f", 95 % interval {interval}" if interval else ""
    hint += f"; not defined for {mean.num_undefined} of {total}" if mean.num_undefined else ""
    hint += f"; infinite for {mean.num_infinite} of {total}, so there is no interval" if mean.num_infinite else ""
    missing = ", ".join(f"{n} {sign}" for n, sign in ((mean.num_undefined, "n/a"), (mean.num_infinite, "∞")) if n)
    value = "" if math.isnan(mean.mean) else repr(float(mean.mean))
    return Entry(text, value, interval, hint, mark=mark, missing=missing)


def difference_rows(evaluation: Evaluation, columns: Sequence[Column]) -> list[_Row]:
    """Returns the rows of the table of differences to the reference."""
    summary = evaluation.summary
    places = {}
    for column in columns:
        sizes = [abs(row[column.metric].mean) for row in summary.differences.values()]
        places[column.metric] = _places_of_small([x for x in sizes if math.isfinite(x)], column.places)
    return [
        _Row(
            method,
            summary.is_baseline[method],
            tuple(_difference_entry(row[k.metric], k, places[k.metric]) for k in columns),
        )
        for method, row in summary.differences.items()
    ]


def _difference_entry(difference: Difference, column: Column, places: int) -> Entry:
    infinite = difference.num_infinite
    if not difference.num:
        return Entry("n/a", "", "", f"no image has a {'finite ' * bool(infinite)}value of {column.metric} for both")
    verdict: _Verdict = "not clear"
    if difference.clear:
        verdict = "better" if (difference.mean > 0) == column.higher else "worse"
    text = ("+" if difference.mean > 0 else "") + number_text(difference.mean, places)
    share = f"{100 * difference.better:.0f}\u00a0%"
    interval = _interval(difference.low, difference.high, places) if difference.num > 1 else ""
    hint = f"{column.metric} {text}{f', 95 % interval {interval}' if interval else ''}"
    hint += f"; better on {share} of {difference.num} images; p = {difference.p:.2g}"
    hint += f"; {infinite} with an infinite value left out" if infinite else ""
    return Entry(text, repr(float(difference.mean)), interval, hint, verdict=verdict, share=share)


def _interval(low: float, high: float, places: int) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number_text(low, places)}{'–' if low >= 0 else ' to '}{number_text(high, places)}"


def sum_up(evaluation: Evaluation) -> list[str]:
    """Returns what the table says in one or two sentences."""
    summary, metrics = evaluation.summary, evaluation.scores.metrics
    methods = [name for name, is_baseline in summary.is_baseline.items() if not is_baseline]
    sentences = []
    if len(methods) > 1:
        wins = {name: sum(name in (r[0] if (r := summary.ranks[k]) else ()) for k in metrics) for name in methods}
        order = sorted((name for name in methods if wins[name]), key=lambda name: -wins[name])
        leaders = ", ".join(f"{name} on {wins[name]}" for name in order[:4]) + (", …" if len(order) > 4 else "")
        sentences.append(f"Best mean of {len(methods)} methods: {leaders} of {len(metrics)} metrics.")
    gamed = [metric for metric in metrics if summary.beaten_by[metric]]
    if gamed:
        sentences.append(
            f"On {len(gamed)} of {len(metrics)} metrics a baseline that learned nothing is at least as good as every "
            f"method: {', '.join(gamed)}. A high value of these is no evidence of a good fusion."
        )
    return sentences
