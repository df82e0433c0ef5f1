"""Value ranges that hide a picture: all of it clipped, or 10 to 14 bits stored in 16 and read as black."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tectum.cli import main
from tectum.fusion.fuse import fuse
from tectum.io.image import picture_from_array, read_image

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """vi/1.png of 8 bits, ir/1.png in kelvin x 100 (27315..30815), vi12/1.png of 12 bits in 16."""
    for folder, pixels in (
        ("vi", (RAMP[..., None] * (200, 255, 100)).astype(np.uint8)),
        ("ir", (27315 + 3500 * RAMP).round().astype(np.uint16)),
        ("vi12", (RAMP[..., None] * (2000, 4095, 1000)).round().astype(np.uint16)),
    ):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "1.png"), pixels)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "level"), [("0,35", "above 35 and would be white"), ("40000,50000", "below 40000 and would be black")]
)
def test_a_range_beside_all_values_is_refused_with_their_own(scene: Path, given: str, level: str) -> None:
    with pytest.raises(
        ValueError, match=f"infrared-range={given} must cover .*27315..30815, lie {level}; give its own"
    ):
        fuse(scene / "vi/1.png", scene / "ir/1.png", system="average", infrared_range=given)
    with pytest.raises(ValueError, match=r"visible-range=300,400 must cover .* 0\.\.255, lie below 300"):
        read_image(scene / "vi/1.png", value_range="300,400")
    with pytest.raises(ValueError, match=r"the infrared array, .* lie above 0\.5"):
        picture_from_array(RAMP + 1, modality="infrared", value_range="0,0.5")


def test_the_bounds_belong_to_the_range_and_a_flat_image_may_lie_on_them() -> None:
    for level, y in ((0, 0), (100, 1), (50, 0.5)):
        assert picture_from_array(np.full((3, 4), level, np.uint16), value_range="0,100").y.unique().item() == y
    with pytest.raises(ValueError, match="would be white; leave it out"):
        picture_from_array(np.full((3, 4), 101, np.uint16), value_range="0,100")
    halves = np.repeat(np.array([[0, 60000]], np.uint16), 4, 0)  # all clipped, at both ends: black and white remain
    assert picture_from_array(halves, value_range="100,50000").y.unique().tolist() == [0, 1]


def test_a_range_that_clips_nearly_all_is_told_and_kept() -> None:
    values = np.arange(1000, dtype=np.uint16).reshape(25, 40)
    assert picture_from_array(values, value_range="940,2000").warnings == ()
    (warning,) = picture_from_array(values, value_range="950,2000").warnings
    assert "makes at least 95% of the image black" in warning
    (warning,) = picture_from_array(values, value_range="0,49").warnings
    assert "white" in warning
    with pytest.warns(UserWarning, match="infrared-range=950,2000 makes at least 95%"):
        fuse(values, values, system="average", visible_range="0,999", infrared_range="950,2000")


def test_the_commands_refuse_such_a_range(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vi, ir, ranges = str(scene / "vi"), str(scene / "ir"), ("--infrared-range", "0,35")
    files = (f"{vi}/1.png", f"{ir}/1.png", "-o", str(scene / "out.png"), "--system", "average")
    assert main(["fuse", *files, *ranges]) == 2
    assert "27315..30815" in capsys.readouterr().err and not (scene / "out.png").exists()
    assert main(["fuse", vi, ir, "-o", str(scene / "out"), "--system", "average", *ranges]) == 1
    assert "1: --infrared-range=0,35 must cover" in capsys.readouterr().err
    assert main(["eval", "--fused", f"f={vi}", "--visible", vi, "--infrared", ir, *ranges, "-o", f"{vi}e"]) == 1
    assert "27315..30815" in capsys.readouterr().err
    assert main(["align", vi, ir, "-o", str(scene / "rig.json"), *ranges, "--quiet"]) == 2
    assert "27315..30815" in capsys.readouterr().err


@pytest.mark.parametrize(("largest", "bits"), [(1023, 10), (4000, 12), (4095, 12), (16383, 14), (300, 10)])
def test_few_of_16_bits_are_never_read_as_black(largest: int, bits: int) -> None:
    camera = (RAMP * largest).round().astype(np.uint16)
    says = rf"has values 0\.\.{largest}, .* {bits} bits .* --visible-range=0,{2**bits - 1} \(or =full"
    with pytest.raises(ValueError, match=says):
        picture_from_array(camera)
    with pytest.raises(ValueError, match=says):
        fuse(camera, (RAMP * 255).astype(np.uint8), system="average")
    assert picture_from_array(camera, value_range="full").y.max() < 0.26
    assert picture_from_array(camera, value_range=f"0,{largest}").y.max() == 1
    assert picture_from_array(camera, modality="infrared").y.max() == 1, "percentiles need no depth"


def test_16_bits_in_use_and_black_frames_are_read() -> None:
    assert picture_from_array((RAMP * 2**14).astype(np.uint16)).y.max() == 2**14 / 65535
    assert not picture_from_array(np.zeros((4, 6), np.uint16)).y.any()
    assert picture_from_array(torch.full((4, 6), 0.01)).y.max() < 0.02, "a tensor is taken as it is"


def test_12_bits_from_the_command(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fuse", f"{scene}/vi12/1.png", f"{scene}/ir/1.png", "-o", f"{scene}/out.png", "--system", "average"]
    assert main(argv) == 2
    assert "--visible-range=0,4095" in capsys.readouterr().err
    assert main([*argv, "--visible-range", "0,4095"]) == 0
    assert cv2.imread(f"{scene}/out.png").max() > 200


def test_a_dark_exposure_is_taken_beside_one_that_uses_all_bits() -> None:
    """The brightest image of a bracket says how many bits the camera uses."""
    dark, bright = ((RAMP * top).astype(np.uint16) for top in (9000, 65535))
    expected = fuse(bright, dark, kind="exposure", system="average", infrared_range="full")
    assert np.array_equal(fuse(bright, dark, kind="exposure", system="average"), expected)
    with pytest.raises(ValueError, match=r"has values 0\.\.9000"):
        fuse(dark, dark // 2, kind="exposure", system="average")
    with pytest.raises(ValueError, match=r"has values 0\.\.9000"):
        fuse(dark, np.zeros_like(dark), kind="exposure", system="average")
