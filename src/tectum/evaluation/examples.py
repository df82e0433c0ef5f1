"""The pictures of the page: which images, which window of them, and both as data that stands inside the HTML.

    image     mean over metrics k of (max_m s_mk - min_m s_mk) / std(s_k)      the largest; m are the ranked methods
    window    sum_m,p (y_mp - mean_m y_mp)^2 after the mean of each method in the window is taken out, the largest:
              pixels that differ in more than brightness
    size      JPEG, smaller and coarser in steps until an image's pictures fit its part of the page; crops are exact

With fewer than two ranked methods every row of the table is compared; with one row it is compared with its sources.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tectum.errors import UserError
from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.statistics import Scores
from tectum.report.pictures import luminance
from tectum.report.statistics import Array
from tectum.report.style import data_uri, encode_image, fit_jpegs

Pictures = Callable[[str, str], Array]
"""(image, row or source) -> uint8 (H,W) or (H,W,3)."""

PAGE_BYTES = 6_200_000
"""Of all pictures and crops together before base64, which adds a third."""
_WINDOW_PARTS, _WINDOW_PX, _CROP_PX = 6, 32, 240
"""A window is 1/6 of the width, at least 32 px; its crop is shown with at most 240 px."""


@dataclass(frozen=True)
class _Panel:
    """One picture of an image: a source, a method's or a baseline's.

    Attributes:
        name: "visible", "infrared" or a row of the table.
        role: "source", "method" or "baseline".
        picture, crop: data URIs; empty where there is no picture.
        problem: why there is none.
    """

    name: str
    role: str
    picture: str = ""
    crop: str = ""
    problem: str = ""


@dataclass(frozen=True)
class _Example:
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
    panels: tuple[_Panel, ...]


def make_examples(evaluation: Evaluation, picture: Pictures, num: int) -> list[_Example]:
    """The images where the methods differ most, the most different one first."""
    scores = evaluation.scores
    selected = differ_most(scores, compared_rows(evaluation.summary.is_baseline), num)
    return [
        _make_example(evaluation, index, spread, picture, PAGE_BYTES // len(selected)) for index, spread in selected
    ]


def compared_rows(is_baseline: Mapping[str, bool]) -> list[str]:
    """Returns the ranked methods; all rows when there are fewer than two."""
    methods = [name for name, baseline in is_baseline.items() if not baseline]
    return methods if len(methods) > 1 else list(is_baseline)


def differ_most(scores: Scores, rows: Sequence[str], num: int) -> list[tuple[int, float]]:
    """Returns [(index of the image, its spread)], largest first; with nothing to compare, images at even steps.

    >>> values = np.array([[[1.0], [1.0]], [[1.0], [3.0]], [[2.0], [2.5]]])
    >>> scores = Scores(("x", "y", "z"), ("f", "g"), ("EN",), values)
    >>> [index for index, _ in differ_most(scores, ["f", "g"], 2)]
    [1, 2]
    """
    values = np.ma.masked_invalid(scores.values[:, [scores.methods.index(row) for row in rows]])
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


def _make_example(evaluation: Evaluation, index: int, spread: float, picture: Pictures, max_bytes: int) -> _Example:
    """Read all pictures of one image and make its panels; one that cannot be read has the reason in its place."""
    image, sources, is_baseline = evaluation.scores.images[index], evaluation.sources, evaluation.summary.is_baseline
    roles = {name: "baseline" if baseline else "method" for name, baseline in is_baseline.items()}
    roles = dict.fromkeys(sources, "source") | {name: role for name, role in roles.items() if name not in sources}
    pixels: dict[str, Array] = {}
    problems: dict[str, str] = {}
    for name in roles:
        try:
            pixels[name] = _check_picture(picture(image, name), pixels)
        except (OSError, ValueError, KeyError) as error:
            problems[name] = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    panels = {name: _Panel(name, role, problem=problems.get(name, "")) for name, role in roles.items()}
    if not pixels:
        return _Example(image, index, spread, (3, 4), (0.0, 0.0, 0.0, 0.0), tuple(panels.values()))
    height, width = next(iter(pixels.values())).shape[:2]
    rows = [name for name in compared_rows(is_baseline) if name in pixels]
    top, left, high, wide = find_window([pixels[name] for name in (rows if len(rows) > 1 else list(pixels))])
    crops = [encode_image(x[top : top + high, left : left + wide], "PNG", _CROP_PX) for x in pixels.values()]
    pictures = fit_jpegs(list(pixels.values()), max_bytes - sum(map(len, crops)))
    for name, photo, crop in zip(pixels, pictures, crops, strict=True):
        panels[name] = _Panel(name, roles[name], data_uri("jpeg", photo), data_uri("png", crop))
    window = (100 * left / width, 100 * top / height, 100 * wide / width, 100 * high / height)
    return _Example(image, index, spread, (height, width), window, tuple(panels.values()))


def _check_picture(picture: Array, others: Mapping[str, Array]) -> Array:
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise UserError(f"a picture must be uint8 (H,W) or (H,W,3), got {picture.dtype} {picture.shape}")
    for other in others.values():
        if other.shape[:2] != picture.shape[:2]:
            raise UserError(f"its size {picture.shape[:2]} is not that of its sources, {other.shape[:2]}")
        break
    return picture


def find_window(pictures: Sequence[Array]) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of the window where the luminances differ most, their means there apart."""
    height, width = pictures[0].shape[:2]
    wide = min(width, max(_WINDOW_PX, round(width / _WINDOW_PARTS)))
    high = min(height, max(_WINDOW_PX * 3 // 4, round(wide * 3 / 4)))
    mean = np.zeros((height, width), np.float32)
    for picture in pictures:
        mean += luminance(picture) / len(pictures)
    differ = np.zeros((height - high + 1, width - wide + 1))
    for picture in pictures:
        gap = luminance(picture) - mean
        differ += _box_sums(gap * gap, high, wide) - _box_sums(gap, high, wide) ** 2 / (high * wide)
    top, left = np.unravel_index(int(differ.argmax()), differ.shape)
    return int(top), int(left), high, wide


def _box_sums(x: Array, high: int, wide: int) -> Array:
    """The sum over every window that lies inside.

    >>> _box_sums(np.arange(6.0).reshape(2, 3), 2, 2).tolist()
    [[8.0, 12.0]]
    """
    sums = np.zeros((x.shape[0] + 1, x.shape[1] + 1))
    sums[1:, 1:] = x.cumsum(0, dtype=np.float64).cumsum(1)
    inside: Array = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    return inside
