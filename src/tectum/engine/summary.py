"""From one number per image, method and metric to a table that can be read: means, intervals, differences, ranks.

    mean of a metric    over the images where it is defined; the others are counted, never dropped in silence
    interval            2.5 % .. 97.5 % of the means of 10,000 bootstrap resamples of the images
    difference          method - reference, image by image, so that what a hard image does to both cancels out

Images are resampled, not pixels: the interval says how far the mean would move on other images of this kind. It is
blind to what all images of a set have in common, such as one camera or one town.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["method", "baseline"]

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """One number per image, method and metric.

    Attributes:
        images, methods, metrics: the names along the three axes.
        values: float64 (images, methods, metrics), NaN where a metric is not defined.
    """

    images: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Array

    def __post_init__(self) -> None:
        assert self.values.shape == (len(self.images), len(self.methods), len(self.metrics))


@dataclass(frozen=True)
class Cell:
    """The mean of a metric over the images of a method, with its interval; NaN where no image has a value."""

    mean: float
    low: float
    high: float
    num: int
    num_undefined: int


@dataclass(frozen=True)
class Difference:
    """Method minus reference over the images both have a value for; `better` is the part of them where it wins."""

    mean: float
    low: float
    high: float
    num: int
    better: float

    @property
    def clear(self) -> bool:
        """True when the interval leaves zero out; one image has no interval."""
        return self.num > 1 and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Summary:
    """What `summarise` returns.

    Attributes:
        kinds: {method: "method" | "baseline"}; ranks are given to methods, baselines are told apart.
        reference: the method that the others are compared with.
        cells: {method: {metric: Cell}}.
        differences: {method: {metric: Difference}} for every method but the reference.
        ranks: {metric: (best, second)}, each the names that share the rank: ((best, also best), (second,)); shorter
            where fewer methods have a value, () when there is but one method.
        beaten_by: {metric: the baselines whose mean is at least as good as the best method's}.
    """

    kinds: Mapping[str, Kind]
    reference: str
    cells: Mapping[str, Mapping[str, Cell]]
    differences: Mapping[str, Mapping[str, Difference]]
    ranks: Mapping[str, tuple[tuple[str, ...], ...]]
    beaten_by: Mapping[str, tuple[str, ...]]


def summarise(
    scores: Scores,
    *,
    higher_is_better: Mapping[str, bool],
    baselines: Sequence[str] = (),
    reference: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Summary:
    """Means with bootstrap intervals, paired differences and ranks.

    Args:
        scores: at least one image and one method.
        higher_is_better: by metric.
        baselines: the methods that are not ranked; when all are, they are ranked among themselves.
        reference: what the others are compared with; the first method that is no baseline without it.
        resamples: number of bootstrap resamples; the same for all methods and metrics, so that they stay paired.
        seed: of the resampling.
    """
    ranked = [method for method in scores.methods if method not in baselines] or list(scores.methods)
    reference = reference or ranked[0]
    if reference not in scores.methods:
        raise ValueError(f"the reference must be one of {', '.join(scores.methods)}, got {reference!r}")
    weights = _resample(len(scores.images), resamples, seed)
    means, lows, highs, nums = _bootstrap(scores.values, weights)
    num_images = len(scores.images)
    cells = {
        method: {
            metric: Cell(means[m, k], lows[m, k], highs[m, k], int(nums[m, k]), num_images - int(nums[m, k]))
            for k, metric in enumerate(scores.metrics)
        }
        for m, method in enumerate(scores.methods)
    }
    ranks = {metric: _ranks(metric, cells, ranked, higher_is_better[metric]) for metric in scores.metrics}
    return Summary(
        kinds={method: "method" if method in ranked else "baseline" for method in scores.methods},
        reference=reference,
        cells=cells,
        differences=_differences(scores, weights, reference, higher_is_better),
        ranks={metric: places if len(ranked) > 1 else () for metric, places in ranks.items()},
        beaten_by={
            metric: tuple(
                method
                for method in scores.methods
                if method not in ranked
                and places
                and _at_least(cells[method][metric].mean, cells[places[0][0]][metric].mean, higher_is_better[metric])
            )
            for metric, places in ranks.items()
        },
    )


def _resample(num_images: int, resamples: int, seed: int) -> Array:
    """How often each image is drawn: (resamples, images), rows sum to `images`."""
    generator = np.random.default_rng(seed)
    weights: Array = generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    return weights.astype(np.float64)


def _bootstrap(values: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
    """Means, lower and upper limits and numbers of defined values along the first axis of (images, ...)."""
    shape = values.shape[1:]
    flat = values.reshape(len(values), -1)
    defined = ~np.isnan(flat)
    filled = np.where(defined, flat, 0.0)
    nums = defined.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = filled.sum(0) / nums
        resampled = (weights @ filled) / (weights @ defined)  # NaN where no defined image was drawn
    tail = (1 - LEVEL) / 2
    low, high = np.full(len(nums), np.nan), np.full(len(nums), np.nan)
    for i in np.flatnonzero(nums):
        drawn = resampled[:, i]
        low[i], high[i] = np.quantile(drawn[~np.isnan(drawn)], (tail, 1 - tail))
    return means.reshape(shape), low.reshape(shape), high.reshape(shape), nums.reshape(shape)


def _differences(
    scores: Scores, weights: Array, reference: str, higher_is_better: Mapping[str, bool]
) -> dict[str, dict[str, Difference]]:
    r = scores.methods.index(reference)
    gaps = scores.values - scores.values[:, r : r + 1]
    means, lows, highs, nums = _bootstrap(gaps, weights)
    found: dict[str, dict[str, Difference]] = {}
    for m, method in enumerate(scores.methods):
        if method == reference:
            continue
        found[method] = {}
        for k, metric in enumerate(scores.metrics):
            gap = gaps[:, m, k]
            gap = gap[~np.isnan(gap)]
            wins = (gap > 0) if higher_is_better[metric] else (gap < 0)
            better = float(wins.mean()) if len(gap) else float("nan")
            found[method][metric] = Difference(means[m, k], lows[m, k], highs[m, k], int(nums[m, k]), better)
    return found


def _ranks(
    metric: str, cells: Mapping[str, Mapping[str, Cell]], ranked: Sequence[str], higher: bool
) -> tuple[tuple[str, ...], ...]:
    """The best and the second best methods."""
    means = {method: cells[method][metric].mean for method in ranked if not np.isnan(cells[method][metric].mean)}
    places = sorted(set(means.values()), reverse=higher)[:2]
    return tuple(tuple(method for method, mean in means.items() if mean == place) for place in places)


def _at_least(value: float, best: float, higher: bool) -> bool:
    return value >= best if higher else value <= best
