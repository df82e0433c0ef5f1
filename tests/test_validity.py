"""Pixels without data: found where declared, guessed only where certain, and without influence on anything."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import tectum
from measures import is_one_sentence
from tectum.data.synthetic import render
from tectum.errors import UserError
from tectum.evaluation.evaluate import evaluate
from tectum.evaluation.valid_region import find_valid_region
from tectum.fusion.options import FuseOptions
from tectum.fusion.pipeline import FusePipeline
from tectum.io.image import mark_invalid, picture_from_array, read_image
from tectum.registration.align import register

Array = np.ndarray[Any, np.dtype[Any]]
SCENE = render(3, (120, 160))
VISIBLE = (SCENE.visible.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
INFRARED = (SCENE.infrared[0].numpy() * 255).astype(np.uint8)
KELVIN = (27315 + 3500 * SCENE.infrared[0].numpy()).round().astype(np.uint16)


def with_border(image: Array, value: Any = 0) -> tuple[Array, Array]:
    """The image with its first rows and columns lost, and the mask of what is left."""
    lost, valid = image.copy(), np.ones(image.shape[:2], bool)
    valid[:9] = valid[:, :12] = False
    lost[~valid] = value
    return lost, valid


def infrared(x: Any, nodata: str = "guess") -> Any:
    return picture_from_array(x, modality="infrared", nodata=nodata)


# -- where it is declared ----------------------------------------------------------------------------------------------


def test_every_declaration_gives_the_same_mask(tmp_path: Path) -> None:
    lost, valid = with_border(KELVIN, 0)
    floats = np.where(valid, KELVIN, np.nan).astype(np.float32)
    with_alpha = np.dstack([INFRARED] * 3 + [(valid * 255).astype(np.uint8)])
    pictures = {
        "value": infrared(lost, "0"),
        "mask": infrared(np.ma.masked_array(KELVIN, ~valid), "declared"),
        "NaN": infrared(floats, "declared"),
        "alpha": infrared(with_alpha, "declared"),
        "border": infrared(lost),
    }
    for name, picture in pictures.items():
        assert picture.valid is not None, name
        np.testing.assert_array_equal(picture.valid[0].numpy(), valid, err_msg=name)
        assert bool(picture.warnings) == (name == "border")
    expected = tuple(float(v) for v in np.percentile(KELVIN[valid], (0.1, 99.9)))
    for name in ("value", "mask", "NaN", "border"):
        np.testing.assert_allclose(pictures[name].raw_range, expected, rtol=1e-6, err_msg=name)
    assert infrared(lost, "none").valid is None and infrared(lost, "none").raw_range[0] == 0
    assert infrared(lost, "declared").valid is None


def test_the_value_of_a_file_is_compared_as_its_type_stores_it() -> None:
    lost, valid = with_border(KELVIN.astype(np.float32) / 100 - 273.15, -3.4028235e38)
    picture = infrared(lost, "-3.4028235e+38")
    np.testing.assert_array_equal(picture.valid[0].numpy(), valid)
    assert 0 <= picture.raw_range[0] < picture.raw_range[1] <= 35


def test_an_image_without_any_data_is_refused() -> None:
    with pytest.raises(UserError, match="must have pixels with data") as refusal:
        infrared(np.full((40, 50), np.nan, np.float32), "declared")
    assert is_one_sentence(str(refusal.value))
    for text in ("nothing", "nan", "inf"):
        with pytest.raises(UserError, match="--nodata must be"):
            tectum.fuse(VISIBLE, INFRARED, system="average", nodata=text)


# -- where it is guessed -----------------------------------------------------------------------------------------------


def warped(image: Array) -> Array:
    """A turned view with zeros outside, as `cv2.warpPerspective` leaves it."""
    turn = cv2.getRotationMatrix2D((80, 60), 6, 0.95)
    return np.asarray(cv2.warpAffine(image, turn, image.shape[1::-1], flags=cv2.INTER_LINEAR))


@pytest.mark.parametrize("value", [0, 255, 114])
@pytest.mark.parametrize("image", [INFRARED, VISIBLE], ids=["infrared", "visible"])
def test_frames_and_letterboxes_are_padding(image: Array, value: int) -> None:
    for top, bottom, left, right in ((20, 20, 20, 20), (15, 15, 0, 0), (0, 0, 30, 10), (0, 12, 0, 0)):
        colour = (value,) * 3
        padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour)
        expected = np.zeros(padded.shape[:2], bool)
        expected[top : padded.shape[0] - bottom, left : padded.shape[1] - right] = True
        picture = infrared(padded)
        assert picture.valid is not None
        differs = (picture.valid[0].numpy() != expected).mean()
        assert differs < 0.015  # a row at the seam may go with the padding
        assert len(picture.warnings) == 1 and is_one_sentence(picture.warnings[0])


@pytest.mark.parametrize("image", [INFRARED, KELVIN], ids=["8 bits", "16 bits"])
def test_a_warped_view_is_found(image: Array) -> None:
    picture = infrared(warped(image))
    outside = warped(np.full_like(image, 200)) < 100
    assert picture.valid is not None
    assert (picture.valid[0].numpy() & outside).mean() < 0.003  # mixed at the seam, nearly of the picture
    assert picture.valid[0].numpy()[~outside].mean() > 0.95


def test_a_border_is_found_beside_declared_pixels() -> None:
    lost, valid = with_border(KELVIN.astype(np.float32), -9999.0)
    lost[60:70, 80:90] = np.nan
    valid[60:70, 80:90] = False
    picture = infrared(lost)
    assert picture.valid is not None and len(picture.warnings) == 1
    np.testing.assert_array_equal(picture.valid[0].numpy(), valid)


def test_scenes_are_left_alone() -> None:
    """Night, clipped sky, dead pixels, a dark object at the border: nothing of them is guessed away."""
    night = np.where(INFRARED < 90, 0, INFRARED).astype(np.uint8)
    rows = np.arange(120)[:, None]
    roofs = 50 + 8 * np.sin(np.arange(160) / 9) + 5 * (np.arange(160) % 23 > 11)
    sky = np.where(rows < roofs[None], 255, INFRARED // 2).astype(np.uint8)
    dead = KELVIN.copy()
    dead.ravel()[np.random.default_rng(0).choice(dead.size, 38, replace=False)] = 0
    corner = INFRARED.copy()
    corner[90:, 100:] = 0
    for image in (night, sky, dead, corner, INFRARED, KELVIN, np.full_like(INFRARED, 7)):
        assert infrared(image).valid is None
    for seed in range(2, 12):
        scene = render(seed, (120, 160))
        for plane in (scene.infrared[0].numpy(), scene.visible.permute(1, 2, 0).numpy()):
            assert infrared((plane * 255).astype(np.uint8)).valid is None


def test_other_kinds_are_never_guessed_at() -> None:
    lost, _ = with_border(INFRARED)
    for kind in ("medical", "exposure", "focus"):
        pipeline = FusePipeline(FuseOptions(kind=kind, system="average"))
        assert all(picture.valid is None for picture in pipeline.read(lost, INFRARED))


# -- the law: what an invalid pixel holds changes nothing --------------------------------------------------------------


@pytest.mark.parametrize("side", ["visible", "infrared"])
@pytest.mark.parametrize("system", ["tdfusion", "laplacian"])
def test_a_fused_image_does_not_depend_on_invalid_values(side: str, system: str) -> None:
    source = VISIBLE if side == "visible" else INFRARED
    _, valid = with_border(source)
    valid[60:63, 70:72] = False
    results = []
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(0, 256, source.shape, dtype=np.uint8)
        masked = np.ma.masked_array(
            source.copy(), np.broadcast_to(~valid.reshape(120, 160, *[1] * (source.ndim - 2)), source.shape)
        )
        masked.data[~valid] = noise[~valid]
        pair = (masked, INFRARED) if side == "visible" else (VISIBLE, masked)
        results.append(tectum.fuse(*pair, system=system))
    np.testing.assert_array_equal(*results)


def test_the_other_source_shows_where_one_has_no_data() -> None:
    _, valid = with_border(INFRARED)
    hidden = np.ma.masked_array(INFRARED, ~valid)
    fused = tectum.fuse(VISIBLE, hidden, system="maximum")
    np.testing.assert_array_equal(fused[:9], VISIBLE[:9])
    lost = np.ma.masked_array(VISIBLE, np.broadcast_to(~valid[..., None], VISIBLE.shape))
    fused = tectum.fuse(lost, INFRARED, system="maximum").astype(int)
    assert np.abs(fused[:9] - INFRARED[:9, :, None]).max() <= 1
    both = tectum.fuse(lost, hidden, system="maximum")
    assert not both[:9].any() and both[60:].any()


def test_an_opaque_alpha_does_not_hide_pixels_without_data() -> None:
    lost, _ = with_border(np.maximum(INFRARED, 1))
    opaque = np.dstack([lost, lost, lost, np.full_like(lost, 255)])
    grey, with_alpha = (tectum.fuse(VISIBLE, x, system="maximum", nodata="0") for x in (lost, opaque))
    np.testing.assert_array_equal(grey, with_alpha)


def test_dead_pixels_leave_no_dot() -> None:
    dead = KELVIN.copy()
    places = np.random.default_rng(0).choice(dead.size, 38, replace=False)
    dead.ravel()[places] = 0
    whole = tectum.fuse(VISIBLE, KELVIN, output="grey").astype(float)
    mended = tectum.fuse(VISIBLE, dead, output="grey", nodata="0").astype(float)
    assert np.abs(mended - whole).mean() < 1.5
    # not declared: told, and left out of the range at least
    with pytest.warns(UserWarning, match="left out of its range; --nodata 0"):
        told = tectum.fuse(VISIBLE, dead, output="grey").astype(float)
    alive = cv2.erode((dead > 0).astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(told - whole)[alive].mean() < 3
    picture = picture_from_array(dead, modality="infrared")
    np.testing.assert_allclose(picture.raw_range, np.percentile(KELVIN, (0.1, 99.9)), atol=15)
    assert picture_from_array(dead, modality="infrared", value_range="p0.1,p99.9").raw_range[0] == 0  # as asked


def test_registration_does_not_see_a_common_frame() -> None:
    scene = render(4, (240, 320))
    visible = scene.visible.mean(0).numpy()
    shift = np.array([[1, 0, -9], [0, 1, 6]], np.float32)
    moved = cv2.warpAffine(scene.infrared[0].numpy(), shift, (320, 240), borderMode=cv2.BORDER_REFLECT)
    alone = register(visible, moved)
    framed = [
        mark_invalid(
            infrared(cv2.copyMakeBorder((x * 255).astype(np.uint8), 30, 30, 30, 30, cv2.BORDER_CONSTANT, value=255))
        )
        for x in (visible, moved)
    ]
    assert np.isnan(framed[0]).mean() > 0.3
    found = register(*framed)
    np.testing.assert_allclose(found.matrix[:2, 2], alone.matrix[:2, 2], atol=1.5)


# -- metrics -----------------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, value: int) -> None:
    for name in ("vi", "ir", "fused"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in (2, 3):
        scene = render(seed, (120, 160))
        visible = (scene.visible.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        ir = (scene.infrared[0].numpy() * 255).clip(1, 255).astype(np.uint8)
        alpha = np.full(ir.shape, 255, np.uint8)
        fused = (visible[..., 1] // 2 + ir // 2).astype(np.uint8)
        for image in (ir, fused):
            image[:, :20] = value
        alpha[:, :20] = 0
        cv2.imwrite(str(folder / "vi" / f"{seed}.png"), visible)
        cv2.imwrite(str(folder / "ir" / f"{seed}.png"), np.dstack([ir, ir, ir, alpha]))
        cv2.imwrite(str(folder / "fused" / f"{seed}.png"), fused)


def test_no_metric_sees_declared_pixels_without_data(tmp_path: Path) -> None:
    tables = []
    for value in (0, 200):
        folder = tmp_path / str(value)
        write_pairs(folder, value)
        arguments: Any = ({"m": folder / "fused"}, folder / "vi", folder / "ir")
        options: Any = {"metrics": "all", "baselines": (), "out": tmp_path / f"o{value}"}
        scored = evaluate(*arguments, **options)
        tables.append(scored.scores.values)
        assert any("2 images have pixels without data; metrics leave out 12.5%" in text for text in scored.warnings)
        again = evaluate(*arguments, **options)
        assert again.warnings == scored.warnings  # of stored scores too
    np.testing.assert_array_equal(*tables)
    lines = [json.loads(line) for line in (tmp_path / "o0" / "scores.jsonl").read_text().splitlines()]
    assert all(line["scores"]["left out"] == 0.125 for line in lines)


def test_the_region_of_metrics_is_the_largest_rectangle_and_its_holes_are_filled() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        valid = np.ones((70, 90), bool)
        valid[: rng.integers(6, 20)] = False
        valid[:, 90 - rng.integers(6, 25) :] = False
        expected = np.argwhere(valid)
        valid[40, 30] = False
        picture = picture_from_array(np.ma.masked_array(np.zeros((70, 90), np.uint8), ~valid))
        region = find_valid_region(picture, picture)
        assert region is not None
        low, high = expected.min(0), expected.max(0) + 1
        assert (region.rows, region.columns) == (slice(low[0], high[0]), slice(low[1], high[1]))
        assert (~region.valid).sum() == 1
    nearly_all = np.ones((70, 90), bool)
    nearly_all[:30, :30] = False
    picture = picture_from_array(np.ma.masked_array(np.zeros((70, 90), np.uint8), nearly_all))
    with pytest.raises(UserError, match="the largest is 30x30"):
        find_valid_region(picture, picture)


def test_a_tag_of_a_geotiff_declares_its_value(tmp_path: Path) -> None:
    from PIL import Image, TiffImagePlugin

    lost, valid = with_border(KELVIN.astype(np.float32), -9999.0)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[42113] = "-9999"
    Image.fromarray(lost).save(tmp_path / "a.tif", tiffinfo=tags)
    picture = read_image(tmp_path / "a.tif", modality="infrared")
    assert picture.valid is not None
    np.testing.assert_array_equal(picture.valid[0].numpy(), valid)
    assert read_image(tmp_path / "a.tif", modality="infrared", nodata="none").valid is None
