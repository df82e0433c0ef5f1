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
from tectum.evaluation.plots import Style, plot_against_cost

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost

_MEAN_RANK = "mean rank"


@dataclass(frozen=True)
class _CostSection:
    """The costs on the page.

    Attributes:
        conditions: how they were measured, in words; empty where no cost says.
        choices: the plots of the mean rank, then of every metric: its name, and the SVGs over seconds and over macs
            (empty where there is nothing to draw).
        rows: the costs drawn, as text.
        without: rows of the evaluation that have no cost measured under these conditions.
        no_seconds: rows with a cost but no time.
        no_macs: rows with a cost but no multiply-accumulates, or none that a logarithmic axis can hold.
        others: measured under other conditions, or not part of the evaluation.
    """

    conditions: str
    choices: tuple[dict[str, str], ...]
    rows: tuple[dict[str, str | bool], ...]
    without: tuple[str, ...]
    no_seconds: tuple[str, ...]
    no_macs: tuple[str, ...]
    others: tuple[str, ...]


def make_cost_section(
    evaluation: Evaluation, costs: "Sequence[Cost]", columns: Sequence[Column], styles: Mapping[str, Style]
) -> _CostSection | None:
    """The plots and the table of costs; None when no row of the evaluation has one."""
    conditions, group = _largest_group([cost for cost in costs if cost.name in styles])
    if not group:
        return None
    drawn = {name: group[name] for name in styles if name in group}
    ids = {id(cost) for cost in drawn.values()}
    others = [cost for cost in costs if id(cost) not in ids]
    nothing = math.nan, math.nan
    ranks = {name: (rank, *nothing) for name, rank in mean_ranks(evaluation).items()}
    choices = [_make_choice(_MEAN_RANK, "mean rank (1 is best)", ranks, drawn, styles, upwards=False)]
    for k in columns:
        means = {name: row[k.metric] for name, row in evaluation.summary.means.items()}
        values = {name: (mean.mean, mean.low, mean.high) for name, mean in means.items()}
        choices.append(_make_choice(k.metric, f"{k.metric} {k.arrow}", values, drawn, styles, upwards=k.higher))
    return _CostSection(
        conditions,
        tuple(choices),
        tuple(_make_row(cost, styles[name].is_baseline) for name, cost in drawn.items()),
        tuple(name for name in styles if name not in drawn),
        tuple(name for name, cost in drawn.items() if not _is_positive(cost.seconds_median)),
        tuple(name for name, cost in drawn.items() if not _is_positive(cost.macs)),
        tuple(f"{_full_name(cost)} ({_conditions(cost) or 'not said how'})" for cost in others),
    )


def _make_choice(
    name: str,
    label: str,
    values: Mapping[str, tuple[float, float, float]],
    costs: "Mapping[str, Cost]",
    styles: Mapping[str, Style],
    *,
    upwards: bool,
) -> dict[str, str]:
    choice = {"name": name}
    for field, axis, unit in (("seconds_median", "seconds an image", 1.0), ("macs", "GMACs an image", 1e9)):
        points = {
            method: (amount / unit, *values[method])
            for method, cost in costs.items()
            if _is_positive(amount := getattr(cost, field)) and math.isfinite(values.get(method, (math.nan,))[0])
        }
        plot = plot_against_cost(points, styles, axes=(axis, label), upwards=upwards) if points else ""
        choice[field.partition("_")[0]] = plot
    return choice


def _largest_group(costs: "Sequence[Cost]") -> "tuple[str, dict[str, Cost]]":
    """The largest group of costs that can be compared, by name, and its conditions in words."""
    timed = [cost for cost in costs if _is_positive(cost.seconds_median)]
    untimed = [
        cost
        for cost in costs
        if not _is_positive(cost.seconds_median)
        and any(amount is not None for amount in (cost.params, cost.macs, cost.peak_mb))
    ]
    groups: dict[str, dict[str, Cost]] = {}
    for cost in timed or untimed:
        groups.setdefault(_conditions(cost), {}).setdefault(cost.name, cost)
    conditions = max(groups, key=lambda name: len(groups[name]), default="")
    group = groups.get(conditions, {})
    first = next(iter(group.values()), None)
    for cost in untimed:
        if first is not None and _fits(cost, first):
            group.setdefault(cost.name, cost)
    return conditions, group


def _fits(cost: "Cost", other: "Cost") -> bool:
    """True if a cost without time may stand beside another: one size, and nothing else that is given differs.

    Parameters alone have no size.
    """
    given = ((cost.device, other.device), (cost.threads, other.threads), (cost.dtype, other.dtype))
    alone = not cost.size and cost.macs is None and cost.peak_mb is None
    return (alone or _size(cost) == _size(other)) and all(own is None or own == theirs for own, theirs in given)


def mean_ranks(evaluation: Evaluation) -> dict[str, float]:
    """Returns the mean rank of every row that has a value; equal means share the middle of their ranks."""
    ranks: dict[str, list[float]] = {}
    for metric, higher in evaluation.higher_is_better.items():
        rows = evaluation.summary.means.items()
        means = {name: row[metric].mean for name, row in rows if not math.isnan(row[metric].mean)}
        for name, mean in means.items():
            before = sum((other > mean) if higher else (other < mean) for other in means.values())
            equal = sum(other == mean for other in means.values())
            ranks.setdefault(name, []).append(1 + before + (equal - 1) / 2)
    return {name: sum(row) / len(row) for name, row in ranks.items()}


def _full_name(cost: "Cost") -> str:
    return cost.name if cost.variant in (None, "", "default") else f"{cost.name} {cost.variant}"


def _is_positive(x: Any) -> bool:
    return x is not None and math.isfinite(x) and x > 0


def _conditions(cost: "Cost") -> str:
    """Conditions that two costs must share; a missing one is left out, and agrees only with a missing one."""
    threads = f"{cost.threads} thread{'s' * (cost.threads != 1)}" if cost.threads else ""
    return ", ".join(part for part in (_size(cost), cost.device, threads, cost.dtype) if part)


def _size(cost: "Cost") -> str:
    return f"{cost.size} px".replace("x", "×", 1) if cost.size else ""


def _make_row(cost: "Cost", is_baseline: bool) -> dict[str, str | bool]:
    quartiles = cost.seconds_iqr
    return {
        "name": cost.name,
        "is_baseline": is_baseline,
        "params": _or_dash(cost.params, "{:,.0f}".format),
        "macs": _or_dash(cost.macs, lambda macs: f"{macs / 1e9:.3g} G" if macs else "0"),
        "seconds": _or_dash(cost.seconds_median, _seconds_text),
        "quartiles": " – ".join(map(_seconds_text, quartiles)) if quartiles and None not in quartiles else "–",
        "peak": _or_dash(cost.peak_mb, "{:,.0f} MB".format),
    }


def _or_dash(x: float | None, text: Callable[[float], str]) -> str:
    return text(x) if x is not None and math.isfinite(x) else "–"


def _seconds_text(s: float) -> str:
    """
    >>> _seconds_text(0.00123), _seconds_text(2.5), _seconds_text(123.4)
    ('1.23 ms', '2.5 s', '123 s')
    """
    return f"{s * 1000:.3g} ms" if s < 1 else f"{s:.3g} s"
