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


def fill(size: int, step: int) -> int:
    """How many pixels from a size to the whole number of steps that is at least one step more.

    >>> [fill(size, 4) for size in (1, 4, 5)]
    [7, 4, 7]
    """
    return step * ((size + step - 1) // step + 1) - size


def reduce(x: Tensor) -> Tensor:
    """REDUCE: every second pixel of x smoothed by [1 4 6 4 1] / 16 along each axis, (B,1,2H,2W) -> (B,1,H,W)."""
    w = binomial(x)
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(x, w.view(1, 1, 5, 1), stride=(2, 1)), w.view(1, 1, 1, 5), stride=(1, 2))


def expand(x: Tensor) -> Tensor:
    """EXPAND: zeros put between the pixels of x, smoothed by twice the same weights, (B,1,H,W) -> (B,1,2H,2W).

    Along an axis: pixel 2i is (x_{i-1} + 6 x_i + x_{i+1}) / 8, pixel 2i + 1 is (x_i + x_{i+1}) / 2.
    """
    w = 2 * binomial(x)
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = F.conv_transpose2d(x, w.view(1, 1, 5, 1), stride=(2, 1), padding=(4, 0), output_padding=(1, 0))
    return F.conv_transpose2d(x, w.view(1, 1, 1, 5), stride=(1, 2), padding=(0, 4), output_padding=(0, 1))


def binomial(like: Tensor) -> Tensor:
    return torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=like.dtype, device=like.device) / 16
