"""Files to raw pixels and back: identification, damage, orientation and atomic writing, on generated files."""

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
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from measures import is_one_sentence
from tectum.io import image as images
from tectum.io.image import read_image, read_pixels, write_image

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB8 = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA8 = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
RGB16 = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
RGBA16 = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
FLOATS = np.where(GREY16 < 60000, GREY16 / -1e3, np.nan)
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


def read(data: bytes, folder: Path) -> Any:
    (folder / "x.bin").write_bytes(data)  # the extension must not matter
    return read_pixels(folder / "x.bin")


EXACT = {
    "png8 grey": (png(GREY8, 0), GREY8),
    "png8 rgb": (png(RGB8, 2), RGB8),
    "png8 rgba": (png(RGBA8, 6), RGBA8),
    "png8 grey+alpha": (png(RGBA8[..., :2], 4), RGBA8[..., :2]),
    "png16 grey": (png(GREY16, 0), GREY16),
    "png16 rgb": (png(RGB16, 2), RGB16),
    "png16 rgba": (png(RGBA16, 6), RGBA16),
    "png16 grey+alpha": (png(RGBA16[..., :2], 4), RGBA16[..., [0, 0, 0, 1]]),
    "png palette": (
        saved(Image.fromarray(RGB8).quantize(200), "PNG"),
        np.asarray(Image.fromarray(RGB8).quantize(200).convert("RGB")),
    ),
    "webp lossless": (saved(Image.fromarray(RGB8), "WEBP", lossless=True), RGB8),
    "webp lossless rgba": (saved(Image.fromarray(RGBA8), "WEBP", lossless=True, exact=True), RGBA8),
    "webp moving": (
        saved(Image.fromarray(RGB8), "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB8)], lossless=True),
        RGB8,
    ),
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
    "tiff int16": (tiff(GREY16.view(np.int16)), GREY16.view(np.int16)),
    "tiff uint32": (tiff(GREY16.astype(np.uint32) << 16), GREY16.astype(np.uint32) << 16),
    "tiff int32": (tiff(-GREY16.astype(np.int32)), -GREY16.astype(np.int32)),
    "tiff float32": (tiff(FLOATS.astype(np.float32)), FLOATS.astype(np.float32)),
    "tiff float64": (tiff(FLOATS), FLOATS),
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


ALPHA16 = np.linspace(8000, 65535, 64).round().astype(np.uint16)[None].repeat(8, 0)
TRUE16 = np.broadcast_to(np.array([60000, 30000, 10000], np.uint16), (8, 64, 3))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64"])
def test_associated_alpha_is_divided_out_at_every_depth(kind: str, tmp_path: Path) -> None:
    """ExtraSamples 1: the stored colours are multiplied by alpha (TIFF 6.0, section 18)."""
    share = ALPHA16[..., None] / 65535
    multiplied = np.concatenate((TRUE16 / 65535 * share, share), axis=2)
    scale = {"uint8": 255, "uint16": 65535}.get(kind, 1)
    stored = (multiplied * scale).round() if scale > 1 else multiplied
    pixels = read(tiff(stored.astype(kind), extra=1), tmp_path)
    assert pixels.dtype == kind
    error = np.abs(pixels[..., :3] / scale - TRUE16 / 65535)
    assert error.max() <= (0.5 / scale / share.min() + 1 / scale if scale > 1 else 1e-6)
    np.testing.assert_array_equal(pixels[..., 3], stored.astype(kind)[..., 3])


def test_associated_alpha_of_nothing_is_black_and_overflow_is_clipped(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 0, 0], [500, 9, 0, 0], [700, 100, 50, 100], [65535, 1, 2, 65535]]], np.uint16)
    expected = [[0, 0, 0, 0], [0, 0, 0, 0], [65535, 65535, 32768, 100], [65535, 1, 2, 65535]]
    np.testing.assert_array_equal(read(tiff(pixels, extra=1), tmp_path)[0], expected)
    np.testing.assert_array_equal(read(tiff(pixels, extra=2), tmp_path), pixels)


