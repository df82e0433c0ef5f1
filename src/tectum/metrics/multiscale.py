"""Multi-scale metrics: structural similarity (MS-SSIM) and visual information fidelity for fusion (VIFF).

    MS-SSIM(f, x) = l_M^beta_M  prod_{j=1..M} (c_j s_j)^beta_j                    M = 5 scales, per source x
    VIFF(f, a, b) = sum_k p_k  sum_blocks FVID_k / sum_blocks FVIND_k             4 scales, both sources at once

Both equal public evaluators to 1e-13 on 35 fused images of eleven pairs (docs/metrics.md): MS-SSIM the release of Wang,
VIFF that of Han.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric, SourceMetric
from tectum.metrics.windows import (
    gaussian_weights,
    halve,
    iterate_stripes,
    nans,
    power,
    smooth,
    to_grey_levels,
    zeros,
)

_FLAT = 1e-10
"""A block of less variance, in squared grey levels, is flat."""
_SMALL = 1e-7
"""Added to both sides of each ratio of VIFF."""


class MSSSIM(SourceMetric):
    """Multi-scale structural similarity of the fused image with each source.

    At scale j, over the windows of an 11 x 11 Gaussian of deviation 1.5 that lie inside the images f and x,

        l = (2 mu_f mu_x + C1) / (mu_f^2 + mu_x^2 + C1)         cs = (2 sigma_fx + C2) / (sigma_f^2 + sigma_x^2 + C2)

    with C1 = (0.01 L)^2, C2 = (0.03 L)^2, L = 255 on the 0..255 scale.
    The value is mean(l cs)^beta_5 at the coarsest scale times mean(cs)^beta_j at the other four,
    beta = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333). From scale to scale the image is averaged over 2 x 2 pixels and
    every second one is kept; an odd last row or column counts twice (symmetric padding).

    Range [0,1] for the mean over the sources, [0,2] for the sum; higher is better; 1 only for equal images.
    Undefined (NaN) where a side is below 176 pixels, because the window does not fit into the fifth scale.

    Equals `msssim` of Wang's release with its 11 x 11 window to 1e-13, at even and odd sizes; where a mean of cs is
    negative (f is an inverse of x), that release returns a complex number, and here it counts as 0, as in packages.
    The packages pytorch-msssim and piq are the same at sizes divisible by 16 and pad others by rules of their own; an
    older release drops odd rows. Tables that print "MS_SSIM" with one value for both sources mean `MEF-SSIM`.

    Repaired: up to version 0.1 an odd last row or column was dropped.

    Reference: Multiscale structural similarity for image quality assessment; Z. Wang, E. P. Simoncelli, A. C. Bovik;
    37th Asilomar Conference on Signals, Systems and Computers, 2003; https://doi.org/10.1109/ACSSC.2003.1292216

    >>> x = torch.rand(1, 1, 176, 176)
    >>> MSSSIM()(x, x, x).tolist(), MSSSIM(reduction="sum")(x, x, x).tolist()
    ([1.0], [2.0])
    """

    symbol = "MS-SSIM"
    title = "multi-scale structural similarity"
    bounds = (0.0, 1.0)
    source = "Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment, Asilomar 2003"

    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    window = 11
    sigma = 1.5

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < self.window << len(self.exponents) - 1:
            return nans(2, len(fused), like=fused)
        values = zeros(2, len(fused), like=fused) + 1
        for scale, exponent in enumerate(self.exponents, 1):
            finest = scale == 1  # in [0,1]; the others are on 0..255
            similarity = self._similarity(fused, a, b, levels=finest, luminance=scale == len(self.exponents))
            values = values * power(similarity, exponent)
            if scale < len(self.exponents):
                fused, a, b = (halve(image, levels=finest) for image in (fused, a, b))
        return values

    def _similarity(self, fused: Tensor, a: Tensor, b: Tensor, *, levels: bool, luminance: bool) -> Tensor:
        """The mean over all windows of cs, or of l cs, against both sources: (2,B)."""
        kernel = gaussian_weights(self.window, self.sigma)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        total = zeros(2, len(fused), like=fused)
        for stripe in iterate_stripes(fused, a, b, size=self.window):
            f, *sources = (to_grey_levels(x) if levels else x for x in stripe)
            mean_f = smooth(f, kernel)
            variance_f = smooth(f.square(), kernel) - mean_f.square()
            for i, x in enumerate(sources):
                mean, mean_fx = smooth(x, kernel), smooth(f * x, kernel)
                variance = smooth(x.square(), kernel) - mean.square()
                similarity = (2 * (mean_fx - mean_f * mean) + c2) / (variance_f + variance + c2)
                if luminance:
                    similarity = similarity * ((2 * mean_f * mean + c1) / (mean_f.square() + mean.square() + c1))
                total[i] += similarity.sum((1, 2, 3))
        height, width = (side - self.window + 1 for side in fused.shape[-2:])
        return total / (height * width)


class VIFF(Metric):
    """Visual information fidelity for fusion: how much of the sources' visual information the fused image still shows.

    In each block the fused image is taken as f = g x + v of each source x, seen through noise n of variance s:

        g = sigma_fx / sigma_x^2        sigma_v^2 = sigma_f^2 - g sigma_fx
        VIND(x) = log10(1 + sigma_x^2 / s)                                 what one could see of the source
        VID(x)  = log10(1 + g^2 sigma_x^2 / (sigma_v^2 + s))               what one sees of it in the fused image

    FVID and FVIND of the block are those of the source with the smaller gain g: the one that the fused image keeps
    worse. Scale k has blocks of 17, 9, 5, 3 pixels (Gaussian windows of a fifth of that as deviation, at every pixel
    where they fit); before each but the first the image is smoothed by that window and every second pixel is kept. The
    value is sum_k p_k (mean FVID + 1e-7) / (mean FVIND + 1e-7), p = (1, 0, 0.15, 1) / 2.15, s = 0.005 * 255^2, on the
    0..255 scale.

    Range [0, inf), about 1 for a faithful image of equal sources and above where contrast is enhanced; higher is
    better. Undefined (NaN) below 41 pixels a side, and where the sources are constant at a scale that counts.

    Equals Han's own release (VIFF_Public), and so what MEFB prints as "VIF", to 1e-13. Of sources of equal gain b
    counts, as there: exchanging a and b changes the value (on real pairs by 3e-6 at most), by blocks where both gains
    are 0. Where g would be negative, or a variance is below 1e-10, the block shows nothing (g = 0, sigma_v^2 =
    sigma_f^2).

    Other evaluators print as "VIFF" the pixel-domain VIF of the fused image with each source, averaged or added (`VIF`
    here). There both sources count everywhere; here each block has one of them.

    Repaired: up to version 0.1 the source with the greater gain counted, up to 6.8 times as much, and a copy of one
    source had about 1.

    Args:
        weights: of the four scales, from fine to coarse.
        noise: s, on the 0..255 scale.

    Reference: A new image fusion performance metric based on visual information fidelity; Y. Han, Y. Cai, Y. Cao,
    X. Xu; Information Fusion 14(2), 2013; https://doi.org/10.1016/j.inffus.2011.08.002
    """

    symbol = "VIFF"
    title = "visual information fidelity for fusion"
    symmetric = False
    source = "Han, Cai, Cao, Xu: A new image fusion performance metric based on visual information fidelity, 2013"

    sizes = (17, 9, 5, 3)

    def __init__(
        self, *, weights: Sequence[float] = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15), noise: float = 0.005 * 255**2
    ) -> None:
        if len(weights) != len(self.sizes) or min(weights) < 0 or noise <= 0:
            raise UserError(f"VIFF needs four weights >= 0 and noise > 0, got {tuple(weights)} and {noise:g}")
        super().__init__()
        self.weights, self.noise = tuple(weights), noise

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < 41:
            return nans(len(fused), like=fused)
        values = zeros(len(fused), like=fused)
        for size, weight in zip(self.sizes, self.weights, strict=True):
            kernel = gaussian_weights(size, size / 5)
            if size != self.sizes[0]:
                levels = size == self.sizes[1]  # the finest scale is in [0,1], the others are on 0..255
                fused, a, b = (_smooth_and_halve(image, kernel, levels=levels) for image in (fused, a, b))
            if weight:
                fvid, fvind = self._information(fused, a, b, kernel, levels=size == self.sizes[0])
                ratio = (fvid + _SMALL) / (fvind + _SMALL)
                values = values + weight * ratio.masked_fill(fvind == 0, float("nan"))
        return values

    def _information(self, fused: Tensor, a: Tensor, b: Tensor, kernel: Sequence[float], *, levels: bool) -> Tensor:
        """The means over all blocks of FVID and of FVIND, (2,B)."""
        total = zeros(2, len(fused), like=fused)
        for stripe in iterate_stripes(fused, a, b, size=len(kernel)):
            f, *sources = (to_grey_levels(x) if levels else x for x in stripe)
            mean_f = smooth(f, kernel)
            variance_f = smooth(f.square(), kernel) - mean_f.square()
            variance_f = torch.where(variance_f > _FLAT, variance_f, 0)
            terms = []
            for x in sources:
                mean = smooth(x, kernel)
                variance = smooth(x.square(), kernel) - mean.square()
                variance = torch.where(variance > _FLAT, variance, 0)
                covariance = smooth(f * x, kernel) - mean_f * mean
                # g, and what of f is not g x
                gain = torch.where((variance > 0) & (variance_f > 0), covariance / (variance + _FLAT), 0).clamp_min(0)
                distortion = (variance_f - gain * covariance).clamp_min(_FLAT)
                vid = torch.log10(1 + gain.square() * variance / (distortion + self.noise))
                terms.append((gain, vid, torch.log10(1 + variance / self.noise).expand_as(vid)))
            (gain_a, vid_a, vind_a), (gain_b, vid_b, vind_b) = terms
            of_a = gain_a < gain_b
            total[0] += torch.where(of_a, vid_a, vid_b).sum((1, 2, 3))
            total[1] += torch.where(of_a, vind_a, vind_b).sum((1, 2, 3))
        height, width = (side - len(kernel) + 1 for side in fused.shape[-2:])
        return total / (height * width)


def _smooth_and_halve(image: Tensor, kernel: Sequence[float], *, levels: bool) -> Tensor:
    """Every second of the weighted means over windows inside the image, float64, 0..255."""
    stripes = (to_grey_levels(x) if levels else x for (x,) in iterate_stripes(image, size=len(kernel), step=2))
    return torch.cat([smooth(x, kernel)[..., ::2, ::2] for x in stripes], -2)
