"""Multi-scale metrics: structural similarity (MS-SSIM) and visual information fidelity for fusion (VIFF).

    MS-SSIM(f, x) = l_M^beta_M  prod_{j=1..M} (c_j s_j)^beta_j                    M = 5 scales, per source x
    VIFF(f, a, b) = sum_k p_k  sum_blocks FVID_k / sum_blocks FVIND_k             4 scales, both sources at once

The tests compare MS-SSIM with the package pytorch-msssim, and both with our own float64 loops.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric, SourceMetric
from tectum.metrics.windows import divide, gaussian_weights, halve, iterate_stripes, nans, power, smooth, zeros


class MSSSIM(SourceMetric):
    """Multi-scale structural similarity of the fused image with each source.

    At scale j, over the windows of an 11 x 11 Gaussian of deviation 1.5 that lie inside the images f and x,

        l = (2 mu_f mu_x + C1) / (mu_f^2 + mu_x^2 + C1)         cs = (2 sigma_fx + C2) / (sigma_f^2 + sigma_x^2 + C2)

    with C1 = (0.01 L)^2, C2 = (0.03 L)^2, L = 1 (the images are in [0,1]; 255 on the 0..255 scale is the same).
    The value is mean(l cs)^beta_5 at the coarsest scale times mean(cs)^beta_j at the other four,
    beta = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333). From scale to scale the image is averaged over 2 x 2 pixels and
    every second one is kept; an odd last row or column is left out.

    Range [0,1] for the mean over the sources, [0,2] for the sum; higher is better; 1 only for equal images.
    Undefined (NaN) where a side is below 176 pixels, because the window does not fit into the fifth scale.

    Decided here: the paper asks for "a low-pass filter" before downsampling, which is the 2 x 2 mean, and multiplies l
    and cs without saying when the average is taken, which is per scale. A negative average cs (f is an inverse of x)
    has no real power: it counts as 0, as in most implementations in use. Most of them also pad odd sizes.

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
            similarity = self._similarity(fused, a, b, luminance=scale == len(self.exponents))
            values = values * power(similarity, exponent)
            if scale < len(self.exponents):
                fused, a, b = (halve(image) for image in (fused, a, b))
        return values

    def _similarity(self, fused: Tensor, a: Tensor, b: Tensor, *, luminance: bool) -> Tensor:
        """The mean over all windows of cs, or of l cs, against both sources: (2,B)."""
        kernel = gaussian_weights(self.window, self.sigma)
        c1, c2 = 0.01**2, 0.03**2
        total = zeros(2, len(fused), like=fused)
        for f, *sources in iterate_stripes(fused, a, b, size=self.window):
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
        VIND(x) = log2(1 + sigma_x^2 / s)                                  what one could see of the source
        VID(x)  = log2(1 + g^2 sigma_x^2 / (sigma_v^2 + s))                what one sees of it in the fused image

    FVID and FVIND of the block are those of the source with the greater gain g. Scale k has blocks of 17, 9, 5, 3
    pixels (Gaussian windows of a fifth of that as deviation); before each but the first the image is smoothed by that
    window and every second pixel is kept. The value is sum_k p_k (sum FVID / sum FVIND), p = (1, 0, 0.15, 1) / 2.15,
    s = 0.005 * 255^2, on the 0..255 scale.

    Range [0, inf), about 1 for a faithful image and above where contrast is enhanced; higher is better. A copy of one
    source has about 1 as well, since that source has the greater gain nearly everywhere. Undefined (NaN) below 41
    pixels a side, and where the sources are constant at a scale that counts.

    This is not what several evaluators print as "VIFF", which is the pixel-domain VIF of the fused image with each
    source, averaged or added (`VIF` here). There both sources count everywhere; here each block has one of them.

    Decided here: blocks are windows at every pixel. Where g would be negative, or a variance is below 1e-10, the block
    shows nothing (g = 0, sigma_v^2 = sigma_f^2), as in VIF. Of sources of equal gain the one with
    the greater VIND counts, so that exchanging them changes nothing. The weights p and the noise s are those that go
    with the authors' release, as far as known; they were not compared with the printed paper. s is far from the 2 of
    VIF.

    Args:
        weights: of the four scales, from fine to coarse.
        noise: s, on the 0..255 scale.

    Reference: A new image fusion performance metric based on visual information fidelity; Y. Han, Y. Cai, Y. Cao,
    X. Xu; Information Fusion 14(2), 2013; https://doi.org/10.1016/j.inffus.2011.08.002
    """

    symbol = "VIFF"
    title = "visual information fidelity for fusion"
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
                fused, a, b = (_smooth_and_halve(image, kernel) for image in (fused, a, b))
            if weight:
                fvid, fvind = self._information(fused, a, b, kernel)
                values = values + weight * fvid / fvind  # 0/0 is NaN
        return values

    def _information(self, fused: Tensor, a: Tensor, b: Tensor, kernel: Sequence[float]) -> Tensor:
        """The sums over all blocks of FVID and of FVIND, (2,B)."""
        total = zeros(2, len(fused), like=fused)
        for stripe in iterate_stripes(fused, a, b, size=len(kernel)):
            f, *sources = (image * 255 for image in stripe)
            mean_f = smooth(f, kernel)
            variance_f = smooth(f.square(), kernel) - mean_f.square()
            terms = []
            for x in sources:
                mean = smooth(x, kernel)
                variance = smooth(x.square(), kernel) - mean.square()
                variance = torch.where(variance > 1e-10, variance, 0)
                covariance = smooth(f * x, kernel) - mean_f * mean
                gain = divide(covariance, variance).clamp_min(0)
                gain = torch.where(variance_f > 1e-10, gain, 0)
                distortion = (variance_f - gain * covariance).clamp_min(1e-10)
                vid = torch.log2(1 + gain.square() * variance / (distortion + self.noise))
                terms.append((gain, vid, torch.log2(1 + variance / self.noise).expand_as(vid)))
            (gain_a, vid_a, vind_a), (gain_b, vid_b, vind_b) = terms
            of_a = (gain_a > gain_b) | ((gain_a == gain_b) & (vind_a >= vind_b))
            total[0] += torch.where(of_a, vid_a, vid_b).sum((1, 2, 3))
            total[1] += torch.where(of_a, vind_a, vind_b).sum((1, 2, 3))
        return total


def _smooth_and_halve(image: Tensor, kernel: Sequence[float]) -> Tensor:
    """Every second of the weighted means over windows inside the image, float64."""
    return torch.cat(
        [smooth(x, kernel)[..., ::2, ::2] for (x,) in iterate_stripes(image, size=len(kernel), step=2)], -2
    )