@pytest.mark.parametrize("name", EXACT)
def test_files_are_read_to_the_last_code(name: str, tmp_path: Path) -> None:
    data, expected = EXACT[name]
    pixels = read(data, tmp_path)
    assert pixels.dtype == expected.dtype
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_spans_black_to_white(bits: int, tmp_path: Path) -> None:
    levels = np.arange(8, dtype=np.uint8) % 2**bits
    packed = np.packbits(np.unpackbits(levels[:, None], axis=1)[:, 8 - bits :].reshape(-1))
    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" + packed.tobytes()))
    pixels = read(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""), tmp_path)
    np.testing.assert_array_equal(pixels[0], levels * (255 // (2**bits - 1)))


def test_palette_with_transparency_keeps_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(RGB8).quantize(8)
    pixels = read(saved(image, "PNG", transparency=bytes(range(0, 160, 20))), tmp_path)
    np.testing.assert_array_equal(pixels[..., :3], np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(pixels[..., 3], np.asarray(image) * 20)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_close_to_what_was_saved(mode: str, tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 3
    rgb = np.stack((ramp, ramp, 255 - ramp), axis=-1)
    source = Image.fromarray(rgb).convert(mode)
    pixels = read(
        saved(source, "JPEG", quality=95, subsampling=0) if mode == "RGB" else saved(source, "JPEG", quality=95),
        tmp_path,
    )
    expected = np.asarray(source if mode == "L" else source.convert("RGB")).astype(int)
    assert np.abs(pixels.astype(int) - expected).mean() < 3


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
        "tiff float64": lambda: (tiff(FLOATS, orientation=orientation), FLOATS),
    }[kind]()
    np.testing.assert_array_equal(read(data, tmp_path), UPRIGHT[orientation](pixels))


def test_jpeg_orientation_as_from_a_phone(tmp_path: Path) -> None:
    halves = np.zeros((16, 32), np.uint8)
    halves[:, 16:] = 255
    pixels = read(saved(Image.fromarray(halves), "JPEG", exif=exif(6)), tmp_path)
    assert pixels.shape == (32, 16) and pixels[:14].max() < 25 and pixels[18:].min() > 230


def test_unreadable_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(png(RGB16, 2, extra=chunk(b"eXIf", b"no exif at all")), tmp_path), RGB16)


# -- bad files ---------------------------------------------------------------------------------------------------------


def test_missing_folder_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png not found") as missing:
        read_pixels(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is a folder") as folder:
        read_pixels(tmp_path)
    with pytest.raises(ValueError, match="empty \\(0 bytes\\)") as empty:
        read(b"", tmp_path)
    with pytest.raises(ValueError, match="not an image tectum can read") as foreign:
        read(b"%PDF-1.7 and so on", tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match=r"cannot be read|not found"):
        read_pixels(tmp_path / "file" / "a.png")
    assert all(is_one_sentence(caught.value) for caught in (missing, folder, empty, foreign))


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match="may not be read; check its permissions"):
        read_pixels(tmp_path / "a.png")


SMOOTH = np.add.outer(np.arange(40), np.arange(56)) * 2
SMOOTH8 = np.stack((SMOOTH, 255 - SMOOTH, SMOOTH // 2), axis=-1).astype(np.uint8)
NOISE = RNG.integers(0, 8, SMOOTH8.shape, dtype=np.uint8)
CUT = {
    "png8": lambda: png(SMOOTH8, 2),
    "png16": lambda: png(SMOOTH8.astype(np.uint16) * 257, 2),
    "jpeg": lambda: saved(Image.fromarray(SMOOTH8), "JPEG"),
    "webp": lambda: saved(Image.fromarray(SMOOTH8), "WEBP"),
    "webp lossless": lambda: saved(Image.fromarray(SMOOTH8 ^ NOISE), "WEBP", lossless=True),
    "bmp": lambda: saved(Image.fromarray(SMOOTH8), "BMP"),
    "tiff8": lambda: tiff(SMOOTH8),
    "tiff8 lzw": lambda: saved(Image.fromarray(SMOOTH8), "TIFF", compression="tiff_lzw"),
    "tiff16": lambda: tiff(SMOOTH8.astype(np.uint16)),
    "tiff16 directory first": lambda: saved(Image.fromarray(SMOOTH.astype(np.uint16)), "TIFF"),
    "tiff float": lambda: tiff(SMOOTH.astype(np.float32)),
}


@pytest.mark.parametrize("others_take_truncated", [False, True])
@pytest.mark.parametrize("kind", CUT)
def test_a_file_cut_anywhere_is_refused_and_says_nothing_else(
    kind: str,
    others_take_truncated: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also where another library told Pillow, for the whole process, to pass truncated files."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", others_take_truncated)
    data = CUT[kind]()
    assert read(data, tmp_path).shape[:2] == (40, 56)
    for length in sorted({*range(1, 60, 7), *np.linspace(60, len(data) - 1, 25).astype(int).tolist()}):
        with pytest.raises(ValueError, match=r"truncated|damaged|not an image") as caught:
            read(data[:length], tmp_path)
        assert is_one_sentence(caught.value)
    out, err = capfd.readouterr()
    assert "OpenCV" not in out + err and "libpng" not in out + err
    assert others_take_truncated == ImageFile.LOAD_TRUNCATED_IMAGES


def test_png_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    for kind in ("png8", "png16"):
        data = bytearray(CUT[kind]())
        data[len(data) // 2] ^= 4
        with pytest.raises(ValueError, match="wrong checksum"):
            read(bytes(data), tmp_path)


@pytest.mark.parametrize("kind", CUT)
def test_random_damage_is_read_or_refused_in_one_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 10**5)  # damaged sizes: no time for gigapixels
    data, generator = CUT[kind](), np.random.default_rng(1)
    for trial in range(40):
        broken = bytearray(data)
        for _ in range(4):
            broken[generator.integers(0, len(data) if trial % 2 else min(len(data), 200))] = generator.integers(0, 256)
        (tmp_path / "x.bin").write_bytes(broken)
        try:
            read_image(tmp_path / "x.bin", modality="infrared")  # odd pixels must not stop it later either
        except ValueError as error:
            assert is_one_sentence(error)


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
        read(data, tmp_path)
    assert is_one_sentence(caught.value)


def test_size_limit_is_ours_and_pillows_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # 35 pixels: beyond twice this Image.open raises
    for data in (png(RGB8, 2), tiff(RGB8), saved(Image.fromarray(RGB8), "JPEG"), saved(Image.fromarray(RGB8), "BMP")):
        assert read(data, tmp_path).shape[:2] == (5, 7)
    np.testing.assert_array_equal(read(tiff(RGB8, orientation=6), tmp_path), UPRIGHT[6](RGB8))
    with pytest.raises(ValueError, match="too large for a WebP file"):
        read(saved(Image.fromarray(RGB8), "WEBP"), tmp_path)
    monkeypatch.setattr(images, "MAX_PIXELS", 34)
    for data in (png(RGB8, 2), png(GREY16, 0), tiff(RGB8), tiff(GREY16), saved(Image.fromarray(RGB8), "JPEG")):
        with pytest.raises(ValueError, match="has 7 x 5 pixels, the limit is 34 pixels"):
            read(data, tmp_path)


def test_a_gigapixel_header_costs_no_memory(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 2, 0, 0, 0))
    with pytest.raises(ValueError, match="60000 x 60000 pixels"):
        read(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""), tmp_path)


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
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert cv2.utils.logging.getLogLevel() == level


def test_odd_metadata_warns_nobody(tmp_path: Path) -> None:
    tags = bytearray(tiff(GREY8))
    position = tags.index(struct.pack("<HHI", 278, 4, 1))
    tags[position : position + 12] = struct.pack("<HHII", 65000, 4, 9999, 0x7FFFFF00)  # a private tag beyond the file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(bytes(tags), tmp_path), GREY8)


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [GREY8, RGB8, RGBA8, GREY16, RGB16, RGBA16])
@pytest.mark.parametrize("extension", [".png", ".PNG", ".tif", ".tiff"])
def test_png_and_tiff_return_every_code(pixels: Any, extension: str, tmp_path: Path) -> None:
    write_image(tmp_path / f"a{extension}", pixels)
    np.testing.assert_array_equal(read_pixels(tmp_path / f"a{extension}"), pixels)
    if pixels.dtype == np.uint8:  # and for other people's readers
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"a{extension}")), pixels)


