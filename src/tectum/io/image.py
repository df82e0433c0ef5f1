"""Images as luminance, chroma and alpha in [0,1], from files and arrays and back.

Value range. x = clamp((raw - low) / (high - low), 0, 1), with (low, high) from `value_range`:

    "full"         the type's whole range: 0..255, 0..65535; float files must lie in [0,1]
    "LOW,HIGH"     these raw numbers, for every image alike: what a fixed camera and a video want
    "pLOW,pHIGH"   these percentiles of this image's luminance, e.g. "p0.5,p99.5"
    "auto"         8 bits: full. 16 bits or float: visible full, infrared p0.1,p99.9 (radiometric files use a small
                   part of the range); so brightness may flicker over a sequence: give LOW,HIGH there

A range that makes every pixel black, or every pixel white, is refused, and one that does so to 95 % of them is told. So
is a visible image of 16 bits whose values stay below 2^14 under "auto": cameras store 10, 12 or 14 bits in 16.

Where the two percentiles coincide, the image's minimum and maximum take their place; where those coincide too (a
constant image) the range is v - 1/2 .. v + 1/2, so percentiles show a constant image as mid-grey, 0.5. Nothing is
ever divided by zero, and `Picture.raw_range` tells what was used.

Grey. A visible image is grey (chroma None) if its three channels are equal everywhere. An infrared image is grey
already if they differ by at most 4/255 on 99.9 % of the pixels: thermal cameras store one channel three times, and
JPEG then leaves a faint false colour (LLVIP), which must not tint the result. Alpha never touches the luminance.

Files. The first bytes say what a file is, not its name. Readers that not every image needs are imported when one does:

    PNG, JPEG, WebP, BMP of 8 bits a channel or fewer   Pillow   palettes, CMYK, 1-bit, transparency, EXIF; and OpenCV's
                                                                 libpng prints its warnings
    PNG of 16 bits                                      OpenCV   Pillow cuts 16-bit RGB to 8 bits
    TIFF                        `tectum.io.tiff`                 the first page; both libraries
    HEIC, AVIF                  `tectum.io.heif`                 Pillow and its plugins
    .npy                        `tectum.io.npy`                  numpy, no pickles
    radiometric JPEG            `tectum.io.radiometric`          as an infrared image: temperatures or raw counts

The EXIF orientation is applied. Numbers in a file are taken as they stand: ICC profiles and gamma chunks change none.
EXIF, ICC profile and geo tags (`tectum.io.metadata`) can go into a result. A file that has lost a part is refused.
Writing is atomic. Alpha is dropped in JPEG and BMP, which have no dependable place for it.
"""

import contextlib
import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from torch import Tensor

from tectum.color import HALF_UP, rgb_to_ycbcr, ycbcr_to_rgb
from tectum.errors import UserError
from tectum.io.files import write_whole

