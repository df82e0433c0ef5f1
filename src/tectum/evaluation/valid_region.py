"""Region of a pair that both sources have data in: the only pixels that a metric may see.

Metrics need whole images: windows, gradients, spectra. So all of them see one rectangle, the largest without pixels of
large regions without data (borders). Small holes in it (dead pixels) take, in each image by itself, the value of the
nearest pixel with data. So no value of any image at a pixel without data changes a metric.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.io.image import Picture
from tectum.io.validity import fill_invalid, large_holes

Mask = np.ndarray[Any, np.dtype[np.bool_]]

_MIN_SIDE, _MIN_SHARE = 32, 0.1


@dataclass(frozen=True)
class ValidRegion:
    """Rectangle of an image, and its pixels with data.

    Attributes:
        rows, columns: of the rectangle.
        valid: (h,w) bool inside it.
        left_out: part of the image's pixels that metrics do not see.
    """

    rows: slice
    columns: slice
    valid: Mask
    left_out: float

    def crop(self, images: Tensor) -> Tensor:
        """Returns (B,1,h,w) of (B,1,H,W), small holes filled."""
        cropped = images[..., self.rows, self.columns].contiguous()
        if self.valid.all():
            return cropped
        return torch.from_numpy(fill_invalid(cropped[:, 0].numpy(), self.valid))[:, None]


def find_valid_region(first: Picture, second: Picture) -> ValidRegion | None:
    """Returns the region in which both pictures of a pair have data, or None for everything.

    Raises:
        UserError: it is too small to be scored.
    """
    masks = [picture.valid[0].numpy() for picture in (first, second) if picture.valid is not None]
    if not masks:
        return None
    valid = np.logical_and.reduce(masks)
    rows, columns = _largest_rectangle(~large_holes(valid))
    inside = valid[rows, columns]
    if min(inside.shape) < _MIN_SIDE or inside.sum() < _MIN_SHARE * valid.size:
        raise UserError(
            f"a rectangle of at least {_MIN_SIDE} pixels a side and {_MIN_SHARE:.0%} of the image must have data in "
            f"both sources, the largest is {inside.shape[1]}x{inside.shape[0]}; leave this pair out"
        )
    return ValidRegion(rows, columns, inside, 1 - float(inside.sum()) / valid.size)


def _largest_rectangle(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the largest rectangle of True: the largest under each row's histogram of run lengths."""
    best, found = 0, (slice(0, 0), slice(0, 0))
    heights = np.zeros(mask.shape[1], np.int64)
    for row, line in enumerate(mask):
        heights = (heights + 1) * line
        if int(heights.max()) * mask.shape[1] <= best:
            continue
        # Bars wait on a stack, rising; a lower bar ends those above it
        stack: list[tuple[int, int]] = []
        for column, height in enumerate([*heights.tolist(), 0]):
            start = column
            while stack and stack[-1][1] >= height:
                start, tall = stack.pop()
                if tall * (column - start) > best:
                    best = tall * (column - start)
                    found = slice(row + 1 - tall, row + 1), slice(start, column)
            stack.append((start, height))
    return found
