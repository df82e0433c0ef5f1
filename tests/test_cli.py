"""The command line and the Python call: the same pixels, colour kept, flags that change a picture, light start-up."""

import inspect
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import tectum
from tectum.cli import COMMANDS, main
from tectum.color import rgb_to_ycbcr
from tectum.data.synthetic import render
from tectum.fusion.command import Fuse
from tectum.fusion.fuse import fuse
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.image import picture_from_array, write_image
from tectum.registration.camera_rig import Rig
from tectum.report import pictures as report

HEIGHT, WIDTH = 20, 28


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """vi.png, smooth and coloured; ir.png, grey with a warm square."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    visible = np.stack((40 + 4 * x, 60 + 3 * y, 90 + x + y), axis=-1).astype(np.uint8)
    infrared = np.full((HEIGHT, WIDTH), 30, np.uint8)
    infrared[5:12, 8:15] = 220
    write_image(tmp_path / "vi.png", visible)
    write_image(tmp_path / "ir.png", infrared)
    return tmp_path


def run(
    folder: Path, *flags: str, out: str = "out.png", visible: str = "vi.png", infrared: str = "ir.png"
) -> np.ndarray:
    paths = [str(folder / visible), str(folder / infrared), "-o", str(folder / out)]
    assert main(["fuse", *paths, "--system", "average", "--overwrite", *flags]) == 0
    return load(folder / out) if (folder / out).is_file() else np.empty(0)


def load(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def split(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, chroma = rgb_to_ycbcr(torch.from_numpy(rgb / 255).permute(2, 0, 1).float())
    return y[0].numpy(), chroma.numpy()


# ---- the command -----------------------------------------------------------------------------------------------------


def tectum_in_a_process(*argv: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from tectum.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)


def test_fuse_by_subprocess(folder: Path) -> None:
    argv = [
        str(folder / "vi.png"),
        str(folder / "ir.png"),
        "-o",
        str(folder / "new" / "out.png"),
        "--system",
        "average",
    ]
    done = tectum_in_a_process("fuse", *argv)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip() == argv[3]
    assert load(folder / "new" / "out.png").shape == (HEIGHT, WIDTH, 3)
    again = tectum_in_a_process("fuse", *argv)
    assert again.returncode == 2 and again.stderr.startswith("tectum: ") and again.stderr.count("\n") == 1


def test_help_names_every_verb_and_flag_and_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == 0
    text = capsys.readouterr().out
    assert all(text.count(f"\n  {name} ") == 2 for name in COMMANDS)
    assert main(["fuse", "--help"]) == 0
    text, paths = capsys.readouterr().out, ("visible", "infrared", "more")
    assert all("--" + field.name.replace("_", "-") in text for field in fields(Fuse) if field.name not in paths)
    assert "(default: None)" not in text and "(default: False)" not in text
    code = (
        "import sys; from tectum.cli import main\n"
        "for argv in ['--help'], ['--version'], ['fuse', '--help'], ['fuse', 'no', 'no', '-o', 'no']: main(argv)\n"
        "sys.exit(any(heavy in sys.modules for heavy in ('torch', 'cv2', 'numpy', 'PIL', 'tqdm')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"tectum {tectum.__version__}" in done.stdout


@pytest.mark.parametrize("group", ["data", "weights"])
def test_help_of_a_group_lists_its_commands_only(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: tectum {group} COMMAND")
    assert [name for name in COMMANDS if f"\n  {name} " in text] == [x for x in COMMANDS if x.startswith(f"{group} ")]


def test_the_flags_the_options_and_the_call_agree() -> None:
    options = {field.name: field.default for field in fields(FuseOptions)}
    flags = {field.name: field.default for field in fields(Fuse)}
    call = {name: p.default for name, p in inspect.signature(fuse).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert options.items() <= flags.items() and options.items() <= call.items()
    assert {name: call[name] for name in ("output", "bits")} == {name: flags[name] for name in ("output", "bits")}
    assert call.keys() == options.keys() | {"output", "bits"}
    assert tectum.fuse is fuse and all(f"\n    {name}: " in (fuse.__doc__ or "") for name in options)
    with pytest.raises(TypeError, match="tyle"):
        fuse("a.png", "b.png", tyle=512)


def test_one_pair_goes_through_ten_modules_at_most(
    benchmark_module: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visits = benchmark_module("visits")
    modules, _ = visits.visits(lambda: visits.fuse_one(tmp_path))
    assert {"cli", "fusion.pipeline"} <= set(modules) and len(modules) <= 10, modules


# ---- one result, three ways ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["colour", "grey"])
def test_python_and_command_line_give_the_same_pixels(folder: Path, output: str) -> None:
    visible, infrared = load(folder / "vi.png"), load(folder / "ir.png")
    expected = run(folder, "--output", output)
    types = {
        "paths": (folder / "vi.png", str(folder / "ir.png")),
        "arrays": (visible, infrared),
        "PIL": (Image.fromarray(visible), Image.fromarray(infrared)),
    }
    for name, sources in types.items():
        assert np.array_equal(fuse(*sources, system="average", output=output), expected), name
    (folder / "many_vi").mkdir(), (folder / "many_ir").mkdir()
    (folder / "vi.png").rename(folder / "many_vi" / "a.png"), (folder / "ir.png").rename(folder / "many_ir" / "a.png")
    run(folder, "--output", output, visible="many_vi", infrared="many_ir", out="many/")
    assert np.array_equal(load(folder / "many" / "a.png"), expected)


def test_tensors_come_back_as_tensors(folder: Path) -> None:
    visible = torch.from_numpy(load(folder / "vi.png").copy()).permute(2, 0, 1) / 255
    infrared = torch.from_numpy(load(folder / "ir.png").copy())[None] / 255
    colour = fuse(visible, infrared, system="average")
    assert isinstance(colour, torch.Tensor) and colour.shape == (3, HEIGHT, WIDTH) and colour.dtype == torch.float32
    assert not colour.is_inference()  # it may go on into a computation with gradients
    assert np.abs(colour.permute(1, 2, 0).numpy() * 255 - run(folder)).max() <= 0.5001
    assert fuse(visible, infrared, system="average", output="grey").shape == (1, HEIGHT, WIDTH)
    batch = fuse(torch.stack([visible, visible.flip(2)]), torch.stack([infrared, infrared.flip(2)]), system="average")
    assert torch.equal(batch[0], colour) and torch.equal(batch[1].flip(2), colour)
    with pytest.raises(ValueError, match="one batch"):
        fuse(visible[None], torch.stack([infrared, infrared]), system="average")


def test_one_pipeline_serves_many_pairs_and_a_fuser_of_ones_own() -> None:
    class Infrared(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return b

    pipeline = FusePipeline(FuseOptions(system="average"), fuser=Infrared())
    for value in (10, 200):
        dark, warm = (picture_from_array(np.full((3, 5), v, np.uint8)) for v in (77, value))
        assert (pipeline(dark, warm).array() == value).all()
    for options in ({"weights": "tdfusion-msrs"}, {"variant": "published"}):
        with pytest.raises(tectum.UserError, match="a network of your own takes no weights and no variant"):
            FusePipeline(FuseOptions(**options), fuser=Infrared())


# ---- colour ----------------------------------------------------------------------------------------------------------


def test_colour_is_kept(folder: Path) -> None:
    y, chroma = split(run(folder))
    source_y, source_chroma = split(load(folder / "vi.png"))
    assert np.abs(chroma - source_chroma).max() < 2 / 255
    assert np.abs(y - (source_y + load(folder / "ir.png") / 255) / 2).max() < 2 / 255


def test_grey_sources_give_grey_and_colour_in_the_infrared_place_is_kept_with_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "ir.png", folder / "grey.png")
    assert run(folder, visible="grey.png").shape == (HEIGHT, WIDTH)
    capsys.readouterr()
    straight, swapped = run(folder), run(folder, visible="ir.png", infrared="vi.png", out="swapped.png")
    assert np.array_equal(straight, swapped)
    warning = capsys.readouterr().err
    assert "swapped?" in warning and warning.count("\n") == 1
    with pytest.warns(UserWarning, match=r"swapped\?"):
        fuse(folder / "ir.png", folder / "vi.png", system="average")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuse(folder / "vi.png", folder / "ir.png", system="average")


def test_alpha_of_the_visible_is_kept_and_that_of_the_infrared_says_where_it_counts() -> None:
    visible, infrared = np.full((4, 6, 4), 100, np.uint8), np.full((4, 6, 4), 200, np.uint8)
    visible[..., 3], infrared[..., 3] = 255, 255
    visible[0, :, 3], infrared[:, 0, 3] = 0, 0
    fused = fuse(visible, infrared, system="average")
    assert fused.shape == (4, 6, 4) and np.array_equal(fused[..., 3], visible[..., 3])
    assert (fused[:, 0, :3] == 100).all() and (fused[:, 1:, :3] == 150).all()


# ---- flags that change the picture -----------------------------------------------------------------------------------


def test_both_outputs_report_and_bits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colour = run(folder, "--output", "both", "--report", "--bits", "16")
    assert capsys.readouterr().out.split(", ")[1].endswith("out-grey.png")
    grey = np.asarray(Image.open(folder / "out-grey.png"))
    assert grey.dtype == np.uint16 and grey.max() > 255
    assert colour.shape == (HEIGHT, WIDTH, 3)
    assert load(folder / "out-report.png").ndim == 3
    (folder / "there").mkdir()
    run(folder, out="there")
    assert (folder / "there" / "vi.png").exists()


def test_stretch_reaches_black_and_white(folder: Path) -> None:
    grey = run(folder, "--output", "grey", "--stretch", "minmax")
    assert (grey.min(), grey.max()) == (0, 255)
    assert run(folder, "--output", "grey").max() < 255


def test_resize_brings_the_infrared_to_the_visible(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = load(folder / "ir.png")[::2, ::2]
    write_image(folder / "half.png", half)
    fused = run(folder, "--resize", "--output", "grey", infrared="half.png")
    assert fused.shape == (HEIGHT, WIDTH)
    assert np.abs(fused.astype(int) - run(folder, "--output", "grey")).mean() < 10
    assert capsys.readouterr().err == ""
    write_image(folder / "square.png", half[:, :10])
    run(folder, "--resize", infrared="square.png")
    assert "proportions" in capsys.readouterr().err


def test_a_fixed_infrared_range_is_the_same_for_every_frame(folder: Path) -> None:
    for name, offset in (("1.tif", 0), ("2.tif", 3000)):
        write_image(folder / name, (load(folder / "ir.png") * np.uint16(16) + np.uint16(7000 + offset)))
    black = np.zeros((HEIGHT, WIDTH), np.uint8)
    first, second = (
        np.asarray(fuse(black, folder / name, system="average", infrared_range="7000,15000", bits=16)).astype(float)
        for name in ("1.tif", "2.tif")
    )
    assert np.allclose(second - first, 65535 * 3000 / 8000 / 2, atol=1.5)
    first, second = (np.asarray(fuse(black, folder / name, system="average")) for name in ("1.tif", "2.tif"))
    assert np.array_equal(first, second)  # percentiles of each image hide the offset


# ---- registration ----------------------------------------------------------------------------------------------------

SHIFT = (4, -6)  # rows and columns by which the infrared camera looks beside the visible one


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders vi and ir of five street scenes, and ir16 with the same infrared as raw 16-bit values from 7000 on."""
    folder = tmp_path_factory.mktemp("beside")
    for name in ("vi", "ir", "ir16"):
        (folder / name).mkdir()
    for seed in range(5):
        scene = render(seed, (192, 256), hour="day")
        row, column = SHIFT
        visible = (scene.visible.permute(1, 2, 0) * 255).round().byte().numpy()
        infrared = (scene.infrared[0] * 255).round().byte().numpy()
        infrared = infrared[16 + row : 176 + row, 16 + column : 240 + column]
        write_image(folder / "vi" / f"{seed}.png", visible[16:176, 16:240])
        write_image(folder / "ir" / f"{seed}.png", infrared)
        write_image(folder / "ir16" / f"{seed}.png", infrared.astype(np.uint16) * np.uint16(8) + np.uint16(7000))
    return folder


