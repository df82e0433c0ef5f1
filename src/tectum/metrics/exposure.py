"""MEF-SSIM: structural similarity of a fused image to the best contrast and common structure of two exposures.

In each window the sources k are x_k = mean + c_k s_k with a contrast c_k = |x_k - mean| and a structure s_k of length
1. The ideal patch x has the larger contrast, and a structure s to which each source counts by its contrast, the more
exclusively the more they agree:

    R = |sum_k c_k s_k| / sum_k c_k,   p = min(tan(pi R / 2), 10),   s = sum_k c_k^p s_k,   x = max_k c_k  s / |s|

    S = (2 cov(x, f) + C) / (var(x) + var(f) + C),    MEF-SSIM = prod_l (mean S_l)^beta_l,    3 scales l

Means are left out: two exposures do not say how bright a region should be. No reference values from outside; the oracle
is our own float64 loop in the tests.

Reference: Perceptual Quality Assessment for Multi-Exposure Image Fusion, Ma, Zeng and Wang, IEEE Transactions on Image
Processing 24(11), 2015, https://doi.org/10.1109/TIP.2015.2442920
"""

import math

import torch
from torch import Tensor

from tectum.metrics.metric import Metric
from tectum.metrics.windows import divide, gaussian_weights, halve, iterate_stripes, nans, power, root, smooth, zeros

_FLAT = 1e-14
"""Below this variance a window is flat; what is left is rounding."""


class MEFSSIM(Metric):
    """Structural similarity to the best of both exposures, over three scales.

    Variant: luminance; the 11 x 11 Gaussian of deviation 1.5 of SSIM, windows inside the image; C = 0.03^2 on [0,1];
    beta = (0.0448, 0.2856, 0.3001) over their sum; from scale to scale the mean of 2 x 2 pixels.

    Range [0,1]; higher is better; 1 for a copy of two equal sources. Undefined (NaN) where a side is below 44 pixels,
    because the window does not fit into the third scale. A negative mean of S counts as 0.

    Decided here: a window in which no source has structure wants a flat image; sources that are each other's inverse,
    with equal contrast, want one too.
    Differs from the authors' release: that takes contrasts and agreement under a uniform window, and the Gaussian for
    the last step only. On a scene of ours the two are 0.0003 apart at most.

    >>> x = torch.rand(1, 1, 44, 44)
    >>> round(float(MEFSSIM()(x, x, x)), 9)
    1.0
    """

    symbol = "MEF-SSIM"
    title = "structural similarity for exposures"
    bounds = (0.0, 1.0)
    source = "Ma, Zeng, Wang: Perceptual Quality Assessment for Multi-Exposure Image Fusion, IEEE TIP 24(11), 2015"

    exponents = (0.0448, 0.2856, 0.3001)
    window = 11
    sigma = 1.5

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < self.window << len(self.exponents) - 1:
            return nans(len(fused), like=fused)
        values = zeros(len(fused), like=fused) + 1
        for scale, exponent in enumerate(self.exponents):
            if scale:
                fused, a, b = (halve(image) for image in (fused, a, b))
            values = values * power(self._similarity(fused, a, b), exponent / sum(self.exponents))
        return values

    def _similarity(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The mean of S over all windows, (B,)."""
        kernel, constant = gaussian_weights(self.window, self.sigma), 0.03**2
        total = zeros(len(fused), like=fused)
        for f, x, y in iterate_stripes(fused, a, b, size=self.window):
            mean_f, mean_x, mean_y = (smooth(k, kernel) for k in (f, x, y))
            var_f, var_x, var_y = (
                _zero_if_flat(smooth(k.square(), kernel) - m.square())
                for k, m in ((f, mean_f), (x, mean_x), (y, mean_y))
            )
            cov_xy = smooth(x * y, kernel) - mean_x * mean_y
            weight_x, weight_y, contrast, length = _ideal_patch(var_x, var_y, cov_xy)
            cov_fx, cov_fy = smooth(f * x, kernel) - mean_f * mean_x, smooth(f * y, kernel) - mean_f * mean_y
            cov = divide(contrast * (weight_x * cov_fx + weight_y * cov_fy), length)
            var = torch.where(length > 0, contrast.square(), 0.0)
            total += ((2 * cov + constant) / (var + var_f + constant)).sum((1, 2, 3))
        height, width = (side - self.window + 1 for side in fused.shape[-2:])
        return total / (height * width)


def _ideal_patch(var_x: Tensor, var_y: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of x - mean and y - mean in s, the contrast of x, and |s|."""
    c_x, c_y = root(var_x), root(var_y)
    contrast = torch.maximum(c_x, c_y)
    agreement = divide(root((var_x + var_y + 2 * cov).clamp_min(0)), c_x + c_y).clamp(max=1)  # R
    p = torch.tan(math.pi / 2 * agreement.clamp(max=0.99)).clamp(max=10)
    weight_x, weight_y = (divide(divide(c, contrast).pow(p), c) for c in (c_x, c_y))
    squared = weight_x.square() * var_x + weight_y.square() * var_y + 2 * weight_x * weight_y * cov
    return weight_x, weight_y, contrast, root(torch.where(squared > 1e-8, squared, 0.0))


def _zero_if_flat(variance: Tensor) -> Tensor:
    return torch.where(variance > _FLAT, variance, 0.0)
