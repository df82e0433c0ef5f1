"""The four kinds of fusion: who is who, whose colour is kept, what is refused."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tectum.cli import main
from tectum.color import choose_chroma, rgb_to_ycbcr
from tectum.fusion.fuse import fuse
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.image import picture_from_array, write_image
from tectum.kinds import KINDS
from tectum.models import SYSTEMS
from tectum.pretrained import loading as weights

HEIGHT, WIDTH = 12, 18


def photo(level: int, seed: int = 0, *, colour: bool = True) -> np.ndarray:
    random = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, 3) if colour else (HEIGHT, WIDTH)
    return np.clip(random.integers(-30, 30, shape) + level, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Exposures 1.png (dark) to 4.png (bright)."""
    for name, level in enumerate((40, 90, 150, 210), 1):
        write_image(tmp_path / f"{name}.png", photo(level, name))
    return tmp_path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused and return its sentence."""

    def run(*argv: str) -> str:
        assert main(list(argv)) == 2
        sentence = capsys.readouterr().err
        assert sentence.count("\n") == 1 and "Traceback" not in sentence
        return sentence

    return run


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# ---- names -----------------------------------------------------------------------------------------------------------


def test_every_kind_is_whole() -> None:
    assert set(KINDS) == {"infrared", "exposure", "focus", "medical"}
    cards = weights.cards()
    for name, kind in KINDS.items():
        assert kind.name == name and len(set(kind.roles)) == 2
        assert all(len(set(side)) == 2 for side in kind.sides)
        assert kind.system in SYSTEMS
        default = weights.select(kind=name).weights
        assert default is None or cards[default].get("kind", "infrared") == name
        for other in KINDS.values():  # no tag or role stands for two kinds
            assert other is kind or not set(kind.tags + kind.roles) & set(other.tags + other.roles)


@pytest.mark.parametrize(
    ("tag", "name"),
    [("IVF", "infrared"), ("vif", "infrared"), ("MEF", "exposure"), ("MFF", "focus"), ("mif", "medical")],
)
def test_short_names_of_publications_are_answered_with_ours(tag: str, name: str) -> None:
    assert KINDS[tag].name == FusePipeline(FuseOptions("average", kind=tag)).kind.name == name


def test_unknown_kinds_offer_the_closest(told: Callable[..., str], folder: Path) -> None:
    pair = [str(folder / "4.png"), str(folder / "1.png"), "-o", str(folder / "out.png")]
    assert "did you mean 'focus'?" in told("fuse", *pair, "--kind", "focuss")
    assert "medical (MIF)" in told("fuse", *pair, "--kind", "x")


# ---- colour ----------------------------------------------------------------------------------------------------------


def levels(rgb: tuple[int, int, int]) -> np.ndarray:
    return np.full((4, 5, 3), rgb, np.uint8)


def published_mix(cb_a: np.ndarray, cb_b: np.ndarray) -> np.ndarray:
    """The rule as fusion code writes it, on 8-bit codes around 128."""
    weight_a, weight_b = np.abs(cb_a - 128.0), np.abs(cb_b - 128.0)
    total = weight_a + weight_b
    safe = np.where(total > 0, total, 1)
    return np.where(total > 0, (cb_a * weight_a + cb_b * weight_b) / safe, 128.0)


def test_foci_mix_their_chroma() -> None:
    a, b = photo(170, 1), photo(60, 2)
    fused = np.asarray(fuse(a, b, kind="focus", system="average"))
    codes = [np.asarray(Image.fromarray(x).convert("YCbCr"), np.float64) for x in (a, b, fused)]
    inside = (fused.min(-1) > 3) & (fused.max(-1) < 252)  # where the gamut does not limit the saturation
    assert inside.mean() > 0.5
    for channel in (1, 2):
        wanted = published_mix(codes[0][..., channel], codes[1][..., channel])
        assert np.abs(codes[2][..., channel] - wanted)[inside].max() < 2.5
    assert np.array_equal(fused, np.asarray(fuse(b, a, kind="focus", system="average")))


def test_exposures_keep_the_hue_of_one_coloured_light() -> None:
    """A wall in yellow light: where channels of the bright exposure are clipped, the dark one has the hue."""
    wall = np.linspace(0.02, 1, 128) * np.linspace(0.7, 1.3, 96)[:, None]
    light = wall[..., None] * (1.0, 0.55, 0.12)
    under, over = (np.round(255 * np.clip(light * gain, 0, 1) ** (1 / 2.2)).astype(np.uint8) for gain in (0.25, 4))
    pipeline = FusePipeline(FuseOptions("average", kind="exposure"))
    bright, dark = pipeline.read(over, under)
    true = rgb_to_ycbcr(torch.from_numpy(light ** (1 / 2.2)).permute(2, 0, 1))[1]

    def hue_error(chroma: Tensor) -> float:
        """Mean angle between chromas, degrees."""
        away = torch.atan2(chroma[1], chroma[0]) - torch.atan2(true[1], true[0])
        return float(torch.rad2deg((away + torch.pi) % (2 * torch.pi) - torch.pi).abs().mean())

    fused = pipeline(bright, dark)
    published = choose_chroma(bright.chroma, dark.chroma, mix=True)
    assert fused.chroma is not None and published is not None
    assert hue_error(fused.chroma) < 4 < 8 < hue_error(published), "an olive wall"
    with pytest.warns(UserWarning, match="darker"):
        swapped = fuse(under, over, kind="exposure", system="average")
    assert np.array_equal(np.asarray(swapped), fused.array())


def test_an_exposure_without_colour_does_not_take_it_from_the_other() -> None:
    pipeline = FusePipeline(FuseOptions("average", kind="exposure"))
    grey, colour = pipeline.read(photo(170, 1, colour=False), photo(60, 2))
    assert torch.equal(pipeline(grey, colour).chroma, colour.chroma)
    assert pipeline(grey, grey).chroma is None


def test_a_scan_keeps_its_colour_and_grey_scans_stay_grey() -> None:
    pet, mri, ct = levels((200, 40, 20)), photo(120, 3, colour=False)[:4, :5], photo(80, 4, colour=False)[:4, :5]
    hue = picture_from_array(pet).chroma
    fused = FusePipeline(FuseOptions("average", kind="medical"))(picture_from_array(pet), picture_from_array(mri))
    assert fused.chroma is not None and hue is not None and torch.equal(fused.chroma, hue)
    assert np.asarray(fuse(ct, mri, kind="medical", system="average")).ndim == 2
    with pytest.warns(UserWarning, match="MRI image has colour and the CT, PET or SPECT one has none"):
        assert np.asarray(fuse(mri, pet, kind="medical", system="average")).ndim == 3  # swapped: not lost


def test_faint_colour_of_a_grey_medical_image_does_not_tint() -> None:
    ct = np.repeat(photo(100, 5, colour=False)[..., None], 3, axis=2)
    ct[0, 0, 0] ^= 2  # what JPEG leaves
    mri = photo(120, 6, colour=False)
    assert np.asarray(fuse(ct, mri, kind="medical", system="average")).ndim == 2
    assert np.asarray(fuse(mri, ct, kind="exposure", system="average")).ndim == 3


# ---- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--kind", "medical", "--align"], "--align brings an infrared camera's view"),
        (["--kind", "medical", "--rig", "rig.json"], "--rig brings an infrared camera's view"),
        (["--kind", "focus", "--resize"], "leave out --resize"),
        (["--kind", "medical", "MORE"], "one SCAN and one MRI, got 1 more"),
        (["MORE"], "one VISIBLE and one INFRARED, got 1 more"),
        (["--kind", "focus", "MORE", "--report"], "--report shows two sources, got 3 images"),
    ],
)
def test_flags_that_make_no_sense(folder: Path, told: Callable[..., str], flags: list[str], words: str) -> None:
    pair = [str(folder / "4.png"), str(folder / "1.png"), "-o", str(folder / "out.png")]
    flags = [str(folder / "2.png") if flag == "MORE" else flag for flag in flags]
    assert words in told("fuse", *pair, "--system", "average", *flags)
    assert not (folder / "out.png").exists()


def test_the_kind_picks_the_fuser_and_its_weights() -> None:
    assert weights.select().system == "tdfusion"
    for name, system in (("exposure", "exposure-pyramid"), ("focus", "focus-selection"), ("medical", "adasffuse")):
        assert FusePipeline(FuseOptions(kind=name)).settings()["system"] == system
        settings = FusePipeline(FuseOptions("adasffuse", kind=name)).settings()
        assert settings["system"] == "adasffuse" and settings["weights"].startswith(f"adasffuse-{name} ")
        assert FusePipeline(FuseOptions("average", kind=name)).settings()["weights"] is None


def test_sizes_and_places_are_told_in_the_kinds_words(
    folder: Path, told: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(folder / "small.png", photo(40)[:6])
    argv = [str(folder / "4.png"), str(folder / "small.png"), "-o", str(folder / "out.png"), "--system", "average"]
    assert "got 18x12 (over-exposed) and 18x6 (under-exposed)" in told("fuse", *argv, "--kind", "exposure")
    assert "--resize brings the second to the first's size" in told("fuse", *argv, "--kind", "medical")
    assert main(["fuse", *argv, "--kind", "medical", "--resize", "--quiet"]) == 0
    capsys.readouterr()
    argv[1] = str(folder / "gone.png")
    assert "under-exposed image or folder" in told("fuse", *argv, "--kind", "exposure")
    Image.fromarray(np.linspace(0, 90, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)).save(folder / "f.tif")
    argv[1] = str(folder / "f.tif")
    assert "--infrared-range=0,90" in told("fuse", *argv, "--kind", "exposure", "--overwrite")


def test_notes_in_the_kinds_words() -> None:
    dark, bright = photo(50, 1), photo(200, 2)
    with pytest.warns(UserWarning, match="the over-exposed image is darker than the under-exposed one"):
        fuse(dark, bright, kind="exposure", system="average")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuse(bright, dark, kind="exposure", system="average")
        fuse([dark, bright, dark], kind="exposure", system="average")
        fuse(dark, bright, kind="focus", system="average")
    with pytest.warns(UserWarning, match="tdfusion-fixed-msrs were trained on infrared pairs, not focus"):
        fuse(dark, bright, kind="focus", system="tdfusion")


@pytest.mark.parametrize(
    ("images", "words"),
    [((), "got 0"), ((photo(9),), "got 1; give at least two")],
)
def test_too_few_images(images: tuple[np.ndarray, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fuse(list(images), kind="focus", system="average")
    with pytest.raises(ValueError, match="two images must be given, got one"):
        fuse(photo(9), kind="focus", system="average")
    with pytest.raises(ValueError, match="got 3; give two"):
        fuse([photo(9)] * 3, kind="medical", system="average")
    with pytest.raises(ValueError, match="got a list and another image"):
        fuse([photo(9)], photo(9), kind="focus", system="average")


def test_the_report_picture_names_the_roles(folder: Path) -> None:
    argv = [str(folder / "4.png"), str(folder / "1.png"), "-o", str(folder / "out.png"), "--system", "average"]
    reports = []
    for kind in ("infrared", "exposure"):
        assert main(["fuse", *argv, "--kind", kind, "--report", "--quiet", "--overwrite"]) == 0
        reports.append(pixels(folder / "out-report.png")[-24:])  # the captions
    assert reports[0].shape == reports[1].shape and not np.array_equal(*reports)


# ---- depth, grey and stretched output --------------------------------------------------------------------------------


def test_sixteen_bits(tmp_path: Path) -> None:
    """Exposures use the whole range, medical images what they hold."""
    ramp = np.linspace(1000, 50000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    write_image(tmp_path / "a.png", ramp)
    write_image(tmp_path / "b.png", ramp)
    for kind, most in (("exposure", 50000), ("focus", 50000), ("medical", 65535)):
        out = tmp_path / f"{kind}.png"
        argv = ["fuse", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(out), "--bits", "16"]
        assert main([*argv, "--kind", kind, "--system", "average", "--quiet"]) == 0
        read = np.asarray(Image.open(out)).astype(int)
        assert read.max() == most, kind


def published_norm(y: np.ndarray) -> np.ndarray:
    """The released test scripts: per-image min-max, times 255, cut off to bytes."""
    return ((y - y.min()) / (y.max() - y.min()) * 255).astype(np.uint8)


def test_grey_and_stretched_output_is_the_published_one_but_for_the_rounding() -> None:
    a, b = photo(150, 7), photo(90, 8)
    y = np.mean([picture_from_array(x).y[0].numpy() for x in (a, b)], axis=0)
    ours = np.asarray(fuse(a, b, kind="exposure", system="average", output="grey", stretch="minmax"))
    assert ours.shape == (HEIGHT, WIDTH) and ours.min() == 0 and ours.max() == 255
    gap = ours.astype(int) - published_norm(y).astype(int)
    assert set(np.unique(gap)) == {0, 1}  # theirs cuts off, ours rounds
