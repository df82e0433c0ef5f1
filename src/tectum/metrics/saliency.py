"""Piella's quality indices: Qw, weighted by the local variance of the sources, and Qe, of images and their edges.

    Q_W(f, a, b) = sum_w c(w) [ lambda(w) Q_0(a, f | w) + (1 - lambda(w)) Q_0(b, f | w) ]
    Q_E(f, a, b) = Q_W(f, a, b)^(1 - alpha)  Q_W(f', a', b')^alpha                x' the edge image of x

Neither has reference values from outside; the oracles of both are our own float64 loops in the tests.
"""

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric
from tectum.metrics.windows import divide, iterate_stripes, nans, power, sobel_magnitude, sum_windows, zeros

_WINDOW = 8


class Qw(Metric):
    """Weighted fusion quality index.

    Over all 8 x 8 windows w that lie inside the images, with the universal quality index

        Q_0(x, f | w) = 4 sigma_xf mu_x mu_f / ((mu_x^2 + mu_f^2) (sigma_x^2 + sigma_f^2))

    of Wang and Bovik, the saliency s(x | w) = sigma_x^2, lambda = s(a) / (s(a) + s(b)), and c(w) proportional to
    max(s(a | w), s(b | w)), adding up to 1.

    Range [-1,1]; higher is better; 1 where f = a = b. The unit of the images cancels. Undefined (NaN) below 8 pixels
    a side and where both sources are constant.

    Decided here: the paper allows variance, contrast or entropy as saliency and experiments with the variance. A source
    that is constant in a window has saliency 0 there, so its Q_0 = 0/0 never counts; a variance below 1e-12 of the
    squared range is taken for 0. The paper's plain Q, with every window alike, is not offered.

    Reference: A new quality metric for image fusion; G. Piella, H. Heijmans; IEEE International Conference on Image
    Processing (ICIP), 2003; https://doi.org/10.1109/ICIP.2003.1247209

    >>> x = torch.rand(1, 1, 16, 16)
    >>> f"{float(Qw()(x, x, x)):.6f}", float(Qw()(1 - x, x, x)) < 0
    ('1.000000', True)
    """

    symbol = "Qw"
    title = "weighted fusion quality index"
    bounds = (-1.0, 1.0)
    source = "Piella, Heijmans: A new quality metric for image fusion, ICIP 2003"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return _weighted_quality(fused, a, b)


class Qe(Metric):
    """Edge-dependent fusion quality index: Q_W of the images and of their edge images, as a weighted geometric mean.

    Q_E = Q_W(f, a, b)^(1 - alpha) Q_W(f', a', b')^alpha, `Qw` says how. The edge image x' is the length of the Sobel
    gradient at the inner pixels.

    Range [0,1]; higher is better; 1 where f = a = b. Undefined (NaN) below 10 pixels a side, where both sources are
    constant, and where both have the same slope everywhere.

    Decided here: alpha = 1/2; the paper leaves it free in [0,1]. Its square is then the product Q_W Q_W' without
    exponents that later comparisons use. "Edge image" is the norm of the gradient in the paper, by no named filter. A
    negative Q_W has no real power and counts as 0.

    Args:
        alpha: share of the edge images, in [0,1].

    Reference: as of `Qw`.
    """

    symbol = "Qe"
    title = "edge-dependent fusion quality index"
    bounds = (0.0, 1.0)
    source = Qw.source

    def __init__(self, *, alpha: float = 0.5) -> None:
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha must lie in [0,1], got {alpha:g}")
        super().__init__()
        self.alpha = alpha

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        plain, edges = (_weighted_quality(fused, a, b, edges=edges) for edges in (False, True))
        return power(plain, 1 - self.alpha) * power(edges, self.alpha)


def _weighted_quality(fused: Tensor, a: Tensor, b: Tensor, *, edges: bool = False) -> Tensor:
    """Q_W of the images, or of their edge images, (B,)."""
    size = _WINDOW + 2 * edges  # the edge images lack a pixel on each side
    if min(fused.shape[-2:]) < size:
        return nans(len(fused), like=fused)
    sums = zeros(2, len(fused), like=fused)
    for images in iterate_stripes(fused, a, b, size=size):
        sums += _sum_quality(*(map(sobel_magnitude, images) if edges else images))
    return sums[0] / sums[1]


def _sum_quality(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Over the windows of one stripe: the sum of C (lambda Q_0 + (1 - lambda) Q_0), and of C; (2,B)."""
    area = _WINDOW**2
    mean_f = sum_windows(fused, _WINDOW) / area
    variance_f = sum_windows(fused.square(), _WINDOW) / area - mean_f.square()
    quality: Tensor | float = 0.0
    saliencies = []
    for x in (a, b):
        mean = sum_windows(x, _WINDOW) / area
        variance = sum_windows(x.square(), _WINDOW) / area - mean.square()
        variance = torch.where(variance > 1e-12, variance, 0)
        covariance = sum_windows(fused * x, _WINDOW) / area - mean_f * mean
        denominator = (mean.square() + mean_f.square()) * (variance + variance_f)
        quality = quality + variance * divide(4 * covariance * mean * mean_f, denominator)
        saliencies.append(variance)
    weight = torch.maximum(*saliencies)
    quality = quality * divide(weight, saliencies[0] + saliencies[1])
    return torch.stack([quality.sum((1, 2, 3)), weight.sum((1, 2, 3)).expand(len(fused))])
