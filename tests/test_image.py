"""Pictures: grey and colour, value ranges, arrays in and out."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from measures import is_one_sentence
from tectum.io.image import (
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


def shown(picture: Picture) -> Any:
    """Back to integers: equal to the file's pixels where nothing was stretched."""
    return to_array(picture.y, picture.chroma, picture.alpha, bits=min(picture.bits, 16))


# -- grey --------------------------------------------------------------------------------------------------------------


def test_equal_channels_are_grey_in_both_roles() -> None:
    pixels = np.repeat(GREY8[..., None], 3, axis=2)
    for role in ("visible", "infrared"):
        picture = picture_from_array(pixels, modality=role)  # type: ignore[arg-type]
        assert picture.chroma is None
        np.testing.assert_array_equal(shown(picture), GREY8)


def test_nearly_equal_channels_are_grey_for_infrared_only() -> None:
    grey = RNG.integers(20, 200, (100, 100, 1))
    pixels = (grey + RNG.integers(0, 5, (100, 100, 3))).astype(np.uint8)  # at most 4 codes apart
    pixels[0, :9] = (250, 10, 10)  # 9 of 10,000 pixels: within the 0.1 % allowed
    assert picture_from_array(pixels, modality="infrared").chroma is None
    assert picture_from_array(pixels, modality="visible").chroma is not None
    pixels[0, :11] = (250, 10, 10)
    assert picture_from_array(pixels, modality="infrared").chroma is not None


def test_llvip_infrared_is_grey() -> None:
    root = os.environ.get("TECTUM_DATA")
    files = sorted(Path(root).glob("llvip/test/ir/*"))[:3] if root else []
    if not files:
        pytest.skip("LLVIP not found: set TECTUM_DATA to the folder that holds llvip/test/ir")
    for path in files:
        assert np.asarray(Image.open(path)).ndim == 3
        assert read_image(path, modality="infrared").chroma is None


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
    assert picture_from_array(GREY8, modality="infrared").raw_range == (0, 255)
    assert picture_from_array(radiometric * 7, modality="visible").raw_range == (0, 65535)
    for pixels in (radiometric, radiometric.astype(np.float32), radiometric.astype(np.float64)):
        picture = picture_from_array(pixels, modality="infrared")
        assert picture.raw_range == pytest.approx(np.percentile(radiometric, (0.1, 99.9)))
        assert picture.y.min() == 0 and picture.y.max() == 1
        assert picture.bits == (16 if pixels.dtype == np.uint16 else 32)


def test_raw_range_maps_its_ends_to_0_and_1_and_clips_beyond() -> None:
    pixels = np.array([[-300.0, -40, 40, 120, 900]])
    picture = picture_from_array(pixels, value_range="-40,120", modality="infrared")
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
    percentile = picture_from_array(pixels, modality="infrared", value_range="p0.1,p99.9")
    assert torch.equal(percentile.y, torch.full((1, 4, 6), 0.5))
    assert percentile.raw_range == (0.5, 1.5)


def test_few_hot_pixels_on_a_flat_ground_stay_visible() -> None:
    """Both percentiles fall on the background: the extremes take over."""
    pixels = np.full((200, 200), 7300, np.uint16)
    pixels[5, 5:8] = 8000
    picture = picture_from_array(pixels, modality="infrared")
    assert picture.raw_range == (7300, 8000)
    assert picture.y[0, 5, 6] == 1 and picture.y[0, 0, 0] == 0


def test_float_visible_beyond_0_to_1_names_the_way_out(tmp_path: Path) -> None:
    path, pixels = tmp_path / "x.tif", np.array([[0.0, 0.25, 4.0]], np.float32)
    Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=r"x\.tif must hold values in \[0,1\], got 0\.\.4; .*--visible-range=0,4"):
        read_image(path)
    assert read_image(path, value_range="0,4").y[0, 0].tolist() == [0, 0.0625, 1]
    Image.fromarray(pixels / 4).save(path)
    assert read_image(path).y[0, 0].tolist() == [0, 0.0625, 1]


def test_wide_integers_are_taken_by_their_values(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-100, 100, 300]], np.int32)).save(tmp_path / "x.tif")
    picture = read_image(tmp_path / "x.tif", modality="infrared", value_range="-100,300")
    assert picture.y[0, 0].tolist() == [0, 0.5, 1] and picture.bits == 32
    with pytest.raises(ValueError, match="--visible-range=-100,300"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("role", ["visible", "infrared"])
def test_infinite_pixels_are_counted_not_repaired(dtype: Any, role: Any, tmp_path: Path) -> None:
    pixels = RNG.random((6, 8)).astype(dtype)
    pixels[0, 0], pixels[1, 2], pixels[3, 3] = np.nan, np.inf, -np.inf
    with pytest.raises(ValueError, match=f"the {role} array has 2 infinite pixels of 48; replace them"):
        picture_from_array(pixels, modality=role)
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"x\.tif has 2 infinite pixels of 48; replace them"):
        read_image(tmp_path / "x.tif", modality=role)


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
        picture = picture_from_array(x, modality=role)  # type: ignore[arg-type]
        assert picture.raw_range == (0, 1) and not picture.y.requires_grad
        channels = x.detach().float().reshape(-1, 5, 7)
        weights = torch.tensor([1.0]) if len(channels) == 1 else torch.tensor([0.299, 0.587, 0.114])
        expected = (channels[: len(weights)] * weights[:, None, None]).sum(0)
        assert torch.allclose(picture.y[0], expected, rtol=1e-6, atol=1e-6)
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
        (torch.full((4, 4), float("nan")), "must have pixels with data, got none"),
        ("a.png", "got str"),
        ([[1, 2]], "got list"),
    ],
)
def test_other_inputs_are_named(x: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        picture_from_array(x)


def test_unknown_role_is_named() -> None:
    with pytest.raises(ValueError, match="got 'thermal'"):
        picture_from_array(GREY8, modality="thermal")  # type: ignore[arg-type]


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


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [GREY8, RGB8, RGBA8, GREY16, RGB16, RGBA16])
def test_files_come_back_to_the_last_code(pixels: Any, tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        write_image(tmp_path / name, pixels)
        picture = read_image(tmp_path / name)
        assert picture.bits == pixels.itemsize * 8 and picture.y.dtype == torch.float32
        assert (picture.alpha is not None) == (pixels.ndim == 3 and pixels.shape[2] == 4)
        np.testing.assert_array_equal(shown(picture), pixels)


def test_grey_with_alpha_keeps_both(tmp_path: Path) -> None:
    Image.fromarray(RGBA8[..., :2], "LA").save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.chroma is None
    np.testing.assert_array_equal(shown(picture), RGBA8[..., [0, 0, 0, 1]])


def test_20000_px_wide_and_one_pixel(tmp_path: Path) -> None:
    wide = (np.arange(20000) % 251).astype(np.uint8)[None].repeat(3, axis=0)
    for pixels in (wide, np.array([[200]], np.uint8), np.array([[[60009, 8, 7]]], np.uint16)):
        for extension in (".png", ".tif"):
            write_image(tmp_path / f"a{extension}", pixels)
            np.testing.assert_array_equal(shown(read_image(tmp_path / f"a{extension}")), pixels)


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
    assert is_one_sentence(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["sub.png"]
    assert "OpenCV" not in capfd.readouterr().err


def test_check_output_says_the_same_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "a.png", bits=16)
    with pytest.raises(ValueError, match="8 bits only"):
        check_output(tmp_path / "a.jpg", bits=16)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_output(tmp_path / "b" / "a.png")
