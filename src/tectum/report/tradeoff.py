"""Quality against what it costs: seconds and multiply-accumulates, of costs that were measured alike.

    mean rank of a row    the mean over metrics k of its rank among all rows by the mean of k; 1 is the best

Seconds say nothing without the size of the image, the device, the threads and the type of the numbers. Costs are only
drawn together where all of these agree; the largest such group is taken, and the page lists the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tectum.engine.evaluate import Evaluation
from tectum.engine.summary import Summary
from tectum.report.cells import Column
from tectum.report.plots import Style, against_cost

if TYPE_CHECKING:
    from tectum.inference.measure import Cost

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
        conditions: what was measured, in words.
        choices: the mean rank, then every metric.
        rows: the costs drawn.
        without: rows of the evaluation that have no cost measured under these conditions.
        no_macs: rows with a cost but no multiply-accumulates, which a logarithmic axis cannot hold.
        others: measured under other conditions, or not part of the evaluation.
    """

    conditions: str
    choices: tuple[Choice, ...]
    rows: tuple[CostRow, ...]
    without: tuple[str, ...]
    no_macs: tuple[str, ...]
    others: tuple[str, ...]


def tradeoff(
    evaluation: Evaluation, costs: "Sequence[Cost]", table: Sequence[Column], look: Mapping[str, Style]
) -> Tradeoff | None:
    """The plots and the table of costs; None when no row of the evaluation has one."""
    summary = evaluation.summary
    known = [cost for cost in costs if cost.name in look and positive(cost.seconds_median)]
    groups: dict[str, dict[str, Cost]] = {}
    for cost in known:
        groups.setdefault(conditions(cost), {}).setdefault(cost.name, cost)
    if not groups:
        return None
    where = max(groups, key=lambda name: len(groups[name]))
    chosen = {name: groups[where][name] for name in look if name in groups[where]}
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
        tuple(name for name, cost in chosen.items() if not positive(cost.macs)),
        tuple(f"{named(cost)} ({conditions(cost)})" for cost in costs if id(cost) not in drawn),
    )


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
    return cost.name if cost.variant in ("", "default") else f"{cost.name} {cost.variant}"


def positive(x: Any) -> bool:
    return x is not None and math.isfinite(x) and x > 0


def conditions(cost: "Cost") -> str:
    """What two costs must share to be compared.

    Files of costs may be written by hand, for methods that tectum cannot run, so what is missing is left out.
    """
    threads = f"{cost.threads} thread{'s' * (cost.threads != 1)}" if cost.threads else ""
    return ", ".join(
        part for part in (f"{cost.size} px".replace("x", "×", 1), cost.device, threads, cost.dtype) if part
    )


def cost_row(cost: "Cost", baseline: bool) -> CostRow:
    return CostRow(
        cost.name,
        baseline,
        f"{cost.params:,}" if cost.params is not None else "–",
        "–" if cost.macs is None else f"{cost.macs / 1e9:.3g} G" if cost.macs else "0",
        seconds(cost.seconds_median),
        " – ".join(seconds(s) for s in cost.seconds_iqr) if cost.seconds_iqr else "–",
        f"{cost.peak_mb:,.0f} MB" if cost.peak_mb is not None else "–",
    )


def seconds(s: float) -> str:
    """A time with three digits.

    >>> seconds(0.00123), seconds(2.5), seconds(123.4)
    ('1.23 ms', '2.5 s', '123 s')
    """
    return f"{s * 1000:.3g} ms" if s < 1 else f"{s:.3g} s"
