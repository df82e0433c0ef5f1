"""The plots of an evaluation, as small SVG texts to stand inside an HTML page.

    radar            v = (mean - worst) / (best - worst) of each metric over the rows, best and worst by its direction
    distribution     one panel a metric: a box, whiskers, the mean and a dot an image
    against a cost   mean, or mean rank, over seconds or MACs on a logarithmic axis

A method has one colour and one marker everywhere (Okabe-Ito and Tol colours, told apart by the colour-blind too),
baselines are grey. Text stays text in the fonts of the page. Every mark of row i carries data-series="i", so that the
page can hide it; all dots of a box are one path, so that a thousand images cost no thousand nodes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tectum.evaluation.statistics import Cell, Kind
from tectum.report.statistics import Array
from tectum.report.svg import FAINT, bare, blank, cells_wide, literal, shorten, svg
from tectum.report.tables import number_text

Box = tuple[float, float, float, float]
"""Left, bottom, right and top in pixels."""
Point = tuple[float, float, float, float]
"""Cost, value, and the ends of its interval, NaN where there is none."""

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#332288", "#882255", "#999933", "#44aa99", "#aa4499", "#661100"),
)
GREYS = ("#5f646b", "#8b9097", "#74797f", "#a0a4a9", "#4c5056")
MARKERS = "osD^vPX<>ph*"
DASHES = ((4, 2), (1, 1.5), (6, 1.5, 1, 1.5), (2.5, 1), (8, 2))
INK, RULE = "#23262b", "#dfdcd5"
MOST_DOTS = 200
"""Images drawn as dots behind a box; of more, this many are taken at equal steps of rank."""
LETTER_PX = 0.63
"""Width of a letter in parts of its height: the pages' fonts are not known here, this one is wide."""
HUB = 0.16
"""Radius of the radar's inner ring, where the worst row lies; the best one is at 1."""


@dataclass(frozen=True)
class Style:
    """How a row of the table is drawn."""

    series: int
    colour: str
    marker: str
    baseline: bool
    dash: tuple[float, ...] | None

    @property
    def line(self) -> Any:
        return (0, self.dash) if self.dash else "-"


def styles(kinds: Mapping[str, Kind]) -> dict[str, Style]:
    """One style a row: colours for methods, in order, then greys for baselines; dashes tell apart those of one colour.

    >>> {name: style.colour for name, style in styles({"ours": "method", "maximum": "baseline"}).items()}
    {'ours': '#0072b2', 'maximum': '#5f646b'}
    """
    found: dict[str, Style] = {}
    counts: dict[Kind, int] = {"method": 0, "baseline": 0}
    for series, (name, kind) in enumerate(sorted(kinds.items(), key=lambda item: item[1] == "baseline")):
        n = counts[kind]
        counts[kind] += 1
        palette, baseline = (GREYS, True) if kind == "baseline" else (COLOURS, False)
        lap = n // len(palette)
        dash = DASHES[n % len(DASHES)] if baseline else DASHES[(lap - 1) % len(DASHES)] if lap else None
        found[name] = Style(series, palette[n % len(palette)], MARKERS[n % len(MARKERS)], baseline, dash)
    return found


def radar(
    cells: Mapping[str, Mapping[str, Cell]],
    look: Mapping[str, Style],
    higher_is_better: Mapping[str, bool],
    places: Mapping[str, int],
) -> str:
    """All rows over all metrics that two rows have a value for, outward is better; "" with fewer than three of those.

    Args:
        cells: {method: {metric: Cell}}.
        look: of the rows to draw; the first is on top.
        higher_is_better, places: by metric; places are decimals.
    """
    spans: dict[str, tuple[float, float]] = {}
    for metric, higher in higher_is_better.items():
        means = [cells[method][metric].mean for method in look]
        means = [mean for mean in means if math.isfinite(mean)]
        if len(means) > 1:
            spans[metric] = (min(means), max(means)) if higher else (max(means), min(means))
    if len(spans) < 3 or len(look) < 2:
        return ""
    figure = blank(420, 357)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-1.72, 1.72), ylim=(-1.46, 1.46), aspect="equal")
    ax.axis("off")
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(spans)) / len(spans)
    around = np.append(angles, angles[0])
    for ring in (0.0, 0.25, 0.5, 0.75, 1.0):
        radius = HUB + (1 - HUB) * ring
        edge = {"color": "#c9c5bc" if ring in (0, 1) else RULE, "lw": 0.9 if ring in (0, 1) else 0.6}
        ax.plot(radius * np.cos(around), radius * np.sin(around), **edge)
    for angle, (metric, (worst, best)) in zip(angles, spans.items(), strict=True):
        x, y = float(np.cos(angle)), float(np.sin(angle))
        ax.plot([HUB * x, x], [HUB * y, y], color=RULE, lw=0.6)
        side = {"ha": "center" if abs(x) < 0.15 else "left" if x > 0 else "right", "va": "center"}
        many = len(spans) > 14
        out = 1.25 if many else 1.13
        ax.text(1.09 * x, out * y + 0.045, literal(metric), color=INK, size=10 if many else 12.5, weight="bold", **side)
        span = f"{number_text(worst, places[metric])} → {number_text(best, places[metric])}"
        ax.text(1.09 * x, out * y - 0.065, span, color=FAINT, size=8 if many else 10, **side)
    for method, style in reversed(list(look.items())):
        values = np.array([outward(cells[method][metric].mean, *span) for metric, span in spans.items()])
        radii = HUB + (1 - HUB) * np.append(values, values[0])
        points = (radii * np.cos(around), radii * np.sin(around))
        gid = f"series-{style.series}"
        width = 1.0 if style.baseline else 2.1
        ax.plot(*points, color=style.colour, lw=width, ls=style.line, solid_joinstyle="round", gid=gid)
        size = 3.4 if style.baseline else 5.2
        ax.plot(*points, style.marker, color=style.colour, ms=size, mec="white", mew=0.6, gid=gid)
    return svg(figure, "radar", "Radar of all methods over all metrics, outward is better")


