"""Radiometric JPEGs: the raw picture and constants as exiftool reads them, temperatures as the printed formula."""

import io
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from measures import is_one_sentence
from tectum.cli import main
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.image import read_image, read_pixels, write_image
from tectum.io.radiometric import read_thermogram
from thermal_files import CAMERA, dji_jpeg, flir_jpeg

ROWS, COLUMNS = np.mgrid[:60, :80]
COUNTS = (12000 + 20 * COLUMNS + 15 * ROWS + 300 * np.sin(COLUMNS / 9)).astype(np.uint16)
PREVIEW = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
VISIBLE = bytes(cv2.imencode(".jpg", PREVIEW)[1])
LAYOUTS = [(encoding, order) for encoding in ("png", "png in order", "raw") for order in "<>"]


def signal_at_the_sensor(celsius: float, camera: dict[str, float]) -> float:
    """Counts that an object gives, as the measurement formula is printed: the object, what it reflects and the air,
    seen through the window, and the window."""
    e, d, w = camera["emissivity"], camera["distance"], camera["window_transmission"]
    c = camera["atmosphere"] - 273.15
    water = camera["humidity"] * math.exp(1.5587 + 0.06939 * c - 0.00027816 * c * c + 0.00000068455 * c * c * c)
    one = math.exp(-math.sqrt(d) * (camera["alpha1"] + camera["beta1"] * math.sqrt(water)))
    two = math.exp(-math.sqrt(d) * (camera["alpha2"] + camera["beta2"] * math.sqrt(water)))
    air = camera["X"] * one + (1 - camera["X"]) * two

    def signal(kelvin: float) -> float:
        return camera["R1"] / (camera["R2"] * (math.exp(camera["B"] / kelvin) - camera["F"])) - camera["O"]

    scene = e * air * signal(celsius + 273.15)
    scene += (1 - e) * air * signal(camera["reflected"]) + (1 - air) * signal(camera["atmosphere"])
    return w * scene + (1 - w) * signal(camera["window"])


def printed_temperature(count: float, camera: dict[str, float]) -> float:
    """Degrees Celsius of an object that gives a count, by bisection."""
    low, high = -100.0, 1000.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if signal_at_the_sensor(middle, camera) > count else (middle, high)
    return low


def write(folder: Path, data: bytes, name: str = "flir.jpg") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("encoding, order", LAYOUTS)
@pytest.mark.parametrize("header_order", "<>")
def test_raw_picture_is_read_from_every_layout(encoding: str, order: str, header_order: str, tmp_path: Path) -> None:
    data = flir_jpeg(COUNTS, encoding=encoding, order=order, header_order=header_order, visible=VISIBLE, segment=999)
    thermogram, _ = read_thermogram(write(tmp_path, data))
    np.testing.assert_array_equal(thermogram.counts, COUNTS)
    assert thermogram.visible == VISIBLE
    assert thermogram.camera is not None and thermogram.camera.o == CAMERA["O"]
    assert thermogram.camera.r2 == pytest.approx(CAMERA["R2"]) and thermogram.camera.x == pytest.approx(CAMERA["X"])


