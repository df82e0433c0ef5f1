"""Wavelet metric of Wang (Qm): edges of both sources preserved in the Haar bands of the fused image, over two scales.

Of the three detail bands d of a decimated Haar transform, scale s = 1 (finest), 2, a last odd row or column left out:

    e_x = sum_d exp(-|d_x - d_f|)          in (0,3]: how well the edges of source x are preserved
    w_x = sum_d d_x^2
    Q_s = sum (e_a w_a + e_b w_b) / sum (w_a + w_b)
    Qm  = Q_1^(2/3) Q_2^(1/3)

Reference:
    A novel image fusion metric based on multi-scale analysis. Wang and Liu, International Conference on Signal
    Processing, 2008. https://doi.org/10.1109/ICOSP.2008.4697288
"""

import math

import torch
from torch import Tensor

from tectum.metrics.metric import Metric
from tectum.metrics.windows import divide, nans, power, to_grey_levels, zeros

_EXPONENTS = (2 / 3, 1 / 3)


class Qm(Metric):
    """Wang's wavelet metric: edges of both sources preserved, weighted by their energy, at two scales.

    Range [0, 3], for the three bands are added as in the evaluators; higher is better; 3 where f = a = b. NaN below 4
    pixels a side and where both sources are constant.

    Equals `metricPWW` of the collection of Zheng Liu to 1e-14.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> f"{float(Qm()(x, x, x)):.6f}"
    '3.000000'
    """

    symbol, title = "Qm", "wavelet edges preserved"
    bounds = (0.0, 3.0)
    source = "Wang and Liu, A novel image fusion metric based on multi-scale analysis, ICSP, 2008"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < 4:
            return nans(len(fused), like=fused)
        f, a, b = (to_grey_levels(x[:, 0]).double() for x in (fused, a, b))
        value = torch.ones(len(f), dtype=torch.float64, device=f.device)
        defined = torch.ones(len(f), dtype=torch.bool, device=f.device)
        for exponent in _EXPONENTS:
            (f, of_f), (a, of_a), (b, of_b) = _transform(f), _transform(a), _transform(b)
            preserved, total = zeros(len(f), like=f), zeros(len(f), like=f)
            for of_x in (of_a, of_b):
                edges = torch.stack([torch.exp(-(x - y).abs()) for x, y in zip(of_x, of_f, strict=True)]).sum(0)
                weight = torch.stack([x * x for x in of_x]).sum(0)
                preserved = preserved + (edges * weight).sum((-2, -1))
                total = total + weight.sum((-2, -1))
            value = value * power(divide(preserved, total), exponent)
            defined = defined & (total > 0)
        return torch.where(defined, value, math.nan)


def _transform(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """One step of the Haar transform: the smooth band (B,H//2,W//2), and the three of details."""
    rows, columns = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
    upper, lower = x[:, 0:rows:2], x[:, 1:rows:2]
    low, high = (upper + lower) / math.sqrt(2), (upper - lower) / math.sqrt(2)
    (ll, lh), (hl, hh) = (_halve(y[..., :columns]) for y in (low, high))
    return ll, (lh, hl, hh)


def _halve(x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised sums and differences of neighbouring columns."""
    left, right = x[..., 0::2], x[..., 1::2]
    return (left + right) / math.sqrt(2), (left - right) / math.sqrt(2)
