"""Sharpness metrics: edge intensity of the fused image (EI), and its spatial frequency against the sources' (Qsf).

    EI  = mean sqrt(s_x^2 + s_y^2)              Sobel, border pixels repeated, on 0..255

    SF(g)^2 = mean g_1^2 + mean g_2^2 + mean g_3^2 / sqrt(2) + mean g_4^2 / sqrt(2)
    Qsf = (SF(f) - SF(r)) / SF(r)

g_1..g_4 are differences of neighbours along rows, columns and both diagonals (means over all pixels of the image, the
missing ones 0), and r has in each direction the larger difference of the two sources.

Reference:
    Image fusion techniques and quality assessment as VIFB computes them: VIFB, a visible and infrared image fusion
    benchmark. Zhang, Ye and Xiao, CVPR workshops, 2020. https://arxiv.org/abs/2002.03322 (EI)
    A new metric based on extended spatial frequency and its application to DWT based fusion algorithms. Zheng, Essock,
    Hansen and Haun, Information Fusion 8(2), 2007. https://doi.org/10.1016/j.inffus.2005.04.003 (Qsf)
"""

import math

import torch
from torch import Tensor

from tectum.metrics.metric import Metric
from tectum.metrics.windows import nans, pad_border, root, sobel_magnitude, split_axis, stripe_height, sum_pixels, zeros


class EI(Metric):
    """Edge intensity: mean length of the Sobel gradient of the fused image.

    Range [0, 1443] grey levels of 0..255; higher is read as better. It says nothing of the sources: noise raises it.

    Equals VIFB's and MEFB's `metricsEdge_intensity` to 1e-14.

    >>> ramp = torch.arange(8.0).repeat(8, 1).view(1, 1, 8, 8) / 255
    >>> float(EI()(ramp, ramp, ramp))  # 8 inside, 4 at both ends of a row
    7.0
    """

    symbol, title, unit = "EI", "edge intensity", "levels"
    bounds = (0.0, 4 * 255 * math.sqrt(2))
    source = "Zhang, Ye and Xiao, VIFB: a visible and infrared image fusion benchmark, CVPR workshops, 2020"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        padded = pad_border(fused, 1)
        total = zeros(len(fused), like=fused)
        for _, rows in split_axis(padded.shape[2], 3, stripe_height(fused, size=3)):
            total = total + sobel_magnitude((padded[:, 0, rows] * 255).double()).sum((-2, -1))
        return total / (fused.shape[2] * fused.shape[3])


class Qsf(Metric):
    """Spatial frequency of the fused image against that of its sources, as a relative difference.

    Range [-1, infinity): 0 is as sharp as the larger differences of the sources, below 0 detail is lost, above 0 it is
    exaggerated or noise. Higher is read as better, though 0 is ideal. NaN below 2 pixels a side, and where both sources
    are constant.

    Equals `metricZheng` of the collection of Zheng Liu to 1e-14.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> float(Qsf()(x, x, x))
    0.0
    """

    symbol, title = "Qsf", "spatial frequency error"
    bounds = (-1.0, float("inf"))
    source = "Zheng et al., A new metric based on extended spatial frequency, Information Fusion, 2007"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[2:]) < 2:
            return nans(len(fused), like=fused)
        own, wanted = zeros(len(fused), like=fused), zeros(len(fused), like=fused)
        for (down, across), weight in (((0, 1), 1.0), ((1, 0), 1.0), ((1, 1), 0.5**0.5), ((1, -1), 0.5**0.5)):

            def larger(x: Tensor, y: Tensor, down: int = down, across: int = across) -> Tensor:
                return torch.maximum(_differ(x, down, across).square(), _differ(y, down, across).square())

            def square(x: Tensor, down: int = down, across: int = across) -> Tensor:
                return _differ(x, down, across).square()

            own = own + weight * sum_pixels(square, fused, size=1 + down)
            wanted = wanted + weight * sum_pixels(larger, a, b, size=1 + down)
        own, wanted = root(own), root(wanted)
        return torch.where(wanted > 0, own / torch.where(wanted > 0, wanted, 1.0) - 1, math.nan)


def _differ(x: Tensor, down: int, across: int) -> Tensor:
    """Differences of the pixels (..,H,W) with those `down` rows below and `across` columns to the right (or left)."""
    height, width = x.shape[-2:]
    here = x[..., : height - down, max(0, -across) : width - max(0, across)]
    return x[..., down:, max(0, across) : width + min(0, across)] - here
