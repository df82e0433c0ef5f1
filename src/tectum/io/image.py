"""Pictures: images as luminance, chroma and alpha in [0,1], from files and arrays and back (bytes: `codecs`).

Value range. x = clamp((raw - low) / (high - low), 0, 1), with (low, high) from `value_range`:

    "full"         the type's whole range: 0..255, 0..65535; float files must lie in [0,1]
    "LOW,HIGH"     these raw numbers, for every image alike: what a fixed camera and a video want
    "pLOW,pHIGH"   these percentiles of this image's luminance, e.g. "p0.5,p99.5"
    "auto"         8 bits: full. 16 bits or float: visible full, infrared p0.1,p99.9 (radiometric files use a small
                   part of the range); so brightness may flicker over a sequence: give LOW,HIGH there

Where the two percentiles coincide, the image's minimum and maximum take their place; where those coincide too (a
constant image) the range is v - 1/2 .. v + 1/2, so percentiles show a constant image as mid-grey, 0.5. Nothing is
ever divided by zero, and `Picture.raw_range` tells what was used.

Grey. A visible image is grey (chroma None) if its three channels are equal everywhere. An infrared image is grey
already if they differ by at most 4/255 on 99.9 % of the pixels: thermal cameras store one channel three times, and
JPEG then leaves a faint false colour (LLVIP), which must not tint the result.

Alpha is kept apart and never touches the luminance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tectum.color import HALF_UP, rgb_to_ycbcr, ycbcr_to_rgb
from tectum.errors import UserError
from tectum.io.codecs import EXTENSIONS as EXTENSIONS
from tectum.io.codecs import MAX_PIXELS as MAX_PIXELS
from tectum.io.codecs import Array as Array
from tectum.io.codecs import from_pillow, read_pixels, write_pixels

Modality = Literal["visible", "infrared"]
_NEARLY_GREY = 4 / 255
_COLOURED = 2 / 255
"""Mean |chroma| above which a picture counts as a colour picture: JPEG leaves less in a grey one."""


@dataclass(frozen=True)
class Picture:
    """One image, split for fusion.

    Attributes:
        y: luminance (1, H, W), float32 in [0,1].
        chroma: (2, H, W) centred on 0, or None for a grey image.
        alpha: (1, H, W) in [0,1], or None.
        bits: 8 or 16, or 32 for float and wide integer sources.
        raw_range: the raw values that became 0 and 1.
    """

    y: Tensor
    chroma: Tensor | None = None
    alpha: Tensor | None = None
    bits: int = 8
    raw_range: tuple[float, float] = (0.0, 255.0)

    @property
    def brightness(self) -> float:
        """Mean luminance in [0,1]."""
        return float(self.y.double().mean())

    @property
    def has_colour(self) -> bool:
        """True if it is a colour picture; the chroma that JPEG leaves in a grey one does not count."""
        return self.chroma is not None and float(self.chroma.abs().mean()) > _COLOURED


class ValueRange(NamedTuple):
    """A parsed range: unit "auto" or "full", or "raw" or "percentile" with low < high."""

    unit: Literal["auto", "full", "raw", "percentile"]
    low: float = 0.0
    high: float = 1.0


def px(size: Sequence[int]) -> str:
    """(height, width) as people write it.

    >>> px((480, 640))
    '640x480'
    """
    return f"{size[1]}x{size[0]}"


def parse_range(text: str) -> ValueRange:
    """Parse "auto", "full", "LOW,HIGH" (raw values) or "pLOW,pHIGH" (percentiles).

    Raises:
        ValueError: for anything else, for low >= high, and for percentiles outside 0..100.

    >>> parse_range("p0.5,p99.5")
    ValueRange(unit='percentile', low=0.5, high=99.5)
    >>> parse_range("7000,9000").high
    9000.0
    """
    if text in ("auto", "full"):
        return ValueRange(text)  # type: ignore[arg-type]
    forms = 'auto, full, LOW,HIGH (raw values, e.g. "7000,9000") or pLOW,pHIGH (percentiles, e.g. "p0.5,p99.5")'
    parts = [part.strip() for part in text.split(",")]
    percentiles = [part.startswith("p") for part in parts]
    try:
        low, high = (float(part.removeprefix("p")) for part in parts)
    except ValueError:
        raise UserError(f"a value range must be {forms}, got {text!r}") from None
    if percentiles[0] != percentiles[1]:
        raise UserError(f"a value range must have two raw values or two percentiles, got {text!r}; use {forms}")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UserError(f"a value range must have a finite low end below its high end, got {text!r}; change them")
    if percentiles[0] and not 0 <= low < high <= 100:
        raise UserError(f"percentiles must lie in 0..100, got {text!r}")
    return ValueRange("percentile" if percentiles[0] else "raw", low, high)


def read_image(
    path: str | Path,
    *,
    value_range: str = "auto",
    modality: Modality = "visible",
    noun: str | None = None,
    flag: str | None = None,
) -> Picture:
    """Read an image file.

    Args:
        path: a PNG, JPEG, WebP, BMP or TIFF file.
        value_range: which raw values become 0 and 1; see the module's description.
        modality: "visible" or "infrared"; decides "auto" and what counts as grey.
        noun: what messages call the image; the modality without it.
        flag: what messages call the option for the range; --visible-range or --infrared-range without it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, no known image, truncated or damaged, too large, or holds NaN or
            infinite values, or if its values do not fit the range.
        PermissionError: if it may not be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(Path(folder) / "a.png", np.full((4, 6), 51, np.uint8))
    ...     picture = read_image(Path(folder) / "a.png")
    >>> tuple(picture.y.shape), round(picture.y[0, 0, 0].item(), 3), picture.chroma, picture.bits
    ((1, 4, 6), 0.2, None, 8)
    """
    parsed = parse_range(value_range)
    return _make_picture(read_pixels(Path(path)), modality, parsed, str(path), flag)


def picture_from_array(
    x: "Array | Tensor | Image.Image",
    *,
    modality: Modality = "visible",
    value_range: str = "auto",
    noun: str | None = None,
    flag: str | None = None,
) -> Picture:
    """Take an image that is already in memory.

    Args:
        x: numpy (H,W), (H,W,1), (H,W,3) or (H,W,4), RGB(A), of uint8, uint16, float32 or float64, treated as a file of
            that type is; or a torch tensor (H,W), (C,H,W) or (1,C,H,W) with C = 1, 3 or 4, floating in [0,1], which
            "auto" takes as it is; or a PIL image.
        modality, value_range, noun, flag: as in `read_image`.

    Raises:
        ValueError: for other shapes and types, NaN or infinite values, or values that do not fit the range.

    >>> picture_from_array(torch.rand(3, 5, 7)).chroma.shape
    torch.Size([2, 5, 7])
    """
    parsed = parse_range(value_range)
    noun = noun or modality
    if isinstance(x, Image.Image):
        return _make_picture(from_pillow(x), modality, parsed, f"the {noun} PIL image", flag)
    if isinstance(x, Tensor):
        shape = tuple(x.shape)
        channels = x[0] if x.ndim == 4 and len(x) == 1 else x
        channels = channels[None] if channels.ndim == 2 else channels
        fits = channels.ndim == 3 and channels.shape[0] in (1, 3, 4) and channels.numel() > 0
        if not fits or not x.is_floating_point():
            raise UserError(
                f"a tensor must be (H,W), (C,H,W) or (1,C,H,W) with 1, 3 or 4 channels, floating in [0,1], got {shape} "
                f"of {x.dtype}; permute it, or divide integers by their full scale"
            )
        pixels = channels.detach().cpu().float().permute(1, 2, 0).numpy()
        as_it_is = ValueRange("full") if parsed.unit == "auto" else parsed
        return _make_picture(pixels, modality, as_it_is, f"the {noun} tensor", flag)
    if not isinstance(x, np.ndarray):
        raise UserError(f"an image must be a numpy array, a torch tensor or a PIL image, got {type(x).__name__}")
    known = x.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.float32, np.float64)
    if not known or not (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4))) or not x.size:
        raise UserError(
            f"an array must be (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16, float32 or float64, got {x.shape} "
            f"of {x.dtype}; transpose or convert it first"
        )
    return _make_picture(x.astype(x.dtype.newbyteorder("="), copy=False), modality, parsed, f"the {noun} array", flag)


def to_array(y: Tensor, chroma: Tensor | None = None, alpha: Tensor | None = None, *, bits: int = 8) -> Array:
    """Integer pixels of a fused image: floor(x * scale + 1/2) of x clipped to [0,1], so nothing wraps around.

    Args:
        y: luminance (1, H, W).
        chroma: (2, H, W), or None for a grey image.
        alpha: (1, H, W), or None. A grey image with alpha becomes (H, W, 4) with three equal channels.
        bits: 8 or 16.

    Returns:
        (H, W), (H, W, 3) RGB or (H, W, 4) RGBA of uint8 or uint16.

    Raises:
        ValueError: for other bits or shapes, and for NaN or infinite values.

    >>> to_array(torch.tensor([[[0.0, 0.5, 1.2]]])).tolist()
    [[0, 128, 255]]
    """
    if bits not in (8, 16):
        raise UserError(f"an image is written with 8 or 16 bits, got {bits}")
    if y.ndim != 3 or y.shape[0] != 1 or (alpha is not None and alpha.shape != y.shape):
        got = tuple(y.shape) if alpha is None else f"{tuple(y.shape)} and alpha {tuple(alpha.shape)}"
        raise UserError(f"y and alpha must be (1,H,W) of one size, got {got}; pass one image without its batch axis")
    parts = [None if part is None else part.detach().float().cpu() for part in (y, chroma, alpha)]
    if not all(part.sum().isfinite() for part in parts if part is not None):  # much faster than asking every pixel
        raise UserError("the fused image holds NaN or infinite values; check the weights, or try --dtype float32")
    height, width = y.shape[-2:]
    num_channels = 4 if alpha is not None else 1 if chroma is None else 3
    out = np.empty((height, width, num_channels), np.uint8 if bits == 8 else np.uint16)
    step = max(1, 2**16 // width)  # stripes of rows: a gigapixel image needs no float copies of its size
    for top in range(0, height, step):
        luminance, colour, opacity = (None if part is None else part[:, top : top + step] for part in parts)
        assert luminance is not None
        out[top : top + step] = _codes(luminance, colour, opacity, bits).permute(1, 2, 0).numpy()
    return out[..., 0] if num_channels == 1 else out


def write_image(path: str | Path, array: Array) -> None:
    """Write an image so that its final name never holds half a file.

    The extension gives the format. PNG and TIFF take 8 and 16 bits, JPEG (quality 95, no colour subsampling), WebP
    (quality 95) and BMP take 8. Alpha is dropped in JPEG and BMP.

    Args:
        path: where to; its folder must exist. An older file is replaced at the very end.
        array: (H, W), (H, W, 3) RGB or (H, W, 4) RGBA of uint8 or uint16.

    Raises:
        ValueError: for an unknown extension, 16 bits in an 8-bit format, or another shape or type.
        FileNotFoundError: if the folder does not exist.
        OSError: if writing fails (PermissionError: the folder is not writable). The final name is then untouched.
    """
    path = Path(path)
    check_output(path, bits=16 if array.dtype == np.uint16 else 8)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype not in (np.uint8, np.uint16) or not fits or not array.size:
        raise UserError(
            f"pixels must be (H,W), (H,W,3) or (H,W,4) of uint8 or uint16, got {array.shape} of {array.dtype}; "
            "make them with to_array"
        )
    write_pixels(path, array)


def check_output(path: str | Path, *, bits: int = 8) -> None:
    """Refuse an output file before any work is done: its extension, its bits, its folder.

    Raises:
        ValueError, FileNotFoundError: as `write_image`.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise UserError(f"cannot tell the image format of {path}; end the name in one of {', '.join(EXTENSIONS)}")
    if bits == 16 and extension not in (".png", ".tif", ".tiff"):
        raise UserError(f"{extension} files hold 8 bits only, 16 were asked for {path}; use .png or .tif, or 8 bits")
    if path.is_dir():
        raise UserError(f"the output {path} is a folder; add a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")