def outward(value: float, worst: float, best: float) -> float:
    """0 for the worst row and 1 for the best; 1 where all are equal, NaN for none.

    >>> outward(7.0, 5.0, 9.0), outward(0.25, 1.0, 0.0), outward(2.0, 2.0, 2.0)
    (0.5, 0.75, 1.0)
    """
    if not math.isfinite(value):
        return math.nan
    return (value - worst) / (best - worst) if best != worst else 1.0


def distribution(values: Mapping[str, Array], look: Mapping[str, Style], prefix: str, title: str) -> str:
    """Boxes of one metric, a row a method; "" where no image has a value.

    Args:
        values: {method: its values per image}, undefined ones are left out of the drawing.
        look: of the rows, from top to bottom.
        prefix: of the ids in the SVG, unique on the page.
        title: what a screen reader says.
    """
    if not any(np.isfinite(values[method]).any() for method in look):
        return ""
    labels = [shorten(method, 14) for method in look]
    left = 10 + LETTER_PX * 10.5 * max(cells_wide(label) for label in labels)
    width, height = 300.0, 36 + 18.5 * len(look)
    figure = blank(width, height)
    ax = figure.add_axes((left / width, 24 / height, 1 - (left + 12) / width, 1 - 30 / height))
    bare(ax)
    ax.set_ylim(len(look) - 0.5, -0.5)
    ax.set_yticks(range(len(look)), [literal(label) for label in labels], fontsize=10.5)
    for tick, style in zip(ax.get_yticklabels(), look.values(), strict=True):
        tick.set_color(FAINT if style.baseline else INK)
    ax.grid(axis="x", color=RULE, lw=0.6)
    ax.locator_params(axis="x", nbins=4, steps=[1, 2, 2.5, 5, 10])
    for row, (method, style) in enumerate(look.items()):
        box(ax, row, values[method], style)
    return svg(figure, prefix, title)


def box(ax: Any, row: int, values: Array, style: Style) -> None:
    """Draw the values of one method at height `row`."""
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    values = np.sort(values[np.isfinite(values)])
    gid, colour = f"series-{style.series}", style.colour
    if not len(values):
        ax.text(0.01, row, "n/a", color=FAINT, size=9.5, va="center", transform=ax.get_yaxis_transform(), gid=gid)
        return
    low, first, median, third, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
    if len(values) > 1:
        few = values[np.linspace(0, len(values) - 1, min(len(values), MOST_DOTS)).round().astype(int)]
        scatter = row + 0.32 * ((np.arange(len(few)) * 0.618034) % 1 * 2 - 1)  # even, and the same every time
        places = np.repeat(np.stack([few, scatter], 1), 2, axis=0)
        path = Path(places, [Path.MOVETO, Path.LINETO] * len(few))  # lines of no length: their round caps are dots
        path.should_simplify = False
        ax.add_patch(PathPatch(path, fill=False, ec=colour, lw=1.9, capstyle="round", alpha=0.32, gid=gid))
        ax.add_patch(Rectangle((first, row - 0.24), third - first, 0.48, fc=colour, alpha=0.22, lw=0, gid=gid))
        ax.plot([low, first], [row, row], color=colour, lw=1.1, gid=gid)
        ax.plot([third, high], [row, row], color=colour, lw=1.1, gid=gid)
        ax.plot([median, median], [row - 0.24, row + 0.24], color=colour, lw=1.8, gid=gid)
    ax.plot([values.mean()], [row], "o", ms=4.2, mfc="white", mec=colour, mew=1.3, gid=gid)
    ax.autoscale_view(scaley=False)