Array = np.ndarray[Any, np.dtype[Any]]
OUTPUT_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
EXTENSIONS = (*OUTPUT_EXTENSIONS, ".heic", ".heif", ".avif", ".npy")
"""Names that image files in a folder end in."""
MAX_PIXELS = 2**30  # OpenCV's own limit too; 1 gigapixel of float32 is 4 GiB
_AGAIN = "copy or save it again"
_PLUGINS: dict[str, Any] = {  # called directly: Image.open compares the size with a limit that is global to the process
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_METADATA = {"exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Entries of a Pillow image's `info` that a result or the orientation needs."""
# What Pillow raises on damaged files, found by flipping bytes; a NameError of ours must stay one.
DAMAGED = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, OverflowError, EOFError, struct.error)
_warnings_lock = threading.Lock()
Modality = Literal["visible", "infrared"]
_NEARLY_GREY = 4 / 255
_NEARLY_ALL = 0.95
"""Part of an image's values beyond one end of the range from which on there is a warning."""
_NARROW = 2**14
"""A visible image of 16 bits with values below this was stored by a camera of fewer bits, or is as good as black."""
_COLOURED = 2 / 255
"""Mean |chroma| above which a picture counts as a colour picture: JPEG leaves less in a grey one."""


@dataclass(frozen=True)
class RawImage:
    """Decoded image of a file, before a value range is chosen.

    Attributes:
        pixels: (H,W), (H,W,2) grey and alpha, (H,W,3) RGB or (H,W,4) RGBA, upright, of the file's own type.
        valid: (H,W) bool, False where the file says that there is no data; None for valid everywhere.
        nodata: raw value that the file declares to stand for no data, or None.
        unit: of the values, such as "degrees Celsius"; empty for plain levels.
        metadata: what of the file's metadata goes into a result made of it: "exif" and "icc" as bytes, "geo" as
            a dict of TIFF tags; only those that it has.
        warnings: sentences on what of the file was not read.
    """

    pixels: Array
    valid: Array | None = None
    unit: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    nodata: float | None = None


@dataclass(frozen=True)
class Picture:
    """Image as luminance, chroma and alpha.

    Attributes:
        y: luminance (1, H, W), float32 in [0,1].
        chroma: (2, H, W) centred on 0, or None for a grey image.
        alpha: (1, H, W) in [0,1], or None.
        bits: 8 or 16, or 32 for float and wide integer sources.
        raw_range: the raw values that became 0 and 1.
        valid: (1, H, W) bool, False where there is no data; None for valid everywhere.
        unit, metadata, warnings: as in `RawImage`.
    """

    y: Tensor
    chroma: Tensor | None = None
    alpha: Tensor | None = None
    bits: int = 8
    raw_range: tuple[float, float] = (0.0, 255.0)
    valid: Tensor | None = None
    unit: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def brightness(self) -> float:
        """Mean luminance in [0,1]."""
        return float(self.y.double().mean())

    @property
    def has_colour(self) -> bool:
        """True if it is a colour picture; the chroma that JPEG leaves in a grey one does not count."""
        return self.chroma is not None and float(self.chroma.abs().mean()) > _COLOURED


class NarrowRangeError(UserError):
    """Refusal of a visible image of 16 bits that uses few of them, while nobody said what is white."""


class ValueRange(NamedTuple):
    """Parsed value range: unit "auto" or "full", or "raw" or "percentile" with low < high."""

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


def parse_nodata(text: str | None, *, guess: bool) -> tuple[str, str]:
    """Returns the arguments `nodata` of `read_image` for the first image and for the second and later ones.

    Args:
        text: of an option: VALUE of the second, VALUE,VALUE of both, "none", or None if it was left out.
        guess: guess at a constant border where nothing is said.

    Raises:
        UserError: it is none of these.

    >>> parse_nodata(None, guess=True), parse_nodata("-9999", guess=False), parse_nodata("0,-9999", guess=True)
    (('guess', 'guess'), ('declared', '-9999'), ('0', '-9999'))
    """
    if text == "none":
        return "none", "none"
    unsaid = "guess" if guess else "declared"
    values = [] if text is None else text.split(",")
    try:
        sound = len(values) <= 2 and all(math.isfinite(float(value)) for value in values)
    except ValueError:
        sound = False
    if not sound:
        raise UserError(
            f"--nodata must be a raw value of the second image such as 0 or -9999, two values for both, or none, got "
            f"{text!r}"
        )
    first, second = [unsaid] * (2 - len(values)) + [value.strip() for value in values]
    return first, second


def mark_invalid(picture: Picture) -> Array:
    """Returns the luminance (H,W) float32, NaN where there is no data."""
    y = picture.y[0]
    return (y if picture.valid is None else y.masked_fill(~picture.valid[0], math.nan)).numpy()


def read_image(
    path: str | Path,
    *,
    value_range: str = "auto",
    modality: Modality = "visible",
    flag: str | None = None,
    nodata: str = "declared",
) -> Picture:
    """Read an image file.

    Args:
        path: a PNG, JPEG, WebP, BMP, TIFF, HEIC, AVIF or .npy file; as an infrared image also a radiometric JPEG.
        value_range: which raw values become 0 and 1; see the module's description.
        modality: "visible" or "infrared"; decides "auto" and what counts as grey.
        flag: what messages call the option for the range; --visible-range or --infrared-range without it.
        nodata: which pixels have no data. "declared": NaN, alpha 0, masks and the file's GDAL_NODATA tag; "guess": also
            a constant border; "none": NaN and masks only; a number: this raw value, in place of the tag's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, no known image, truncated or damaged, too large, holds infinite
            values or no data at all, or if its values do not fit the range.
        PermissionError: if it may not be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(Path(folder) / "a.png", np.full((4, 6), 51, np.uint8))
    ...     picture = read_image(Path(folder) / "a.png")
    >>> tuple(picture.y.shape), round(picture.y[0, 0, 0].item(), 3), picture.chroma, picture.bits
    ((1, 4, 6), 0.2, None, 8)
    """
    parsed = parse_range(value_range)
    return _make_picture(_read_raw(Path(path), modality), modality, parsed, str(path), flag, nodata)


def picture_from_array(
    x: "Array | Tensor | Image.Image",
    *,
    modality: Modality = "visible",
    value_range: str = "auto",
    noun: str | None = None,
    flag: str | None = None,
    nodata: str = "declared",
) -> Picture:
    """Make a picture of an image in memory.

    Args:
        x: numpy (H,W), (H,W,1), (H,W,3) or (H,W,4), RGB(A), of uint8, uint16, float32 or float64, treated as a file of
            that type is; or a torch tensor (H,W), (C,H,W) or (1,C,H,W) with C = 1, 3 or 4, floating in [0,1], which
            "auto" takes as it is; or a PIL image.
        modality, value_range, noun, flag, nodata: as in `read_image`. The mask of a masked array counts as declared.

    Raises:
        ValueError: for other shapes and types, infinite values, or values that do not fit the range.

    >>> picture_from_array(torch.rand(3, 5, 7)).chroma.shape
    torch.Size([2, 5, 7])
    """
    parsed = parse_range(value_range)
    noun = noun or modality
    if isinstance(x, Image.Image):
        return _make_picture(RawImage(pixels_from_pillow(x)), modality, parsed, f"the {noun} PIL image", flag, nodata)
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
        return _make_picture(RawImage(pixels), modality, as_it_is, f"the {noun} tensor", flag, nodata)
    if not isinstance(x, np.ndarray):
        raise UserError(f"an image must be a numpy array, a torch tensor or a PIL image, got {type(x).__name__}")
    known = x.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.float32, np.float64)
    if not known or not (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4))) or not x.size:
        raise UserError(
            f"an array must be (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16, float32 or float64, got {x.shape} "
            f"of {x.dtype}; transpose or convert it first"
        )
    valid: Array | None = None
    if isinstance(x, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(x)
        valid, x = np.logical_not(masked if x.ndim == 2 else masked.any(axis=2)), x.data
    raw = RawImage(x.astype(x.dtype.newbyteorder("="), copy=False), valid)
    return _make_picture(raw, modality, parsed, f"the {noun} array", flag, nodata)


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


def write_image(path: str | Path, array: Array, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an image so that its final name never holds half a file.

    The extension gives the format. PNG and TIFF take 8 and 16 bits, JPEG (quality 95, no colour subsampling), WebP
    (quality 95) and BMP take 8. Alpha is dropped in JPEG and BMP. Metadata of a source goes along where the format has
    a place for it: EXIF and ICC profile into PNG, JPEG, WebP and TIFF, geo tags into TIFF.

    Args:
        path: where to; its folder must exist. An older file is replaced at the very end.
        array: (H, W), (H, W, 3) RGB or (H, W, 4) RGBA of uint8 or uint16.
        metadata: of the source in whose frame the image lies, as in `RawImage`.

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
    data = _encode(path, array, metadata or {})
    try:
        write_whole(path, lambda file: file.write_bytes(data))
    except OSError as error:
        error_type = PermissionError if isinstance(error, PermissionError) else OSError
        raise error_type(f"{path} cannot be written: {error.strerror or error}; choose another place with -o") from None


def check_output(path: str | Path, *, bits: int = 8) -> None:
    """Refuse an output file before any work is done: its extension, its bits, its folder.

    Raises:
        ValueError, FileNotFoundError: as `write_image`.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension not in OUTPUT_EXTENSIONS:
        endings = ", ".join(OUTPUT_EXTENSIONS)
        raise UserError(f"cannot tell the image format of {path}; end the name in one of {endings}")
    if bits == 16 and extension not in (".png", ".tif", ".tiff"):
        raise UserError(f"{extension} files hold 8 bits only, 16 were asked for {path}; use .png or .tif, or 8 bits")
    if path.is_dir():
        raise UserError(f"the output {path} is a folder; add a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")


def _make_picture(
    image: RawImage, modality: Modality, value_range: ValueRange, source: str, flag: str | None, nodata: str
) -> Picture:
    if modality not in ("visible", "infrared"):
        raise UserError(f"modality must be 'visible' or 'infrared', got {modality!r}")
    pixels = image.pixels[..., None] if image.pixels.ndim == 2 else image.pixels
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    bits = {"uint8": 8, "uint16": 16}.get(planes.dtype.name, 32)
    _check_finite(planes, source)
    codes, raw_alpha = (planes[:-1], planes[-1:]) if len(planes) in (2, 4) else (planes, None)
    if len(codes) == 3 and np.array_equal(codes[0], codes[1]) and np.array_equal(codes[1], codes[2]):
        codes = codes[:1]
    valid, told = _find_valid(image, codes, raw_alpha, nodata, source, modality)
    if valid is not None:
        from tectum.io.validity import fill_invalid

        codes = fill_invalid(codes, valid)
    raw = torch.from_numpy(codes.astype(np.float32 if bits < 32 else np.float64))
    flag = flag or f"--{modality}-range"
    data = raw if valid is None else raw[:, torch.from_numpy(valid)][:, None]  # what the range is taken of
    clipped: tuple[str, ...] = ()
    if bits > 8 and modality == "infrared" and value_range.unit in ("auto", "percentile"):
        data, clipped = _drop_outlier(data, widens=value_range.unit == "percentile" or nodata == "none")
    low, high = _limits(data, bits, modality, value_range, source, flag)
    if value_range.unit == "raw":
        clipped = _clipped_warning(data, low, high, source, flag)
    fits = bits < 32 and (low, high) == (0, 2**bits - 1)  # nothing to shift or clip: two passes less
    x = raw.div_(high) if fits else raw.sub_(low).div_(high - low).clamp_(0, 1).float()
    y, chroma = (x, None) if len(x) == 1 else rgb_to_ycbcr(x)
    if modality == "infrared" and chroma is not None and _nearly_grey(x):
        chroma = None
    alpha = None if raw_alpha is None else _alpha(raw_alpha, bits, source)
    mask = None if valid is None else torch.from_numpy(np.ascontiguousarray(valid))[None]
    warnings = (*image.warnings, *told, *clipped)
    return Picture(y, chroma, alpha, bits, (low, high), mask, image.unit, image.metadata, warnings)


def _find_valid(
    image: RawImage, codes: Array, alpha: Array | None, nodata: str, source: str, modality: Modality
) -> tuple[Array | None, tuple[str, ...]]:
    """The pixels with data (H,W), or None for all, and sentences on what was guessed; nearly always nothing to do."""
    declared = image.valid is not None or image.nodata is not None or (alpha is not None and not alpha.all())
    has_nan = codes.dtype.kind == "f" and bool(np.isnan(codes).any())
    perhaps = nodata == "guess" and _has_constant_corner(codes)
    if nodata in ("declared", "guess") and not (declared or has_nan or perhaps):
        return None, ()
    from tectum.io.validity import find_valid

    valid, told = find_valid(codes, alpha, image.valid, image.nodata, nodata, modality)
    if valid is not None and not valid.any():
        raise UserError(f"{source} must have pixels with data, got none; check the file, or add --nodata none")
    return valid, told


def _has_constant_corner(codes: Array) -> bool:
    """A cheap test: padding leaves a stretch of equal pixels along the frame at a corner."""
    for end in (0, -1):
        for line in (codes[:, end, :], codes[:, end, ::-1], codes[:, :, end], codes[:, ::-1, end]):
            stretch = line[:, : max(8, line.shape[1] // 16)].astype(np.float64)
            if float(np.ptp(stretch, axis=1).max()) <= 2:  # JPEG leaves as much
                return True
    return False


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
        return spread(grey.numpy(), low, high)
    smallest, largest = float(raw.min()), float(raw.max())
    if bits == 16 and value_range.unit == "auto" and 0 < largest < _NARROW:
        num_bits = max(10, math.ceil(math.log2(largest + 1) / 2) * 2)  # cameras have 10, 12 or 14
        raise NarrowRangeError(
            f"a visible image of 16 bits must use them, but {source} has values {smallest:g}..{largest:g}, as cameras "
            f"of {num_bits} bits store them, and would be nearly black; say what is white with "
            f"{flag}=0,{2**num_bits - 1} (or =full if it is so dark)"
        )
    if bits < 32:
        return 0.0, float(2**bits - 1)
    if smallest < 0 or largest > 1:
        raise UserError(
            f"{source} must hold values in [0,1], got {smallest:g}..{largest:g}; "
            f"say what is black and what is white with {flag}={smallest:g},{largest:g} (or =p0.1,p99.9)"
        )
    return 0.0, 1.0


def _drop_outlier(raw: Tensor, *, widens: bool) -> tuple[Tensor, tuple[str, ...]]:
    """The values that a range is taken of, without one far from all others (dead pixels, padding), and a warning of it.

    Far is further from all others than these from one another. `widens`: it stays, because percentiles or all values
    were asked for.
    """
    if len(raw) > 1:
        return raw, ()
    for value in (float(raw.min()), float(raw.max())):
        rest = raw[raw != value]
        if not rest.numel():
            continue
        smallest, largest = float(rest.min()), float(rest.max())
        if max(smallest - value, value - largest) > largest - smallest > 0:
            does = "may widen its range" if widens else "are left out of its range"
            told = (
                f"some pixels of the infrared image hold {value:g}, far from all other values, and {does}; "
                f"--nodata {value:g} shows the other image there"
            )
            return (raw if widens else rest[None, None]), (told,)
    return raw, ()


def _clipped_warning(raw: Tensor, low: float, high: float, source: str, flag: str) -> tuple[str, ...]:
    """A warning if LOW,HIGH clip nearly all values of an image at one end.

    Raises:
        UserError: they clip all of them there.
    """
    for level, where, limit, beyond in (("black", "below", low, raw < low), ("white", "above", high, raw > high)):
        num = int(beyond.count_nonzero())
        if num == raw.numel():
            smallest, largest = float(raw.min()), float(raw.max())
            own = f"give its own, {flag}={smallest:g},{largest:g}, or auto" if smallest < largest else "leave it out"
            raise UserError(
                f"{flag}={low:g},{high:g} must cover values of {source}, but all of them, {smallest:g}..{largest:g}, "
                f"lie {where} {limit:g} and would be {level}; {own}"
            )
        if num >= _NEARLY_ALL * raw.numel():  # without the image's numbers, so that those of a folder are told as one
            return (f"{flag}={low:g},{high:g} makes at least {_NEARLY_ALL:.0%} of the image {level}; is it right?",)
    return ()


def spread(values: Array, low: float, high: float) -> tuple[float, float]:
    """Returns two percentiles of values; the ends of their range where these coincide, and v -+ 1/2 of a constant v."""
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
    if planes.dtype.kind == "f" and np.isinf(planes).any():
        bad = int(np.isinf(planes).any(0).sum())
        raise UserError(
            f"{source} has {bad} infinite pixels of {planes[0].size}; replace them first, by NaN where there is no data"
        )


def _codes(y: Tensor, chroma: Tensor | None, alpha: Tensor | None, bits: int) -> Tensor:
    planes = y.clamp(0, 1) if chroma is None else ycbcr_to_rgb(y, chroma)
    if alpha is not None:
        planes = torch.cat((planes.expand(3, -1, -1), alpha.clamp(0, 1)))
    codes = planes.mul_(2**bits - 1).add_(HALF_UP)  # nothing is negative, so that truncation is floor
    return codes.to(torch.uint8 if bits == 8 else torch.uint16)


# ---- pixels of files -------------------------------------------------------------------------------------------------


def read_pixels(path: Path) -> Array:
    """Returns the raw pixels of an image file, as in `RawImage`. Raises as `_read_raw`."""
    return _read_raw(path, "visible").pixels


def _read_raw(path: Path, modality: Modality) -> RawImage:
    """Decode an image file; of a radiometric one the temperatures if it is the infrared image, else the preview.

    Raises:
        FileNotFoundError, PermissionError, OSError: if the file cannot be opened.
        ValueError: if it is a folder, empty, no known image, truncated, damaged, too large or of an unreadable layout.
    """
    if path.is_dir():
        raise UserError(f"an image file is needed, {path} is a folder; name a file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"image {path} not found; check the name and the folder") from None
    except PermissionError:
        raise PermissionError(f"image {path} may not be read; check its permissions") from None
    except OSError as error:
        raise OSError(f"image {path} cannot be read: {error.strerror or error}") from None
    if not data:
        raise UserError(f"{path} is empty (0 bytes); copy or save the image again")
    try:
        with _whole_files_only:
            return _decode(data, modality)
    except Refusal as refusal:
        raise UserError(f"{path} {refusal}") from None


def pixels_from_pillow(image: Image.Image) -> Array:
    """Returns raw pixels of a Pillow image of any mode, as in `RawImage`; its orientation tag is not looked at."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if mode in ("I", "F"):
        wide = np.asarray(image)
        # Pillow before 11 opens 16-bit grey PNG as "I".
        return wide.astype(np.uint16) if mode == "I" and wide.min() >= 0 and wide.max() <= 65535 else wide
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = mode in ("1", "L", "LA", "La")
    target = ("LA" if transparent else "L") if grey else ("RGBA" if transparent else "RGB")
    return np.asarray(image if mode == target else image.convert(target))


class Refusal(Exception):
    """Refusal of the bytes of a file: the rest of a sentence that starts with the file's name."""


def _decode(data: bytes, modality: Modality) -> RawImage:
    name = _identify(data)
    try:
        if name == "TIFF":
            from tectum.io import tiff

            return tiff.read(data)
        if name == "HEIC" or name == "AVIF":
            from tectum.io import heif

            return heif.read(data, name)
        if name == ".npy":
            from tectum.io import npy

            return npy.read(data)
        return _decode_common(data, name, modality)
    except Image.DecompressionBombError:  # Pillow's own limit, where it cannot be got round
        raise Refusal(f"is too large for a {name} file to be read; save it as PNG or strip-wise TIFF") from None
    except DAMAGED as error:
        reason = f" ({error})" if isinstance(error, OSError) else ""
        raise Refusal(f"is a truncated or damaged {name} file{reason}; {_AGAIN}") from error


def _decode_common(data: bytes, name: str, modality: Modality) -> RawImage:
    """Decode a PNG, JPEG, WebP or BMP file."""
    wide, chunks = _check_png(data) if name == "PNG" else (False, {})
    if wide:
        pixels, has_metadata, image = decode_with_opencv(data, name), bool(chunks), None
    else:
        with quiet_pillow():
            image = _PLUGINS[name](io.BytesIO(data))
            check_size(*image.size)
        if any(app == "APP3" or body.startswith(b"FLIR\0") for app, body in getattr(image, "applist", ())):
            from tectum.io import radiometric

            return radiometric.read(image, modality)
        pixels = pixels_from_pillow(image)
        has_metadata = bool(_METADATA & image.info.keys())
    if not has_metadata:
        return RawImage(pixels)
    from tectum.io import metadata

    return metadata.attach_png(pixels, chunks) if image is None else metadata.attach_pillow(pixels, image)


def _identify(data: bytes) -> str:
    """The format by the first bytes. A reader of another one gets its line here and its import in `_decode`."""
    if data[128:132] == b"DICM" or data[344:347] in (b"n+1", b"ni1") or data[:2] == b"\x1f\x8b":
        raise Refusal("looks like a medical volume (DICOM, NIfTI); fuse it with another one by --kind medical")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data.startswith(b"\x93NUMPY"):
        return ".npy"
    if data[4:8] == b"ftyp":  # ISO base media: the brands say what is in it
        brands = data[8 : int.from_bytes(data[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return "HEIC"
    raise Refusal("is not an image tectum can read; give a PNG, JPEG, WebP, BMP, TIFF, HEIC, AVIF or .npy file")


def check_size(width: int, height: int) -> None:
    """Refuse an image of more pixels than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise Refusal(f"has {width} x {height} pixels, the limit is {MAX_PIXELS} pixels; cut it or shrink it first")


def _check_png(data: bytes) -> tuple[bool, dict[bytes, bytes]]:
    """Walk the chunks: all there, the critical ones undamaged. Returns whether it has 16 bits, and its metadata."""
    position, chunk, wide, metadata, view = 8, b"", False, {}, memoryview(data)
    while chunk != b"IEND":
        chunk = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        if end > len(data):
            raise Refusal(f"is a truncated PNG file; {_AGAIN}")
        body = view[position + 8 : end - 4]
        if chunk[:1].isupper() and zlib.crc32(body, zlib.crc32(chunk)) != int.from_bytes(view[end - 4 : end], "big"):
            raise Refusal(f"is a damaged PNG file (wrong checksum); {_AGAIN}")
        if chunk == b"IHDR":
            check_size(*struct.unpack(">II", body[:8]))
            wide = body[8] == 16
        if chunk in (b"eXIf", b"iCCP"):
            metadata[chunk] = bytes(body)
        position = end
    return wide, metadata


def decode_with_opencv(data: bytes, name: str) -> Array:
    """Decode a file of a format (its name is for the message) by OpenCV, in RGB(A) order."""
    import cv2

    pixels = None
    with _silent_opencv, contextlib.suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise Refusal(f"is a truncated or damaged {name} file; {_AGAIN}")
    return pixels if pixels.ndim == 2 else _swap_red_blue(pixels)


def _encode(path: Path, array: Array, metadata: Mapping[str, Any]) -> bytes:
    import cv2

    extension = path.suffix.lower().replace("jpeg", "jpg")
    if metadata:
        from tectum.io.metadata import fit_metadata

        metadata = fit_metadata(metadata, array, extension)
    if array.ndim == 3:  # OpenCV stores blue first
        keep_alpha = array.shape[2] == 4 and extension not in (".jpg", ".bmp")
        array = _swap_red_blue(array if keep_alpha else array[..., :3])
    options = {
        # Visible MSRS images, one core: level 1 17 ms 421 kB, with runs only 15 ms 369 kB; level 6 60 ms 384 kB
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    }
    places = {"exif": cv2.IMAGE_METADATA_EXIF, "icc": cv2.IMAGE_METADATA_ICCP} if extension in options else {}
    types = [place for name, place in places.items() if name in metadata]
    values = [np.frombuffer(metadata[name], np.uint8) for name in places if name in metadata]
    encoded, data = False, np.empty(0, np.uint8)
    with _silent_opencv, contextlib.suppress(cv2.error):
        encoded, data = cv2.imencodeWithMetadata(extension, array, types, values, options.get(extension, []))
    if not encoded:
        height, width = array.shape[:2]
        raise UserError(f"{width} x {height} pixels do not fit into a {extension} file ({path}); use .png or .tif")
    if extension.startswith(".tif") and (metadata or (array.ndim == 3 and array.shape[2] == 4)):
        from tectum.io.metadata import add_to_tiff

        return add_to_tiff(data.tobytes(), metadata)
    return data.tobytes()


def _swap_red_blue(pixels: Array) -> Array:
    return np.stack([pixels[..., channel] for channel in (2, 1, 0, 3)[: pixels.shape[2]]], axis=-1)  # fast, contiguous


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow warns of odd metadata, which changes no pixel. The filters are global: one thread of ours at a time."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class _Setting:
    """Hold a setting of another library, global to the process, at our value: the last thread out restores it."""

    def __init__(self, exchange: Callable[[Any], Any], value: Any) -> None:
        """exchange: sets a value and returns the one before."""
        self.exchange, self.value, self.before = exchange, value, value
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = self.exchange(self.value)
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.exchange(self.before)


def _opencv_log_level(level: int) -> Any:
    import cv2

    return cv2.utils.logging.setLogLevel(level)


def _pillow_takes_truncated(allowed: bool) -> bool:
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, allowed
    return before


_silent_opencv = _Setting(_opencv_log_level, 0)  # it logs what we say in a sentence of ours
_whole_files_only = _Setting(_pillow_takes_truncated, False)  # some data loaders set it for everybody
