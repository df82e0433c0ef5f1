"""Edge metrics: Qabf, the share of both sources' edges that the fused image preserves, and Nabf, fusion artefacts.

Of Sobel gradients (s_x, s_y) of the fused image F and a source S, on the scale 0..255:

    g = sqrt(s_x^2 + s_y^2)       alpha = atan(s_y / s_x), pi/2 where s_x = 0
    G = min(g_F, g_S) / max(g_F, g_S)           A = 1 - |alpha_F - alpha_S| / (pi/2)
    L(x; t, k, d) = t / (1 + exp(-k (x - d)))

    Qabf:  Q_S = L(G; 0.9994, 15, 0.5) L(A; 0.9879, 22, 0.8)
           Qabf = sum (Q_A g_A + Q_B g_B) / sum (g_A + g_B)
    Nabf:  Q_S = sqrt( L(G; 0.9999, 19, 0.5) L(|A|; 0.9995, 22, 0.5) ),   w_S = (g_S / 8)^1.5, 0.001 where g_S / 8 < 2
           Nabf = sum over g_F > max(g_A, g_B) of ((1 - Q_A) w_A + (1 - Q_B) w_B) / sum (w_A + w_B)
    Qg:    Q_S = L(G; 1, 10, 0.5) L(|A|; 1, 20, 0.75),   Qg = mean of (Q_A g_A + Q_B g_B) / (g_A + g_B)

Reference:
    Objective image fusion performance measure. Xydeas and Petrovic, Electronics Letters 36(4), 2000.
    https://doi.org/10.1049/el:20000267
    Objective image fusion performance characterisation. Petrovic and Xydeas, ICCV, 2005.
    Multifocus and multispectral image fusion based on pixel significance using discrete cosine harmonic wavelet
    transform. Shreyamsha Kumar, Signal, Image and Video Processing 7, 2013.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.metrics.metric import Metric
from tectum.metrics.windows import (
    nans,
    reuse,
    root,
    sobel_gradient,
    split_axis,
    stripe_height,
    to_grey_levels,
    vector_length,
    zeros,
)

_EQUAL = 1e-3
"""Gradients this close are those of equal 8-bit levels: in floating point k / 255 is not quite k levels."""

_NOTHING = 1e-5
"""In Qg, what stands for a 0 to divide by, as in its evaluator."""

_ROUNDING = 1e-9
"""What float64 leaves of equal gradients of whole levels."""


class _Edges(NamedTuple):
    """Strength and direction of the gradients of a stripe, (..., rows, columns)."""

    strength: Tensor
    angle: Tensor


class Qabf(Metric):
    """Edges of both sources preserved in the fused image, weighted by their strength.

    Range [0, 0.987]; higher is better; 0.9753 for a perfect copy of two equal 8-bit sources.

    The constants of the paper do not reach 1 for a perfect copy, and stay as they are: all published values have them.
    Zeros are taken outside the image, so that its border is an edge, and equal strengths have G = g_F, which is 1 or
    more in 8-bit images; both as in the published evaluators. NaN where both sources are black (0/0).

    Args:
        periodic: compare directions as those of lines, 89 and -89 degrees being 2 degrees apart, as Petrovic's later
            papers do (|A| in place of A). False, as first published and in all evaluators of the CDDFuse line: 178
            degrees, so that many near-vertical gradients count as lost. On real pairs True is up to a sixth higher.

    >>> x = torch.arange(256.0).view(1, 1, 16, 16) / 255
    >>> round(float(Qabf()(x, x, x)), 4)
    0.9753
    """

    symbol, title = "Qabf", "edges preserved"
    bounds = (0.0, 0.9994 * 0.9879)
    source = "Xydeas and Petrovic, Electronics Letters 36(4), 2000"

    def __init__(self, *, periodic: bool = False) -> None:
        super().__init__()
        self.periodic = periodic

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        preserved, total = zeros(len(fused), like=fused), zeros(len(a), like=fused)
        for rows, _ in split_axis(fused.shape[2], 1, stripe_height(fused, a, b)):
            above, below = max(0, rows.start - 1), min(fused.shape[2], rows.stop + 1)
            x = torch.cat([x[:, 0, above:below] for x in (fused, a, b)]) * 255
            x = F.pad(x, (1, 1, int(above == rows.start), int(below == rows.stop)))
            f, s = _find_edges(x, len(fused), margin=_EQUAL)
            ratio, equal = _compare_strengths(f, s)
            ratio += equal.mul_(f.strength - 1)
            alignment = _compare_angles(f, s)
            if self.periodic:
                alignment.abs_()
            quality = _logistic(ratio, 0.9994, 15, 0.5).mul_(_logistic(alignment, 0.9879, 22, 0.8))
            preserved += quality.mul_(s.strength).sum((0, 2, 3)).double()
            total += s.strength.sum((0, 2, 3)).double()
        return preserved / total


class Nabf(Metric):
    """Fusion artefacts: edges that neither source has, as a share of the sources' edges.

    Range [0, 1]; lower is better; 0 where there is none.
    Variant: Shreyamsha Kumar's form of Petrovic's and Xydeas's N, in which preserved, lost and made-up edges add up to
    1. Gradients are those of the 0..255 scale, Sobel filters divided by 8, the image mirrored at its border pixels
    (which stand once). 0 where both sources are flat and the fused image too.

    Equals Kumar's evaluator to 1e-13 on 0..255. Published tables of the DenseFuse line call it with images in [0,1],
    where no gradient reaches the threshold 2 and every edge has the weight 0.001: `unit_range=True` equals those to
    1e-13 too. There gradients of equal levels differ by rounding, so that other programs give values up to 0.004 apart;
    here the sums are taken in the order of that evaluator. A third form in circulation exchanges the images in the
    call; it is not offered.

    Repaired: up to version 0.1 the threshold was that of gradients not divided by 8, and the border pixels stood twice.

    Args:
        unit_range: take gradients of images in [0,1]. False takes 0..255, for which the threshold was made.
    """

    symbol, title = "Nabf", "fusion artefacts"
    higher_is_better = False
    bounds = (0.0, 1.0)
    source = "Shreyamsha Kumar, Signal, Image and Video Processing 7, 2013, after Petrovic and Xydeas, ICCV, 2005"

    def __init__(self, *, unit_range: bool = False) -> None:
        super().__init__()
        self.unit_range = unit_range

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self.parts(fused, a, b)[2]

    def parts(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Shares of edges preserved, lost and made up, (3,B); their sum is 1. NaN for a single row or column."""
        height, width = fused.shape[2:]
        if min(height, width) < 2:
            return nans(3, len(fused), like=fused)
        sums = zeros(4, len(fused), like=fused)
        range_, margin = (255, 0.0) if self.unit_range else (1, _ROUNDING)
        for rows, _ in split_axis(height, 1, stripe_height(fused, a, b)):
            # one more row on each side, mirrored at the first and the last
            index = torch.arange(rows.start - 1, rows.stop + 1, device=fused.device).abs()
            index = torch.where(index < height, index, 2 * height - 2 - index)
            x = torch.cat([to_grey_levels(x[:, 0, index]) for x in (fused, a, b)]) / range_
            x = torch.cat([x[..., 1:2], x, x[..., -2:-1]], -1)
            f, s = _find_edges(x / 8, len(fused), margin=margin)
            ratio, _ = _compare_strengths(f, s)
            in_direction = _logistic(_compare_angles(f, s).abs_(), 0.9995, 22, 0.5)
            quality = _logistic(ratio, 0.9999, 19, 0.5).mul_(in_direction).sqrt_()
            strong = s.strength.ge(2 - margin).to(s.strength.dtype)
            weight = s.strength.pow(1.5).mul_(strong).add_(1 - strong, alpha=1e-3)
            new = f.strength.gt(s.strength.amax(0) + margin).to(weight.dtype)
            missing = (1 - quality) * weight
            parts = quality * weight, missing * (1 - new), missing * new, weight
            sums = sums + torch.stack([part.sum((0, 2, 3)).expand(len(fused)) for part in parts])
        return sums[:3] / sums[3]


