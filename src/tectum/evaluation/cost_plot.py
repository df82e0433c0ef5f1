"""Quality against what it costs: seconds and multiply-accumulates, of costs that were measured alike.

    mean rank of a row    the mean over metrics k of its rank among all rows by the mean of k; 1 is the best

Seconds say nothing without the size of the image, the device, the threads and the type of the numbers. Costs are only
drawn together where all of these agree; the largest such group is taken, and the page lists the others. A cost without
seconds, written by hand for a method that tectum cannot run, joins those whose size it shares: parameters and
multiply-accumulates are the same on any machine. What a cost lacks is a dash in the table and not drawn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.page_cells import Column
from tectum.evaluation.plots import Style, against_cost
from tectum.evaluation.statistics import Summary

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost

MEAN_RANK = "mean rank"


@dataclass(frozen=True)
class Choice:
    """The plots of one measure of quality; empty text where there is nothing to draw."""

    name: str
    seconds: str
    macs: str


@dataclass(frozen=True)
class CostRow:
    """A line of the table under the plots, as text."""

    name: str
    baseline: bool
    params: str
    macs: str
    seconds: str
    quartiles: str
    peak: str


@dataclass(frozen=True)
class Tradeoff:
    """What the page shows of costs.

    Attributes:
        conditions: what was measured, in words; empty where no cost says.
        choices: the mean rank, then every metric.
        rows: the costs drawn.
        without: rows of the evaluation that have no cost measured under these conditions.
        no_seconds: rows with a cost but no time.
        no_macs: rows with a cost but no multiply-accumulates, or none that a logarithmic axis can hold.
        others: measured under other conditions, or not part of the evaluation.
    """

    conditions: str
    choices: tuple[Choice, ...]
    rows: tuple[CostRow, ...]
    without: tuple[str, ...]
    no_seconds: tuple[str, ...]
    no_macs: tuple[str, ...]
    others: tuple[str, ...]


def tradeoff(
    evaluation: Evaluation, costs: "Sequence[Cost]", table: Sequence[Column], look: Mapping[str, Style]
) -> Tradeoff | None:
    """The plots and the table of costs; None when no row of the evaluation has one."""
    summary = evaluation.summary
    where, group = alike([cost for cost in costs if cost.name in look])
    if not group:
        return None
    chosen = {name: group[name] for name in look if name in group}
    drawn = {id(cost) for cost in chosen.values()}
    ranks = mean_ranks(summary, evaluation.higher_is_better)
    quality: dict[str, dict[str, tuple[float, float, float]]] = {
        MEAN_RANK: {name: (rank, math.nan, math.nan) for name, rank in ranks.items()}
    }
    for column in table:
        cells = {name: summary.cells[name][column.metric] for name in look}
        quality[column.metric] = {name: (cell.mean, cell.low, cell.high) for name, cell in cells.items()}
    labels = {MEAN_RANK: "mean rank (1 is best)", **{c.metric: f"{c.metric} {c.arrow}" for c in table}}
    upwards = {MEAN_RANK: False, **{column.metric: column.higher for column in table}}
    choices = []
    for n, (name, values) in enumerate(quality.items()):
        plots = []
        for field, axis in (("seconds_median", "seconds an image"), ("macs", "GMACs an image")):
            points = {}
            for method, cost in chosen.items():
                amount = getattr(cost, field)
                if positive(amount) and math.isfinite(values.get(method, (math.nan,))[0]):
                    points[method] = (amount / 1e9 if field == "macs" else amount, *values[method])
            axes = (axis, labels[name])
            prefix = f"{field[:4]}{n}"
            plots.append(against_cost(points, look, axes=axes, upwards=upwards[name], prefix=prefix) if points else "")
        choices.append(Choice(name, *plots))
    return Tradeoff(
        where,
        tuple(choices),
        tuple(cost_row(cost, look[name].baseline) for name, cost in chosen.items()),
        tuple(name for name in look if name not in chosen),
        tuple(name for name, cost in chosen.items() if not positive(cost.seconds_median)),
        tuple(name for name, cost in chosen.items() if not positive(cost.macs)),
        tuple(f"{named(cost)} ({conditions(cost) or 'not said how'})" for cost in costs if id(cost) not in drawn),
    )


def alike(costs: "Sequence[Cost]") -> "tuple[str, dict[str, Cost]]":
    """The largest group of costs that can be compared, by name, and its conditions in words."""
    groups: dict[str, dict[str, Cost]] = {}
    untimed = []
    for cost in costs:
        if positive(cost.seconds_median):
            groups.setdefault(conditions(cost), {}).setdefault(cost.name, cost)
        elif any(amount is not None for amount in (cost.params, cost.macs, cost.peak_mb)):
            untimed.append(cost)
    if not groups:
        for cost in untimed:
            groups.setdefault(conditions(cost), {}).setdefault(cost.name, cost)
    where = max(groups, key=lambda name: len(groups[name]), default="")
    group = dict(groups.get(where, {}))
    first = next(iter(group.values()), None)
    for cost in untimed:
        if first is not None and fits(cost, first):
            group.setdefault(cost.name, cost)
    return where, group


def fits(cost: "Cost", other: "Cost") -> bool:
    """True if what is no time may stand beside the other cost: one size, and nothing else that is said differs.

    Parameters alone have no size.
    """
    said = ((cost.device, other.device), (cost.threads, other.threads), (cost.dtype, other.dtype))
    alone = not cost.size and cost.macs is None and cost.peak_mb is None
    return (alone or sized(cost) == sized(other)) and all(own is None or own == theirs for own, theirs in said)


def mean_ranks(summary: Summary, higher_is_better: Mapping[str, bool]) -> dict[str, float]:
    """The mean rank of every row that has a value; equal means share the middle of their ranks."""
    found: dict[str, list[float]] = {}
    for metric, higher in higher_is_better.items():
        means = {name: row[metric].mean for name, row in summary.cells.items() if not math.isnan(row[metric].mean)}
        for name, mean in means.items():
            before = sum((other > mean) if higher else (other < mean) for other in means.values())
            equal = sum(other == mean for other in means.values())
            found.setdefault(name, []).append(1 + before + (equal - 1) / 2)
    return {name: sum(ranks) / len(ranks) for name, ranks in found.items()}


def named(cost: "Cost") -> str:
    return cost.name if cost.variant in (None, "", "default") else f"{cost.name} {cost.variant}"


def positive(x: Any) -> bool:
    return x is not None and math.isfinite(x) and x > 0


def conditions(cost: "Cost") -> str:
    """What two costs must share to be compared.

    What is missing is left out, and agrees only with what misses it too.
    """
    threads = f"{cost.threads} thread{'s' * (cost.threads != 1)}" if cost.threads else ""
    return ", ".join(part for part in (sized(cost), cost.device, threads, cost.dtype) if part)


def sized(cost: "Cost") -> str:
    return f"{cost.size} px".replace("x", "×", 1) if cost.size else ""


def cost_row(cost: "Cost", baseline: bool) -> CostRow:
    quartiles = cost.seconds_iqr
    return CostRow(
        cost.name,
        baseline,
        or_dash(cost.params, "{:,.0f}".format),
        or_dash(cost.macs, lambda macs: f"{macs / 1e9:.3g} G" if macs else "0"),
        or_dash(cost.seconds_median, seconds),
        " – ".join(seconds(s) for s in quartiles) if quartiles and None not in quartiles else "–",
        or_dash(cost.peak_mb, "{:,.0f} MB".format),
    )


def or_dash(x: float | None, text: Callable[[float], str]) -> str:
    """A number as text.

    >>> or_dash(None, str), or_dash(math.nan, str), or_dash(1500, "{:,}".format)
    ('–', '–', '1,500')
    """
    return text(x) if x is not None and math.isfinite(x) else "–"


def seconds(s: float) -> str:
    """A time with three digits.

    >>> seconds(0.00123), seconds(2.5), seconds(123.4)
    ('1.23 ms', '2.5 s', '123 s')
    """
    return f"{s * 1000:.3g} ms" if s < 1 else f"{s:.3g} s"
