"""Plots as SVG elements inside a page: shapes, text, scales. No plotting library is needed.

Text stays text in the fonts of the page, whose widths are not known here. Every mark of row i of a table carries
data-series="i", so that the page can hide it.
"""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from tectum.report.tables import number_text

INK, FAINT, RULE = "#23262b", "#6a6f77", "#dfdcd5"
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#332288", "#882255", "#999933", "#44aa99", "#aa4499", "#661100"),
)
"""Okabe-Ito and Tol colours, told apart by the colour-blind too."""
_STARS = {  # name: points, angle of the first one in degrees, radius of the points between (None: straight sides)
    "square": (4, 45, None),
    "diamond": (4, 0, None),
    "up": (3, 90, None),
    "down": (3, 270, None),
    "left": (3, 180, None),
    "right": (3, 0, None),
    "pentagon": (5, 90, None),
    "hexagon": (6, 90, None),
    "star": (5, 90, 0.4),
    "cross": (4, 45, 0.4),
    "plus": (4, 0, 0.4),
}
MARKERS = ("circle", *_STARS)
_LETTER_WIDTH = 0.63
"""Width of a letter in parts of its height; this is a wide font."""


class Drawing:
    """An <svg> element whose units are the pixels of the page, y downwards.

    Args:
        width, height: in pixels.
        title: for screen readers.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self._parts = [f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(_printable(title))}">']

    def add(self, tag: str, content: str = "", **attributes: Any) -> None:
        """Add an element; "_" in the names of attributes stands for "-", and None leaves one out."""
        words = [f'{key.replace("_", "-")}="{_value(x)}"' for key, x in attributes.items() if x is not None]
        self._parts.append(f"<{tag} {' '.join(words)}>{escape(_printable(content))}</{tag}>")

    def line(self, x: Iterable[float], y: Iterable[float], colour: str, width: float, **attributes: Any) -> None:
        """Add a line through points; it is broken where one is NaN."""
        steps, start = [], True
        for point in zip(x, y, strict=True):
            if math.isnan(sum(point)):
                start = True
                continue
            steps.append(f"{'M' if start else 'L'}{_value(point[0])} {_value(point[1])}")
            start = False
        self.add("path", d="".join(steps), fill="none", stroke=colour, stroke_width=width, **attributes)

    def dots(self, x: Iterable[float], y: Iterable[float], colour: str, width: float, **attributes: Any) -> None:
        """Add many dots as one path of lines without a length, whose round ends are the dots."""
        path = "".join(f"M{_value(u)} {_value(v)}h0" for u, v in zip(x, y, strict=True))
        self.add("path", d=path, fill="none", stroke=colour, stroke_width=width, stroke_linecap="round", **attributes)

    def marker(self, shape: str, x: float, y: float, size: float, **attributes: Any) -> None:
        """Add one of MARKERS, `size` pixels wide; nothing where x or y is NaN."""
        if math.isnan(x + y):
            return
        if shape == "circle":
            self.add("circle", cx=x, cy=y, r=size / 2, **attributes)
            return
        num, first, inner = _STARS[shape]
        radii = [1.0] if inner is None else [1.0, inner]
        angles = np.radians(first) + 2 * np.pi * np.arange(num * len(radii)) / (num * len(radii))
        radius = size * 0.65 * np.resize(radii, len(angles))
        corners = zip(x + radius * np.cos(angles), y - radius * np.sin(angles), strict=True)
        self.add("polygon", points=" ".join(f"{_value(u)},{_value(v)}" for u, v in corners), **attributes)

    def text(
        self, x: float, y: float, content: str, colour: str, size: float, *, anchor: str = "middle", **attributes: Any
    ) -> None:
        """Add a text whose middle height is at y; `anchor` is the end that is at x: start, middle or end."""
        place = {"x": x, "y": y, "text_anchor": anchor, "dominant_baseline": "central"}
        self.add("text", content, **place, fill=colour, font_size=size, **attributes)

    def to_svg(self) -> str:
        """Returns the element."""
        return "\n".join([*self._parts, "</svg>"])


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic scale from the numbers low..high to the pixels start..end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, x: Any) -> Any:
        """Returns the pixels of a number or an array."""
        part = (
            np.log(np.divide(x, self.low)) / math.log(self.high / self.low)
            if self.log
            else (np.subtract(x, self.low) / (self.high - self.low))
        )
        return self.start + part * (self.end - self.start)

    def ticks(self, num: int = 4) -> list[tuple[float, str]]:
        """Returns round numbers in the range and their labels: at most `num` steps, or powers of ten, 2 and 5."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            parts = (1,) if self.high / self.low > 60 else (1, 2, 5)
            numbers = [part * 10.0**power for power in powers for part in parts]
            return [(x, f"{x:g}") for x in numbers if self.low <= x <= self.high]
        power = math.floor(math.log10((self.high - self.low) / num))
        part = next(x for x in (1, 2, 2.5, 5, 10) if (self.high - self.low) / (x * 10.0**power) <= num)
        step, places = part * 10.0**power, max(0, (part == 2.5) - (part == 10) - power)
        count = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [(k * step, number_text(k * step, places)) for k in count]


def spread_out(numbers: Sequence[float], margin: float) -> tuple[float, float]:
    """Returns the range of numbers, grown by a part of it at both ends.

    >>> spread_out([1.0, 3.0], 0.25)
    (0.5, 3.5)
    """
    low, high = min(numbers), max(numbers)
    grown = margin * ((high - low) or abs(high) or 1.0)
    return low - grown, high + grown


def text_width(text: str, size: float) -> float:
    """Returns about how many pixels a text is wide; Chinese, Japanese and Korean letters count two."""
    return _LETTER_WIDTH * size * sum(map(_num_cells, text))


def shorten(text: str, max_cells: int) -> str:
    """Returns a text of at most `max_cells` half-width letters, cut in the middle: names of a family begin alike.

    >>> shorten("tdfusion-fixed-msrs-long", 12)
    'tdfusi…-long'
    """
    if sum(map(_num_cells, text)) <= max_cells:
        return text
    head, tail = "", ""
    while sum(map(_num_cells, head + text[len(head)])) <= max_cells - max_cells // 2:
        head += text[len(head)]
    while sum(map(_num_cells, text[-len(tail) - 1] + tail)) < max_cells // 2:
        tail = text[-len(tail) - 1] + tail
    return f"{head}…{tail}"


def _num_cells(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _value(x: Any) -> str:
    """An attribute as text, numbers with two decimals."""
    return f"{round(float(x), 2):g}" if isinstance(x, int | float | np.number) else escape(str(x))
