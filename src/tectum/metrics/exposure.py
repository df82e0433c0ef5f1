"""MEF-SSIM: structural similarity of a fused image to the best contrast and common structure of two exposures.

In each window the sources k are x_k = mean + c_k s_k with a contrast c_k = |x_k - mean| and a structure s_k of length
1, all under a uniform window. The ideal patch x has the larger contrast, and a structure s to which each source counts
by its contrast, the more exclusively the more they agree:

    R = |sum_k c_k s_k| / sum_k c_k,   p = min(tan(pi R / 2), 10),   w_k = c_k^p / sum c^p,   s = sum_k w_k s_k
    x = max_k c_k  s / |s|

    S = (2 cov(x, f) + C) / (var(x) + var(f) + C),    MEF-SSIM = prod_l (mean S_l)^beta_l,    3 scales l

cov and var under a Gaussian window. Means are left out: two exposures do not say how bright a region should be.

Reference: Perceptual Quality Assessment for Multi-Exposure Image Fusion, Ma, Zeng and Wang, IEEE Transactions on Image
Processing 24(11), 2015, https://doi.org/10.1109/TIP.2015.2442920
"""

import math
import sys

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric
from tectum.metrics.windows import (
    gaussian_weights,
    halve,
    iterate_stripes,
    nans,
    power,
    root,
    smooth,
    sum_windows,
    to_grey_levels,
    zeros,
)

_WINDOW, _SIGMA = 11, 1.5
_EXPONENTS = (0.0448, 0.2856, 0.3001)
_CONSTANT = (0.03 * 255) ** 2
_SMALL = 1e-3
"""Added to each contrast, in grey levels, so that a flat window has a structure of length 0 and not 0/0."""
_FLAT = 1e-8
"""A window of a smaller sum of squares, in squared grey levels, is flat; the rest is rounding."""
_EPS = sys.float_info.epsilon


class MEFSSIM(Metric):
    """Structural similarity to the best of both exposures, over three scales.

    Variant: luminance on 0..255; 11 x 11 windows inside the image, uniform for contrast and agreement, the Gaussian of
    deviation 1.5 for the comparison; C = (0.03 * 255)^2; beta = (0.0448, 0.2856, 0.3001) over their sum; from scale to
    scale the mean of 2 x 2 pixels, an odd last row or column counting twice.

    Equals the authors' release (mef_ms_ssim, and mef_ssim with `scales=1`) to 1e-13: what tables of multi-exposure
    fusion print as MEF-SSIM, and some of infrared and visible pairs as "MS_SSIM".

    Range [0,1]; higher is better; 1 for a copy of two equal sources. Undefined (NaN) where a side is below 44 pixels
    (11 with one scale), because the window does not fit into the last scale. A negative mean of S counts as 0.

    A window in which no source has structure wants a flat image; sources that are each other's inverse, with equal
    contrast, want one too.

    Repaired: up to version 0.1 the window was Gaussian throughout, and an odd last row or column was dropped.

    Args:
        scales: 3, or 1 for the full resolution alone.

    >>> x = torch.rand(1, 1, 44, 44)
    >>> round(float(MEFSSIM()(x, x, x)), 6)
    1.0
    """

    symbol = "MEF-SSIM"
    title = "structural similarity for exposures"
    bounds = (0.0, 1.0)
    source = "Ma, Zeng, Wang: Perceptual Quality Assessment for Multi-Exposure Image Fusion, IEEE TIP 24(11), 2015"

    def __init__(self, *, scales: int = 3) -> None:
        if scales not in (1, 3):
            raise UserError(f"scales must be 3 or 1, got {scales!r}")
        super().__init__()
        self.scales = scales

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < _WINDOW << self.scales - 1:
            return nans(len(fused), like=fused)
        if self.scales == 1:
            return _mean_similarity(fused, a, b, levels=True).clamp_min(0)
        values = zeros(len(fused), like=fused) + 1
        for scale, exponent in enumerate(_EXPONENTS):
            if scale:  # the finest scale is in [0,1], the others are on 0..255
                fused, a, b = (halve(image, levels=scale == 1) for image in (fused, a, b))
            similarity = _mean_similarity(fused, a, b, levels=scale == 0)
            values = values * power(similarity, exponent / sum(_EXPONENTS))
        return values


def _mean_similarity(fused: Tensor, a: Tensor, b: Tensor, *, levels: bool) -> Tensor:
    """The mean of S over all windows, (B,)."""
    kernel = gaussian_weights(_WINDOW, _SIGMA)
    total = zeros(len(fused), like=fused)
    for stripe in iterate_stripes(fused, a, b, size=_WINDOW):
        f, x, y = (to_grey_levels(k) if levels else k for k in stripe)
        weight_x, weight_y = _weigh_sources(x, y)
        mean_f, mean_x, mean_y = (smooth(k, kernel) for k in (f, x, y))
        var_f = smooth(f.square(), kernel) - mean_f.square()
        var_x = smooth(x.square(), kernel) - mean_x.square()
        var_y = smooth(y.square(), kernel) - mean_y.square()
        cov_xy = smooth(x * y, kernel) - mean_x * mean_y
        cov_fx, cov_fy = smooth(f * x, kernel) - mean_f * mean_x, smooth(f * y, kernel) - mean_f * mean_y
        # the ideal patch is weight_x x + weight_y y, up to its mean
        cov = weight_x * cov_fx + weight_y * cov_fy
        var = weight_x.square() * var_x + weight_y.square() * var_y + 2 * weight_x * weight_y * cov_xy
        total += ((2 * cov + _CONSTANT) / (var + var_f + _CONSTANT)).sum((1, 2, 3))
    height, width = (side - _WINDOW + 1 for side in fused.shape[-2:])
    return total / (height * width)


def _weigh_sources(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of x and y in the ideal patch of each window, from its sums of squares under the uniform window."""
    area = _WINDOW**2
    sum_x, sum_y = sum_windows(x, _WINDOW), sum_windows(y, _WINDOW)
    # of whole levels these differences are exact
    xx, yy, xy = (
        (area * sum_windows(p * q, _WINDOW) - sum_p * sum_q) / area
        for p, q, sum_p, sum_q in ((x, x, sum_x, sum_x), (y, y, sum_y, sum_y), (x, y, sum_x, sum_y))
    )
    xx, yy = (torch.where(squares > _FLAT, squares, 0.0) for squares in (xx, yy))
    length_x, length_y = root(xx), root(yy)
    # R, p
    agreement = (root((xx + yy + 2 * xy).clamp_min(0)) + _EPS) / (length_x + length_y + _EPS)
    p = torch.tan(math.pi / 2 * agreement.clamp(_EPS, 1 - _EPS)).clamp(max=10)
    # w_k / c_k
    contrast_x, contrast_y = length_x + _SMALL, length_y + _SMALL
    share_x, share_y = ((c / _WINDOW) ** p + _EPS for c in (contrast_x, contrast_y))
    weight_x, weight_y = (s / (share_x + share_y) / c for s, c in ((share_x, contrast_x), (share_y, contrast_y)))
    # max c / |s|
    of_x, of_y = weight_x.square() * xx, weight_y.square() * yy
    squared = of_x + of_y + 2 * weight_x * weight_y * xy
    none = squared <= _EPS * 100 * (of_x + of_y)
    scale = torch.maximum(contrast_x, contrast_y) / squared.masked_fill(none, 1).sqrt()
    scale = scale.masked_fill(none, 1)
    return weight_x * scale, weight_y * scale
