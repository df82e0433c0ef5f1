"""Filters of float64 stripes, for the metrics with windows.

    box(x)_ij    = sum_{k,l < n} x_{i+k, j+l}              every n x n window that lies in the image
    smooth(x)_ij = sum_{k,l} g_k g_l x_{i+k, j+l}          the same, weighted by a separable kernel

Only windows inside the image count, so nothing here invents pixels beyond the border, unless `extend` is asked to.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.metrics.stripes import Scratch


def gaussian(size: int, sigma: float) -> list[float]:
    """`size` samples of a Gaussian around the middle one, with sum 1.

    >>> gaussian(3, 1.0)[1] > gaussian(3, 2.0)[1] > 1 / 3
    True
    """
    weights = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [weight / sum(weights) for weight in weights]


def smooth(x: Tensor, kernel: Sequence[float]) -> Tensor:
    """Weighted sums over the windows inside (..., H, W), by the same kernel along columns and rows."""
    for axis in (-2, -1):
        size = x.shape[axis] - len(kernel) + 1
        total = x.narrow(axis, 0, size) * kernel[0]
        for offset, weight in enumerate(kernel[1:], 1):  # shifted sums: several times faster than a float64 convolution
            total.add_(x.narrow(axis, offset, size), alpha=weight)
        x = total
    return x


def box(x: Tensor, size: int, *, axes: tuple[int, int] = (-2, -1), scratch: Scratch | None = None) -> Tensor:
    """Sums over the size x size windows inside, by sums of neighbours (7 = 1 + 2 + 4): nothing cancels.

    Args:
        x: (..., H, W), or the two axes elsewhere.
        size: of the windows.
        axes: which two.
        scratch: memory to work in; the next call with it overwrites the result.

    >>> box(torch.ones(1, 1, 4, 5), 3)[0, 0].tolist()
    [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]
    """

    def add(name: str, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y, out=None if scratch is None else scratch(name, x.shape))

    for turn, axis in enumerate(axes):
        length, total = x.shape[axis] - size + 1, None
        for num in (1 << bit for bit in range(size.bit_length())):  # x becomes the sums over 1, 2, 4, .. neighbours
            if num > 1:
                inner = x.shape[axis] - num // 2
                x = add(f"box {turn} {num}", x.narrow(axis, 0, inner), x.narrow(axis, num // 2, inner))
            if size & num:
                part = x.narrow(axis, size & (num - 1), length)
                total = part if total is None else add(f"box {turn}", total, part)
        assert total is not None
        x = total
    return x


def sobel_magnitude(x: Tensor) -> Tensor:
    """Length of the Sobel gradient at the inner pixels of (..., H, W), not normalised: a ramp of 1 per pixel gives 8.

    >>> sobel_magnitude(torch.arange(4.0).repeat(3, 1))
    tensor([[8., 8.]])
    """
    along = x[..., 1:-1, :] * 2 + x[..., :-2, :] + x[..., 2:, :]
    across = x[..., 1:-1] * 2 + x[..., :-2] + x[..., 2:]
    return torch.hypot(along[..., 2:] - along[..., :-2], across[..., 2:, :] - across[..., :-2, :])


def extend(x: Tensor, margin: int) -> Tensor:
    """(B,1,H,W) with its border pixels repeated `margin` times on each side."""
    return F.pad(x, (margin,) * 4, mode="replicate")


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is not positive."""
    return torch.where(denominator > 0, numerator / denominator, 0)
