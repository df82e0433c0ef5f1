"""Piella's quality indices: Qs and Qw, of local similarity weighted by saliency, and Qe, of images and their edges.

    Q_S(f, a, b) = mean_w [ lambda(w) Q_0(a, f | w) + (1 - lambda(w)) Q_0(b, f | w) ]
    Q_W(f, a, b) = sum_w c(w) [ lambda(w) Q_0(a, f | w) + (1 - lambda(w)) Q_0(b, f | w) ]
    Q_E(f, a, b) = Q_W(f, a, b)^(1 - alpha)  Q_W(f', a', b')^alpha                x' the edge image of x

over all windows w that lie inside the images, with the saliency s(x | w) = sigma_x^2, lambda = s(a) / (s(a) + s(b)) and
c(w) proportional to max(s(a | w), s(b | w)), adding up to 1. Q_0 is one of

    "ssim"        (2 mu_x mu_f + C1) (2 sigma_xf + C2) / ((mu_x^2 + mu_f^2 + C1) (sigma_x^2 + sigma_f^2 + C2))
    "universal"   the same with C1 = C2 = 0

"ssim" has the 11 x 11 Gaussian window of deviation 1.5 and the constants of SSIM on 0..255; public evaluators compute
it, and papers print it. "universal" has 8 x 8 uniform windows: the index that the paper names.

Reference: A new quality metric for image fusion; G. Piella, H. Heijmans; IEEE International Conference on Image
Processing (ICIP), 2003; https://doi.org/10.1109/ICIP.2003.1247209
"""

from typing import Literal

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
    sum_windows,
    to_grey_levels,
    vector_length,
    zeros,
)

_Index = Literal["ssim", "universal"]

_SIZES = {"ssim": 11, "universal": 8}
_CONSTANTS = {"ssim": ((0.01 * 255) ** 2, (0.03 * 255) ** 2), "universal": (0.0, 0.0)}
_FLAT = 1e-9
"""A window of less variance, in squared grey levels, is flat: what is left is rounding."""