def _make_picture(pixels: Array, modality: Modality, value_range: ValueRange, source: str, flag: str | None) -> Picture:
    if modality not in ("visible", "infrared"):
        raise UserError(f"modality must be 'visible' or 'infrared', got {modality!r}")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    bits = {"uint8": 8, "uint16": 16}.get(planes.dtype.name, 32)
    _check_finite(planes, source)
    codes, raw_alpha = (planes[:-1], planes[-1:]) if len(planes) in (2, 4) else (planes, None)
    if len(codes) == 3 and np.array_equal(codes[0], codes[1]) and np.array_equal(codes[1], codes[2]):
        codes = codes[:1]
    raw = torch.from_numpy(codes.astype(np.float32 if bits < 32 else np.float64))
    low, high = _limits(raw, bits, modality, value_range, source, flag or f"--{modality}-range")
    fits = bits < 32 and (low, high) == (0, 2**bits - 1)  # nothing to shift or clip: two passes less
    x = raw.div_(high) if fits else raw.sub_(low).div_(high - low).clamp_(0, 1).float()
    y, chroma = (x, None) if len(x) == 1 else rgb_to_ycbcr(x)
    if modality == "infrared" and chroma is not None and _nearly_grey(x):
        chroma = None
    return Picture(y, chroma, None if raw_alpha is None else _alpha(raw_alpha, bits, source), bits, (low, high))