@pytest.mark.parametrize("seed", range(8))
def test_a_flat_scene_is_read_in_the_usual_byte_order(seed: int, tmp_path: Path) -> None:
    """Only the low byte varies, so that both orders are equally rough."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(12032, 12032 + generator.integers(1, 200), (60, 80)).astype(np.uint16)
    for encoding in ("png", "raw"):
        thermogram, _ = read_thermogram(write(tmp_path, flir_jpeg(counts, encoding=encoding)))
        np.testing.assert_array_equal(thermogram.counts, counts)


@pytest.mark.parametrize("encoding, order", [layout for layout in LAYOUTS if layout[0] != "png in order"])
def test_raw_picture_and_constants_are_those_of_exiftool(encoding: str, order: str, tmp_path: Path) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    path = write(tmp_path, flir_jpeg(COUNTS, encoding=encoding, order=order, visible=VISIBLE))
    thermogram, _ = read_thermogram(path)
    camera = thermogram.camera
    assert camera is not None
    tags = {
        "Emissivity": camera.emissivity,
        "ObjectDistance": camera.distance,
        "ReflectedApparentTemperature": camera.reflected - 273.15,
        "AtmosphericTemperature": camera.atmosphere - 273.15,
        "IRWindowTemperature": camera.window - 273.15,
        "IRWindowTransmission": camera.window_transmission,
        "RelativeHumidity": camera.humidity,
        "PlanckR1": camera.r1,
        "PlanckB": camera.b,
        "PlanckF": camera.f,
        "PlanckO": camera.o,
        "PlanckR2": camera.r2,
        "AtmosphericTransAlpha1": camera.alpha1,
        "AtmosphericTransAlpha2": camera.alpha2,
        "AtmosphericTransBeta1": camera.beta1,
        "AtmosphericTransBeta2": camera.beta2,
        "AtmosphericTransX": camera.x,
    }
    command = ["exiftool", "-n", "-s3", *(f"-{tag}" for tag in tags), str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [float(number) for number in printed] == pytest.approx(list(tags.values()), rel=1e-6)
    raw = subprocess.run(["exiftool", "-b", "-RawThermalImage", path], capture_output=True, check=True).stdout
    if encoding == "raw":  # behind a TIFF header that it makes, if any
        theirs = np.frombuffer(raw[len(raw) - 2 * COUNTS.size :], order + "u2").reshape(COUNTS.shape)
    else:
        theirs = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
        theirs = theirs.byteswap() if encoding == "png" else theirs
    np.testing.assert_array_equal(thermogram.counts, theirs)
    embedded = subprocess.run(["exiftool", "-b", "-EmbeddedImage", path], capture_output=True, check=True).stdout
    assert embedded == thermogram.visible


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"distance": 0.0},
        {"distance": 30.0, "humidity": 0.9, "atmosphere": 303.15},
        {"emissivity": 0.6, "reflected": 320.0},
        {"window_transmission": 1.0, "window": 0.0},
        {"humidity": 45.0},
    ],
)
def test_temperatures_are_those_of_the_printed_formula(change: dict[str, float], tmp_path: Path) -> None:
    camera = {**CAMERA, **change}
    _, image = read_thermogram(write(tmp_path, flir_jpeg(COUNTS, camera=camera)))
    assert image.unit == "degrees Celsius" and image.pixels.dtype == np.float32 and image.warnings == ()
    share = {"humidity": camera["humidity"] / 100} if camera["humidity"] > 2 else {}
    window = {"window": 300.0} if not camera["window"] else {}
    for row, column in ((0, 0), (30, 40), (59, 79)):
        expected = printed_temperature(float(COUNTS[row, column]), {**camera, **share, **window})
        assert image.pixels[row, column] == pytest.approx(expected, abs=0.1)


def test_a_count_without_a_temperature_is_no_data(tmp_path: Path) -> None:
    counts = COUNTS.copy()
    counts[20:23, 30:34] = 0  # far below what any temperature gives
    path = write(tmp_path, flir_jpeg(counts))
    assert np.isnan(read_thermogram(path)[1].pixels[20:23, 30:34]).all()
    valid = read_image(path, modality="infrared").valid
    assert valid is not None and int((~valid).sum()) == 12 and not valid[0, 20:23, 30:34].any()


def test_a_range_in_degrees_fuses_the_temperatures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, flir_jpeg(COUNTS, preview=PREVIEW))
    _, image = read_thermogram(path)
    low, high = float(np.floor(image.pixels.min())), float(np.ceil(image.pixels.max()))
    picture = read_image(path, modality="infrared", value_range=f"{low},{high}")
    np.testing.assert_allclose(picture.y[0].numpy(), (image.pixels - low) / (high - low), atol=1e-6)
    assert picture.unit == "degrees Celsius" and picture.raw_range == (low, high)
    write_image(tmp_path / "v.png", PREVIEW)
    out = tmp_path / "f.png"
    command = ["fuse", str(tmp_path / "v.png"), str(path), "-o", str(out), "--system", "average"]
    assert main([*command, f"--infrared-range={low},{high}"]) == 0
    assert "preview" not in capsys.readouterr().err
    heat = np.round(255 * (image.pixels - low) / (high - low))
    visible = np.asarray(Image.fromarray(PREVIEW).convert("L")).astype(float)
    assert np.abs(np.asarray(Image.open(out).convert("L")) - (heat + visible) / 2).mean() < 2


def test_as_the_visible_image_it_is_a_preview_and_says_so(tmp_path: Path) -> None:
    for data in (flir_jpeg(COUNTS, preview=PREVIEW, visible=VISIBLE), dji_jpeg(COUNTS, preview=PREVIEW)):
        path = write(tmp_path, data)
        picture = read_image(path)
        assert picture.unit == "" and picture.bits == 8 and picture.chroma is not None
        assert len(picture.warnings) == 1 and "only the preview was read" in picture.warnings[0]
        np.testing.assert_array_equal(read_pixels(path), np.asarray(Image.open(path)))
    pipeline = FusePipeline(FuseOptions(system="average"))
    assert any("only the preview" in text for text in pipeline(*pipeline.read(path, COUNTS)).warnings)


def test_without_a_raw_picture_the_preview_is_read_and_it_is_told(tmp_path: Path) -> None:
    body = b"FLIR\0\1\0\0" + b"FFF\0" + bytes(60)
    jpeg = bytes(cv2.imencode(".jpg", PREVIEW)[1])
    path = write(tmp_path, jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:])
    for modality in ("visible", "infrared"):
        (warning,) = read_image(path, modality=modality).warnings  # type: ignore[arg-type]
        assert "only the preview was read" in warning and "no raw picture" in warning


@pytest.mark.parametrize("change", [{"R1": 0.0}, {"emissivity": 0.0}, {"reflected": 0.0}, {"X": math.nan}])
def test_without_constants_the_counts_are_read_and_it_is_told(change: dict[str, float], tmp_path: Path) -> None:
    path = write(tmp_path, flir_jpeg(COUNTS, camera={**CAMERA, **change}))
    picture = read_image(path, modality="infrared", value_range=f"{COUNTS.min()},{COUNTS.max()}")
    assert picture.unit == "" and picture.bits == 16
    assert len(picture.warnings) == 1 and "raw counts, not temperatures" in picture.warnings[0]


@pytest.mark.parametrize("factor", [1, 2])
def test_dji_gives_counts_and_says_so(factor: int, tmp_path: Path) -> None:
    preview = PREVIEW.repeat(factor, 0).repeat(factor, 1)
    path = write(tmp_path, dji_jpeg(COUNTS, preview=preview))
    thermogram, image = read_thermogram(path)
    np.testing.assert_array_equal(thermogram.counts, COUNTS)
    assert image.pixels.dtype == np.uint16 and image.unit == ""
    assert len(image.warnings) == 1 and "raw counts" in image.warnings[0] and "own making only" in image.warnings[0]


def test_dji_of_another_size_is_refused_and_short_notes_are_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit its 80 x 60 preview") as caught:
        read_image(write(tmp_path, dji_jpeg(COUNTS[:50], preview=PREVIEW)), modality="infrared")
    assert is_one_sentence(caught.value)
    notes = write(tmp_path, dji_jpeg(COUNTS[:2], preview=PREVIEW))
    for modality in ("visible", "infrared"):
        assert read_image(notes, modality=modality).warnings == ()  # type: ignore[arg-type]


def test_extract_writes_what_the_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "FLIR", 6
    flir = write(tmp_path, flir_jpeg(COUNTS, visible=VISIBLE, exif=exif))
    dji = write(tmp_path, dji_jpeg(COUNTS), "dji.jpg")
    bare = write(tmp_path, flir_jpeg(COUNTS, visible=bytes(cv2.imencode(".png", PREVIEW)[1])), "png.jpg")
    out = tmp_path / "new" / "out"
    assert main(["data", "extract", str(flir), str(dji), str(bare), "-o", str(out)]) == 0
    names = {"flir-celsius.tif", "flir-visible.jpg", "dji-counts.tif", "png-celsius.tif", "png-visible.png"}
    assert {file.name for file in out.iterdir()} == names
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in names)
    np.testing.assert_array_equal(read_pixels(out / "flir-celsius.tif"), read_thermogram(flir)[1].pixels)
    np.testing.assert_array_equal(cv2.imread(str(out / "flir-celsius.tif"), -1), read_thermogram(flir)[1].pixels)
    np.testing.assert_array_equal(read_pixels(out / "dji-counts.tif"), COUNTS)
    assert (out / "flir-visible.jpg").read_bytes() == VISIBLE
    assert b"FLIR\0" in (out / "flir-celsius.tif").read_bytes(), "with the camera's EXIF data"
    a = read_image(flir, modality="infrared", value_range="20,90")
    b = read_image(out / "flir-celsius.tif", modality="infrared", value_range="20,90")
    assert torch.equal(a.y, b.y)
    assert main(["data", "extract", str(flir), "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "extract", str(flir), "-o", str(out), "--overwrite"]) == 0


def test_extract_refuses_plain_images_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.jpg", PREVIEW)
    write_image(tmp_path / "a.png", PREVIEW)
    flir = write(tmp_path, flir_jpeg(COUNTS))
    out = ["-o", str(tmp_path / "out")]
    cases = {
        "a.jpg": "holds no radiometric picture",
        "a.png": "is no JPEG",
        "missing.jpg": "does not exist",
        "": "is a folder",
    }
    for name, text in cases.items():
        assert main(["data", "extract", str(tmp_path / name), *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line and ";" in line
    assert main(["data", "extract", *out]) == 2
    assert "at least one" in capsys.readouterr().err
    assert main(["data", "extract", str(flir), str(flir), *out]) == 2
    assert "flir twice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["data", "extract", str(tmp_path / "a.jpg"), str(flir), *out]) == 1
    assert "holds no radiometric picture" in capsys.readouterr().err
    assert (tmp_path / "out" / "flir-celsius.tif").exists()


def test_orientation_turns_temperatures_like_the_preview(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _, plain = read_thermogram(write(tmp_path, flir_jpeg(COUNTS)))
    path = write(tmp_path, flir_jpeg(COUNTS, exif=exif))
    np.testing.assert_array_equal(read_thermogram(path)[1].pixels, np.rot90(plain.pixels, -1))
    assert read_image(path).y.shape == (1, 80, 60)
    standing = flir_jpeg(COUNTS, exif=exif, preview=PREVIEW.swapaxes(0, 1))
    _, image = read_thermogram(write(tmp_path, standing))
    assert image.pixels.shape == COUNTS.shape and "check that it is upright" in image.warnings[0]


def test_damage_is_refused_in_one_sentence_and_costs_no_preview(tmp_path: Path) -> None:
    for encoding in ("png", "raw"):
        data = flir_jpeg(COUNTS, encoding=encoding, segment=3000)
        second = data.index(b"FLIR\0\1\1")
        lost = data[: second - 4] + data[second - 4 + 2 + int.from_bytes(data[second - 2 : second], "big") :]
        path = write(tmp_path, lost)
        with pytest.raises(ValueError, match="radiometric part is truncated or damaged") as caught:
            read_image(path, modality="infrared")
        assert is_one_sentence(caught.value)
        (warning,) = read_image(path).warnings
        assert "only the preview was read" in warning


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_random_damage_never_ends_in_a_traceback(encoding: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    data = flir_jpeg(COUNTS, encoding=encoding)
    for _ in range(60):
        broken = bytearray(data)
        start = data.index(b"FFF\0")
        for _ in range(3):
            broken[start + generator.integers(0, 2500)] = generator.integers(0, 256)
        try:
            read_image(write(tmp_path, bytes(broken)), modality="infrared")
        except ValueError as error:
            assert is_one_sentence(error)


def test_another_use_of_app3_is_an_ordinary_jpeg(tmp_path: Path) -> None:
    jpeg = bytes(cv2.imencode(".jpg", PREVIEW)[1])
    body = b"META\0\0" + bytes(100)
    path = write(tmp_path, jpeg[:2] + b"\xff\xe3" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:])
    for modality in ("visible", "infrared"):
        assert read_image(path, modality=modality).warnings == ()  # type: ignore[arg-type]


def test_ordinary_readers_see_the_preview(tmp_path: Path) -> None:
    """The files of these tests are JPEGs for everybody."""
    stream = io.BytesIO()
    Image.fromarray(PREVIEW).save(stream, "JPEG", quality=95)
    expected: Any = np.asarray(Image.open(stream))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(flir_jpeg(COUNTS, preview=PREVIEW)))), expected)
