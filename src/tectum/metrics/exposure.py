"""MEF-SSIM: does the fused image have, everywhere, the best contrast of its exposures and their structure?

In each window the sources k are x_k = mean + c_k s_k with a contrast c_k = |x_k - mean| and a structure s_k of length
1. What is wanted there has the larger contrast, and a structure to which each source counts by its contrast, the more
exclusively the more they agree:

    R = |sum_k c_k s_k| / sum_k c_k,   p = min(tan(pi R / 2), 10),   s = sum_k c_k^p s_k,   x = max_k c_k  s / |s|

    S = (2 cov(x, f) + C) / (var(x) + var(f) + C),    MEF-SSIM = prod_l (mean S_l)^beta_l,    3 scales l

Means are left out: how bright a region should be, two exposures do not say.

Reference: Perceptual Quality Assessment for Multi-Exposure Image Fusion, Ma, Zeng and Wang, IEEE Transactions on Image
Processing 24(11), 2015, https://doi.org/10.1109/TIP.2015.2442920
"""

import math

import torch
from torch import Tensor

from tectum.metrics.filters import gaussian, smooth
from tectum.metrics.metric import Metric
from tectum.metrics.multiscale import halved
from tectum.metrics.stripes import stripes, undefined

FLAT = 1e-14
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

    Oracle: our own.

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
            return undefined(len(fused), like=fused)
        values = torch.ones(len(fused), dtype=torch.float64, device=fused.device)
        for scale, exponent in enumerate(self.exponents):
            if scale:
                fused, a, b = (halved(image) for image in (fused, a, b))
            values *= self._similarity(fused, a, b).clamp_min(0) ** (exponent / sum(self.exponents))
        return values

    def _similarity(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The mean of S over all windows, (B,)."""
        kernel, constant = gaussian(self.window, self.sigma), 0.03**2
        total = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
        for f, x, y in stripes(fused, a, b, size=self.window):
            mean_f, mean_x, mean_y = (smooth(k, kernel) for k in (f, x, y))
            var_f, var_x, var_y = (
                flat(smooth(k.square(), kernel) - m.square()) for k, m in ((f, mean_f), (x, mean_x), (y, mean_y))
            )
            cov_xy = smooth(x * y, kernel) - mean_x * mean_y
            of_x, of_y, contrast, length = wanted(var_x, var_y, cov_xy)
            cov_fx, cov_fy = smooth(f * x, kernel) - mean_f * mean_x, smooth(f * y, kernel) - mean_f * mean_y
            cov = ratio(contrast * (of_x * cov_fx + of_y * cov_fy), length)
            var = torch.where(length > 0, contrast.square(), 0.0)
            total += ((2 * cov + constant) / (var + var_f + constant)).sum((1, 2, 3))
        height, width = (side - self.window + 1 for side in fused.shape[-2:])
        return total / (height * width)


def wanted(var_x: Tensor, var_y: Tensor, cov: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of x - mean and y - mean in s, the contrast that is wanted, and |s|."""
    c_x, c_y = var_x.sqrt(), var_y.sqrt()
    contrast = torch.maximum(c_x, c_y)
    agreement = ratio((var_x + var_y + 2 * cov).clamp_min(0).sqrt(), c_x + c_y).clamp(max=1)
    p = torch.tan(math.pi / 2 * agreement.clamp(max=0.99)).clamp(max=10)
    of_x, of_y = (ratio(ratio(c, contrast).pow(p), c) for c in (c_x, c_y))
    squared = of_x.square() * var_x + of_y.square() * var_y + 2 * of_x * of_y * cov
    return of_x, of_y, contrast, torch.where(squared > 1e-8, squared, 0.0).sqrt()


def flat(variance: Tensor) -> Tensor:
    return torch.where(variance > FLAT, variance, 0.0)


def ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """0 where the bottom is 0."""
    return torch.where(bottom > 0, top / torch.where(bottom > 0, bottom, 1.0), 0.0)