def infrared_of(fused: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The infrared luminance that was averaged with the visible one."""
    return 2 * split(fused)[0] - split(visible)[0]


def test_align_moves_the_infrared_into_the_visible_frame_and_keeps_the_visible_beside_it(beside: Path) -> None:
    visible, infrared = load(beside / "vi" / "0.png"), load(beside / "ir" / "0.png") / 255
    fused = fuse(visible, beside / "ir" / "0.png", system="average", align=True)
    row, column = SHIFT
    moved = infrared_of(fused, visible)[row + 10 : -10, 10 : column - 10]
    assert np.abs(moved - infrared[10 : -row - 10, 10 - column : -10]).mean() < 0.02
    assert np.abs(moved - infrared[row + 10 : -10, 10 : column - 10]).mean() > 0.03  # where it was before
    assert np.abs(split(fused)[0] - split(visible)[0])[:2].max() < 2 / 255  # rows the infrared camera does not see


def test_align_refuses_what_does_not_belong_together(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    write_image(beside / "noise.png", rng.integers(0, 256, (160, 224), dtype=np.uint8))
    argv = [
        str(beside / "vi" / "0.png"),
        str(beside / "noise.png"),
        "-o",
        str(beside / "no.png"),
        "--system",
        "average",
    ]
    assert main(["fuse", *argv, "--align"]) == 2
    assert "could not be registered" in capsys.readouterr().err
    assert not (beside / "no.png").exists()


def test_a_rig_found_by_subprocess_serves_every_frame_without_flicker(
    beside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = str(tmp_path / "rig.json")
    align = tectum_in_a_process("align", str(beside / "vi"), str(beside / "ir16"), "-o", rig, "--model", "translation")
    assert align.returncode == 0, align.stderr
    assert "of 5 pairs agree" in align.stdout and "infrared range 7" in align.stdout
    assert main(["align", str(beside / "vi"), str(beside / "ir16"), "-o", rig]) == 2
    assert "exists already" in capsys.readouterr().err

    folders = [str(beside / "vi"), str(beside / "ir16"), "-o", str(tmp_path / "out")]
    assert main(["fuse", *folders, "--system", "average", "--rig", rig, "--quiet"]) == 0
    (low, high), row, column = Rig.load(rig).infrared_range, *SHIFT
    for name in ("0.png", "3.png"):
        moved = infrared_of(load(tmp_path / "out" / name), load(beside / "vi" / name))
        raw = np.asarray(Image.open(beside / "ir16" / name)).astype(float)
        expected = np.clip((raw - low) / (high - low), 0, 1)[10 : -row - 10, 10 - column : -10]
        assert np.abs(moved[row + 10 : -10, 10 : column - 10] - expected).mean() < 0.03

    small = [str(beside / "vi" / "0.png"), str(beside / "noise.png"), "-o", str(tmp_path / "x.png"), "--rig", rig]
    write_image(beside / "noise.png", np.full((16, 16), 7500, np.uint16))
    assert main(["fuse", *small, "--system", "average"]) == 2
    assert "size" in capsys.readouterr().err


# ---- report ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (8, 20000), (3000, 20)])
def test_side_by_side_of_any_shape_fits_a_screen(shape: tuple[int, int]) -> None:
    image = np.full(shape, 128, np.uint8)
    sheet = report.side_by_side(image, image, image)
    assert sheet.dtype == np.uint8 and max(sheet.shape) < 1800 and min(sheet.shape[:2]) > 60


def test_side_by_side_shows_the_difference_at_its_scale() -> None:
    visible, fused = np.zeros((200, 200), np.uint8), np.zeros((200, 200), np.uint16)
    fused[:, 100:] = 65535 // 2 + 1
    sheet = report.side_by_side(visible, visible, fused)
    plain = report.side_by_side(visible, visible, fused, difference=False)
    white, black = report.HEAT[-1], report.HEAT[0]
    assert (sheet == white).all(-1).sum() > 10_000 < (sheet == black).all(-1).sum()
    assert not (plain == white).all(-1).any()
    with pytest.raises(ValueError, match="one size"):
        report.side_by_side(visible, visible, fused[:100])
