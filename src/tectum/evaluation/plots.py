"""The plots of an evaluation, as SVG elements.

    radar            v = (mean - worst) / (best - worst) of each metric over the rows, best and worst by its direction
    distribution     one panel a metric: a box, whiskers, the mean and a dot an image
    against a cost   mean, or mean rank, over seconds or MACs on a logarithmic axis

A method has one colour and one marker everywhere, baselines are grey. All dots of a box are one path, so that a
thousand images cost no thousand nodes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tectum.evaluation.statistics import MeanScore
from tectum.report.plots import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    RULE,
    Drawing,
    Scale,
    shorten,
    spread_out,
    text_width,
)
from tectum.report.statistics import Array
from tectum.report.tables import number_text

_Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""
_Point = tuple[float, float, float, float]
"""Cost, value, and the ends of its interval, NaN where there is none."""

MAX_DOTS = 200
"""Images drawn as dots behind a box; of more, this many are taken at equal steps of rank."""
_GREYS = ("#5f646b", "#8b9097", "#74797f", "#a0a4a9", "#4c5056")
_DASHES = ((4, 2), (1, 1.5), (6, 1.5, 1, 1.5), (2.5, 1), (8, 2))
_HUB = 0.16
"""Radius of the radar's inner ring, where the worst row lies; the best one is at 1."""


@dataclass(frozen=True)
class Style:
    """How a row of the table is drawn.

    Attributes:
        series: number of the row.
        colour: as #rrggbb.
        marker: one of `tectum.report.plots.MARKERS`.
        is_baseline: it is drawn thinner.
        dash: lengths of dashes and gaps in widths of the line; None for a full line.
    """

    series: int
    colour: str
    marker: str
    is_baseline: bool
    dash: tuple[float, ...] | None


def make_styles(is_baseline: Mapping[str, bool]) -> dict[str, Style]:
    """One style a row: colours for methods, in order, then greys for baselines; dashes tell apart those of one colour.

    >>> {name: style.colour for name, style in make_styles({"maximum": True, "ours": False}).items()}
    {'ours': '#0072b2', 'maximum': '#5f646b'}
    """
    styles: dict[str, Style] = {}
    counts = {False: 0, True: 0}
    for series, (name, grey) in enumerate(sorted(is_baseline.items(), key=lambda item: item[1])):
        n = counts[grey]
        counts[grey] += 1
        palette = _GREYS if grey else COLOURS
        lap = n // len(palette)
        dash = _DASHES[n % len(_DASHES)] if grey else _DASHES[(lap - 1) % len(_DASHES)] if lap else None
        styles[name] = Style(series, palette[n % len(palette)], MARKERS[n % len(MARKERS)], grey, dash)
    return styles


def plot_radar(
    means: Mapping[str, Mapping[str, MeanScore]],
    styles: Mapping[str, Style],
    higher_is_better: Mapping[str, bool],
    places: Mapping[str, int],
) -> str:
    """All rows over all metrics that two rows have a value for, outward is better; "" with fewer than three of those.

    Args:
        means: {method: {metric: mean}}.
        styles: of the rows to draw; the first is on top.
        higher_is_better, places: by metric; places are decimals.
    """
    spans: dict[str, tuple[float, float]] = {}
    for metric, higher in higher_is_better.items():
        finite = [mean for method in styles if math.isfinite(mean := means[method][metric].mean)]
        if len(finite) > 1:
            spans[metric] = (min(finite), max(finite)) if higher else (max(finite), min(finite))
    if len(spans) < 3 or len(styles) < 2:
        return ""
    drawing = Drawing(420, 357, "Radar of all methods over all metrics, outward is better")
    unit, centre_x, centre_y = 122.0, 210.0, 178.5
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(spans) + 1) / len(spans)
    x, y = unit * np.cos(angles), -unit * np.sin(angles)
    for ring in (0.0, 0.25, 0.5, 0.75, 1.0):
        radius, outer = _HUB + (1 - _HUB) * ring, ring in (0, 1)
        colour, width = ("#c9c5bc", 0.9) if outer else (RULE, 0.6)
        drawing.line(centre_x + radius * x, centre_y + radius * y, colour, width)
    many = len(spans) > 14
    for u, v, (metric, span) in zip(x, y, spans.items(), strict=False):
        drawing.line(centre_x + np.array([_HUB * u, u]), centre_y + np.array([_HUB * v, v]), RULE, 0.6)
        anchor = "middle" if abs(u) < 0.15 * unit else "start" if u > 0 else "end"
        text_x, text_y = centre_x + 1.09 * u, centre_y + (1.25 if many else 1.13) * v - 2
        drawing.text(
            text_x, text_y - 0.045 * unit, metric, INK, 10 if many else 12.5, anchor=anchor, font_weight="bold"
        )
        ends = " → ".join(number_text(end, places[metric]) for end in span)
        drawing.text(text_x, text_y + 0.065 * unit, ends, FAINT, 8 if many else 10, anchor=anchor)
    for method, style in reversed(list(styles.items())):
        values = np.array([_outward(means[method][metric].mean, *span) for metric, span in spans.items()])
        radii = _HUB + (1 - _HUB) * np.append(values, values[0])
        points_x, points_y = centre_x + radii * x, centre_y + radii * y
        width, size = (1.0, 3.4) if style.is_baseline else (2.1, 5.2)
        dash = None if style.dash is None else " ".join(f"{length * width:g}" for length in style.dash)
        drawing.line(points_x, points_y, style.colour, width, stroke_dasharray=dash, data_series=style.series)
        for u, v in zip(points_x[:-1], points_y[:-1], strict=True):
            edge = {"stroke": "white", "stroke_width": 0.6, "data_series": style.series}
            drawing.marker(style.marker, u, v, size, fill=style.colour, **edge)
    return drawing.to_svg()