def against_cost(
    points: Mapping[str, Point],
    look: Mapping[str, Style],
    *,
    axes: tuple[str, str],
    upwards: bool,
    prefix: str,
) -> str:
    """Quality over a cost, each method with its name beside it.

    Args:
        points: {method: (cost > 0, value, lower end, upper end)}; ends are NaN where there is no interval.
        look: styles of the methods.
        axes: labels of the cost and of the value.
        upwards: the better values are the higher ones; otherwise the axis is turned, so that up is always better.
        prefix: of the ids in the SVG, unique on the page.
    """
    figure = blank(460, 330)
    ax = figure.add_axes((0.115, 0.135, 0.855, 0.83))
    bare(ax)
    ax.set_xscale("log")
    ax.grid(color=RULE, lw=0.6)
    ax.set_xlabel(axes[0], color=FAINT, fontsize=11)
    ax.set_ylabel(axes[1], color=FAINT, fontsize=11)
    costs = [cost for cost, *_ in points.values()]
    room = (max(costs) / min(costs)) ** 0.1
    ax.set_xlim(min(costs) / 1.6 / room, max(costs) * 1.6 * room)
    for method, (cost, value, low, high) in points.items():
        style, gid = look[method], f"series-{look[method].series}"
        if math.isfinite(low) and math.isfinite(high):
            ax.plot([cost, cost], [low, high], color=style.colour, lw=1.3, alpha=0.75, gid=gid)
        fill = "white" if style.baseline else style.colour
        ax.plot([cost], [value], style.marker, ms=7.5, mfc=fill, mec=style.colour, mew=1.4, gid=gid)
    ax.margins(y=0.14)
    if not upwards:
        ax.invert_yaxis()
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    if ax.get_xlim()[1] / ax.get_xlim()[0] > 60:
        ax.xaxis.set_minor_formatter(lambda x, _: "")
    else:
        ax.xaxis.set_minor_formatter(
            lambda x, _: f"{x:g}" if round(x / 10 ** math.floor(math.log10(x))) in (2, 5) else ""
        )
    label_points(ax, points, look)
    return svg(figure, prefix, f"{axes[1]} over {axes[0]}")


def label_points(ax: Any, points: Mapping[str, Point], look: Mapping[str, Style]) -> None:
    """Names beside their points, at the nearest place where they hide least; a thin line leads to one further off."""
    marks = {method: ax.transData.transform((cost, value)) for method, (cost, value, *_) in points.items()}
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in marks.values()]
    to_data = ax.transData.inverted().transform
    for method, (x, y) in marks.items():
        label = shorten(method, 18)
        places = [*boxes(x, y, LETTER_PX * 11 * cells_wide(label))]
        left, low, right, high = min(places, key=lambda box: hidden(box, taken, ax.get_window_extent()))
        taken.append((left, low, right, high))
        gid, colour = f"series-{look[method].series}", FAINT if look[method].baseline else INK
        side, anchor = ("left", left) if left > x else ("right", right) if right < x else ("center", x)
        middle = (low + high) / 2
        style = {"color": colour, "size": 11, "ha": side, "va": "center_baseline"}
        ax.text(*to_data((anchor, middle)), literal(label), gid=gid, **style)
        if abs(middle - y) > 14:
            ends = to_data([(x, y), (anchor + (2 if side == "right" else -2), middle)]).T
            ax.plot(*ends, color=colour, lw=0.5, alpha=0.7, zorder=1, gid=gid)


def boxes(x: float, y: float, wide: float) -> Iterator[Box]:
    """Where a name of that width may stand around (x, y), the best places first."""
    beside = (x + 9, x - 9 - wide)
    places = [*((left, 0) for left in beside), (x - wide / 2, 14), (x - wide / 2, -14)]
    places += [(left, sign * 13 * step) for step in range(1, 9) for sign in (1, -1) for left in beside]
    for left, lift in places:
        yield left, y + lift - 6.5, left + wide, y + lift + 6.5


def hidden(box: Box, taken: Sequence[Box], frame: Any) -> int:
    """What a name would cover; leaving the frame counts for ten."""
    outside = bool(box[0] < frame.x0 or box[2] > frame.x1 + 6)
    return 10 * outside + sum(overlap(box, other) for other in taken)


def overlap(one: Box, other: Box) -> bool:
    """Two boxes (left, bottom, right, top) have a point in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
