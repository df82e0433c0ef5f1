"""What the windowed metrics share: bands of rows, and sums over all windows of an image.

    box(x)_ij    = sum_{k,l < n} x_{i+k, j+l}              every n x n window that lies in the image
    smooth(x)_ij = sum_{k,l} g_k g_l x_{i+k, j+l}          the same, weighted by a separable kernel

Only windows inside the image count, so nothing here invents pixels beyond the border. A metric goes through a large
image in bands of rows, which bounds the memory its float64 maps need, and is faster besides: a band stays in the cache.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BAND_PX = 1 << 16
"""Pixels of a band, all fused images together, where its windows leave the choice."""


def band_rows(width: int, batch: int, *, least: int) -> int:
    """Rows of a band, a multiple of `least`."""
    return max(1, BAND_PX // max(1, batch * width * least)) * least


def bands(images: Sequence[Tensor], window: int) -> Iterator[tuple[Tensor, ...]]:
    """Rows of the images, in float64, overlapping so that each window of `window` rows lies in exactly one band.

    The first row of a band is always an even one. An image lower than the window has no band.

    >>> [len(band[0][0, 0]) for band in bands([torch.rand(2, 1, 480, 640)], 17)]
    [80, 80, 80, 80, 80, 80, 80, 32]
    """
    height, width = images[0].shape[-2:]
    batch = max(image.shape[0] for image in images)
    rows = band_rows(width, batch, least=max(2, 4 * (window - 1)))  # so that overlaps cost a quarter at most
    for start in range(0, height - window + 1, rows):
        yield tuple(image[..., start : start + rows + window - 1, :].double() for image in images)


def smooth(x: Tensor, kernel: Sequence[float]) -> Tensor:
    """Weighted sums over the windows inside (..., H, W), by the same kernel along columns and rows."""
    for axis in (-2, -1):
        size = x.shape[axis] - len(kernel) + 1
        total = x.narrow(axis, 0, size) * kernel[0]
        for offset, weight in enumerate(kernel[1:], 1):  # shifted sums: several times faster than a float64 convolution
            total.add_(x.narrow(axis, offset, size), alpha=weight)
        x = total
    return x


def box(x: Tensor, size: int) -> Tensor:
    """Sums over the size x size windows inside (..., H, W), by sums of neighbours: nothing cancels.

    >>> box(torch.ones(1, 1, 4, 5), 3)[0, 0].tolist()
    [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]
    """
    for axis in (-2, -1):
        length = x.shape[axis] - size + 1
        total, done, power = None, 0, 1
        while True:
            if size & power:
                part = x.narrow(axis, done, length)
                total = part if total is None else total + part
                done += power
            power *= 2
            if power > size:
                break
            x = x.narrow(axis, 0, x.shape[axis] - power // 2) + x.narrow(axis, power // 2, x.shape[axis] - power // 2)
        assert total is not None
        x = total
    return x


def gaussian(size: int, sigma: float) -> list[float]:
    """`size` samples of a Gaussian around the middle one, with sum 1.

    >>> gaussian(3, 1.0)[1] > gaussian(3, 2.0)[1] > 1 / 3
    True
    """
    weights = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [weight / sum(weights) for weight in weights]


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
