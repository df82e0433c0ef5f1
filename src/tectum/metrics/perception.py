"""Metrics with a model of human contrast sensitivity: Qcv of Chen and Varshney, Qcb of Chen and Blum.

    Q_CV(f, a, b) = sum_W [ lambda_a(W) D(a, f | W) + lambda_b(W) D(b, f | W) ] / sum_W [ lambda_a(W) + lambda_b(W) ]
    Q_CB(f, a, b) = mean over pixels of [ lambda_a Q_af + lambda_b Q_bf ]

Both are what public evaluators compute (the collection of Zheng Liu, VIFB, MEFB, MFIFB: one code), and what papers
print. Each image is first stretched from its own smallest and largest value to 0..255, in whole levels if it is an
8-bit image. The contrast sensitivity function filters the whole image by its discrete Fourier transform, so that values
depend on the size of the image, its left border leaks into the right one, and memory is a few float64 copies of one
image. How much the function changes both: Z. Liu, W. Wu, The use of the contrast sensitivity function in the perceptual
quality assessment of fused image, International Journal of Image and Data Fusion 2(1), 2011.

Repaired: up to version 0.1 both filters depended on `pixels_per_degree` of the visual field, Qcv by regions and with
gamma = 1, and the images were not stretched: no evaluator prints that (Qcv up to five times less, and another order of
methods).
"""

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
    power,
    smooth,
    sobel_magnitude,
    split_axis,
    stretch_levels,
    stripe_height,
    zeros,
)


class Qcv(Metric):
    """Chen and Varshney's human perception inspired metric: the visible difference where the sources have edges.

    The stretched images are cut into regions W of 16 x 16 pixels. In each, x one of the sources:

        lambda_x(W) = sum over W of g_x^gamma                              g_x = length of the Sobel gradient of x
        D(x, f | W) = sum over W of (S * (x - f))^2 / 256                  S over the whole image
        S(r) = 2.6 (0.0192 + 0.144 r) exp(-(0.144 r)^1.1)                  r = cycles per image / 4

    Range [0, inf), in squared grey levels; lower is better; 0 where f = a = b. Undefined (NaN) where both sources are
    constant. Zeros are outside the image, for gradients and in the last regions.

    Equals `metricChen` and its copies in VIFB, MEFB and MFIFB to 1e-13. Mannos and Sakrison's constant is 0.114; 0.144
    is that of the code.

    Args:
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

    def __init__(self, *, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise UserError(f"gamma must be > 0, got {gamma:g}")
        super().__init__()
        self.gamma = gamma

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if not fused.numel():
            return nans(len(fused), like=fused)
        r = _cycles_per_image(fused) / 4
        sensitivity = 2.6 * (0.0192 + 0.144 * r) * torch.exp(-((0.144 * r) ** 1.1))
        values = []
        for i, image in enumerate(fused[:, 0]):
            f = stretch_levels(image)
            sums = zeros(2, like=fused)
            for source in (a, b):
                x = stretch_levels(source[i % len(source), 0])
                saliency = self._sum_edges(x)
                distance = _sum_regions(_filter(x - f, sensitivity).square()) / _SIDE**2
                sums = sums + torch.stack([(saliency * distance).sum(), saliency.sum()])
            values.append(sums[0] / sums[1])
        return torch.stack(values).masked_fill(_are_constant(a, b).expand(len(fused)), float("nan"))

    def _sum_edges(self, x: Tensor) -> Tensor:
        """lambda of each region of an image (H,W)."""
        height, x = len(x), F.pad(x, (1,) * 4)
        stripe = -(-stripe_height(x[None]) // _SIDE) * _SIDE  # whole regions
        stripes = (sobel_magnitude(x[rows.start : rows.stop + 2]) for _, rows in split_axis(height, 1, stripe))
        return torch.cat([_sum_regions(power(edges, self.gamma)) for edges in stripes])


class Qcb(Metric):
    """Chen and Blum's metric: how much of the sources' visible local contrast the fused image keeps.

        S(r) = exp(-(r / f0)^2) - A exp(-(r / f1)^2)     f0 = 15.3870, f1 = 1.3456, A = 0.7622, r = periods per image/15
        C    = (G_2 * S * x) / (G_4 * S * x) - 1         Peli's contrast, G_s a Gaussian of s pixels deviation
        C'   = |C|^3 / (|C|^2 + 0.0001)                  masking
        Q_xf = min(C'_x, C'_f) / max(C'_x, C'_f)         what is kept of the contrast of source x
        lambda_a = C'_a^2 / (C'_a^2 + C'_b^2)            saliency, lambda_b = 1 - lambda_a

    of the stretched images x. The Gaussians have 31 x 31 pixels and zeros outside the image, so that its border has
    contrast; their sums are not 1.

    Range [0,1]; higher is better; 1 where f = a = b. Undefined (NaN) where both sources are constant.

    Equals `metricChenBlum` and its copies in VIFB, MEFB and MFIFB to 1e-13, and to 1e-7 where large areas are flat.
    In black surroundings C is a quotient of two small numbers of any sign, and the definition says little: on medical
    pairs with a black background rounding decides, and programs agree to 1 % only. |C| < 1e-9 counts as 0; a pixel
    where neither source has contrast has shares of one half, and keeps it (Q = 1) if the fused image has none either.

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

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if not fused.numel():
            return nans(len(fused), like=fused)
        r = _cycles_per_image(fused) / 15
        sensitivity = torch.exp(-((r / 15.3870) ** 2)) - 0.7622 * torch.exp(-((r / 1.3456) ** 2))
        filtered_a, filtered_b = (_filter_each(x, sensitivity) for x in (a, b))
        values = []
        for i in range(len(fused)):
            f = _filter_each(fused[i : i + 1], sensitivity)
            sources = (x[i % len(x)][None] for x in (filtered_a, filtered_b))
            total = zeros(like=fused)
            for images in iterate_stripes(*(F.pad(x, (_MARGIN,) * 4) for x in (f, *sources)), size=2 * _MARGIN + 1):
                total = total + _contrast_quality(*map(_masked_contrast, images)).sum()
            values.append(total / f.numel())
        return torch.stack(values).masked_fill(_are_constant(a, b).expand(len(fused)), float("nan"))


