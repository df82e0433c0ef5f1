"""Similarity metrics of Yang (Qy) and Cvejic (Qc): local indices of structure, which source counts decided by window.

With the universal index over 7x7 Gaussian windows (sigma 1.5) that lie inside the image,

    Q(x,y) = 2 mean_x mean_y / (mean_x^2 + mean_y^2)  2 cov_xy / (var_x + var_y)

    Qy:  l = var_a / (var_a + var_b)
         q = l Q(a,f) + (1 - l) Q(b,f)      where Q(a,b) >= 0.75: the sources agree
         q = max(Q(a,f), Q(b,f))            elsewhere
    Qc:  s = cov_af / (cov_af + cov_bf), clipped to [0,1]
         q = s Q(a,f) + (1 - s) Q(b,f)

and the value is the mean of q over the windows. In a flat window variances are 0: Q is 1 for two flat windows of one
mean and 0 for one flat window; l and s are 0/0 where both sources are flat: such a window is left out, or both count
alike.

Reference:
    A novel similarity based quality metric for image fusion. Yang, Zhang, Wang and Liu, Information Fusion 9(2), 2008.
    https://doi.org/10.1016/j.inffus.2006.09.001
    A similarity metric for assessment of image fusion algorithms. Cvejic, Loza, Bull and Canagarajah, International
    Journal of Signal Processing 2(3), 2005.
"""

from abc import abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric
from tectum.metrics.windows import divide, gaussian_weights, iterate_stripes, nans, smooth, to_grey_levels, zeros

Flat = Literal["leave out", "half"]

_SIZE, _KERNEL = 7, gaussian_weights(7, 1.5)
_FLAT = 1e-6
"""A variance (grey levels^2) that rounding leaves in a flat window; one pixel that differs by a level makes 1e-3."""
_AGREE = 0.75


class _Local(NamedTuple):
    """An image (B,H,W), its means and its variances in windows, (B,rows,columns); a flat window has variance 0."""

    image: Tensor
    mean: Tensor
    variance: Tensor


class _SimilarityMetric(Metric):
    """Mean over windows of a mixture of the indices with both sources.

    Args:
        flat: windows in which both sources are flat are left out, or count with both sources alike ("half").
    """

    bounds = (-1.0, 1.0)

    def __init__(self, *, flat: Flat = "leave out") -> None:
        if flat not in ("leave out", "half"):
            raise UserError(f"flat must be 'leave out' or 'half', got {flat!r}")
        super().__init__()
        self.flat = flat

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < _SIZE:
            return nans(len(fused), like=fused)
        total, num = zeros(len(fused), like=fused), zeros(len(fused), like=fused)
        levels = [to_grey_levels(x[:, 0]) for x in (fused, a, b)]
        for f, x, y in iterate_stripes(*levels, size=_SIZE):
            quality, weight = self._mix(_describe(f), _describe(x), _describe(y))
            total = total + (quality * weight).sum((-2, -1))
            num = num + weight.expand_as(quality).sum((-2, -1))
        return total / num.masked_fill(num == 0, torch.nan)

    @abstractmethod
    def _mix(self, f: _Local, a: _Local, b: _Local) -> tuple[Tensor, Tensor]:
        """The quality of each window of a stripe, and 1 where it counts, 0 where not."""

    def _share(self, part: Tensor, other: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        """part / (part + other) in [0,1], 1/2 in flat windows, and the weight of the windows."""
        total = part + other
        safe = torch.where(flat | (total == 0), 1.0, total)
        share = torch.where(flat | (total == 0), 0.5, part / safe).clamp(0, 1)
        return share, torch.ones_like(share) if self.flat == "half" else (~flat).to(share)


class Qy(_SimilarityMetric):
    """Yang's similarity metric: how far structure of the sources is found in the fused image, by local agreement.

    Range [-1, 1]; higher is better; 1 where f = a = b. NaN below 7 pixels a side and where both sources are constant.

    Equals MEFB's `metricsQy` and, with `flat="half"`, DATFuse's to 1e-9 on images without flat windows. In flat windows
    those evaluators divide rounding errors by one another (values above 100 occur); here they have the limits above.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> f"{float(Qy()(x, x, x)):.6f}"
    '1.000000'
    """

    symbol, title = "Qy", "similarity (Yang)"
    source = "Yang et al., A novel similarity based quality metric for image fusion, Information Fusion, 2008"

    def _mix(self, f: _Local, a: _Local, b: _Local) -> tuple[Tensor, Tensor]:
        (with_a, _), (with_b, _), (between, _) = _compare(a, f), _compare(b, f), _compare(a, b)
        share, weight = self._share(a.variance, b.variance, _are_flat(a, b))
        mixed = share * with_a + (1 - share) * with_b
        return torch.where(between >= _AGREE, mixed, torch.maximum(with_a, with_b)), weight


class Qc(_SimilarityMetric):
    """Cvejic's similarity metric: structure of both sources in the fused image, each by its share of the covariance.

    Range [-1, 1]; higher is better; 1 where f = a = b. NaN below 7 pixels a side and where nothing varies with f.

    This is the paper's formula. The published MATLAB evaluators give other values (0.1 to 0.3 lower); what they compute
    was not found out, so that no printed Qc can be compared.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> f"{float(Qc()(x, x, x)):.6f}"
    '1.000000'
    """

    symbol, title = "Qc", "similarity (Cvejic)"
    source = "Cvejic et al., A similarity metric for assessment of image fusion algorithms, IJSP, 2005"

    def _mix(self, f: _Local, a: _Local, b: _Local) -> tuple[Tensor, Tensor]:
        (with_a, cov_a), (with_b, cov_b) = _compare(a, f), _compare(b, f)
        share, weight = self._share(cov_a, cov_b, _are_flat(a, b))
        return share * with_a + (1 - share) * with_b, weight


def _describe(image: Tensor) -> _Local:
    mean = smooth(image, _KERNEL)
    variance = smooth(image * image, _KERNEL) - mean * mean
    return _Local(image, mean, torch.where(variance > _FLAT, variance, 0.0))


def _are_flat(x: _Local, y: _Local) -> Tensor:
    return (x.variance == 0) & (y.variance == 0)


def _compare(x: _Local, y: _Local) -> tuple[Tensor, Tensor]:
    """The universal index of two images and their covariance, in windows."""
    varies = (x.variance > 0) & (y.variance > 0)
    cov = torch.where(varies, smooth(x.image * y.image, _KERNEL) - x.mean * y.mean, 0.0)
    # 1 where both are flat, 0 where one is
    structure = torch.where(_are_flat(x, y), 1.0, divide(2 * cov, x.variance + y.variance))
    energy = x.mean * x.mean + y.mean * y.mean
    luminance = torch.where(energy == 0, 1.0, divide(2 * x.mean * y.mean, energy))
    return structure * luminance, cov
