"""Image files to luminance, chroma and alpha in [0,1], and back.

Who reads what. The first bytes of the file decide, never its extension:

    PNG, JPEG, WebP, BMP, TIFF of 8 bits a channel or fewer     Pillow   palettes, CMYK, 1-bit, transparency, EXIF
    PNG of 16 bits; TIFF of 16, 32 or 64 bits, integer or float OpenCV   Pillow cuts 16-bit RGB PNG to 8 bits and has
                                                                         no 16-bit RGB or float64 TIFF

The first page of a TIFF is taken; where white is zero it is inverted; beyond 8 bits its channels must be interleaved
(1, 3 or 4 of them). The EXIF orientation is applied on both ways. ICC profiles and gamma chunks are ignored: numbers
in the file are taken as they stand. Alpha is kept apart and never touches the luminance. A file that has lost a part is
refused.

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

Writing is atomic: a temporary file in the same folder, flushed to disk, then renamed. Alpha is dropped in JPEG and BMP,
which have no dependable place for it.
"""

import contextlib
import io
import os
import struct
import threading
import uuid
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from torch import Tensor

from tectum.color import rgb_to_ycbcr, ycbcr_to_rgb

Role = Literal["visible", "infrared"]
Array = np.ndarray[Any, np.dtype[Any]]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 2**30  # OpenCV's own limit too; 1 gigapixel of float32 is 4 GiB
NEARLY_GREY = 4 / 255
_AGAIN = "copy or save it again"
_TIFF_TAGS = {*range(256, 260), 262, 273, 274, 277, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339}  # of the pixels
# What Pillow raises on damaged files, as found by flipping bytes; a NameError of ours must stay one.
_DAMAGED = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, OverflowError, EOFError, struct.error)
_warnings_lock = threading.Lock()


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


class ValueRange(NamedTuple):
    """A parsed range: kind "auto" or "full", or "raw" or "percentile" with low < high."""

    kind: Literal["auto", "full", "raw", "percentile"]
    low: float = 0.0
    high: float = 1.0