_SIDE = 16
"""Pixels of a region of Qcv."""
_MARGIN = 15
"""Pixels around the centre in the windows of Qcb."""


def _are_constant(a: Tensor, b: Tensor) -> Tensor:
    """True where neither source of a pair varies, (B,)."""
    flat_a, flat_b = (x.amax((1, 2, 3)) == x.amin((1, 2, 3)) for x in (a, b))
    return flat_a & flat_b


def _cycles_per_image(x: Tensor) -> Tensor:
    """Length of the frequency vector at each place of `rfft2`, of whole periods per height and width."""
    height, width = x.shape[-2:]
    v, u = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    return torch.hypot(v.double()[:, None], u.double()).to(x.device)


def _filter(x: Tensor, transfer: Tensor) -> Tensor:
    """An image (...,H,W) filtered by the transfer function at the frequencies of `rfft2`."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])


def _filter_each(images: Tensor, transfer: Tensor) -> Tensor:
    """Stretched and filtered images, (B,1,H,W) float64."""
    return torch.stack([_filter(stretch_levels(x), transfer) for x in images[:, 0]])[:, None]


def _sum_regions(x: Tensor) -> Tensor:
    """Sums over regions of an image (H,W), zeros beyond its border: (rows, columns)."""
    x = F.pad(x, (0, -x.shape[1] % _SIDE, 0, -x.shape[0] % _SIDE))
    return x.unflatten(1, (-1, _SIDE)).unflatten(0, (-1, _SIDE)).sum((1, 3))


def _masked_contrast(x: Tensor) -> Tensor:
    """C' of a filtered image with `_MARGIN` more pixels on each side."""
    # the factor 1 / (2 pi s^2) of a Gaussian over the plane, not the sum over its window, goes into the quotient
    near, far = (smooth(x, gaussian_weights(2 * _MARGIN + 1, s)) * _window_sum(s) for s in (2.0, 4.0))
    contrast = torch.where(far == 0, 0, near / far.masked_fill(far == 0, 1) - 1).abs()
    contrast = torch.where(contrast < 1e-9, 0, contrast)
    return contrast**3 / (contrast.square() + 1e-4)


def _window_sum(s: float) -> float:
    """Sum of a Gaussian of integral 1 and deviation s over the window of Qcb."""
    offsets = torch.arange(-_MARGIN, _MARGIN + 1, dtype=torch.float64)
    return float(torch.exp(-offsets.square() / (2 * s * s)).sum().square() / (2 * torch.pi * s * s))


def _contrast_quality(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The quality at each pixel, of masked contrasts."""
    quality = torch.zeros_like(fused)
    both = a.square() + b.square()
    for x in (a, b):
        share = torch.where(both > 0, divide(x.square(), both), 0.5)
        larger = torch.maximum(x, fused)
        quality = quality + share * torch.where(larger > 0, divide(torch.minimum(x, fused), larger), 1)
    return quality