class _PiellaIndex(Metric):
    """A quality index of Piella and Heijmans, with the choice of Q_0."""

    source = "Piella, Heijmans: A new quality metric for image fusion, ICIP 2003"

    def __init__(self, *, index: _Index = "ssim") -> None:
        if index not in _SIZES:
            raise UserError(f"index must be 'ssim' or 'universal', got {index!r}")
        super().__init__()
        self.index = index

    def _sums(self, fused: Tensor, a: Tensor, b: Tensor, *, edges: bool = False) -> Tensor:
        """Of the images or of their edge images: sums of quality, of c times quality, of c, and of 1; (4,B)."""
        sums = zeros(4, len(fused), like=fused)
        margin = int(edges)
        size = _SIZES[self.index]
        padded = (F.pad(x, (margin,) * 4) for x in (fused, a, b))
        for stripe in iterate_stripes(*padded, size=size + 2 * margin):
            images = [to_grey_levels(x) for x in stripe]
            sums += self._sum_quality(*(map(_prewitt_magnitude, images) if edges else images))
        return sums

    def _sum_quality(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Sums over the windows of one stripe."""

        def mean(x: Tensor) -> Tensor:
            size = _SIZES[self.index]
            return (
                sum_windows(x, size) / size**2 if self.index == "universal" else smooth(x, gaussian_weights(size, 1.5))
            )

        c1, c2 = _CONSTANTS[self.index]
        mean_f = mean(fused)
        variance_f = mean(fused.square()) - mean_f.square()
        qualities, saliencies = [], []
        for x in (a, b):
            mean_x = mean(x)
            variance = mean(x.square()) - mean_x.square()
            variance = torch.where(variance > _FLAT, variance, 0)
            covariance = mean(fused * x) - mean_f * mean_x
            top = (2 * mean_f * mean_x + c1) * (2 * covariance + c2)
            bottom = (mean_x.square() + mean_f.square() + c1) * (variance + variance_f + c2)
            qualities.append(divide(top, bottom))
            saliencies.append(variance)
        total = saliencies[0] + saliencies[1]
        share = torch.where(total > 0, divide(saliencies[0], total), 0.5)  # of a
        quality = share * qualities[0] + (1 - share) * qualities[1]
        weight = torch.maximum(*saliencies).expand_as(quality)
        return torch.stack([x.sum((1, 2, 3)) for x in (quality, weight * quality, weight, torch.ones_like(quality))])


class Qs(_PiellaIndex):
    """Fusion quality index: the similarity with both sources by their shares of saliency, all windows alike.

    Range [-1,1]; higher is better; 1 where f = a = b. Undefined (NaN) below a window.

    Equals `metricPeilla` (sw = 1) of the collection of Zheng Liu to 1e-13 where no window of both sources is flat. In
    such a window lambda is 0/0, which rounding decides in that evaluator (up to 0.2 % of the value); here it is 1/2.

    Args:
        index: "ssim" or "universal", as the module says; the default equals evaluators.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> f"{float(Qs()(x, x, x)):.6f}"
    '1.000000'
    """

    symbol = "Qs"
    title = "fusion quality index"
    bounds = (-1.0, 1.0)

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < _SIZES[self.index]:
            return nans(len(fused), like=fused)
        quality, _, _, num = self._sums(fused, a, b)
        return (quality / num).clamp(-1, 1)


class Qw(_PiellaIndex):
    """Weighted fusion quality index: Qs with the windows weighted by the larger saliency.

    Range [-1,1]; higher is better; 1 where f = a = b. Undefined (NaN) below a window and where both sources are
    constant.

    Equals `metricPeilla` (sw = 2) of the collection of Zheng Liu to 1e-13. MEFB's and MFIFB's "Qw" is the index of the
    edge images alone, `edges=True` (Prewitt, zeros outside the image): equal to 2e-7, because in flat regions rounding
    decides.

    Repaired: up to version 0.1 the index was the universal one, which no evaluator prints; it is `index="universal"`,
    where a source that is constant in a window has saliency 0 and never counts. The paper allows contrast or entropy
    as saliency too, and experiments with the variance.

    Args:
        index: "ssim" or "universal", as the module says; the default equals evaluators.
        edges: take the edge images in place of the images.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> f"{float(Qw()(x, x, x)):.6f}", float(Qw()(1 - x, x, x)) < 0
    ('1.000000', True)
    """

    symbol = "Qw"
    title = "weighted fusion quality index"
    bounds = (-1.0, 1.0)

    def __init__(self, *, index: _Index = "ssim", edges: bool = False) -> None:
        super().__init__(index=index)
        self.edges = edges

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self._weighted(fused, a, b, edges=self.edges)

    def _weighted(self, fused: Tensor, a: Tensor, b: Tensor, *, edges: bool) -> Tensor:
        if min(fused.shape[-2:]) < _SIZES[self.index]:
            return nans(len(fused), like=fused)
        _, quality, weight, _ = self._sums(fused, a, b, edges=edges)
        return quality / weight


class Qe(Qw):
    """Edge-dependent fusion quality index: Q_W of the images and of their edge images, as a weighted geometric mean.

    Q_E = Q_W(f, a, b)^(1 - alpha) Q_W(f', a', b')^alpha. The edge image x' is the length of the Prewitt gradient, zeros
    outside the image, as in `Qw(edges=True)`.

    Range [0,1]; higher is better; 1 where f = a = b. Undefined (NaN) below a window and where both sources are
    constant.

    Decided here: alpha = 1/2; the paper leaves it free in [0,1]. Its square is then the product Q_W Q_W' without
    exponents that later comparisons use. A negative Q_W has no real power and counts as 0. Both factors equal
    evaluators; the product has none that runs as published.

    Args:
        alpha: share of the edge images, in [0,1].
        index: "ssim" or "universal", as the module says.
    """

    symbol = "Qe"
    title = "edge-dependent fusion quality index"
    bounds = (0.0, 1.0)

    def __init__(self, *, alpha: float = 0.5, index: _Index = "ssim") -> None:
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must lie in [0,1], got {alpha:g}")
        super().__init__(index=index)
        self.alpha = alpha

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        plain, edges = (self._weighted(fused, a, b, edges=edges) for edges in (False, True))
        return power(plain, 1 - self.alpha) * power(edges, self.alpha)


def _prewitt_magnitude(x: Tensor) -> Tensor:
    """Length of the Prewitt gradient at the inner pixels of (...,H,W), not normalised."""
    columns = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    rows = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return vector_length(columns[..., 2:] - columns[..., :-2], rows[..., 2:, :] - rows[..., :-2, :])
