"""Reading, value ranges, rounding and atomic writing, on generated files."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import tectum.inference.image as image_module
from tectum.inference.image import (
    Picture,
    check_output,
    parse_range,
    picture_from_array,
    read_image,
    to_array,
    write_image,
)

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB8 = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA8 = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
RGB16 = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
RGBA16 = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
# How a stored image must be turned to stand upright, written out from the EXIF standard (row 0, column 0 of the file).
UPRIGHT: dict[int, Callable[[Any], Any]] = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.fliplr(np.rot90(x, -1)),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.fliplr(np.rot90(x)),
    8: np.rot90,
}


def tiff(
    pixels: Any, *, photometric: int | None = None, orientation: int = 1, planar: int = 1, extra: int = -1
) -> bytes:
    """A TIFF of any type written by hand, so that the reader is not tested against its own library's writer."""
    height, width, channels = pixels.reshape(*pixels.shape[:2], -1).shape
    body = pixels.tobytes() if planar == 1 else pixels.transpose(2, 0, 1).tobytes()
    step = len(body) // (1 if planar == 1 else channels)
    tags: list[tuple[int, str, list[int]]] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [pixels.itemsize * 8] * channels),
        (259, "H", [1]),
        (262, "H", [photometric if photometric is not None else 2 if channels > 2 else 1]),
        (273, "I", [8 + start for start in range(0, len(body), step)]),
        (274, "H", [orientation]),
        (277, "H", [channels]),
        (278, "I", [height]),
        (279, "I", [step] * (len(body) // step)),
        (284, "H", [planar]),
        *([(338, "H", [extra])] if extra >= 0 else []),
        (339, "H", [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * channels),
    ]
    entries, values, start = b"", b"", 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, kind, numbers in tags:
        raw = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        field = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", start + len(values))
        values += raw if len(raw) > 4 else b""
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + field
    return (
        b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4) + values
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: Any, colour_type: int, *, extra: bytes = b"") -> bytes:
    """A PNG written by hand."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, pixels.itemsize * 8, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(data: bytes, folder: Path, **options: Any) -> Picture:
    (folder / "x.bin").write_bytes(data)  # the extension must not matter
    return read_image(folder / "x.bin", **options)


def shown(picture: Picture) -> Any:
    """Back to integers: equal to the file's pixels where nothing was stretched."""
    return to_array(picture.y, picture.chroma, picture.alpha, bits=min(picture.bits, 16))


EXACT = {
    "png8 grey": (png(GREY8, 0), GREY8),
    "png8 rgb": (png(RGB8, 2), RGB8),
    "png8 rgba": (png(RGBA8, 6), RGBA8),
    "png8 grey+alpha": (png(RGBA8[..., :2], 4), RGBA8[..., [0, 0, 0, 1]]),
    "png16 grey": (png(GREY16, 0), GREY16),
    "png16 rgb": (png(RGB16, 2), RGB16),
    "png16 rgba": (png(RGBA16, 6), RGBA16),
    "png16 grey+alpha": (png(RGBA16[..., :2], 4), RGBA16[..., [0, 0, 0, 1]]),
    "png palette": (
        saved(Image.fromarray(RGB8).quantize(200), "PNG"),
        np.asarray(Image.fromarray(RGB8).quantize(200).convert("RGB")),
    ),
    "webp lossless": (saved(Image.fromarray(RGB8), "WEBP", lossless=True), RGB8),
    "bmp": (saved(Image.fromarray(RGB8), "BMP"), RGB8),
    "bmp grey": (saved(Image.fromarray(GREY8), "BMP"), GREY8),
    "tiff8 grey": (tiff(GREY8), GREY8),
    "tiff8 rgb": (tiff(RGB8), RGB8),
    "tiff8 rgba": (tiff(RGBA8, extra=2), RGBA8),
    "tiff8 planar": (tiff(RGB8, planar=2), RGB8),
    "tiff8 white is zero": (tiff(GREY8, photometric=0), 255 - GREY8),
    "tiff8 lzw": (saved(Image.fromarray(RGB8), "TIFF", compression="tiff_lzw"), RGB8),
    "tiff8 deflate": (saved(Image.fromarray(GREY8), "TIFF", compression="tiff_adobe_deflate"), GREY8),
    "tiff16 grey": (tiff(GREY16), GREY16),
    "tiff16 rgb": (tiff(RGB16), RGB16),
    "tiff16 rgba": (tiff(RGBA16, extra=2), RGBA16),
    "tiff16 rgb and an unused channel": (tiff(RGBA16, extra=0), RGBA16[..., :3]),
    "tiff16 white is zero": (tiff(GREY16, photometric=0), 65535 - GREY16),
    "tiff16 lzw": (saved(Image.fromarray(GREY16), "TIFF", compression="tiff_lzw"), GREY16),
    "tiff16 deflate": (saved(Image.fromarray(GREY16), "TIFF", compression="tiff_adobe_deflate"), GREY16),
    "bigtiff16": (saved(Image.fromarray(GREY16), "TIFF", big_tiff=True), GREY16),
    "tiff pages": (
        saved(Image.fromarray(GREY8), "TIFF", save_all=True, append_images=[Image.fromarray(255 - GREY8)]),
        GREY8,
    ),
    "tiff16 pages": (
        saved(Image.fromarray(GREY16), "TIFF", save_all=True, append_images=[Image.fromarray(GREY16 // 2)]),
        GREY16,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_files_are_read_to_the_last_code(name: str, tmp_path: Path) -> None:
    data, expected = EXACT[name]
    picture = read(data, tmp_path)
    assert picture.bits == (16 if expected.dtype == np.uint16 else 8)
    assert picture.y.dtype == torch.float32 and picture.y.shape == (1, 5, 7)
    assert (picture.alpha is not None) == (expected.ndim == 3 and expected.shape[2] == 4)
    np.testing.assert_array_equal(shown(picture), expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_spans_black_to_white(bits: int, tmp_path: Path) -> None:
    levels = np.arange(8, dtype=np.uint8) % 2**bits
    packed = np.packbits(np.unpackbits(levels[:, None], axis=1)[:, 8 - bits :].reshape(-1))
    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" + packed.tobytes()))
    picture = read(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""), tmp_path)
    np.testing.assert_array_equal(shown(picture)[0], levels * (255 // (2**bits - 1)))


def test_palette_with_transparency_keeps_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(RGB8).quantize(8)
    picture = read(saved(image, "PNG", transparency=bytes(range(0, 160, 20))), tmp_path)
    assert picture.alpha is not None and picture.alpha.unique().numel() > 1
    assert picture.chroma is not None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_close_to_what_was_saved(mode: str, tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 3
    rgb = np.stack((ramp, ramp, 255 - ramp), axis=-1)
    source = Image.fromarray(rgb).convert(mode)
    picture = read(
        saved(source, "JPEG", quality=95, subsampling=0) if mode == "RGB" else saved(source, "JPEG", quality=95),
        tmp_path,
    )
    expected = np.asarray(source if mode == "L" else source.convert("RGB")).astype(int)
    assert np.abs(shown(picture).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png8", "png16", "webp", "tiff8", "tiff16", "tiff16 rgb", "tiff float64"])
def test_exif_orientation_is_applied_by_both_libraries(kind: str, orientation: int, tmp_path: Path) -> None:
    raw_exif = chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0"))
    data, pixels = {
        "png8": lambda: (png(RGB8, 2, extra=raw_exif), RGB8),
        "png16": lambda: (png(RGB16, 2, extra=raw_exif), RGB16),
        "webp": lambda: (saved(Image.fromarray(RGB8), "WEBP", lossless=True, exif=exif(orientation)), RGB8),
        "tiff8": lambda: (tiff(RGB8, orientation=orientation), RGB8),
        "tiff16": lambda: (tiff(GREY16, orientation=orientation), GREY16),
        "tiff16 rgb": lambda: (tiff(RGB16, orientation=orientation), RGB16),
        "tiff float64": lambda: (tiff(GREY16 / 65535, orientation=orientation), GREY16),
    }[kind]()
    np.testing.assert_array_equal(shown(read(data, tmp_path)), UPRIGHT[orientation](pixels))


def test_jpeg_orientation_as_from_a_phone(tmp_path: Path) -> None:
    halves = np.zeros((16, 32), np.uint8)
    halves[:, 16:] = 255
    picture = read(saved(Image.fromarray(halves), "JPEG", exif=exif(6)), tmp_path)
    assert picture.y.shape == (1, 32, 16)
    assert picture.y[0, :14].max() < 0.1 and picture.y[0, 18:].min() > 0.9


def test_unreadable_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    picture = read(png(RGB16, 2, extra=chunk(b"eXIf", b"no exif at all")), tmp_path)
    np.testing.assert_array_equal(shown(picture), RGB16)


# -- grey --------------------------------------------------------------------------------------------------------------


def test_equal_channels_are_grey_in_both_roles() -> None:
    pixels = np.repeat(GREY8[..., None], 3, axis=2)
    for role in ("visible", "infrared"):
        picture = picture_from_array(pixels, role=role)  # type: ignore[arg-type]
        assert picture.chroma is None
        np.testing.assert_array_equal(shown(picture), GREY8)


def test_nearly_equal_channels_are_grey_for_infrared_only() -> None:
    grey = RNG.integers(20, 200, (100, 100, 1))
    pixels = (grey + RNG.integers(0, 5, (100, 100, 3))).astype(np.uint8)  # at most 4 codes apart
    pixels[0, :9] = (250, 10, 10)  # 9 of 10,000 pixels: within the 0.1 % allowed
    assert picture_from_array(pixels, role="infrared").chroma is None
    assert picture_from_array(pixels, role="visible").chroma is not None
    pixels[0, :11] = (250, 10, 10)
    assert picture_from_array(pixels, role="infrared").chroma is not None


def test_llvip_infrared_is_grey() -> None:
    root = os.environ.get("TECTUM_DATA")
    files = sorted(Path(root).glob("llvip/test/ir/*"))[:3] if root else []
    if not files:
        pytest.skip("LLVIP not found: set TECTUM_DATA to the folder that holds llvip/test/ir")
    for path in files:
        assert np.asarray(Image.open(path)).ndim == 3
        assert read_image(path, role="infrared").chroma is None


# -- value ranges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ("auto", 0, 1)),
        ("full", ("full", 0, 1)),
        ("-40,120.5", ("raw", -40, 120.5)),
        (" 0 , 1e4 ", ("raw", 0, 10000)),
        ("p0,p100", ("percentile", 0, 100)),
        ("p0.5, p99.5", ("percentile", 0.5, 99.5)),
    ],
)
def test_ranges_are_parsed(text: str, expected: tuple[str, float, float]) -> None:
    assert parse_range(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "min,max", "1", "1,2,3", "5,5", "9,3", "p1,99", "1,p99", "p5,p101", "p-1,p50", "nan,1", "0,inf", "pp1,p2"],
)
def test_other_ranges_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"got {text!r}") as caught:
        parse_range(text)
    assert "\n" not in str(caught.value)


def test_auto_range_by_bits_and_role() -> None:
    radiometric = RNG.integers(7000, 9000, (60, 80), dtype=np.uint16)
    assert picture_from_array(GREY8, role="infrared").raw_range == (0, 255)
    assert picture_from_array(radiometric, role="visible").raw_range == (0, 65535)
    for pixels in (radiometric, radiometric.astype(np.float32), radiometric.astype(np.float64)):
        picture = picture_from_array(pixels, role="infrared")
        assert picture.raw_range == pytest.approx(np.percentile(radiometric, (0.1, 99.9)))
        assert picture.y.min() == 0 and picture.y.max() == 1
        assert picture.bits == (16 if pixels.dtype == np.uint16 else 32)


def test_raw_range_maps_its_ends_to_0_and_1_and_clips_beyond() -> None:
    pixels = np.array([[-300.0, -40, 40, 120, 900]])
    picture = picture_from_array(pixels, value_range="-40,120", role="infrared")
    assert picture.y[0, 0].tolist() == [0, 0, 0.5, 1, 1]
    assert picture.raw_range == (-40, 120)
    assert picture_from_array(GREY8, value_range="0,510").y.max() <= 0.5


def test_percentiles_of_a_colour_image_are_those_of_its_luminance() -> None:
    picture = picture_from_array(RGB16, value_range="p0,p100")
    luminance = RGB16.astype(float) @ (0.299, 0.587, 0.114)
    assert picture.raw_range == pytest.approx((luminance.min(), luminance.max()), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_constant_image_divides_by_nothing(dtype: Any) -> None:
    pixels = np.full((4, 6), 1, dtype)
    full = picture_from_array(pixels, value_range="full")
    scale = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    assert torch.allclose(full.y, torch.full((1, 4, 6), 1 / scale))
    percentile = picture_from_array(pixels, role="infrared", value_range="p0.1,p99.9")
    assert torch.equal(percentile.y, torch.full((1, 4, 6), 0.5))
    assert percentile.raw_range == (0.5, 1.5)


def test_few_hot_pixels_on_a_flat_ground_stay_visible() -> None:
    """Both percentiles fall on the background: the extremes take over."""
    pixels = np.full((200, 200), 7300, np.uint16)
    pixels[5, 5:8] = 8000
    picture = picture_from_array(pixels, role="infrared")
    assert picture.raw_range == (7300, 8000)
    assert picture.y[0, 5, 6] == 1 and picture.y[0, 0, 0] == 0


def test_float_visible_beyond_0_to_1_names_the_way_out(tmp_path: Path) -> None:
    pixels = np.array([[0.0, 0.25, 4.0]], np.float32)
    with pytest.raises(ValueError, match=r"x\.bin must hold values in \[0,1\], got 0\.\.4; .*--visible-range=0,4"):
        read(tiff(pixels), tmp_path)
    assert read(tiff(pixels / 4), tmp_path).y[0, 0].tolist() == [0, 0.0625, 1]
    assert read(tiff(pixels), tmp_path, value_range="0,4").y[0, 0].tolist() == [0, 0.0625, 1]


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int32])
def test_wide_integer_tiff_is_read_by_its_values(dtype: Any, tmp_path: Path) -> None:
    pixels = np.array([[100, 200, 300]], dtype)
    picture = read(tiff(pixels), tmp_path, role="infrared", value_range="100,300")
    assert picture.y[0, 0].tolist() == [0, 0.5, 1] and picture.bits == 32
    with pytest.raises(ValueError, match="--visible-range=100,300"):
        read(tiff(pixels), tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinite_pixels_are_counted_not_repaired(dtype: Any, tmp_path: Path) -> None:
    pixels = RNG.random((6, 8)).astype(dtype)
    pixels[0, 0], pixels[1, 2], pixels[3, 3] = np.nan, np.inf, -np.inf
    for role in ("visible", "infrared"):
        with pytest.raises(ValueError, match="has 3 NaN or infinite pixels of 48; replace them"):
            read(tiff(pixels), tmp_path, role=role)


# -- bad files ---------------------------------------------------------------------------------------------------------


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return "\n" not in text and len(text) < 400 and ";" in text


def test_missing_folder_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png not found") as missing:
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is a folder") as folder:
        read_image(tmp_path)
    with pytest.raises(ValueError, match="empty \\(0 bytes\\)") as empty:
        read(b"", tmp_path)
    with pytest.raises(ValueError, match="not an image tectum can read") as foreign:
        read(b"%PDF-1.7 and so on", tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match=r"cannot be read|not found"):
        read_image(tmp_path / "file" / "a.png")
    assert all(one_sentence(caught.value) for caught in (missing, folder, empty, foreign))


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match="may not be read; check its permissions"):
        read_image(tmp_path / "a.png")


SMOOTH = np.add.outer(np.arange(40), np.arange(56)) * 2
SMOOTH8 = np.stack((SMOOTH, 255 - SMOOTH, SMOOTH // 2), axis=-1).astype(np.uint8)
CUT = {
    "png8": lambda: png(SMOOTH8, 2),
    "png16": lambda: png(SMOOTH8.astype(np.uint16) * 257, 2),
    "jpeg": lambda: saved(Image.fromarray(SMOOTH8), "JPEG"),
    "webp": lambda: saved(Image.fromarray(SMOOTH8), "WEBP"),
    "bmp": lambda: saved(Image.fromarray(SMOOTH8), "BMP"),
    "tiff8": lambda: tiff(SMOOTH8),
    "tiff8 lzw": lambda: saved(Image.fromarray(SMOOTH8), "TIFF", compression="tiff_lzw"),
    "tiff16": lambda: tiff(SMOOTH8.astype(np.uint16)),
    "tiff16 directory first": lambda: saved(Image.fromarray(SMOOTH.astype(np.uint16)), "TIFF"),
    "tiff float": lambda: tiff(SMOOTH.astype(np.float32)),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_file_cut_anywhere_is_refused_and_says_nothing_else(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = CUT[kind]()
    assert read(data, tmp_path, role="infrared").y.shape == (1, 40, 56)
    for length in sorted({*range(1, 60, 7), *np.linspace(60, len(data) - 1, 25).astype(int).tolist()}):
        with pytest.raises(ValueError, match=r"truncated|damaged|not an image") as caught:
            read(data[:length], tmp_path, role="infrared")
        assert one_sentence(caught.value)
    out, err = capfd.readouterr()
    assert "OpenCV" not in out + err and "libpng" not in out + err


def test_png_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    for kind in ("png8", "png16"):
        data = bytearray(CUT[kind]())
        data[len(data) // 2] ^= 4
        with pytest.raises(ValueError, match="wrong checksum"):
            read(bytes(data), tmp_path)


@pytest.mark.parametrize("kind", CUT)
def test_random_damage_is_read_or_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    data, generator = CUT[kind](), np.random.default_rng(1)
    for trial in range(40):
        broken = bytearray(data)
        for _ in range(4):
            broken[generator.integers(0, len(data) if trial % 2 else min(len(data), 200))] = generator.integers(0, 256)
        try:
            read(bytes(broken), tmp_path, role="infrared")
        except ValueError as error:
            assert one_sentence(error)


@pytest.mark.parametrize(
    "data",
    [
        tiff(RGBA16[..., :2], extra=2),  # OpenCV would cut these to 8 bits and one channel
        tiff(RGB16, planar=2),  # ... mix these channels up
        tiff(RGBA16, photometric=5),  # 16-bit CMYK
        tiff(GREY16.astype(np.float16)),
        tiff(GREY16.astype(np.float32), photometric=0),
        tiff(np.concatenate((RGB16, RGB16), axis=2)),
    ],
    ids=["grey+alpha 16", "planar 16", "cmyk 16", "float16", "float white is zero", "6 channels"],
)
def test_layouts_that_would_be_read_wrongly_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout tectum cannot read; save it as") as caught:
        read(data, tmp_path, role="infrared")
    assert one_sentence(caught.value)


def test_size_limit_is_ours_and_pillows_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # 35 pixels: beyond twice this Image.open raises
    for data in (png(RGB8, 2), tiff(RGB8), saved(Image.fromarray(RGB8), "JPEG"), saved(Image.fromarray(RGB8), "BMP")):
        assert read(data, tmp_path).y.shape == (1, 5, 7)
    np.testing.assert_array_equal(shown(read(tiff(RGB8, orientation=6), tmp_path)), UPRIGHT[6](RGB8))
    with pytest.raises(ValueError, match="too large for a WebP file"):
        read(saved(Image.fromarray(RGB8), "WEBP"), tmp_path)
    monkeypatch.setattr(image_module, "MAX_PIXELS", 34)
    for data in (png(RGB8, 2), png(GREY16, 0), tiff(RGB8), tiff(GREY16), saved(Image.fromarray(RGB8), "JPEG")):
        with pytest.raises(ValueError, match="has 7 x 5 pixels, the limit is 34 pixels"):
            read(data, tmp_path)


def test_a_gigapixel_header_costs_no_memory(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 2, 0, 0, 0))
    with pytest.raises(ValueError, match="60000 x 60000 pixels"):
        read(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""), tmp_path)


def test_20000_px_wide_and_one_pixel(tmp_path: Path) -> None:
    wide = (np.arange(20000) % 251).astype(np.uint8)[None].repeat(3, axis=0)
    for pixels in (wide, np.array([[200]], np.uint8), np.array([[[9, 8, 7]]], np.uint16)):
        for extension in (".png", ".tif"):
            write_image(tmp_path / f"a{extension}", pixels)
            np.testing.assert_array_equal(shown(read_image(tmp_path / f"a{extension}")), pixels)


def test_reading_changes_no_global_setting(tmp_path: Path) -> None:
    filters, limit, level = list(warnings.filters), Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel()
    data = [png(RGB8, 2), png(RGB16, 2), tiff(RGB16), tiff(RGB16)[:-9]]
    errors: list[BaseException] = []

    def work(index: int) -> None:
        folder = tmp_path / str(index)
        folder.mkdir()
        for turn in range(20):
            try:
                read(data[(index + turn) % 4], folder)
            except ValueError:
                pass
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert list(warnings.filters) == filters and limit == Image.MAX_IMAGE_PIXELS
    assert cv2.utils.logging.getLogLevel() == level


def test_odd_metadata_warns_nobody(tmp_path: Path) -> None:
    tags = bytearray(tiff(GREY8))
    position = tags.index(struct.pack("<HHI", 278, 4, 1))
    tags[position : position + 12] = struct.pack("<HHII", 65000, 4, 9999, 0x7FFFFF00)  # a private tag beyond the file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(shown(read(bytes(tags), tmp_path)), GREY8)


# -- arrays, tensors, PIL images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [GREY8, GREY8[..., None], RGB8, RGBA8, GREY16, RGB16, RGBA16])
def test_numpy_arrays_of_integers_come_back(pixels: Any) -> None:
    expected = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    np.testing.assert_array_equal(shown(picture_from_array(pixels)), expected)
    np.testing.assert_array_equal(shown(picture_from_array(pixels[::-1, ::-1])), expected[::-1, ::-1])
    swapped = pixels.astype(pixels.dtype.newbyteorder(">"))
    np.testing.assert_array_equal(shown(picture_from_array(swapped)), expected)


def test_arrays_are_copied_not_shared() -> None:
    for x in (RGBA8 / np.float32(255), torch.rand(4, 5, 7), GREY8.copy(), torch.rand(5, 7)):
        picture = picture_from_array(x)
        before = [part.clone() for part in (picture.y, picture.chroma, picture.alpha) if part is not None]
        x[...] = 0
        after = [part for part in (picture.y, picture.chroma, picture.alpha) if part is not None]
        assert all(torch.equal(u, v) for u, v in zip(before, after, strict=True))


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7), (4, 5, 7), (1, 1, 5, 7), (1, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_are_taken_as_they_are_in_both_roles(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.rand(shape) * 0.5 + 0.25).to(dtype).requires_grad_()
    for role in ("visible", "infrared"):
        picture = picture_from_array(x, role=role)  # type: ignore[arg-type]
        assert picture.raw_range == (0, 1) and not picture.y.requires_grad
        channels = x.detach().float().reshape(-1, 5, 7)
        weights = torch.tensor([1.0]) if len(channels) == 1 else torch.tensor([0.299, 0.587, 0.114])
        expected = (channels[: len(weights)] * weights[:, None, None]).sum(0)
        torch.testing.assert_close(picture.y[0], expected)
        assert (picture.alpha is None) == (len(channels) != 4)


def test_pil_images_of_any_mode() -> None:
    source = Image.fromarray(RGB8)
    np.testing.assert_array_equal(shown(picture_from_array(source)), RGB8)
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"):
        image = source.convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (7, 5))
        picture = picture_from_array(image)
        assert picture.y.shape == (1, 5, 7) and picture.bits == 8
        assert (picture.alpha is not None) == (mode in ("LA", "RGBA"))
    np.testing.assert_array_equal(shown(picture_from_array(Image.fromarray(GREY16))), GREY16)
    assert picture_from_array(Image.fromarray(GREY8 / np.float32(255))).bits == 32


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\) of uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\) of uint8"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros((4, 4), np.int64), "of int64"),
        (np.zeros((4, 4), bool), "of bool"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (torch.zeros(5, 4, 3), r"\(5, 4, 3\) of torch.float32"),
        (torch.zeros(2, 1, 4, 4), r"\(2, 1, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "of torch.uint8"),
        (torch.full((3, 4, 4), 255.0), "got 255..255"),
        (torch.full((4, 4), float("nan")), "16 NaN or infinite pixels of 16"),
        ("a.png", "got str"),
        ([[1, 2]], "got list"),
    ],
)
def test_other_inputs_are_named(x: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        picture_from_array(x)


def test_unknown_role_is_named() -> None:
    with pytest.raises(ValueError, match="got 'thermal'"):
        picture_from_array(GREY8, role="thermal")  # type: ignore[arg-type]


# -- to integers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_rounding_is_to_the_nearest_code_and_never_wraps(bits: int) -> None:
    top = 2**bits - 1
    codes = torch.arange(top + 1, dtype=torch.float64)
    for shift in (-0.49, 0.0, 0.49):
        y = ((codes + shift) / top).float().reshape(1, 16, -1)
        np.testing.assert_array_equal(to_array(y, bits=bits).reshape(-1), np.arange(top + 1))
    beyond = torch.tensor([[[-1e9, -0.3, 1.0 + 1e-6, 1.5, 1e9]]])
    assert to_array(beyond, bits=bits).tolist() == [[0, 0, top, top, top]]
    assert to_array(torch.tensor([[[0.5]]]), bits=bits).item() == (top + 1) // 2  # .5 goes up


def test_arrays_have_the_stated_shapes_whatever_the_size() -> None:
    for height, width in ((1, 1), (700, 300), (3, 70000)):  # 1 and more stripes
        y, chroma, alpha = torch.rand(1, height, width), torch.zeros(2, height, width), torch.rand(1, height, width)
        whole = to_array(y)
        assert whole.shape == (height, width) and whole.dtype == np.uint8
        np.testing.assert_array_equal(to_array(y, chroma, bits=8), whole[..., None].repeat(3, axis=2))
        np.testing.assert_array_equal(to_array(y, None, alpha)[..., 3], to_array(alpha))
        assert to_array(y, chroma, alpha, bits=16).shape == (height, width, 4)


def test_to_array_leaves_its_inputs_alone() -> None:
    y, chroma, alpha = torch.rand(1, 4, 4), torch.zeros(2, 4, 4), torch.rand(1, 4, 4)
    copies = y.clone(), chroma.clone(), alpha.clone()
    to_array(y), to_array(y, chroma, alpha)
    assert all(torch.equal(u, v) for u, v in zip((y, chroma, alpha), copies, strict=True))


def test_to_array_refuses_what_it_cannot_show() -> None:
    y = torch.rand(1, 4, 4)
    for bad in (float("nan"), float("inf")):
        broken = y.clone()
        broken[0, 1, 1] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            to_array(broken)
    with pytest.raises(ValueError, match="got 12"):
        to_array(y, bits=12)
    with pytest.raises(ValueError, match=r"got \(1, 1, 4, 4\)"):
        to_array(y[None])
    with pytest.raises(ValueError, match=r"alpha \(1, 4, 5\)"):
        to_array(y, None, torch.rand(1, 4, 5))


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [GREY8, RGB8, RGBA8, GREY16, RGB16, RGBA16])
@pytest.mark.parametrize("extension", [".png", ".PNG", ".tif", ".tiff"])
def test_png_and_tiff_return_every_code(pixels: Any, extension: str, tmp_path: Path) -> None:
    write_image(tmp_path / f"a{extension}", pixels)
    np.testing.assert_array_equal(shown(read_image(tmp_path / f"a{extension}")), pixels)
    if pixels.dtype == np.uint8:  # and for other people's readers
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"a{extension}")), pixels)


def test_red_stays_red_in_every_format(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 4), np.uint8)
    red[...] = (220, 30, 10, 128)
    for extension in image_module.EXTENSIONS:
        path = tmp_path / f"a{extension}"
        write_image(path, red)
        image = Image.open(path)
        assert image.format == {".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(
            extension, extension[1:].upper()
        )
        assert image.mode == ("RGB" if extension in (".jpg", ".jpeg", ".bmp") else "RGBA")  # alpha: the stated rule
        assert np.abs(np.asarray(image)[8, 8, :3].astype(int) - (220, 30, 10)).max() <= 4


def test_jpeg_keeps_fine_colour(tmp_path: Path) -> None:
    """Quality 95 without colour subsampling: one-pixel stripes of two colours survive."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 60, 60), (60, 60, 200)
    write_image(tmp_path / "a.jpg", stripes)
    assert np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(int) - stripes).mean() < 6


@pytest.mark.parametrize(
    ("name", "pixels", "error", "match"),
    [
        ("a.jpg", GREY16, ValueError, "8 bits only, 16 were asked for .*use .png or .tif"),
        ("a.webp", RGB16, ValueError, "8 bits only"),
        ("a.bmp", RGB16, ValueError, "8 bits only"),
        ("a.gif", GREY8, ValueError, r"one of \.png, \.jpg, \.jpeg, \.webp, \.bmp, \.tif, \.tiff"),
        ("a", GREY8, ValueError, "image format"),
        ("nowhere/a.png", GREY8, FileNotFoundError, "nowhere does not exist; create it"),
        ("sub.png", GREY8, ValueError, "is a folder; add a file name"),
        ("a.png", GREY8.astype(float), ValueError, r"\(5, 7\) of float64; make them with to_array"),
        ("a.png", RGBA8[..., :2], ValueError, r"\(5, 7, 2\) of uint8"),
        ("a.webp", np.zeros((1, 17000), np.uint8), ValueError, "17000 x 1 pixels do not fit into a .webp file"),
        ("a.jpg", np.zeros((1, 66000), np.uint8), ValueError, "66000 x 1 pixels do not fit into a .jpg file"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_sentence(
    name: str, pixels: Any, error: type[Exception], match: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub.png").mkdir()
    with pytest.raises(error, match=match) as caught:
        write_image(tmp_path / name, pixels)
    assert one_sentence(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["sub.png"]
    assert "OpenCV" not in capfd.readouterr().err


def test_check_output_says_the_same_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "a.png", bits=16)
    with pytest.raises(ValueError, match="8 bits only"):
        check_output(tmp_path / "a.jpg", bits=16)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_output(tmp_path / "b" / "a.png")


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied"), KeyboardInterrupt()]
)
def test_failed_write_leaves_the_old_file_and_nothing_else(
    where: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_image(path, GREY8)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise error

    if where == "write":
        monkeypatch.setattr(image_module.os, "fdopen", lambda fd, mode: os.close(fd) or fail())
    elif where == "fsync":
        monkeypatch.setattr(image_module.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)) as caught:
        write_image(path, RGB8)
    if isinstance(error, OSError):
        assert "a.png cannot be written: " in str(caught.value) and one_sentence(caught.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="no umask")
def test_file_mode_respects_the_umask(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        old = os.umask(mask)
        try:
            write_image(tmp_path / f"{mask}.png", GREY8)
        finally:
            os.umask(old)
        assert (tmp_path / f"{mask}.png").stat().st_mode & 0o777 == mode


def test_names_of_any_length_and_script(tmp_path: Path) -> None:
    for stem in ("n" * 250, "ночь 夜 é", ".hidden"):
        write_image(tmp_path / f"{stem}.png", GREY8)
        np.testing.assert_array_equal(shown(read_image(tmp_path / f"{stem}.png")), GREY8)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_import_is_light_and_a_killed_writer_leaves_no_half_image(tmp_path: Path) -> None:
    """SIGKILL before the data is on disk: nothing under the final name."""
    program = (
        "import os, signal, sys, numpy as np\n"
        "import tectum.inference.image as image\n"
        "print('cv2' in sys.modules, flush=True)\n"
        "image.os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "image.write_image(sys.argv[1], np.zeros((50, 50), np.uint8))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n", -9)
    assert not (tmp_path / "a.png").exists()