def parse_range(text: str) -> ValueRange:
    """Parse "auto", "full", "LOW,HIGH" (raw values) or "pLOW,pHIGH" (percentiles).

    Raises:
        ValueError: for anything else, for low >= high, and for percentiles outside 0..100.

    >>> parse_range("p0.5,p99.5")
    ValueRange(kind='percentile', low=0.5, high=99.5)
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
        raise ValueError(f"a value range must be {forms}, got {text!r}") from None
    if percentiles[0] != percentiles[1]:
        raise ValueError(f"a value range must have two raw values or two percentiles, got {text!r}; use {forms}")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"a value range must have a finite low end below its high end, got {text!r}; change them")
    if percentiles[0] and not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must lie in 0..100, got {text!r}")
    return ValueRange("percentile" if percentiles[0] else "raw", low, high)


def read_image(path: str | Path, *, value_range: str = "auto", role: Role = "visible") -> Picture:
    """Read an image file.

    Args:
        path: a PNG, JPEG, WebP, BMP or TIFF file.
        value_range: which raw values become 0 and 1; see the module's description.
        role: "visible" or "infrared"; decides "auto" and what counts as grey.

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
    parsed, path = parse_range(value_range), Path(path)
    if path.is_dir():
        raise ValueError(f"an image file is needed, {path} is a folder; name a file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"image {path} not found; check the name and the folder") from None
    except PermissionError:
        raise PermissionError(f"image {path} may not be read; check its permissions") from None
    except OSError as error:
        raise OSError(f"image {path} cannot be read: {error.strerror or error}") from None
    if not data:
        raise ValueError(f"{path} is empty (0 bytes); copy or save the image again")
    try:
        pixels = _decode(data)
    except _Refusal as refusal:
        raise ValueError(f"{path} {refusal}") from None
    return _picture(pixels, role, parsed, str(path))


def picture_from_array(
    x: "Array | Tensor | Image.Image", *, role: Role = "visible", value_range: str = "auto"
) -> Picture:
    """Take an image that is already in memory.

    Args:
        x: numpy (H,W), (H,W,1), (H,W,3) or (H,W,4), RGB(A), of uint8, uint16, float32 or float64, treated as a file of
            that type is; or a torch tensor (H,W), (C,H,W) or (1,C,H,W) with C = 1, 3 or 4, floating in [0,1], which
            "auto" takes as it is in both roles; or a PIL image.
        role: "visible" or "infrared".
        value_range: as in `read_image`.

    Raises:
        ValueError: for other shapes and types, NaN or infinite values, or values that do not fit the range.

    >>> picture_from_array(torch.rand(3, 5, 7)).chroma.shape
    torch.Size([2, 5, 7])
    """
    parsed = parse_range(value_range)
    source = f"the {role} array"
    if isinstance(x, Image.Image):
        return _picture(_from_pillow(x), role, parsed, f"the {role} PIL image")
    if isinstance(x, Tensor):
        shape = tuple(x.shape)
        channels = x[0] if x.ndim == 4 and len(x) == 1 else x
        channels = channels[None] if channels.ndim == 2 else channels
        fits = channels.ndim == 3 and channels.shape[0] in (1, 3, 4) and channels.numel() > 0
        if not fits or not x.is_floating_point():
            raise ValueError(
                f"a tensor must be (H,W), (C,H,W) or (1,C,H,W) with 1, 3 or 4 channels, floating in [0,1], got {shape} "
                f"of {x.dtype}; permute it, or divide integers by their full scale"
            )
        pixels = channels.detach().cpu().float().permute(1, 2, 0).numpy()
        return _picture(pixels, role, ValueRange("full") if parsed.kind == "auto" else parsed, f"the {role} tensor")
    if not isinstance(x, np.ndarray):
        raise ValueError(f"an image must be a numpy array, a torch tensor or a PIL image, got {type(x).__name__}")
    known = x.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.float32, np.float64)
    if not known or not (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4))) or not x.size:
        raise ValueError(
            f"an array must be (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16, float32 or float64, got {x.shape} "
            f"of {x.dtype}; transpose or convert it first"
        )
    return _picture(x.astype(x.dtype.newbyteorder("="), copy=False), role, parsed, source)


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
        raise ValueError(f"an image is written with 8 or 16 bits, got {bits}")
    if y.ndim != 3 or y.shape[0] != 1 or (alpha is not None and alpha.shape != y.shape):
        got = tuple(y.shape) if alpha is None else f"{tuple(y.shape)} and alpha {tuple(alpha.shape)}"
        raise ValueError(f"y and alpha must be (1,H,W) of one size, got {got}; pass one image without its batch axis")
    parts = [None if part is None else part.detach().float().cpu() for part in (y, chroma, alpha)]
    if not all(part.sum().isfinite() for part in parts if part is not None):  # much faster than asking every pixel
        raise ValueError("the fused image holds NaN or infinite values; check the weights, or try --dtype float32")
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
        raise ValueError(
            f"pixels must be (H,W), (H,W,3) or (H,W,4) of uint8 or uint16, got {array.shape} of {array.dtype}; "
            "make them with to_array"
        )
    data = _encode(path, array)
    temporary = path.with_name(f".tectum-{uuid.uuid4().hex}.tmp")  # short: the name itself may be at the system's limit
    try:
        _write_through(temporary, data)
        temporary.replace(path)
    except OSError as error:
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        raise kind(f"{path} cannot be written: {error.strerror or error}; choose another place with -o") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_output(path: str | Path, *, bits: int = 8) -> None:
    """Refuse an output file before any work is done: its extension, its bits, its folder.

    Raises:
        ValueError, FileNotFoundError: as `write_image`.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise ValueError(f"cannot tell the image format of {path}; end the name in one of {', '.join(EXTENSIONS)}")
    if bits == 16 and extension not in (".png", ".tif", ".tiff"):
        raise ValueError(f"{extension} files hold 8 bits only, 16 were asked for {path}; use .png or .tif, or 8 bits")
    if path.is_dir():
        raise ValueError(f"the output {path} is a folder; add a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")


class _Refusal(Exception):
    """Why the bytes are no image for us: the rest of a sentence that starts with the file's name."""


