"""TIFF files: the tags of the first page, up to 8 bits by Pillow, and what Pillow cannot read by OpenCV.

Where the tag ExtraSamples says that the colours are multiplied by alpha (associated alpha), they are divided by it, as
Pillow does for 8 bits:

    colour = stored scale / alpha, clipped to the type's range; 0 where alpha is 0      scale 65535, or 1 for float
"""

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from tectum.io import metadata
from tectum.io.image import (
    MAX_PIXELS,
    Array,
    RawImage,
    Refusal,
    check_size,
    decode_with_opencv,
    pixels_from_pillow,
    quiet_pillow,
)

_PIXEL_TAGS = {*range(256, 260), 262, 273, 274, 277, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339}
_ASSOCIATED_ALPHA = 1
_GDAL_NODATA = 42113


def read(data: bytes) -> RawImage:
    """Decode the first page of a TIFF, upright, with what of its metadata goes into a result.

    Raises:
        Refusal: a part of the file is lost, the image is too large, or its layout cannot be read.
    """
    tags = _read_tags(data)
    too_large = tags[256] * tags[257] > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)  # for Pillow, which tests again
    if max(tags.get(258, (1,))) > 8 or set(tags.get(339, (1,))) != {1} or too_large:
        pixels = _decode_wide(data, tags)
    else:
        with quiet_pillow():
            image = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
            check_size(*image.size)
            image.load()  # reads metadata too, and turns it upright
        pixels = pixels_from_pillow(image)
    return replace(metadata.attach_tiff(pixels, data, tags), nodata=_nodata_value(tags, pixels))


def _nodata_value(tags: dict[int, Any], pixels: Array) -> float | None:
    """The value of the GDAL_NODATA tag, as it stands in the decoded pixels; None without one, or where it is NaN."""
    try:
        value = float(str(tags[_GDAL_NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        return None
    if tags.get(262) == 0 and pixels.dtype.kind == "u":  # white is zero: the pixels were inverted
        value = float(np.iinfo(pixels.dtype).max) - value
    return value if np.isfinite(value) else None


def _read_tags(data: bytes) -> dict[int, Any]:
    """Read the tags of the first page, which must lie in the file with all their values, strips and tiles.

    Raises:
        Refusal: a part of the file is lost, or the image is too large.
    """
    stream, order, big = io.BytesIO(data), "<" if data[:1] == b"I" else ">", b"+" in data[2:4]  # TIFF has * for +
    header = stream.read(16 if big else 8)
    with quiet_pillow():
        directory = TiffImagePlugin.ImageFileDirectory_v2(header)
        start = stream.seek(directory.next)
        directory.load(stream)
        tags = dict(directory)  # parses the values; those that lie beyond the file are missing
    number, head, entry = ("Q", 8, 20) if big else ("H", 2, 12)
    (count,) = struct.unpack_from(order + number, data, start)
    first = start + head
    listed = {struct.unpack_from(order + "H", data, first + entry * index)[0] for index in range(count)}
    starts, sizes = (tags.get(273) or tags.get(324) or ()), (tags.get(279) or tags.get(325) or ())
    truncated = not starts or any(start + size > len(data) for start, size in zip(starts, sizes, strict=False))
    if truncated or first + entry * count + 4 > len(data) or not listed & _PIXEL_TAGS <= tags.keys() >= {256, 257}:
        raise Refusal("is a truncated TIFF file; copy or save it again")
    check_size(tags[256], tags[257])
    return tags


def _decode_wide(data: bytes, tags: dict[int, Any]) -> Array:
    """Decode a TIFF of more than 8 bits a channel, upright, in RGB(A) order.

    Raises:
        Refusal: OpenCV would drop or mix up its layout without a word, or the file is damaged.
    """
    num_channels, white_is_zero = tags.get(277, 1), tags.get(262) == 0
    formats = [{1: "u", 2: "i", 3: "f"}.get(code, "?") for code in tags.get(339, (1,))]
    types = {f"{letter}{bits}" for letter in formats for bits in tags.get(258, (1,))}
    readable = (
        len(types) == 1
        and types < {"u8", "u16", "u32", "i16", "i32", "f32", "f64"}
        and num_channels in ((1, 3) if types == {"u8"} else (1, 3, 4))  # OpenCV multiplies 8-bit RGB by alpha
        and tags.get(262) in (0, 1, 2)
        and (tags.get(284, 1) == 1 or num_channels == 1)
        and tags.get(259, 1) in (1, 5, 8, 32946, 32773)
        and not (white_is_zero and "u" not in formats)
    )
    if not readable:
        raise Refusal(
            "is a TIFF of a layout tectum cannot read; save it as grey, RGB or RGBA of 8 or 16 bits or float32, with "
            "interleaved channels and no, LZW or deflate compression"
        )
    pixels = decode_with_opencv(data, "TIFF")  # upright already
    decoded = f"{pixels.dtype.kind}{pixels.itemsize * 8}"
    if decoded not in types or pixels.size != tags[256] * tags[257] * num_channels:
        raise Refusal("is a truncated or damaged TIFF file; copy or save it again")
    if white_is_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if num_channels < 4:
        return pixels
    extra = (tags.get(338) or (2,))[0]
    if extra == 0:  # no alpha
        return pixels[..., :3]
    return _divide_by_alpha(pixels) if extra == _ASSOCIATED_ALPHA and pixels.dtype.kind in "uf" else pixels


def _divide_by_alpha(pixels: Array) -> Array:
    """(H,W,4) RGBA of colours that were multiplied by alpha, as they were before."""
    integer = pixels.dtype.kind == "u"
    scale = np.iinfo(pixels.dtype).max if integer else 1
    colours, alpha = pixels[..., :3].astype(np.float64), pixels[..., 3:].astype(np.float64)
    divided = np.divide(colours * scale, alpha, out=np.zeros_like(colours), where=alpha > 0)
    return np.concatenate(
        ((divided.clip(0, scale) + 0.5 if integer else divided).astype(pixels.dtype), pixels[..., 3:]), 2
    )
