"""Image files to raw pixels, upright and in RGB(A) order, and back; the first bytes say what a file is, not its name.

    PNG, JPEG, WebP, BMP, TIFF of 8 bits a channel or fewer     Pillow   palettes, CMYK, 1-bit, transparency, EXIF; and
                                                                         OpenCV's libpng prints its warnings
    PNG of 16 bits; TIFF of 16, 32 or 64 bits, integer or float OpenCV   Pillow cuts 16-bit RGB PNG to 8 bits and has no
                                                                         16-bit RGB or float64 TIFF

The first page of a TIFF is taken; where white is zero it is inverted; beyond 8 bits its channels must be interleaved
(1, 3 or 4 of them). The EXIF orientation is applied on both ways. ICC profiles and gamma chunks are ignored: numbers
in the file are taken as they stand. A file that has lost a part is refused.

Writing is atomic: a temporary file in the same folder, flushed to disk, then renamed. Alpha is dropped in JPEG and BMP,
which have no dependable place for it.
"""

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from tectum.errors import UserError
from tectum.io.files import write_whole

Array = np.ndarray[Any, np.dtype[Any]]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 2**30  # OpenCV's own limit too; 1 gigapixel of float32 is 4 GiB
_AGAIN = "copy or save it again"
_TIFF_TAGS = {*range(256, 260), 262, 273, 274, 277, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339}  # of the pixels
# What Pillow raises on damaged files, as found by flipping bytes; a NameError of ours must stay one.
_DAMAGED = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, OverflowError, EOFError, struct.error)
_warnings_lock = threading.Lock()


def read_pixels(path: Path) -> Array:
    """Raw pixels of a file: (H,W), (H,W,2) grey and alpha, (H,W,3) RGB or (H,W,4) RGBA, of the file's own type.

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
            return _decode(data)
    except _Refusal as refusal:
        raise UserError(f"{path} {refusal}") from None


def write_pixels(path: Path, array: Array) -> None:
    """Write (H,W), (H,W,3) RGB or (H,W,4) RGBA of uint8 or uint16 so that the final name never holds half a file.

    Raises:
        ValueError: if the format cannot hold the image.
        OSError: if writing fails (PermissionError: the folder is not writable). The final name is then untouched.
    """
    data = _encode(path, array)
    try:
        write_whole(path, lambda file: file.write_bytes(data))
    except OSError as error:
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        raise kind(f"{path} cannot be written: {error.strerror or error}; choose another place with -o") from None


def from_pillow(image: Image.Image) -> Array:
    """Raw pixels of a Pillow image of any mode, as `read_pixels` gives them; its orientation tag is not looked at."""
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


class _Refusal(Exception):
    """Why the bytes are no image for us: the rest of a sentence that starts with the file's name."""


def _decode(data: bytes) -> Array:
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
        return _upright(from_pillow(image), _orientation(image))
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
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
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
    num_channels, white_is_zero = tags.get(277, 1), tags.get(262) == 0
    kinds = [{1: "u", 2: "i", 3: "f"}.get(kind, "?") for kind in tags.get(339, (1,))]
    types = {f"{kind}{bits}" for kind in kinds for bits in tags.get(258, (1,))}
    readable = (
        len(types) == 1
        and types < {"u8", "u16", "u32", "i16", "i32", "f32", "f64"}
        and num_channels in ((1, 3) if types == {"u8"} else (1, 3, 4))  # OpenCV multiplies 8-bit RGB by alpha
        and tags.get(262) in (0, 1, 2)
        and (tags.get(284, 1) == 1 or num_channels == 1)
        and tags.get(259, 1) in (1, 5, 8, 32946, 32773)
        and not (white_is_zero and "u" not in kinds)
    )
    if not readable:
        raise _Refusal(
            "is a TIFF of a layout tectum cannot read; save it as grey, RGB or RGBA of 8 or 16 bits or float32, with "
            "interleaved channels and no, LZW or deflate compression"
        )
    pixels = _from_opencv(data, "TIFF")  # upright already
    came = f"{pixels.dtype.kind}{pixels.itemsize * 8}"
    if came not in types or pixels.size != tags[256] * tags[257] * num_channels:
        raise _Refusal(f"is a truncated or damaged TIFF file; {_AGAIN}")
    if white_is_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    return pixels[..., :3] if num_channels == 4 and (tags.get(338) or (1,))[0] == 0 else pixels  # 0: not alpha


def _from_opencv(data: bytes, name: str) -> Array:
    import cv2

    pixels = None
    with _silent_opencv, contextlib.suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise _Refusal(f"is a truncated or damaged {name} file; {_AGAIN}")
    return pixels if pixels.ndim == 2 else _swap_red_blue(pixels)


def _encode(path: Path, array: Array) -> bytes:
    import cv2

    extension = path.suffix.lower().replace("jpeg", "jpg")
    if array.ndim == 3:  # OpenCV stores blue first
        keep_alpha = array.shape[2] == 4 and extension not in (".jpg", ".bmp")
        array = _swap_red_blue(array if keep_alpha else array[..., :3])
    options = {
        # Visible MSRS images, one core: level 1 17 ms 421 kB, with runs only 15 ms 369 kB; level 6 60 ms 384 kB
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    }
    done, data = False, np.empty(0, np.uint8)
    with _silent_opencv, contextlib.suppress(cv2.error):
        done, data = cv2.imencode(extension, array, options.get(extension, []))
    if not done:
        height, width = array.shape[:2]
        raise UserError(f"{width} x {height} pixels do not fit into a {extension} file ({path}); use .png or .tif")
    return bytes(data.tobytes())


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
