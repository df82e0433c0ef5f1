"""Local means, variances and covariances under a separable window: the statistics that SSIM and VIF are made of.

    mean_x = w * x      var_x = w * x^2 - mean_x^2      cov_xy = w * xy - mean_x mean_y

with w = v v^T and only windows that lie inside the image. A Gaussian goes over a tile of the image as two products
with a banded matrix, B^T X over its rows, then X B over blocks of its columns; a 7x7 box as sums of sums of neighbours.
All of it is float64: a variance is the small difference of two large numbers, and in an almost flat window float32 has
no digit of it left.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tectum.metrics.windows import Workspace, gaussian_weights, reuse, split_axis, sum_windows

ROWS, COLUMNS = 32, 48
"""Of results at once: fewer waste the overlap of the windows, more the zeros of the banded matrix."""
TILE = 400_000
"""Values in a tile of the image, all its maps together, that stay in the cache."""


class GaussianWindow:
    """Means under a Gaussian of `size` x `size` pixels, at every `step`-th row and column.

    (rows, maps, columns) -> size - 1 rows and columns fewer, divided by `step`; the next call overwrites the result.

    >>> x = torch.arange(8.0).view(8, 1, 1).expand(8, 1, 8).double()
    >>> GaussianWindow(3, 0.6, step=2)(x, Workspace(x))[:, 0, 0].round(decimals=4).tolist()
    [1.0, 3.0, 5.0]
    """

    def __init__(self, size: int, sigma: float, *, step: int = 1, device: torch.device | None = None) -> None:
        weights = torch.tensor(gaussian_weights(size, sigma), dtype=torch.float64)
        self.size, self.step = size, step
        self._matrix = _banded_matrix(weights, max(ROWS, COLUMNS), step).to(device)

    def __call__(self, x: Tensor, workspace: Workspace) -> Tensor:
        rows, maps, columns = x.shape
        num_rows, num_columns = ((n - self.size) // self.step + 1 for n in (rows, columns))
        # over rows: B^T X
        vertical = self._matrix[:rows, :num_rows].T
        x = torch.mm(vertical, x.reshape(rows, -1), out=workspace("rows", (num_rows, maps * columns)))
        x = x.view(-1, columns)
        # over columns, block by block: X B
        result, parts = workspace("columns", (len(x), num_columns)), []
        for out, given in split_axis(columns, self.size, COLUMNS, self.step):
            horizontal = self._matrix[: given.stop - given.start, : out.stop - out.start]
            parts.append(torch.mm(x[:, given], horizontal, out=None if result is None else result[:, out]))
        return (torch.cat(parts, 1) if result is None else result).view(num_rows, maps, num_columns)

    def downsample(self, images: Tensor, workspace: Workspace) -> Tensor:
        """Smooths images (M,H,W) and keeps every `step`-th pixel: (M,H',W') float64."""
        stripes = []
        for _, rows in split_axis(images.shape[1], self.size, ROWS, self.step):
            stripe = images[:, rows].transpose(0, 1)
            stripe = workspace.empty("images", stripe.shape).copy_(stripe) if workspace.reuses else stripe.double()
            stripes.append(self(stripe, workspace).clone())
        return torch.cat(stripes).transpose(0, 1)


class UniformWindow:
    """Means over 7x7 pixels: (rows, maps, columns) -> 6 rows and columns fewer; the next call overwrites the result.

    >>> x = torch.ones(8, 1, 9, dtype=torch.float64)
    >>> UniformWindow()(x, Workspace(x)).shape, float(UniformWindow()(x, Workspace(x)).mean())
    (torch.Size([2, 1, 3]), 1.0)
    """

    size = 7

    def __call__(self, x: Tensor, workspace: Workspace) -> Tensor:
        return sum_windows(x, self.size, axes=(0, 2), workspace=workspace).div_(self.size**2)


class _LocalStatistics(NamedTuple):
    """Statistics of a tile, on 0..255: of the sources (rows, 2, N, columns), of the fused (rows, 1, M, columns)."""

    mean_sources: Tensor
    mean_fused: Tensor
    var_sources: Tensor
    var_fused: Tensor
    cov: Tensor
    """Of each fused image with its sources, (rows, 2, M, columns)."""


def iterate_local_statistics(
    fused: Tensor, a: Tensor, b: Tensor, window: GaussianWindow | UniformWindow, workspace: Workspace
) -> Iterator[_LocalStatistics]:
    """Statistics of all windows, tile by tile; each tile overwrites the one before.

    Args:
        fused: (M,H,W) in [0,1], at least as large as the window.
        a, b: (N,H,W), N = 1 for one pair under M fused images, else M.
        window: the weights.
        workspace: memory to work in.
    """
    pairs, num = len(a), len(fused)
    num_sources, num_images = 2 * pairs, 2 * pairs + num  # maps of the sources, and with the fused images
    num_maps = 2 * num_images + 2 * num  # images, their squares, products of each fused image with its sources
    for rows, columns in _iterate_tiles(fused.shape[1], fused.shape[2], window.size, num_maps):
        tiles = [x[:, rows, columns].transpose(0, 1) for x in (a, b, fused)]
        if workspace.reuses:
            maps = workspace.empty("images", (tiles[0].shape[0], num_maps, tiles[0].shape[2]))
            images, squares, products = maps.split([num_images, num_images, 2 * num], dim=1)
            for tile, start in zip(tiles, (0, pairs, num_sources), strict=True):
                torch.mul(tile, 255, out=images[:, start : start + tile.shape[1]])
            torch.mul(images, images, out=squares)
            sources = images[:, :num_sources].unflatten(1, (2, pairs))
            torch.mul(sources, images[:, None, num_sources:], out=products.unflatten(1, (2, num)))
        else:
            images = torch.cat([(tile * 255).double() for tile in tiles], 1)
            sources = images[:, :num_sources].unflatten(1, (2, pairs))
            products = (sources * images[:, None, num_sources:]).flatten(1, 2)
            maps = torch.cat([images, images * images, products], 1)
        mean, square, product = window(maps, workspace).split([num_images, num_images, 2 * num], dim=1)
        var = torch.addcmul(square, mean, mean, value=-1, out=reuse(square)).clamp_(min=0)
        mean_s, mean_f = mean[:, :num_sources].unflatten(1, (2, pairs)), mean[:, None, num_sources:]
        var_s, var_f = var[:, :num_sources].unflatten(1, (2, pairs)), var[:, None, num_sources:]
        product = product.unflatten(1, (2, num))
        cov = torch.addcmul(product, mean_s, mean_f, value=-1, out=reuse(product))
        yield _LocalStatistics(mean_s, mean_f, var_s, var_f, cov)


def _iterate_tiles(height: int, width: int, size: int, maps: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of overlapping tiles, such that each window lies in exactly one."""
    num = width - size + 1
    most = max(2, TILE // (maps * (ROWS + size - 1) * COLUMNS)) * COLUMNS  # columns of results
    even = -(-num // -(-num // most))
    for _, rows in split_axis(height, size, ROWS):
        for _, columns in split_axis(width, size, -(-even // COLUMNS) * COLUMNS):
            yield rows, columns


def _banded_matrix(weights: Tensor, num: int, step: int = 1) -> Tensor:
    """The matrix whose columns are the weights moved down by `step`: x @ matrix filters and takes every step-th value.

    >>> _banded_matrix(torch.tensor([1.0, 2.0]), 2).tolist()
    [[1.0, 0.0], [2.0, 1.0], [0.0, 2.0]]
    """
    matrix = weights.new_zeros((num - 1) * step + len(weights), num)
    for j in range(num):
        matrix[j * step : j * step + len(weights), j] = weights
    return matrix