class Qg(Metric):
    """Edges of both sources preserved in the fused image, by pixel: the variant of Qabf in the collection of Zheng Liu.

    Range [0, 1); higher is better; 0.9867 for a perfect copy of two equal sources.

    The weights act within a pixel, not over the image, so that flat regions count as much as edges: there G = 1 and
    A = 1. Zeros are taken outside the image, and 1e-5 in place of a 0 to divide by. Equals `metricXydeas` to 3e-8.

    >>> x = torch.arange(256.0).view(1, 1, 16, 16) / 255
    >>> round(float(Qg()(x, x, x)), 4)
    0.9867
    """

    symbol, title = "Qg", "edges preserved by pixel"
    bounds = (0.0, 1.0)
    source = "Xydeas and Petrovic, Electronics Letters 36(4), 2000, as the collection of Zheng Liu computes it"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        total = zeros(len(fused), like=fused)
        levels = [F.pad(to_grey_levels(x[:, 0]), (1, 1, 1, 1)) for x in (fused, a, b)]
        for _, rows in split_axis(levels[0].shape[1], 3, stripe_height(fused, a, b, size=3)):
            f, x, y = (_measure_gradients(z[:, rows]) for z in levels)
            quality_a, quality_b = _preserve(f, x), _preserve(f, y)
            mixed = quality_a * x.strength + quality_b * y.strength
            total = total + (mixed / (x.strength + y.strength)).sum((-2, -1))
        return total / (fused.shape[2] * fused.shape[3])


