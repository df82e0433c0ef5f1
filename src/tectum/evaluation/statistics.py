"""From one number per image, method and metric to a table that can be read: means, intervals, differences, ranks.

    mean of a metric    over the images where it is defined; the others are counted, never dropped in silence
    interval            2.5 % .. 97.5 % of the means of 10,000 bootstrap resamples of the images
    difference          method - reference, image by image, so that what a hard image does to both cancels out
    p of a difference   the share of sign flips  mean_i(+-d_i)  that lie as far from zero as  mean_i(d_i)
    clear               p < 0.05

Images are resampled, not pixels: the interval says how far the mean would move on other images of this kind. It is
blind to what all images of a set have in common, such as one camera or one town.

Of few images the interval is too narrow to decide with: where there is no difference it leaves zero out in every second
set of two images and in every fourth of three. So it only says how large a difference may be. Whether there is one is
decided by the paired permutation test, which keeps its level at any number of images: were the two methods
interchangeable, each image's difference could as well have had the other sign. All 2^n signs are tried where few images
differ, random ones otherwise. Of five images or fewer no difference is clear, however large (the smallest p is 2/2^5).
Of dozens of images it tests means; of fewer, differences that are far from symmetric (an exponential) with a mean of
zero are called clear up to twice as often as one in twenty. Each comparison is decided by itself: of many without a
difference, up to one in twenty is clear by chance.

An infinite value (PSNR of an image that equals both its sources) is a value: a mean with one is infinite and has no
interval. A difference has none, so it leaves out the images where one of the two is infinite. Both count them.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from tectum.errors import UserError
from tectum.report.statistics import Array, bootstrap_interval, sign_flip_p

T = TypeVar("T")
Mark = Literal["", "best", "second", "gamed"]

RESAMPLES = 10_000
ALPHA = 0.05
"""A difference is clear below this p."""
FEWEST_CLEAR = 6
"""Images that must differ before a difference can be clear: 2/2^6 is the first smallest p below ALPHA."""


@dataclass(frozen=True)
class Scores:
    """One number per image, method and metric.

    Attributes:
        images, methods, metrics: the names along the three axes.
        values: float64 (images, methods, metrics), NaN where a metric is not defined; it may be infinite.
    """

    images: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Array

    def __post_init__(self) -> None:
        assert self.values.shape == (len(self.images), len(self.methods), len(self.metrics))


@dataclass(frozen=True)
class MeanScore:
    """The mean of a metric over the images of a method, with its interval.

    Attributes:
        mean: NaN where no image has a value; infinite where one has an infinite value (NaN where both signs occur).
        low, high: 95 % of the bootstrap; NaN where the mean is not finite.
        num: images with a value, infinite ones included.
        num_undefined: images without.
        num_infinite: images with an infinite value.
    """

    mean: float
    low: float
    high: float
    num: int
    num_undefined: int
    num_infinite: int = 0


@dataclass(frozen=True)
class Difference:
    """Method minus reference over the images that both have a finite value for; NaN where there are none.

    Attributes:
        mean: of the differences.
        low, high: 95 % of the bootstrap: how large the difference may be, not whether there is one.
        num: images counted.
        better: the part of them where the method wins.
        p: of the sign-flip test that there is no difference; at least 2/2^num.
        num_infinite: images left out because one of the two values is infinite.
    """

    mean: float
    low: float
    high: float
    num: int
    better: float
    p: float
    num_infinite: int = 0

    @property
    def clear(self) -> bool:
        """True when p < 0.05: hardly ever so large by chance. Never with fewer than six images."""
        return self.p < ALPHA


@dataclass(frozen=True)
class Summary:
    """Means, paired differences and ranks of the methods of an evaluation.

    Attributes:
        is_baseline: by method; baselines are shown apart and not ranked.
        reference: the method that the others are compared with.
        means: {method: {metric: MeanScore}}.
        differences: {method: {metric: Difference}} for every method but the reference.
        ranks: {metric: (best, second)}, each the names that share the rank: ((best, also best), (second,)); shorter
            where fewer methods have a value, () when there is but one method.
        beaten_by: {metric: the baselines whose mean is at least as good as the best method's}.
    """

    is_baseline: Mapping[str, bool]
    reference: str
    means: Mapping[str, Mapping[str, MeanScore]]
    differences: Mapping[str, Mapping[str, Difference]]
    ranks: Mapping[str, tuple[tuple[str, ...], ...]]
    beaten_by: Mapping[str, tuple[str, ...]]

    def mark(self, method: str, metric: str) -> Mark:
        """Returns the mark of a mean: best or second of the methods, or a baseline that shows the metric is gamed."""
        if method in self.beaten_by[metric]:
            return "gamed"
        marks: tuple[Mark, ...] = ("best", "second")
        return next((mark for mark, names in zip(marks, self.ranks[metric], strict=False) if method in names), "")


def summarise(
    scores: Scores,
    *,
    higher_is_better: Mapping[str, bool],
    baselines: Sequence[str] = (),
    reference: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Summary:
    """Means with bootstrap intervals, paired differences with their tests, and ranks.

    Args:
        scores: at least one image and one method.
        higher_is_better: by metric.
        baselines: the methods that are not ranked; when all are, they are ranked among themselves.
        reference: what the others are compared with; the first method that is no baseline without it.
        resamples: number of bootstrap resamples; the same for all methods and metrics, so that they stay paired. The
            sign-flip test draws one flip less, and counts the signs as they are among them.
        seed: of the resampling and the flips.
    """
    ranked = [method for method in scores.methods if method not in baselines] or list(scores.methods)
    reference = reference or ranked[0]
    if reference not in scores.methods:
        raise UserError(f"the reference must be one of {', '.join(scores.methods)}, got {reference!r}")
    values, r = scores.values, scores.methods.index(reference)
    finite = np.where(np.isfinite(values), values, np.nan)
    gaps, own = finite - finite[:, [r]], values[:, [r]]
    lows, highs = bootstrap_interval(np.stack([values, gaps], 1), resamples, seed)
    means, nums = _means(values)
    means_of = _tabulate(scores, MeanScore, means, lows[0], highs[0], nums, len(values) - nums, np.isinf(values).sum(0))
    means, nums = _means(gaps)
    wins = np.where([higher_is_better[metric] for metric in scores.metrics], gaps > 0, gaps < 0).sum(0)
    with np.errstate(invalid="ignore"):
        better = wins / nums
    infinite = ((np.isinf(values) | np.isinf(own)) & ~np.isnan(values) & ~np.isnan(own)).sum(0)
    p = sign_flip_p(gaps, resamples - 1, seed)
    differences = _tabulate(scores, Difference, means, lows[1], highs[1], nums, better, p, infinite)
    del differences[reference]
    ranks, beaten_by = {}, {}
    for metric in scores.metrics:
        higher = higher_is_better[metric]
        column = {method: row[metric].mean for method, row in means_of.items()}
        defined = {method: column[method] for method in ranked if not np.isnan(column[method])}
        places = sorted(set(defined.values()), reverse=higher)[:2]
        ranks[metric] = tuple(tuple(m for m, mean in defined.items() if mean == place) for place in places)
        beats = operator.ge if higher else operator.le
        beaten_by[metric] = tuple(m for m in column if m not in ranked and places and beats(column[m], places[0]))
    return Summary(
        is_baseline={method: method not in ranked for method in scores.methods},
        reference=reference,
        means=means_of,
        differences=differences,
        ranks=ranks if len(ranked) > 1 else dict.fromkeys(ranks, ()),
        beaten_by=beaten_by,
    )


def _means(values: Array) -> tuple[Array, Array]:
    """Means of the defined values along the first axis, and how many there are."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(0) / defined.sum(0), defined.sum(0)


def _tabulate(scores: Scores, make: Callable[..., T], *columns: Array) -> dict[str, dict[str, T]]:
    """{method: {metric: make(a number of each column)}} from columns (methods, metrics)."""
    rows = zip(scores.methods, *(column.tolist() for column in columns), strict=True)
    return {
        method: {metric: make(*numbers) for metric, *numbers in zip(scores.metrics, *row, strict=True)}
        for method, *row in rows
    }
