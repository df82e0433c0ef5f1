"""Metrics with a model of human contrast sensitivity: Qcv of Chen and Varshney, Qcb of Chen and Blum.

    Q_CV(f, a, b) = sum_W [ lambda_a(W) D(a, f | W) + lambda_b(W) D(b, f | W) ] / sum_W [ lambda_a(W) + lambda_b(W) ]
    Q_CB(f, a, b) = mean over pixels of [ lambda_a Q_af + lambda_b Q_bf ]

Both filter by a contrast sensitivity function of cycles per degree of the visual field, so both depend on how far away
the picture is looked at: `pixels_per_degree`, by default 32 (a picture of 640 pixels under 20 degrees). How much that
changes both: Z. Liu, W. Wu, The use of the contrast sensitivity function in the perceptual quality assessment of fused
image, International Journal of Image and Data Fusion 2(1), 2011.

Neither has reference values from outside; the oracles of both are our own float64 loops in the tests.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric
from tectum.metrics.windows import (
    divide,
    gaussian_weights,
    iterate_stripes,
    nans,
    pad_border,
    power,
    smooth,
    sobel_magnitude,
    split_axis,
    stripe_height,
    zeros,
)


class Qcv(Metric):
    """Chen and Varshney's human perception inspired metric: the visible difference where the sources have edges.

    The images, on the 0..255 scale, are cut into regions W of 16 x 16 pixels. In each, x one of the sources:

        lambda_x(W) = sum over W of g_x^gamma                              g_x = length of the Sobel gradient of x
        D(x, f | W) = mean over W of (S * (x - f))^2                       S by the discrete Fourier transform of W
        S(r) = 2.6 (0.0192 + 0.114 r) exp(-(0.114 r)^1.1)                  Mannos and Sakrison, r in cycles per degree

    Range [0, inf), in squared grey levels; lower is better; 0 where f = a = b. Undefined (NaN) where neither source
    has an edge. Work and memory are linear in the pixels: each region is transformed by itself.

    Decided here: gamma = 1. The regions do not overlap; at the right and lower border they are what is left. Gradients
    repeat the border pixels. The paper offers more than one sensitivity function. Values found with another gamma, at
    another distance, or with the whole image filtered at once do not compare with these.

    Args:
        pixels_per_degree: of the visual field.
        gamma: exponent of the saliency.

    Reference: A human perception inspired quality metric for image fusion based on regional information; H. Chen,
    P. K. Varshney; Information Fusion 8(2), 2007; https://doi.org/10.1016/j.inffus.2005.10.001

    >>> x = torch.rand(1, 1, 20, 20)
    >>> Qcv()(x, x, x).tolist()
    [0.0]
    """

    symbol = "Qcv"
    title = "visible difference by region (Chen-Varshney)"
    higher_is_better = False
    source = "Chen, Varshney: A human perception inspired quality metric for image fusion, 2007"

    side = 16

    def __init__(self, *, pixels_per_degree: float = 32.0, gamma: float = 1.0) -> None:
        if pixels_per_degree <= 0 or gamma <= 0:
            raise UserError(f"pixels_per_degree and gamma must be > 0, got {pixels_per_degree:g} and {gamma:g}")
        super().__init__()
        self.pixels_per_degree, self.gamma = pixels_per_degree, gamma

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        height, width = fused.shape[-2:]
        if not fused.numel():
            return nans(len(fused), like=fused)
        sums = zeros(2, len(fused), like=fused)
        side, padded = self.side, (pad_border(a, 1), pad_border(b, 1))
        stripes = [rows for _, rows in split_axis(height, side, max(1, stripe_height(fused) // side), side)]
        if height % side:
            stripes.append(slice(height // side * side, height))
        for rows in stripes:
            images = [x[..., rows, :].double() for x in (fused, a, b)]
            edges = [sobel_magnitude(x[..., rows.start : rows.stop + 2, :].double()) for x in padded]
            edges = [power(edge, self.gamma) for edge in edges]
            whole = width // side * side
            for columns in (slice(0, whole), slice(whole, width)):
                if columns.start < columns.stop:
                    sums += self._sum_regions(*([x[..., columns] for x in part] for part in (images, edges)))
        return 255**2 * sums[0] / sums[1]

    def _sum_regions(self, images: list[Tensor], edges: list[Tensor]) -> Tensor:
        """Over the regions of one height and width: sums of lambda D and of lambda, both sources together, (2,B)."""
        saliencies = [_cut_regions(edge, self.side).sum((-2, -1)) for edge in edges]
        regions = [_cut_regions(image, self.side) for image in images]
        height, width = regions[0].shape[-2:]
        sensitivity = self._sensitivity(height, width).to(images[0].device)
        fused, *spectra = (torch.view_as_real(torch.fft.rfft2(x)) for x in regions)
        total = zeros(2, len(images[0]), like=fused)
        for saliency, spectrum in zip(saliencies, spectra, strict=True):
            power = (fused - spectrum).square_().sum(-1)
            distance = (power * sensitivity).sum((-2, -1))  # by Parseval's theorem
            total[0] += (saliency * distance).sum((1, 2))
            total[1] += saliency.sum((1, 2))
        return total

    def _sensitivity(self, height: int, width: int) -> Tensor:
        """S^2 at the frequencies of `rfft2`, such that the weighted sum of powers is a mean over pixels."""
        v, u = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
        r = self.pixels_per_degree * torch.hypot(v[:, None], u)
        s = 2.6 * (0.0192 + 0.114 * r) * torch.exp(-((0.114 * r) ** 1.1))
        twice = torch.full((len(u),), 2.0, dtype=torch.float64)  # rfft2 leaves out the mirror images of these columns
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        return s.square() * twice / (height * width) ** 2


class Qcb(Metric):
    """Chen and Blum's metric: how much of the sources' visible local contrast the fused image keeps.

        S(r) = exp(-(r / f0)^2) - A exp(-(r / f1)^2)     f0 = 15.3870, f1 = 1.3456 cycles per degree, A = 0.7622
        C    = (G_2 * S * x) / (G_4 * S * x) - 1         Peli's contrast, G_s a Gaussian of s pixels deviation
        C'   = t |C|^p / (h |C|^q + Z)                   masking, t = h = 1, p = 3, q = 2, Z = 0.0001
        Q_xf = min(C'_x, C'_f) / max(C'_x, C'_f)         what is kept of the contrast of source x
        lambda_a = C'_a^2 / (C'_a^2 + C'_b^2)            saliency, lambda_b = 1 - lambda_a

    Range [0,1]; higher is better; 1 where f = a = b. The unit of the images cancels, their black level does not. In
    black surroundings C is a quotient of two small numbers of any sign: the definition says little there. Undefined
    (NaN) where neither source has any contrast.

    No Fourier transform of the whole image is needed, as papers and programs describe: S is a difference of Gaussians,
    so S * x is the difference of two smoothed images, and smoothing by G_2 and G_4 widens their Gaussians. Work and
    memory are linear in the pixels, and the left border of the image does not leak into the right one.

    Decided here: the border pixels are repeated outwards. Gaussians end at four deviations. |C| < 1e-9 counts as 0. A
    pixel where neither source has contrast has shares of one half, and keeps it (Q = 1) if the fused image has none
    either. The images are taken as they are, not stretched to their full range.

    Args:
        pixels_per_degree: of the visual field.

    Reference: A new automated quality assessment algorithm for image fusion; Y. Chen, R. S. Blum; Image and Vision
    Computing 27(10), 2009; https://doi.org/10.1016/j.imavis.2007.12.002

    >>> x = torch.rand(1, 1, 20, 20)
    >>> f"{float(Qcb()(x, x, x)):.6f}"
    '1.000000'
    """

    symbol = "Qcb"
    title = "contrast preservation (Chen-Blum)"
    bounds = (0.0, 1.0)
    source = "Chen, Blum: A new automated quality assessment algorithm for image fusion, 2009"

    f0, f1, amplitude = 15.3870, 1.3456, 0.7622

    def __init__(self, *, pixels_per_degree: float = 32.0) -> None:
        if pixels_per_degree <= 0:
            raise UserError(f"pixels_per_degree must be > 0, got {pixels_per_degree:g}")
        super().__init__()
        # exp(-(r/f)^2) is a Gaussian of ppd / (sqrt(2) pi f) pixels; variances add, and 4^2 = 2^2 + 12
        sigmas = [math.hypot(2, pixels_per_degree / (math.sqrt(2) * math.pi * f)) for f in (self.f0, self.f1)]
        self._narrow, self._wide, self._further = (
            gaussian_weights(2 * math.ceil(4 * sigma) + 1, sigma) for sigma in (*sigmas, math.sqrt(12))
        )

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        margin = len(self._wide) // 2 + len(self._further) // 2
        if not fused.numel():
            return nans(len(fused), like=fused)
        sums = zeros(2, len(fused), like=fused)
        for images in iterate_stripes(*(pad_border(image, margin) for image in (fused, a, b)), size=2 * margin + 1):
            quality, visible = _contrast_quality(*map(self._masked_contrast, images))
            sums += torch.stack([quality.sum((1, 2, 3)), visible.sum((1, 2, 3))])
        height, width = fused.shape[-2:]
        return torch.where(sums[1] > 0, sums[0] / (height * width), math.nan)

    def _masked_contrast(self, x: Tensor) -> Tensor:
        """C' of an image that extends beyond the pixels wanted."""
        inner = (len(self._wide) - len(self._narrow)) // 2
        centre = x[..., inner : x.shape[-2] - inner, inner : x.shape[-1] - inner]
        local = smooth(centre, self._narrow) - self.amplitude * smooth(x, self._wide)
        around = smooth(local, self._further)
        margin = len(self._further) // 2
        local = F.pad(local, (-margin,) * 4)
        contrast = torch.where(around == 0, 0, local / around.masked_fill(around == 0, 1) - 1).abs()
        contrast = torch.where(contrast < 1e-9, 0, contrast)
        return contrast**3 / (contrast.square() + 1e-4)


def _contrast_quality(fused: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of masked contrasts: the quality at each pixel, and whether a source has contrast there."""
    quality = torch.zeros_like(fused)
    both = a.square() + b.square()
    for x in (a, b):
        share = torch.where(both > 0, divide(x.square(), both), 0.5)
        larger = torch.maximum(x, fused)
        quality = quality + share * torch.where(larger > 0, divide(torch.minimum(x, fused), larger), 1)
    return quality, (both > 0).expand_as(fused)


def _cut_regions(x: Tensor, side: int) -> Tensor:
    """(B,1,h,w) cut into blocks of `side`, or of the height or width if that is less: (B, rows, columns, .., ..)."""
    height, width = min(side, x.shape[-2]), min(side, x.shape[-1])
    return x[:, 0].unflatten(-1, (-1, width)).unflatten(-3, (-1, height)).transpose(-3, -2)