def test_red_stays_red_in_every_format(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 4), np.uint8)
    red[...] = (220, 30, 10, 128)
    for extension in images.OUTPUT_EXTENSIONS:
        path = tmp_path / f"a{extension}"
        write_image(path, red)
        image = Image.open(path)
        assert image.format == {".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(
            extension, extension[1:].upper()
        )
        assert image.mode == ("RGB" if extension in (".jpg", ".jpeg", ".bmp") else "RGBA")  # alpha: the stated rule
        assert np.abs(np.asarray(image)[8, 8, :3].astype(int) - (220, 30, 10)).max() <= 4


@pytest.mark.parametrize("pixels", [RGBA8, RGBA16])
def test_a_tiff_says_that_its_fourth_channel_is_alpha(pixels: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", pixels)
    assert tiff_tags((tmp_path / "a.tif").read_bytes())[338] == (2,)
    write_image(tmp_path / "b.tif", pixels[..., :3])
    assert 338 not in tiff_tags((tmp_path / "b.tif").read_bytes())


def tiff_tags(data: bytes) -> dict[int, Any]:
    directory = ImageFileDirectory_v2(data[:8])
    stream = io.BytesIO(data)
    stream.seek(directory.next)
    directory.load(stream)
    return dict(directory)


def test_jpeg_keeps_fine_colour(tmp_path: Path) -> None:
    """Quality 95 without colour subsampling: one-pixel stripes of two colours survive."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 60, 60), (60, 60, 200)
    write_image(tmp_path / "a.jpg", stripes)
    assert np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(int) - stripes).mean() < 6


class FailingFile(io.FileIO):
    """Fails after half of the data, as a full disk does."""

    def __init__(self, path: Path, mode: str, fail: Callable[[], None]) -> None:
        super().__init__(path, mode)
        self.fail = fail

    def write(self, data: Any) -> int:
        super().write(data[: len(data) // 2])
        self.fail()
        return len(data)


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
        monkeypatch.setattr(Path, "open", lambda path, mode: FailingFile(path, mode, fail))
    elif where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)) as caught:
        write_image(path, RGB8)
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert "a.png cannot be written: " in str(caught.value) and is_one_sentence(caught.value)
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
        np.testing.assert_array_equal(read_pixels(tmp_path / f"{stem}.png"), GREY8)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_import_is_light_and_a_killed_writer_leaves_no_half_image(tmp_path: Path) -> None:
    """SIGKILL before the data is on disk: nothing under the final name."""
    program = (
        "import os, signal, sys, unittest.mock, numpy as np\n"
        "sys.modules['torch'] = unittest.mock.MagicMock()\n"  # not needed here, and it takes a second or two
        "import tectum.io.image as image\n"
        "print('cv2' in sys.modules, flush=True)\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "image.write_image(sys.argv[1], np.zeros((50, 50), np.uint8))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n", -9)
    assert not (tmp_path / "a.png").exists()