def _outward(value: float, worst: float, best: float) -> float:
    """0 for the worst row and 1 for the best; 1 where all are equal, NaN for none."""
    if not math.isfinite(value):
        return math.nan
    return (value - worst) / (best - worst) if best != worst else 1.0


def plot_distribution(values: Mapping[str, Array], styles: Mapping[str, Style], title: str) -> str:
    """Boxes of one metric, a row a method; "" where no image has a value.

    Args:
        values: {method: its values per image}, undefined ones are left out of the drawing.
        styles: of the rows, from top to bottom.
        title: for screen readers.
    """
    finite = {method: np.sort(values[method][np.isfinite(values[method])]) for method in styles}
    ends = [end for row in finite.values() if len(row) for end in (row[0], row[-1])]
    if not ends:
        return ""
    labels = [shorten(method, 14) for method in styles]
    left = 10 + max(text_width(label, 10.5) for label in labels)
    width, height = 300.0, 36 + 18.5 * len(styles)
    drawing = Drawing(width, height, title)
    scale = Scale(*spread_out(ends, 0.05), left, width - 12)
    _draw_ticks(drawing, scale, top=6, bottom=height - 24)
    row_px = (height - 30) / len(styles)
    for row, (method, style) in enumerate(styles.items()):
        y = 6 + (row + 0.5) * row_px
        colour = FAINT if style.is_baseline else INK
        drawing.text(left - 4, y, labels[row], colour, 10.5, anchor="end")
        if len(finite[method]):
            _draw_box(drawing, finite[method], scale, y, row_px, style)
        else:
            drawing.text(left + 3, y, "n/a", FAINT, 9.5, anchor="start", data_series=style.series)
    return drawing.to_svg()


def _draw_ticks(drawing: Drawing, scale: Scale, *, top: float, bottom: float) -> None:
    """Numbers below a plot, and lines upwards from them: on a logarithmic scale from powers of ten."""
    for number, label in scale.ticks():
        x = scale(number)
        if not scale.log or label.strip("0.") == "1":
            drawing.line([x, x], [top, bottom], RULE, 0.6)
        drawing.text(x, bottom + 10, label, FAINT, 9.5)


def _draw_box(drawing: Drawing, values: Array, scale: Scale, y: float, row_px: float, style: Style) -> None:
    """The sorted values of one method around height y."""
    mark: dict[str, Any] = {"data_series": style.series}
    low, first, median, third, high = scale(np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)))
    half = 0.24 * row_px
    if len(values) > 1:
        few = values[np.linspace(0, len(values) - 1, min(len(values), MAX_DOTS)).round().astype(int)]
        scatter = 0.32 * row_px * ((np.arange(len(few)) * 0.618034) % 1 * 2 - 1)  # even, and the same every time
        drawing.dots(scale(few), y + scatter, style.colour, 1.9, opacity=0.32, **mark)
        box = {"x": first, "y": y - half, "width": third - first, "height": 2 * half}
        drawing.add("rect", **box, fill=style.colour, opacity=0.22, **mark)
        drawing.line([low, first], [y, y], style.colour, 1.1, **mark)
        drawing.line([third, high], [y, y], style.colour, 1.1, **mark)
        drawing.line([median, median], [y - half, y + half], style.colour, 1.8, **mark)
    drawing.marker("circle", scale(values.mean()), y, 4.2, fill="white", stroke=style.colour, stroke_width=1.3, **mark)