def _limits(
    raw: Tensor, bits: int, modality: Modality, value_range: ValueRange, source: str, flag: str
) -> tuple[float, float]:
    unit, low, high = value_range
    if unit == "auto":
        unit, low, high = ("percentile", 0.1, 99.9) if modality == "infrared" and bits > 8 else ("full", 0.0, 1.0)
    if unit == "raw":
        return low, high
    if unit == "percentile":
        grey = raw if len(raw) == 1 else rgb_to_ycbcr(raw)[0]
        return _spread(grey.numpy(), low, high)
    if bits < 32:
        return 0.0, float(2**bits - 1)
    smallest, largest = float(raw.min()), float(raw.max())
    if smallest < 0 or largest > 1:
        raise UserError(
            f"{source} must hold values in [0,1], got {smallest:g}..{largest:g}; "
            f"say what is black and what is white with {flag}={smallest:g},{largest:g} (or =p0.1,p99.9)"
        )
    return 0.0, 1.0


def _spread(values: Array, low: float, high: float) -> tuple[float, float]:
    first, last = (float(v) for v in np.percentile(values, (low, high)))
    if first == last:
        first, last = float(values.min()), float(values.max())
    return (first, last) if first < last else (first - 0.5, first + 0.5)


def _alpha(raw: Array, bits: int, source: str) -> Tensor:
    if bits == 32 and not 0 <= raw.min() <= raw.max() <= 1:
        raise UserError(f"{source} must have alpha in [0,1], got {raw.min():g}..{raw.max():g}; rescale it")
    return torch.from_numpy(raw.astype(np.float32)).div_(2**bits - 1 if bits < 32 else 1)


def _nearly_grey(x: Tensor) -> bool:
    coloured = x.amax(0) - x.amin(0) > _NEARLY_GREY + 1e-6
    return int(coloured.count_nonzero()) <= 0.001 * coloured.numel()


def _check_finite(planes: Array, source: str) -> None:
    if planes.dtype.kind == "f" and not np.isfinite(planes).all():
        bad = int((~np.isfinite(planes)).any(0).sum())
        raise UserError(
            f"{source} has {bad} NaN or infinite pixels of {planes[0].size}; replace them first, e.g. by the median of "
            "their neighbours, since only you know what they stand for"
        )


def _codes(y: Tensor, chroma: Tensor | None, alpha: Tensor | None, bits: int) -> Tensor:
    planes = y.clamp(0, 1) if chroma is None else ycbcr_to_rgb(y, chroma)
    if alpha is not None:
        planes = torch.cat((planes.expand(3, -1, -1), alpha.clamp(0, 1)))
    codes = planes.mul_(2**bits - 1).add_(HALF_UP)  # nothing is negative, so that truncation is floor
    return codes.to(torch.uint8 if bits == 8 else torch.uint16)
