"""Reader of segmentation masks: a pixel is the index of its class, 255 is ignored.

PNG palettes are colours for the eye: the index counts, as it does in VOC. A grey PNG of 1, 2 or 4 bits holds the same
small numbers. Files of three equal channels are grey; colours are refused, for which index a colour means is nowhere
in the file.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tectum.data.transforms import IGNORE_INDEX
from tectum.errors import UserError
from tectum.io.image import Array, read_pixels


def read_mask(path: Path, classes: Sequence[str], size: tuple[int, int] | None = None) -> Tensor:
    """Returns the class indices (H,W) uint8 of a mask file, 255 where ignored.

    Args:
        path: a PNG, or another format that keeps numbers as they are.
        classes: names of the indices, the background included.
        size: (height, width) of its image.

    Raises:
        ValueError: it cannot be read, is of another size than the image, or holds a class that is not there.
    """
    indices = read_indices(path)
    if size is not None and indices.shape != tuple(size):
        raise UserError(
            f"a mask must have its image's size, {path} is {indices.shape[1]}x{indices.shape[0]} for an image of "
            f"{size[1]}x{size[0]}; make it anew at that size, without blending its numbers"
        )
    invalid = (indices >= len(classes)) & (indices != IGNORE_INDEX)
    if invalid.any():
        row, column = np.unravel_index(int(invalid.argmax()), indices.shape)
        raise UserError(
            f"a mask must hold the classes 0 to {len(classes) - 1} ({', '.join(classes)}) or {IGNORE_INDEX} (ignored), "
            f"{path} has {indices[row, column]} in row {row}, column {column} ({invalid.mean():.1%} of it is no class)"
            "; correct it, or name all the classes"
        )
    return torch.from_numpy(indices)


def read_indices(path: Path) -> Array:
    """Returns the numbers of a mask file, (H,W) uint8, without a check of classes.

    Raises:
        ValueError: it is no image, a colour picture, lossy, or deeper than 8 bits.
    """
    pixels = read_pixels(path)
    with path.open("rb") as file:
        header = file.read(26)
    if header.startswith(b"\xff\xd8\xff"):
        raise UserError(f"a mask must keep its numbers, {path} is a JPEG file, which blends them; take the PNG files")
    depth, colour = (header[24], header[25]) if header.startswith(b"\x89PNG") else (8, 0)
    if colour == 3:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    elif pixels.ndim == 3 and pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise UserError(
            f"a mask must hold class indices, {path} is a colour picture; write its classes as one grey number each, "
            "or take the set's index masks"
        )
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "ui" or pixels.min() < 0 or pixels.max() > 255:
            raise UserError(f"a mask must hold numbers from 0 to 255, {path} is {pixels.dtype}; save it with 8 bits")
    elif depth < 8 and colour == 0:
        pixels = pixels // (255 // (2**depth - 1))  # readers spread few bits over 0..255
    return np.array(pixels, np.uint8)