def plot_against_cost(
    points: Mapping[str, _Point], styles: Mapping[str, Style], *, axes: tuple[str, str], upwards: bool
) -> str:
    """Quality over a cost, each method with its name beside it.

    Args:
        points: {method: (cost > 0, value, lower end, upper end)}; ends are NaN where there is no interval.
        styles: of the methods.
        axes: labels of the cost and of the value.
        upwards: the better values are the higher ones; otherwise the axis is turned, so that up is always better.
    """
    left, top, right, bottom = 53.0, 11.5, 446.0, 285.5
    drawing = Drawing(460, 330, f"{axes[1]} over {axes[0]}")
    costs = [cost for cost, *_ in points.values()]
    room = 1.6 * (max(costs) / min(costs)) ** 0.1
    x_scale = Scale(min(costs) / room, max(costs) * room, left, right, log=True)
    low, high = spread_out([y for _, *ys in points.values() for y in ys if math.isfinite(y)], 0.14)
    y_scale = Scale(low, high, bottom, top) if upwards else Scale(low, high, top, bottom)
    _draw_ticks(drawing, x_scale, top=top, bottom=bottom)
    for number, label in y_scale.ticks(7):
        y = y_scale(number)
        drawing.line([left, right], [y, y], RULE, 0.6)
        drawing.text(left - 4, y, label, FAINT, 9.5, anchor="end")
    drawing.text((left + right) / 2, bottom + 26, axes[0], FAINT, 11)
    drawing.text(0, 0, axes[1], FAINT, 11, transform=f"translate(22 {(top + bottom) / 2}) rotate(-90)")
    places = {method: (float(x_scale(cost)), float(y_scale(value))) for method, (cost, value, *_) in points.items()}
    _draw_labels(drawing, places, styles, left, right)
    for method, (x, y) in places.items():
        style = styles[method]
        mark: dict[str, Any] = {"stroke": style.colour, "data_series": style.series}
        ends = y_scale(np.array(points[method][2:]))
        if np.isfinite(ends).all():
            drawing.add("path", d=f"M{x:.2f} {ends[0]:.2f}V{ends[1]:.2f}", stroke_width=1.3, opacity=0.75, **mark)
        fill = "white" if style.is_baseline else style.colour
        drawing.marker(style.marker, x, y, 7.5, fill=fill, stroke_width=1.4, **mark)
    return drawing.to_svg()


def _draw_labels(
    drawing: Drawing, places: Mapping[str, tuple[float, float]], styles: Mapping[str, Style], left: float, right: float
) -> None:
    """Names beside their points, at the nearest place where they hide least; a thin line leads to one further off."""
    occupied: list[_Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places.values()]
    for method, (x, y) in places.items():
        label, style = shorten(method, 18), styles[method]

        def hidden(box: _Box) -> int:
            """How many marks and names it would cover; leaving the frame counts for ten."""
            outside = bool(box[0] < left or box[2] > right + 6)
            return 10 * outside + sum(_overlap(box, other) for other in occupied)

        box = min(_label_boxes(x, y, text_width(label, 11)), key=hidden)
        occupied.append(box)
        colour, middle = FAINT if style.is_baseline else INK, (box[1] + box[3]) / 2
        anchor, edge = ("start", box[0]) if box[0] > x else ("end", box[2]) if box[2] < x else ("middle", x)
        drawing.text(edge, middle, label, colour, 11, anchor=anchor, data_series=style.series)
        if abs(middle - y) > 14:
            end = edge + (2 if anchor == "end" else -2)
            drawing.line([x, end], [y, middle], colour, 0.5, opacity=0.7, data_series=style.series)


def _label_boxes(x: float, y: float, width: float) -> Iterator[_Box]:
    """Where a name of that width may stand around (x, y), the best places first."""
    beside = (x + 9, x - 9 - width)
    places = [*((left, 0) for left in beside), (x - width / 2, 14), (x - width / 2, -14)]
    places += [(left, sign * 13 * step) for step in range(1, 9) for sign in (1, -1) for left in beside]
    for left, lift in places:
        yield left, y - lift - 6.5, left + width, y - lift + 6.5


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
