"""Local means, variances and covariances under a separable window: what SSIM and VIF are made of.

    mean_x = w * x      var_x = w * x^2 - mean_x^2      cov_xy = w * xy - mean_x mean_y

with w = v v^T and only windows that lie inside the image. A Gaussian goes over a stripe of the image as two products
with a banded matrix, B^T X over its rows, then X B over blocks of its columns; a 7x7 box as sums of sums of neighbours.
All of it is float64: a variance is the small difference of two large numbers, and in an almost flat window float32 has
no digit of it left.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tectum.metrics.filters import box, gaussian
from tectum.metrics.stripes import Scratch, blocks

ROWS, COLUMNS = 32, 48
"""Of results at once: fewer waste the overlap of the windows, more the zeros of the band."""
TILE = 400_000
"""Values in a tile of the image, all its maps together, that stay in the cache."""


class Window(Protocol):
    """Weighted means over windows of `size` rows and columns, all of them inside."""

    size: int

    def __call__(self, x: Tensor, scratch: Scratch) -> Tensor:
        """A stripe (rows, images, columns) -> the same, size - 1 fewer rows and columns; overwritten by the next."""


class Gaussian:
    """A Gaussian window; `step` keeps every step-th row and column.

    >>> x = torch.arange(8.0).view(8, 1, 1).expand(8, 1, 8).double()
    >>> Gaussian(3, 0.6, step=2)(x, Scratch(x))[:, 0, 0].round(decimals=4).tolist()
    [1.0, 3.0, 5.0]
    """

    def __init__(self, size: int, sigma: float, *, step: int = 1, device: torch.device | None = None) -> None:
        weights = torch.tensor(gaussian(size, sigma), dtype=torch.float64)
        self.size, self.step = size, step
        self.band = band(weights, max(ROWS, COLUMNS), step).to(device)

    def __call__(self, x: Tensor, scratch: Scratch) -> Tensor:
        rows, images, columns = x.shape
        num_rows, num_columns = ((n - self.size) // self.step + 1 for n in (rows, columns))
        down = scratch("down", (num_rows, images * columns))
        torch.mm(self.band[:rows, :num_rows].T, x.reshape(rows, -1), out=down)
        down = down.view(-1, columns)
        result = scratch("result", (len(down), num_columns))
        for out, given in blocks(columns, self.size, COLUMNS, self.step):
            across = self.band[: given.stop - given.start, : out.stop - out.start]
            torch.mm(down[:, given], across, out=result[:, out])
        return result.view(num_rows, images, num_columns)


class Box7:
    """The uniform 7x7 window.

    >>> x = torch.ones(8, 1, 9, dtype=torch.float64)
    >>> Box7()(x, Scratch(x)).shape, float(Box7()(x, Scratch(x)).mean())
    (torch.Size([2, 1, 3]), 1.0)
    """

    size = 7

    def __call__(self, x: Tensor, scratch: Scratch) -> Tensor:
        return box(x, self.size, axes=(0, 2), scratch=scratch).div_(self.size**2)


class Moments(NamedTuple):
    """Local moments of a tile, on 0..255: of the sources (rows, 2, N, columns), of the fused (rows, M, columns)."""

    mean_sources: Tensor
    mean_fused: Tensor
    var_sources: Tensor
    var_fused: Tensor
    cov: Tensor
    """(rows, 2, M, columns)."""


def local_moments(fused: Tensor, a: Tensor, b: Tensor, window: Window, scratch: Scratch) -> Iterator[Moments]:
    """The moments, tile by tile; each tile overwrites the one before.

    Args:
        fused: (M,H,W) in [0,1], at least as large as the window.
        a, b: (N,H,W), N = 1 for one pair under M fused images, else M.
    """
    pairs, num = len(a), len(fused)
    one, two = 2 * pairs, 2 * pairs + num  # images of the sources, and with the fused ones
    for rows, columns in tiles(fused.shape[1], fused.shape[2], window.size, 2 * two + 2 * num):
        shape = rows.stop - rows.start, 2 * two + 2 * num, columns.stop - columns.start
        stack = scratch("stack", shape)
        for x, start in ((a, 0), (b, pairs), (fused, one)):
            torch.mul(x[:, rows, columns].transpose(0, 1), 255, out=stack[:, start : start + len(x)])
        sources, images = stack[:, :one].unflatten(1, (2, pairs)), stack[:, None, one:two]
        torch.mul(stack[:, :two], stack[:, :two], out=stack[:, two : 2 * two])
        torch.mul(sources, images, out=stack[:, 2 * two :].unflatten(1, (2, num)))
        mean, square, product = window(stack, scratch).split([two, two, 2 * num], dim=1)
        square.addcmul_(mean, mean, value=-1).clamp_(min=0)
        mean_s, var_s = mean[:, :one].unflatten(1, (2, pairs)), square[:, :one].unflatten(1, (2, pairs))
        cov = product.unflatten(1, (2, num)).addcmul_(mean_s, mean[:, None, one:], value=-1)
        yield Moments(mean_s, mean[:, one:], var_s, square[:, one:], cov)


def tiles(height: int, width: int, size: int, maps: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of overlapping tiles, such that each window lies in exactly one."""
    num = width - size + 1
    most = max(2, TILE // (maps * (ROWS + size - 1) * COLUMNS)) * COLUMNS  # columns of results
    even = -(-num // -(-num // most))
    for _, rows in blocks(height, size, ROWS):
        for _, columns in blocks(width, size, -(-even // COLUMNS) * COLUMNS):
            yield rows, columns


def smaller(images: Tensor, window: Gaussian, scratch: Scratch) -> Tensor:
    """Images (M,H,W) under a window with a step: (M, H', W') float64."""
    stripes = []
    for _, given in blocks(images.shape[1], window.size, ROWS, window.step):
        stack = scratch("stack", (given.stop - given.start, len(images), images.shape[2]))
        stack.copy_(images[:, given].transpose(0, 1))
        stripes.append(window(stack, scratch).clone())
    return torch.cat(stripes).transpose(0, 1)


def band(weights: Tensor, num: int, step: int = 1) -> Tensor:
    """The matrix whose columns are the weights moved down by `step`: x @ band filters and takes every step-th value.

    >>> band(torch.tensor([1.0, 2.0]), 2).tolist()
    [[1.0, 0.0], [2.0, 1.0], [0.0, 2.0]]
    """
    matrix = weights.new_zeros((num - 1) * step + len(weights), num)
    for j in range(num):
        matrix[j * step : j * step + len(weights), j] = weights
    return matrix
