"""The three fusers without parameters: the average and the maximum of the sources, and the Laplacian pyramid.

    average: f = (a + b) / 2          maximum: f = max(a, b)

    pyramid: g_0 = x,  g_{l+1} = REDUCE g_l,  d_l = g_l - EXPAND g_{l+1}          for each source, l < L
             d_l of larger magnitude, mean of the g_L;  then back: f_l = d_l + EXPAND f_{l+1},  f = clamp(f_0)

They are the rows every table needs beside a network: by some standard metrics the maximum beats every learned
method, which says more about the metrics than about the picture.

Reference: The Laplacian Pyramid as a Compact Image Code, Burt and Adelson, IEEE Transactions on Communications 1983,
https://doi.org/10.1109/TCOM.1983.1095851
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.nn.pyramid import expand, fill, reduce


class Average(nn.Module):
    """The mean of both sources, (B,1,H,W) in [0,1].

    >>> float(Average()(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))
    0.5
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / 2


class Maximum(nn.Module):
    """The brighter source at each pixel, (B,1,H,W) in [0,1].

    >>> float(Maximum()(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))
    1.0
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b)


class LaplacianPyramid(nn.Module):
    """The stronger detail of both sources at every scale, over the mean of what is left, (B,1,H,W) in [0,1].

    Each side n is first filled up to the whole number of 2^L that is at least n + 2^L, by repeating the last pixel:
    so every size has all L levels, a single pixel included, and one exported program serves all sizes.

    Args:
        levels: L, levels of detail.

    >>> x = torch.rand(1, 1, 5, 7)
    >>> bool((LaplacianPyramid()(x, x) - x).abs().max() < 1e-6)
    True
    """

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if levels < 0:
            raise ValueError(f"levels must be 0 or more, got {levels}; 0 is the average")
        self.levels = levels

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        down, right = (fill(size, 2**self.levels) for size in a.shape[2:])
        a, b = (F.pad(x, (0, right, 0, down), mode="replicate") for x in (a, b))
        details = []
        for _ in range(self.levels):
            coarse_a, coarse_b = reduce(a), reduce(b)
            detail_a, detail_b = a - expand(coarse_a), b - expand(coarse_b)
            details.append(torch.where(detail_a.abs() > detail_b.abs(), detail_a, detail_b))
            a, b = coarse_a, coarse_b
        fused = (a + b) / 2
        for detail in reversed(details):
            fused = detail + expand(fused)
        return F.pad(fused, (0, -right, 0, -down)).clamp(0, 1)
