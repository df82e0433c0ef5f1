"""Edge metrics: Qabf, the share of both sources' edges that the fused image preserves, and Nabf, fusion artefacts.

Of Sobel gradients (s_x, s_y) of the fused image F and a source S, on the scale 0..255:

    g = sqrt(s_x^2 + s_y^2)       alpha = atan(s_y / s_x), pi/2 where s_x = 0
    G = min(g_F, g_S) / max(g_F, g_S)           A = 1 - |alpha_F - alpha_S| / (pi/2)
    L(x; t, k, d) = t / (1 + exp(-k (x - d)))

    Qabf:  Q_S = L(G; 0.9994, 15, 0.5) L(A; 0.9879, 22, 0.8)
           Qabf = sum (Q_A g_A + Q_B g_B) / sum (g_A + g_B)
    Nabf:  Q_S = sqrt( L(G; 0.9999, 19, 0.5) L(|A|; 0.9995, 22, 0.5) ),   w_S = g_S^1.5, or 0.001 where g_S < 2
           Nabf = sum over g_F > max(g_A, g_B) of ((1 - Q_A) w_A + (1 - Q_B) w_B) / sum (w_A + w_B)

Reference:
    Objective image fusion performance measure. Xydeas and Petrovic, Electronics Letters 36(4), 2000.
    https://doi.org/10.1049/el:20000267
    Objective image fusion performance characterisation. Petrovic and Xydeas, ICCV, 2005.
    Multifocus and multispectral image fusion based on pixel significance using discrete cosine harmonic wavelet
    transform. Shreyamsha Kumar, Signal, Image and Video Processing 7, 2013.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.metrics.metric import Metric
from tectum.metrics.windows import reuse, root, split_axis, stripe_height, zeros

_EQUAL = 1e-3
"""Gradients this close are those of equal 8-bit levels: in floating point k / 255 is not quite k levels."""


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
            f, s = _find_edges(fused, a, b, rows=rows, border="constant")
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
    1. Gradients are those of the 0..255 scale, the image continued by its border pixels. 0 where both sources are flat
    and the fused image too.
    """

    symbol, title = "Nabf", "fusion artefacts"
    higher_is_better = False
    bounds = (0.0, 1.0)
    source = "Shreyamsha Kumar, Signal, Image and Video Processing 7, 2013, after Petrovic and Xydeas, ICCV, 2005"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self.parts(fused, a, b)[2]

    def parts(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Shares of edges preserved, lost and made up, (3,B); their sum is 1."""
        sums = zeros(4, len(fused), like=fused)
        for rows, _ in split_axis(fused.shape[2], 1, stripe_height(fused, a, b)):
            f, s = _find_edges(fused, a, b, rows=rows, border="replicate")
            ratio, _ = _compare_strengths(f, s)
            in_direction = _logistic(_compare_angles(f, s).abs_(), 0.9995, 22, 0.5)
            quality = _logistic(ratio, 0.9999, 19, 0.5).mul_(in_direction).sqrt_()
            strong = s.strength.ge(2 - _EQUAL).to(s.strength.dtype)
            weight = s.strength.pow(1.5).mul_(strong).add_(1 - strong, alpha=1e-3)
            new = f.strength.gt(s.strength.amax(0) + _EQUAL).to(weight.dtype)
            missing = (1 - quality) * weight
            parts = quality * weight, missing * (1 - new), missing * new, weight
            sums = sums + torch.stack([part.sum((0, 2, 3)).double().expand(len(fused)) for part in parts])
        return sums[:3] / sums[3]


def _find_edges(
    fused: Tensor, a: Tensor, b: Tensor, *, rows: slice, border: Literal["constant", "replicate"]
) -> tuple[_Edges, _Edges]:
    """Edges of the fused images (M,rows,W) and of the sources (2,N,rows,W) in some rows."""
    height = fused.shape[2]
    above, below = max(0, rows.start - 1), min(height, rows.stop + 1)
    x = torch.cat([x[:, 0, above:below] for x in (fused, a, b)]) * 255
    x = F.pad(x, (1, 1, int(rows.start == 0), int(rows.stop == height)), mode=border)
    # Sobel filter: a weighted sum along one axis, a difference along the other
    down = x[:, :-2].add(x[:, 1:-1], alpha=2).add_(x[:, 2:])
    across = x[..., :-2].add(x[..., 1:-1], alpha=2).add_(x[..., 2:])
    s_x, s_y = down[..., 2:] - down[..., :-2], across[:, :-2] - across[:, 2:]
    strength = root(s_x.square().addcmul_(s_y, s_y), overwrite=True)
    # atan(s_y / s_x), pi/2 where s_x = 0: by factors of 0 or 1, torch.where is many times slower
    upright = s_x.detach().abs().le_(_EQUAL)
    tangent = torch.div(s_y, torch.add(s_x, upright, out=reuse(s_x)), out=reuse(s_y))
    angle = tangent.atan_()
    angle.addcmul_(angle, upright, value=-1).add_(upright, alpha=torch.pi / 2)
    num, pairs = len(fused), len(a)
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
