"""The pictures of the page: which images, which window of them, and both as data that stands inside the HTML.

    image     mean over metrics k of (max_m s_mk - min_m s_mk) / std(s_k)      the largest; m are the ranked methods
    window    sum_m,p (y_mp - mean_m y_mp)^2 after the mean of each method in the window is taken out, the largest:
              pixels that differ in more than brightness
    size      JPEG, smaller and coarser in steps until an image's pictures fit its part of the page; crops are exact

With fewer than two ranked methods every row of the table is compared; with one row it is compared with its sources.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tectum.errors import UserError
from tectum.evaluation.statistics import Kind, Scores
from tectum.report.pictures import luminance
from tectum.report.statistics import Array
from tectum.report.style import data_uri, encode_image, fit_jpegs

Pictures = Callable[[str, str], Array]

SOURCES = ("visible", "infrared")
PAGE_BYTES = 6_200_000
"""Of all pictures and crops together before base64, which adds a third."""
WINDOW_PARTS, WINDOW_PX, CROP_PX = 6, 32, 240
"""A window is 1/6 of the width, at least 32 px; its crop is shown with at most 240 px."""


@dataclass(frozen=True)
class Panel:
    """One picture of an image: a source, a method's or a baseline's.

    Attributes:
        name: "visible", "infrared" or a row of the table.
        role: what it is.
        picture, crop: data URIs; empty where there is no picture.
        problem: why there is none.
    """

    name: str
    role: str
    picture: str = ""
    crop: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Example:
    """One image with all its panels.

    Attributes:
        image: its name.
        index: its place in the scores.
        spread: how much methods differ on it, in standard deviations of a metric; NaN with nothing to compare.
        size: (height, width) in pixels.
        window: left, top, width and height of the crops in percent of the image.
        panels: the sources, then the rows of the table.
    """

    image: str
    index: int
    spread: float
    size: tuple[int, int]
    window: tuple[float, float, float, float]
    panels: tuple[Panel, ...]


def examples(
    scores: Scores, kinds: Mapping[str, Kind], picture: Pictures, num: int, sources: tuple[str, str] = SOURCES
) -> Iterator[Example]:
    """The images where the methods differ most, the most different one first; one image in memory at a time."""
    found = differ_most(scores, compared(kinds), num)
    for index, spread in found:
        yield example(scores.images[index], index, spread, kinds, picture, PAGE_BYTES // len(found), sources)


def compared(kinds: Mapping[str, Kind]) -> list[str]:
    """The ranked methods; all rows when there are fewer than two."""
    ranked = [name for name, kind in kinds.items() if kind == "method"]
    return ranked if len(ranked) > 1 else list(kinds)


def differ_most(scores: Scores, rows: Sequence[str], num: int) -> list[tuple[int, float]]:
    """[(index of the image, its spread)], largest first; with nothing to compare, images at even steps.

    >>> values = np.array([[[1.0], [1.0]], [[1.0], [3.0]], [[2.0], [2.5]]])
    >>> scores = Scores(("x", "y", "z"), ("f", "g"), ("EN",), values)
    >>> [index for index, _ in differ_most(scores, ["f", "g"], 2)]
    [1, 2]
    """
    columns = [scores.methods.index(row) for row in rows]
    values = scores.values[:, columns]
    values = np.ma.masked_invalid(values)
    scale = values.std(axis=(0, 1))
    gaps = (values.max(axis=1) - values.min(axis=1)) / np.ma.masked_equal(scale, 0)
    gaps = np.ma.masked_where(values.count(axis=1) < 2, gaps)
    spread = gaps.mean(axis=1).filled(math.nan) if gaps.count() else np.full(len(values), math.nan)
    num = min(num, len(values))
    if np.isnan(spread).all():
        even = np.unique(np.linspace(0, len(values) - 1, num).round().astype(int))
        return [(int(index), math.nan) for index in even]
    order = np.argsort(-np.nan_to_num(spread, nan=-1.0), kind="stable")[:num]
    return [(int(index), float(spread[index])) for index in order]


def example(
    image: str,
    index: int,
    spread: float,
    kinds: Mapping[str, Kind],
    picture: Pictures,
    most_bytes: int,
    sources: tuple[str, str] = SOURCES,
) -> Example:
    """Read all pictures of one image and make its panels; what cannot be read says why in its place."""
    names = [*sources, *(name for name in kinds if name not in sources)]
    roles = dict.fromkeys(sources, "source") | {name: kind for name, kind in kinds.items() if name not in sources}
    taken: dict[str, Array] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            taken[name] = checked(picture(image, name), taken)
        except (OSError, ValueError, KeyError) as error:
            problems[name] = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if not taken:
        panels = tuple(Panel(name, roles[name], problem=problems[name]) for name in names)
        return Example(image, index, spread, (3, 4), (0.0, 0.0, 0.0, 0.0), panels)
    height, width = next(iter(taken.values())).shape[:2]
    rows = [name for name in compared(kinds) if name in taken]
    top, left, high, wide = window([taken[name] for name in (rows if len(rows) > 1 else list(taken))])
    crops = {name: encode_image(x[top : top + high, left : left + wide], "PNG", CROP_PX) for name, x in taken.items()}
    photos = fit_jpegs(list(taken.values()), most_bytes - sum(len(data) for data in crops.values()))
    pictures = dict(zip(taken, photos, strict=True))
    return Example(
        image,
        index,
        spread,
        (height, width),
        (100 * left / width, 100 * top / height, 100 * wide / width, 100 * high / height),
        tuple(
            Panel(name, roles[name], data_uri("jpeg", pictures[name]), data_uri("png", crops[name]))
            if name in taken
            else Panel(name, roles[name], problem=problems[name])
            for name in names
        ),
    )


def checked(picture: Array, others: Mapping[str, Array]) -> Array:
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise UserError(f"a picture must be uint8 (H,W) or (H,W,3), got {picture.dtype} {picture.shape}")
    for other in others.values():
        if other.shape[:2] != picture.shape[:2]:
            raise UserError(f"its size {picture.shape[:2]} is not that of its sources, {other.shape[:2]}")
        break
    return picture


def window(pictures: Sequence[Array]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the window where the luminances differ most, their means there apart."""
    height, width = pictures[0].shape[:2]
    wide = min(width, max(WINDOW_PX, round(width / WINDOW_PARTS)))
    high = min(height, max(WINDOW_PX * 3 // 4, round(wide * 3 / 4)))
    mean = np.zeros((height, width), np.float32)
    for picture in pictures:
        mean += luminance(picture) / len(pictures)
    differ = np.zeros((height - high + 1, width - wide + 1))
    for picture in pictures:
        gap = luminance(picture) - mean
        differ += box_sums(gap * gap, high, wide) - box_sums(gap, high, wide) ** 2 / (high * wide)
    top, left = np.unravel_index(int(differ.argmax()), differ.shape)
    return int(top), int(left), high, wide


def box_sums(x: Array, high: int, wide: int) -> Array:
    """The sum over every window that lies inside.

    >>> box_sums(np.arange(6.0).reshape(2, 3), 2, 2).tolist()
    [[8.0, 12.0]]
    """
    sums = np.zeros((x.shape[0] + 1, x.shape[1] + 1))
    sums[1:, 1:] = x.cumsum(0, dtype=np.float64).cumsum(1)
    inside: Array = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    return inside
