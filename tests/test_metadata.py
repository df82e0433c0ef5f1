"""EXIF, GPS, ICC profile and geo tags of the first source in the result, as Pillow and exiftool read them there."""

import io
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tectum.cli import main
from tectum.io.image import OUTPUT_EXTENSIONS, read_image, read_pixels, write_image

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = RGB[..., 0].copy()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]  # enough of one: nothing here converts with it
WITH_EXIF = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
ORDERS = {"little-endian": "<", "big-endian": ">"}


def make_exif(order: str = ">", orientation: int = 6, thumbnail: bool = True) -> bytes:
    """EXIF data of a phone: make, orientation, size, time of exposure, place, a maker note and a thumbnail."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x0132] = "Maker", "Phone 1", orientation, "2024:05:06 07:08:09"
    exif[0x9003] = "2024:05:06 07:08:09"
    inner = exif.get_ifd(0x8769)
    inner[0x829A], inner[0xA002], inner[0xA003], inner[0x927C] = 1 / 125, 4000, 3000, b"note of the maker"
    place = exif.get_ifd(0x8825)
    place[1], place[2], place[3], place[4] = "N", (48.0, 12.0, 30.5), "W", (11.0, 34.0, 1.25)
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    if thumbnail:  # a second directory that points to a JPEG at the end
        (first,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, first)
        second, jpeg = len(data), b"\xff\xd8 a small picture \xff\xd9"
        link = first + 2 + 12 * count
        data = data[:link] + struct.pack(order + "I", second) + data[link + 4 :]
        data += struct.pack(order + "H", 2)
        data += struct.pack(order + "HHII", 513, 4, 1, second + 30) + struct.pack(order + "HHII", 514, 4, 1, len(jpeg))
        data += struct.pack(order + "I", 0) + jpeg
    return data


def save(path: Path, pixels: Any = RGB, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def opened(path: Path) -> Any:
    return Image.open(io.BytesIO(path.read_bytes()))


def fuse(visible: Path, out: Path, *options: str, infrared: Any = None) -> Path:
    size = read_pixels(visible).shape[:2]
    other = out.with_name("other.png")
    write_image(other, np.full(size, 90, np.uint8) if infrared is None else infrared)
    command = ["fuse", str(visible), str(other), "-o", str(out), "--system", "average", "--overwrite", "--quiet"]
    assert main([*command, *options]) == 0
    return out


def ask_exiftool(path: Path) -> dict[str, Any]:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    command = ["exiftool", "-j", "-n", "-G1", "-validate", "-warning", "-a", "-all:all", str(path)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
    return answer


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("extension", WITH_EXIF)
def test_exif_and_place_go_into_the_result(extension: str, order: str, tmp_path: Path) -> None:
    source = save(tmp_path / "v.jpg", exif=b"Exif\0\0" + make_exif(order), icc_profile=SRGB)
    image = opened(fuse(source, tmp_path / f"f{extension}"))
    assert image.size == (24, 32)  # upright: 32 x 24 turned by a quarter
    exif = image.getexif()
    assert (exif[0x010F], exif[0x0110]) == ("Maker", "Phone 1")
    assert exif.get(0x0112, 1) == 1
    inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    assert (inner[0xA002], inner[0xA003]) == (24, 32) and float(inner[0x829A]) == pytest.approx(1 / 125)
    assert place[2] == (48.0, 12.0, 30.5) and place[3] == "W"
    assert image.info["icc_profile"] == SRGB
    assert 514 not in exif.get_ifd(1), "the thumbnail shows the source"
    assert b"a small picture" not in (tmp_path / f"f{extension}").read_bytes()
    assert (b"note of the maker" in (tmp_path / f"f{extension}").read_bytes()) == (".tif" not in extension)
    np.testing.assert_array_equal(
        read_pixels(tmp_path / f"f{extension}"), np.asarray(image.convert("RGB"))
    )  # and it is not turned once more


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif"])
def test_exiftool_reads_the_result_without_a_warning(extension: str, tmp_path: Path) -> None:
    source = save(tmp_path / "v.jpg", exif=b"Exif\0\0" + make_exif(), icc_profile=SRGB)
    tags = ask_exiftool(fuse(source, tmp_path / f"f{extension}"))
    assert tags["IFD0:Make"] == "Maker" and tags["GPS:GPSLatitude"] == pytest.approx(48 + 12 / 60 + 30.5 / 3600)
    assert tags.get("IFD0:Orientation", 1) == 1 and "IFD1:ThumbnailImage" not in tags
    assert tags["ExifIFD:ExposureTime"] == pytest.approx(1 / 125) and tags["ICC-header:ColorSpaceData"] == "RGB "
    warnings = [text for name, text in tags.items() if "Warning" in name]
    theirs = {"Missing required", "Unknown", "[minor] Unrecognized MakerNotes", "Non-standard"}  # of the source itself
    assert all(any(part in text for part in theirs) for text in warnings), warnings


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "tiff16", "png16"])
def test_every_kind_of_source_gives_its_metadata(kind: str, bits: int, tmp_path: Path) -> None:
    exif = make_exif("<", orientation=1, thumbnail=False)
    wide = RGB.astype(np.uint16) * 257
    path = tmp_path / "v.bin"
    if kind == "tiff":
        save(path, format="TIFF", exif=exif, icc_profile=SRGB)
    elif kind.endswith("16"):
        small = save(tmp_path / "small.png", exif=exif, icc_profile=SRGB)
        name = "wide.png" if kind == "png16" else "wide.tif"
        write_image(tmp_path / name, wide, metadata=read_image(small).metadata)
        path = tmp_path / name
    else:
        save(path, format=kind.upper(), exif=exif, icc_profile=SRGB)
    for out in ("f.png", "f.tif"):
        image = opened(fuse(path, tmp_path / out, "--bits", "8"))
        assert image.getexif()[0x0110] == "Phone 1" and image.getexif().get_ifd(0x8825)[1] == "N"
        assert image.info["icc_profile"] == SRGB
        fuse(path, tmp_path / out, "--bits", str(bits))
        assert read_image(tmp_path / out).metadata.keys() == {"exif", "icc"}


def test_profile_stays_where_its_colours_are(tmp_path: Path) -> None:
    colour = save(tmp_path / "v.png", icc_profile=SRGB)
    assert "icc_profile" not in opened(fuse(colour, tmp_path / "g.png", "--output", "grey")).info
    both = fuse(colour, tmp_path / "b.png", "--output", "both")
    assert opened(both).info["icc_profile"] == SRGB
    assert "icc_profile" not in opened(tmp_path / "b-grey.png").info
    grey = save(tmp_path / "w.png", GREY, icc_profile=GREY_PROFILE)
    assert opened(fuse(grey, tmp_path / "h.png")).info["icc_profile"] == GREY_PROFILE
    tinted = fuse(grey, tmp_path / "c.png", infrared=RGB)
    assert opened(tinted).mode == "RGB" and "icc_profile" not in opened(tinted).info
    cmyk = tmp_path / "k.jpg"
    Image.fromarray(RGB).convert("CMYK").save(cmyk, icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
    assert "icc_profile" not in opened(fuse(cmyk, tmp_path / "l.png")).info


GEO = {
    33550: (0.5, 0.5, 0.0),
    33922: (0.0, 0.0, 0.0, 600000.0, 5300000.0, 0.0),
    34735: (1, 1, 0, 1, 3072, 0, 1, 32632),
    34737: "WGS 84 / UTM zone 32N|",
    42113: "-9999",
}


def geo_tiff(path: Path, pixels: Any, **tags: Any) -> Path:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2()
    for tag, value in {**GEO, **{int(name[1:]): value for name, value in tags.items()}}.items():
        directory.tagtype[tag] = 2 if isinstance(value, str) else 3 if tag in (34735, 274) else 12
        directory[tag] = value
    Image.fromarray(pixels).save(path, "TIFF", tiffinfo=directory)
    return path


@pytest.mark.parametrize("pixels", [RGB, GREY, GREY.astype(np.uint16) * 257], ids=["rgb", "grey", "16 bits"])
def test_geo_tags_go_into_tiff(pixels: Any, tmp_path: Path) -> None:
    source = geo_tiff(tmp_path / "v.tif", pixels)
    for bits in ("8", "16"):
        image = opened(fuse(source, tmp_path / "f.tif", "--bits", bits, "--visible-range", "full", "--nodata", "none"))
        tags = image.tag_v2
        assert {tag: tags[tag] for tag in GEO if tag != 42113} == {tag: x for tag, x in GEO.items() if tag != 42113}
        assert 42113 not in tags, "a result has no missing pixels"
        assert tags[258] == (int(bits),) * (1 if pixels.ndim == 2 else 3), "the pixels' own tags are the result's"
    written = read_pixels(tmp_path / "f.tif")
    plain = fuse(
        save(tmp_path / "w.png", pixels),
        tmp_path / "g.tif",
        "--bits",
        "16",
        "--visible-range",
        "full",
        "--nodata",
        "none",
    )
    np.testing.assert_array_equal(written, read_pixels(plain))
    assert not opened(fuse(source, tmp_path / "f.png", "--visible-range", "full", "--nodata", "none")).getexif()


def test_exiftool_reads_the_geo_tags(tmp_path: Path) -> None:
    tags = ask_exiftool(fuse(geo_tiff(tmp_path / "v.tif", RGB), tmp_path / "f.tif"))
    assert tags["IFD0:PixelScale"] == "0.5 0.5 0" and tags["GeoTiff:ProjectedCSType"] == 32632


def test_geo_tags_of_a_turned_file_are_left_out_and_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = geo_tiff(tmp_path / "v.tif", RGB, t274=3)
    image = opened(fuse(source, tmp_path / "f.tif"))
    assert 33550 not in image.tag_v2
    assert "geo tags of a source that is stored turned" in capsys.readouterr().err


def test_a_folder_keeps_metadata_too_and_the_report_has_none(tmp_path: Path) -> None:
    for side in ("vi", "ir"):
        (tmp_path / side).mkdir()
        save(tmp_path / side / "a.jpg", exif=b"Exif\0\0" + make_exif(), icc_profile=SRGB)
    out = tmp_path / "out"
    command = ["fuse", str(tmp_path / "vi"), str(tmp_path / "ir"), "-o", str(out), "--system", "average", "--report"]
    assert main([*command, "--quiet"]) == 0
    assert opened(out / "a.png").getexif()[0x010F] == "Maker"
    assert not opened(out / "report" / "a.png").getexif()


def test_a_stack_has_the_metadata_of_its_first_image(tmp_path: Path) -> None:
    files = []
    for index, maker in enumerate(("First", "Second", "Third")):
        exif = Image.Exif()
        exif[0x010F] = maker
        files.append(str(save(tmp_path / f"{maker}.jpg", (RGB // (3 - index)).astype(np.uint8), exif=exif)))
    out = tmp_path / "f.png"
    assert main(["fuse", *files, "-o", str(out), "--kind", "exposure", "--system", "average", "--quiet"]) == 0
    assert opened(out).getexif()[0x010F] == "First"


def damaged_exif() -> dict[str, bytes]:
    whole = make_exif()
    pointer = whole.index(struct.pack(">HHI", 0x8769, 4, 1)) + 8
    return {
        "no header": b"nonsense",
        "cut": whole[:40],
        "directory beyond the end": whole[:pointer] + b"\xff\xff\xff\xf0" + whole[pointer + 4 :],
        "first directory beyond the end": whole[:4] + b"\x00\x0f\xff\xff" + whole[8:],
    }


@pytest.mark.parametrize("damage", damaged_exif())
def test_damaged_exif_is_left_out_and_told(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = b"Exif\0\0" + damaged_exif()[damage]
    jpeg = save(tmp_path / "v.jpg").read_bytes()
    source = tmp_path / "v.jpg"
    source.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:])
    image = opened(fuse(source, tmp_path / "f.png"))
    assert not image.getexif()
    assert "the EXIF data of a source could not be read" in capsys.readouterr().err


def test_damaged_profile_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "v.png", icc_profile=SRGB[:200])
    assert "icc_profile" not in opened(fuse(source, tmp_path / "f.png")).info
    assert "the ICC profile of a source could not be read" in capsys.readouterr().err


def test_random_damage_in_exif_never_costs_the_fusion(tmp_path: Path) -> None:
    generator, whole = np.random.default_rng(5), make_exif("<")
    pixels = np.zeros((4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    png = stream.getvalue()
    for _ in range(50):
        broken = bytearray(whole)
        for _ in range(3):
            broken[generator.integers(0, len(whole))] = generator.integers(0, 256)
        chunk = b"eXIf" + bytes(broken)
        added = struct.pack(">I", len(broken)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "v.png").write_bytes(png[:33] + added + png[33:])
        metadata = read_image(tmp_path / "v.png").metadata
        for extension in (".png", ".jpg", ".tif"):
            write_image(tmp_path / f"f{extension}", pixels, metadata=metadata)
            assert read_pixels(tmp_path / f"f{extension}").shape == (4, 4, 3)


def test_metadata_changes_no_pixel_and_no_format_fails(tmp_path: Path) -> None:
    big = {"exif": make_exif() + bytes(70000), "icc": SRGB}  # more than a segment of a JPEG holds
    for metadata in ({"exif": make_exif(), "icc": SRGB}, big):
        for extension in OUTPUT_EXTENSIONS:
            write_image(tmp_path / f"a{extension}", RGB)
            write_image(tmp_path / f"b{extension}", RGB, metadata=metadata)
            np.testing.assert_array_equal(
                read_pixels(tmp_path / f"a{extension}"), read_pixels(tmp_path / f"b{extension}")
            )


def test_an_image_without_metadata_needs_no_reader_of_it(tmp_path: Path) -> None:
    import sys

    code = "import sys, unittest.mock\n"
    code += "sys.modules['torch'] = unittest.mock.MagicMock()\n"  # not needed here, and it takes a second or two
    code += "from tectum.io.image import *\n"
    code += "write_image('a.png', np.zeros((4, 4), np.uint8), metadata={})\nread_pixels(Path('a.png'))\n"
    code += "print(sorted(name for name in sys.modules if name.startswith('tectum.io')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['tectum.io', 'tectum.io.files', 'tectum.io.image']"