def _decode(data: bytes) -> Array:
    """Bytes of a file -> (H,W[,C]) raw pixels, RGB(A) order, upright."""
    name, plugin = _identify(data)
    try:
        if name == "PNG":
            wide, exif = _check_png(data)
            if wide:
                return _upright(_from_opencv(data, name), _orientation(exif))
        if name == "TIFF":
            tags = _check_tiff(data)
            too_large = tags[256] * tags[257] > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)  # for Pillow, which tests again
            if max(tags.get(258, (1,))) > 8 or set(tags.get(339, (1,))) != {1} or too_large:
                return _from_wide_tiff(data, tags)
        with _quiet():
            image = plugin(io.BytesIO(data))
            _check_size(*image.size)
            if name == "TIFF":
                image.load()  # reads metadata too; it is turned upright here, and its orientation tag removed
        image.load()
        return _upright(_from_pillow(image), _orientation(image))
    except Image.DecompressionBombError:  # Pillow's own limit, where it cannot be got round
        raise _Refusal(f"is too large for a {name} file to be read; save it as PNG or strip-wise TIFF") from None
    except _DAMAGED as error:
        reason = f" ({error})" if isinstance(error, OSError) else ""
        raise _Refusal(f"is a truncated or damaged {name} file{reason}; {_AGAIN}") from error


def _identify(data: bytes) -> tuple[str, Any]:
    # The plugins are called directly: Image.open compares the size with a limit that is global to the process.
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", PngImagePlugin.PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", JpegImagePlugin.JpegImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP", WebPImagePlugin.WebPImageFile
    if data.startswith(b"BM"):
        return "BMP", BmpImagePlugin.BmpImageFile
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF", TiffImagePlugin.TiffImageFile
    raise _Refusal("is not an image tectum can read; give a PNG, JPEG, WebP, BMP or TIFF file")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _Refusal(f"has {width} x {height} pixels, the limit is {MAX_PIXELS} pixels; cut it or shrink it first")