def _measure_gradients(x: Tensor) -> _Edges:
    """Length and direction, as that of a line, of the Sobel gradients inside (B,rows,columns)."""
    along, down = sobel_gradient(x)
    strength = vector_length(along, down)
    angle = torch.atan(down / torch.where(along == 0, _NOTHING, along))
    return _Edges(torch.where(strength == 0, _NOTHING, strength), angle)


def _preserve(f: _Edges, s: _Edges) -> Tensor:
    strength = torch.minimum(f.strength, s.strength) / torch.maximum(f.strength, s.strength)
    angle = ((s.angle - f.angle).abs() - math.pi / 2).abs() / (math.pi / 2)
    return _logistic(strength, 1.0, 10.0, 0.5) * _logistic(angle, 1.0, 20.0, 0.75)


def _find_edges(x: Tensor, num: int, *, margin: float) -> tuple[_Edges, _Edges]:
    """Edges of the fused images (M,rows,W) and of the sources (2,N,rows,W).

    Args:
        x: the `num` fused images, then all a, then all b, with one more pixel on each side (M+2N,rows+2,W+2).
        num: M.
        margin: a horizontal difference this small is rounding; 0 takes all as they are.
    """
    # Sobel filter: along columns first, then along rows. The order decides which gradients are equal in [0,1]
    down = x[:, :-2].add(x[:, 1:-1], alpha=2).add_(x[:, 2:])
    s_x = down[..., 2:] - down[..., :-2]
    across = x[:, :-2] - x[:, 2:]
    s_y = across[..., :-2].add(across[..., 1:-1], alpha=2).add_(across[..., 2:])
    squared = s_x.square().add_(s_y.square())
    if margin == 0:  # which of two strengths is larger hangs on the last bit: torch.sqrt is not always rounded right
        rounded = torch.from_numpy(np.sqrt(squared.detach().cpu().numpy())).to(x.device)
        strength = root(squared)
        strength = strength + (rounded - strength).detach()
    else:
        strength = root(squared, overwrite=True)
    # atan(s_y / s_x), pi/2 where s_x = 0: by factors of 0 or 1, torch.where is many times slower
    upright = s_x.detach().abs().le_(margin)
    tangent = torch.div(s_y, torch.add(s_x, upright, out=reuse(s_x)), out=reuse(s_y))
    angle = tangent.atan_()
    angle.addcmul_(angle, upright, value=-1).add_(upright, alpha=torch.pi / 2)
    pairs = (len(x) - num) // 2
    return _Edges(strength[:num], angle[:num]), _Edges(*(y[num:].unflatten(0, (2, pairs)) for y in (strength, angle)))


def _compare_strengths(f: _Edges, s: _Edges) -> tuple[Tensor, Tensor]:
    """The smaller strength over the larger, 0 where there is no edge; and 1 where they are equal, else 0."""
    ratio = torch.minimum(f.strength, s.strength)
    ratio /= torch.maximum(f.strength, s.strength).clamp_(min=torch.finfo(ratio.dtype).tiny)
    return ratio, (f.strength - s.strength).detach().abs_().le_(_EQUAL)


def _compare_angles(f: _Edges, s: _Edges) -> Tensor:
    """1 for one direction, 0 for a right angle, less beyond."""
    return (f.angle - s.angle).abs_().mul_(-2 / torch.pi).add_(1)


def _logistic(x: Tensor, top: float, slope: float, middle: float) -> Tensor:
    """top / (1 + exp(-slope (x - middle))); overwrites x."""
    y = x.sub_(middle).mul_(slope).sigmoid_()
    return torch.mul(y, top, out=reuse(y))
