"""Bootstrap intervals over images, Student's t, and the paired sign-flip test.

    interval    2.5 % .. 97.5 % of the means of bootstrap resamples of the images
    p           the share of sign flips  mean_i(+-d_i)  of differences d_i that lie as far from zero as  mean_i(d_i)

Resamples are drawn with a fixed seed, so that all methods and metrics share them and stay paired.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LEVEL = 0.95
"""Of all intervals."""
NUM_EXACT = 14
"""With at most so many images that differ every sign is tried: 2^13 of them, the other half mirrors these."""
CHUNK = 2_000_000
"""Numbers drawn at a time: resamples are drawn in chunks, so that memory does not grow with the number of images."""


def bootstrap_weights(num_images: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yields how often each image is drawn in each resample: (R, num_images) float64, in all `resamples` rows."""
    generator = np.random.default_rng(seed)
    for num in _chunks(resamples, num_images):
        draws = generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=num)
        yield draws.astype(np.float64)


def central_interval(values: Array) -> tuple[float, float]:
    """Returns the limits of the central 95 % of values (R,), NaN left out; NaN where none is left."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return low, high


def bootstrap_interval(values: Array, resamples: int, seed: int = 0) -> tuple[Array, Array]:
    """The 95 % intervals of means over images.

    Args:
        values: (images, ...), NaN where a value is not defined.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        lower and upper limits (...); NaN where nothing is defined or a value is infinite.
    """
    num, shape = len(values), values.shape[1:]
    flat = values.reshape(num, -1)
    defined = ~np.isnan(flat)
    filled = np.where(np.isfinite(flat), flat, 0.0)
    partly = ~defined.all(0)
    means = []
    for weights in bootstrap_weights(num, resamples, seed):
        sums, counts = weights @ filled, np.full((len(weights), flat.shape[1]), float(num))
        counts[:, partly] = weights @ defined[:, partly].astype(np.float64)
        with np.errstate(invalid="ignore"):
            means.append(sums / counts)  # NaN where no defined image was drawn
    resampled = np.concatenate(means)
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    for i in np.flatnonzero(defined.any(0) & ~np.isinf(flat).any(0)):
        low[i], high[i] = central_interval(resampled[:, i])
    return low.reshape(shape), high.reshape(shape)


def sign_flip_p(differences: Array, flips: int, seed: int = 0) -> Array:
    """Two-sided p of the paired sign-flip test.

    An image that is missing, or has no difference, changes nothing with either sign. So every sign is tried where few
    images differ, and p is exact; elsewhere p = (1 + flips at least as far off) / (1 + flips).

    Args:
        differences: (images, ...), NaN where an image has none.
        flips: how many random flips are drawn where the images are too many to try all signs.
        seed: of the flips.

    Returns:
        p (...), NaN where no image has a difference.
    """
    flat = np.nan_to_num(differences.reshape(len(differences), -1))
    few = np.count_nonzero(flat, 0) <= NUM_EXACT
    p = np.full(flat.shape[1], np.nan)

    order = np.argsort(-np.abs(flat[:, few]), 0)[:NUM_EXACT]
    own = np.take_along_axis(flat[:, few], order, 0)
    bits = np.arange(len(own))
    signs = 1.0 - 2 * (np.arange(2 ** (len(own) - 1))[:, None] >> bits & 1)  # the last one stays: |-x| = |x|
    p[few] = _as_far(signs, own).mean(0)

    own = flat[:, ~few]
    generator = np.random.default_rng([seed, 1])  # not the bootstrap's own draws
    counts = np.ones(own.shape[1])
    for rows in _chunks(flips if own.shape[1] else 0, len(own)):
        counts += _as_far(1.0 - 2 * (generator.random((rows, len(own))) < 0.5), own).sum(0)
    p[~few] = counts / (1 + flips)
    p[np.isnan(differences).all(0).reshape(-1)] = np.nan
    return p.reshape(differences.shape[1:])


def student_t(degrees: int) -> float:
    """Returns t with P(|T| < t) = 95 % for Student's T of so many degrees of freedom.

    >>> round(student_t(2), 3), round(student_t(20), 3)
    (4.303, 2.086)
    """
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, degrees))


def _chunks(num_rows: int, width: int) -> Iterator[int]:
    """Yields numbers of rows to draw at a time, `num_rows` in all."""
    step = max(1, CHUNK // width)
    yield from (min(step, num_rows - start) for start in range(0, num_rows, step))


def _as_far(signs: Array, differences: Array) -> Array:
    """Where (flips, images) @ (images, columns) lies as far from zero as the sums do; equal but for rounding counts."""
    slack = 1e-10 * np.abs(differences).sum(0)
    far: Array = np.abs(signs @ differences) >= np.abs(differences.sum(0)) - slack
    return far