def _check_png(data: bytes) -> tuple[bool, bytes]:
    """Walk the chunks: all there, the critical ones undamaged. Returns whether it has 16 bits, and the EXIF data."""
    position, kind, wide, exif, view = 8, b"", False, b"", memoryview(data)
    while kind != b"IEND":
        if position + 12 > len(data):
            raise _Refusal(f"is a truncated PNG file; {_AGAIN}")
        length, kind = struct.unpack(">I4s", view[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            raise _Refusal(f"is a truncated PNG file; {_AGAIN}")
        body = view[position + 8 : end - 4]
        if kind[:1].isupper() and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(view[end - 4 : end], "big"):
            raise _Refusal(f"is a damaged PNG file (wrong checksum); {_AGAIN}")
        if kind == b"IHDR":
            _check_size(*struct.unpack(">II", body[:8]))
            wide = body[8] == 16
        exif = bytes(body) if kind == b"eXIf" else exif
        position = end
    return wide, exif


def _check_tiff(data: bytes) -> Any:
    """The tags of the first page, which must lie in the file with all their values, strips and tiles."""
    stream, order, big = io.BytesIO(data), "<" if data[:1] == b"I" else ">", b"+" in data[2:4]  # TIFF has * for +
    header = stream.read(16 if big else 8)
    with _quiet():
        directory = TiffImagePlugin.ImageFileDirectory_v2(header)
        start = stream.seek(directory.next)
        directory.load(stream)
        tags = dict(directory)  # parses the values; those that lie beyond the file are missing
    number, head, entry = ("Q", 8, 20) if big else ("H", 2, 12)
    (count,) = struct.unpack_from(order + number, data, start)
    first = start + head
    listed = {struct.unpack_from(order + "H", data, first + entry * index)[0] for index in range(count)}
    starts, sizes = (tags.get(273) or tags.get(324) or ()), (tags.get(279) or tags.get(325) or ())
    truncated = not starts or any(place + size > len(data) for place, size in zip(starts, sizes, strict=False))
    if truncated or first + entry * count + 4 > len(data) or not listed & _TIFF_TAGS <= tags.keys() >= {256, 257}:
        raise _Refusal(f"is a truncated TIFF file; {_AGAIN}")
    _check_size(tags[256], tags[257])
    return tags


def _from_wide_tiff(data: bytes, tags: Any) -> Array:
    """OpenCV drops or mixes up some layouts without a word, so they are refused here."""
    num_channels, bits, kinds = tags.get(277, 1), set(tags.get(258, (1,))), set(tags.get(339, (1,)))
    white_is_zero, extra = tags.get(262) == 0, tags.get(338, ())
    wanted = {"uif"[kind - 1] + str(bit // 8) for kind in kinds & {1, 2, 3} for bit in bits}
    readable = (
        num_channels in ((1, 3) if bits == {8} else (1, 3, 4))  # OpenCV multiplies 8-bit RGB by alpha
        and len(wanted) == len(bits) == len(kinds) == 1
        and wanted < {"u1", "u2", "u4", "i2", "i4", "f4", "f8"}
        and tags.get(262) in (0, 1, 2)
        and (tags.get(284, 1) == 1 or num_channels == 1)
        and tags.get(259, 1) in (1, 5, 8, 32946, 32773)
        and not (white_is_zero and kinds != {1})
    )
    if not readable:
        raise _Refusal(
            "is a TIFF of a layout tectum cannot read; save it as grey, RGB or RGBA of 8 or 16 bits or float32, with "
            "interleaved channels and no, LZW or deflate compression"
        )
    pixels = _from_opencv(data, "TIFF")  # upright already
    if pixels.dtype != np.dtype(wanted.pop()) or pixels.size != tags[256] * tags[257] * num_channels:
        raise _Refusal(f"is a truncated or damaged TIFF file; {_AGAIN}")
    if white_is_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    return pixels[..., :3] if num_channels == 4 and extra and extra[0] == 0 else pixels  # 0: not alpha


def _from_opencv(data: bytes, name: str) -> Array:
    import cv2

    try:
        with _silent_opencv:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise _Refusal(f"is a truncated or damaged {name} file; {_AGAIN}")
    return pixels if pixels.ndim == 2 else _swap_red_blue(pixels)


def _from_pillow(image: Image.Image) -> Array:
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


def _swap_red_blue(pixels: Array) -> Array:
    return np.stack([pixels[..., channel] for channel in (2, 1, 0, 3)[: pixels.shape[2]]], axis=-1)  # fast, contiguous


def _orientation(source: Image.Image | bytes) -> int:
    """EXIF orientation of an image or of raw EXIF data; 1 (upright) where there is none or it cannot be read."""
    with _quiet(), contextlib.suppress(*_DAMAGED):
        exif = Image.Exif() if isinstance(source, bytes) else source.getexif()
        if isinstance(source, bytes):
            exif.load(source)
        return int(exif.get(0x0112, 1))
    return 1


def _upright(pixels: Array, orientation: int) -> Array:
    """Apply an EXIF orientation, 1..8 (others count as 1)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of odd metadata, which changes no pixel. The filters are global: one thread of ours at a time."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class _SilentOpenCV:
    """OpenCV logs what we say in a sentence of ours. Its level is global: the last thread out restores it."""

    def __init__(self) -> None:
        self.lock, self.inside, self.level = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        import cv2

        with self.lock:
            if not self.inside:
                self.level = cv2.utils.logging.setLogLevel(0)
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        import cv2

        with self.lock:
            self.inside -= 1
            if not self.inside:
                cv2.utils.logging.setLogLevel(self.level)


_silent_opencv = _SilentOpenCV()


def _picture(pixels: Array, role: Role, value_range: ValueRange, source: str) -> Picture:
    if role not in ("visible", "infrared"):
        raise ValueError(f"role must be 'visible' or 'infrared', got {role!r}")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    bits = {"uint8": 8, "uint16": 16}.get(planes.dtype.name, 32)
    _check_finite(planes, source)
    codes, raw_alpha = (planes[:-1], planes[-1:]) if len(planes) in (2, 4) else (planes, None)
    if len(codes) == 3 and np.array_equal(codes[0], codes[1]) and np.array_equal(codes[1], codes[2]):
        codes = codes[:1]
    raw = torch.from_numpy(codes.astype(np.float32 if bits < 32 else np.float64))
    low, high = _limits(raw, bits, role, value_range, source)
    x = raw.sub_(low).div_(high - low).clamp_(0, 1).float()
    alpha = None if raw_alpha is None else _alpha(raw_alpha, bits, source)
    if len(x) == 1:
        return Picture(x, None, alpha, bits, (low, high))
    y, chroma = rgb_to_ycbcr(x)
    if role == "infrared" and _nearly_grey(x):
        return Picture(y, None, alpha, bits, (low, high))
    return Picture(y, chroma, alpha, bits, (low, high))


def _limits(raw: Tensor, bits: int, role: Role, value_range: ValueRange, source: str) -> tuple[float, float]:
    kind, low, high = value_range
    if kind == "auto":
        kind, low, high = ("percentile", 0.1, 99.9) if role == "infrared" and bits > 8 else ("full", 0.0, 1.0)
    if kind == "raw":
        return low, high
    if kind == "percentile":
        grey = raw if len(raw) == 1 else rgb_to_ycbcr(raw)[0]
        return _spread(grey.numpy(), low, high)
    if bits < 32:
        return 0.0, float(2**bits - 1)
    smallest, largest = float(raw.min()), float(raw.max())
    if smallest < 0 or largest > 1:
        raise ValueError(
            f"{source} must hold values in [0,1], got {smallest:g}..{largest:g}; "
            f"say what is black and what is white with --{role}-range={smallest:g},{largest:g} (or =p0.1,p99.9)"
        )
    return 0.0, 1.0


def _spread(values: Array, low: float, high: float) -> tuple[float, float]:
    first, last = (float(v) for v in np.percentile(values, (low, high)))
    if first == last:
        first, last = float(values.min()), float(values.max())
    return (first, last) if first < last else (first - 0.5, first + 0.5)


def _alpha(raw: Array, bits: int, source: str) -> Tensor:
    if bits < 32:
        return torch.from_numpy(raw.astype(np.float32)).div_(2**bits - 1)
    smallest, largest = float(raw.min()), float(raw.max())
    if smallest < 0 or largest > 1:
        raise ValueError(f"{source} must have alpha in [0,1], got {smallest:g}..{largest:g}; rescale it")
    return torch.from_numpy(raw.astype(np.float32))


def _nearly_grey(x: Tensor) -> bool:
    spread = x.amax(0) - x.amin(0)
    return bool((spread <= NEARLY_GREY + 1e-6).float().mean() >= 0.999)


def _check_finite(planes: Array, source: str) -> None:
    if planes.dtype.kind == "f" and not np.isfinite(planes).all():
        bad = int((~np.isfinite(planes)).any(0).sum())
        raise ValueError(
            f"{source} has {bad} NaN or infinite pixels of {planes[0].size}; replace them first, e.g. by the median of "
            "their neighbours, since only you know what they stand for"
        )


def _codes(y: Tensor, chroma: Tensor | None, alpha: Tensor | None, bits: int) -> Tensor:
    planes = y.clamp(0, 1) if chroma is None else ycbcr_to_rgb(y, chroma)
    if alpha is not None:
        planes = torch.cat((planes.expand(3, -1, -1), alpha.clamp(0, 1)))
    codes = planes.mul_(2**bits - 1).add_(0.5)  # nothing is negative, so that truncation is floor
    return codes.to(torch.uint8 if bits == 8 else torch.uint16)


def _encode(path: Path, array: Array) -> bytes:
    import cv2

    extension = path.suffix.lower()
    if array.ndim == 3:  # OpenCV stores blue first
        keep_alpha = array.shape[2] == 4 and extension not in (".jpg", ".jpeg", ".bmp")
        array = _swap_red_blue(array if keep_alpha else array[..., :3])
    options = {
        # MSRS night pairs, 640x480 RGB, one core: level 0 7 ms 924 kB, 1 15 ms 401 kB, 3 25 ms 382 kB, 6 70 ms 358 kB
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    }
    try:
        with _silent_opencv:
            done, data = cv2.imencode(extension, array, options.get(extension.replace("jpeg", "jpg"), []))
    except cv2.error:
        done = False
    if not done:
        height, width = array.shape[:2]
        raise ValueError(f"{width} x {height} pixels do not fit into a {extension} file ({path}); use .png or .tif")
    return bytes(data.tobytes())


def _write_through(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:  # 0o666 less the umask, as any new file
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
