"""Whatever is wrong with the input: one sentence, exit code 2, and nothing that was there is lost.

Each case calls `main(argv)` in this process and holds it to that; the few inputs that only look wrong must fuse.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tectum.cli import main
from tectum.fusion.pipeline import FusePipeline
from tectum.io.image import read_image, write_image

HEIGHT, WIDTH = 24, 32
Refused = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good pair, vi.png (colour) and ir.png (grey)."""
    random = np.random.default_rng(0)
    write_image(tmp_path / "vi.png", random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    write_image(tmp_path / "ir.png", random.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8))
    return tmp_path


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run `tectum fuse` in the folder, expect a refusal, return its sentence."""

    def run(
        visible: str = "vi.png", infrared: str = "ir.png", *flags: str, out: str = "out.png", system: str = "average"
    ) -> str:
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        paths = [str(folder / visible), str(folder / infrared), "-o", str(folder / out)]
        assert main(["fuse", *paths, "--system", system, *flags]) == 2
        told = capsys.readouterr()
        assert told.out == "" and "Traceback" not in told.err
        assert told.err.startswith("tectum: ") and told.err.count("\n") == 1
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        return told.err

    return run


def fused(folder: Path, visible: str = "vi.png", infrared: str = "ir.png", *flags: str) -> np.ndarray:
    paths = [str(folder / visible), str(folder / infrared), "-o", str(folder / "out.png")]
    assert main(["fuse", *paths, "--system", "average", "--quiet", *flags]) == 0
    return np.asarray(Image.open(folder / "out.png"))


# ---- files that are no images ----------------------------------------------------------------------------------------


def test_missing_file(folder: Path, refused: Refused) -> None:
    assert "infrared image or folder" in refused(infrared="nowhere.dat")
    assert f"did you mean {folder / 'vi.png'}?" in refused(visible="vi.pmg")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("words.png", b"these are words, not pixels", "words.png is not an image"),
        ("zero.png", b"", "zero.png is empty"),
        ("zero.tif", b"", "zero.tif is empty"),
        ("magic.png", b"\x89PNG\r\n\x1a\n", "magic.png is a truncated PNG"),
    ],
)
def test_not_an_image(folder: Path, refused: Refused, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    assert words in refused(visible=name)
    assert words in refused(infrared=name)


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "bmp", "webp"])
def test_truncated_image(folder: Path, refused: Refused, extension: str) -> None:
    write_image(folder / f"whole.{extension}", np.asarray(Image.open(folder / "vi.png")))
    content = (folder / f"whole.{extension}").read_bytes()
    (folder / f"half.{extension}").write_bytes(content[: len(content) // 2])
    assert f"half.{extension} is a truncated" in refused(visible=f"half.{extension}")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_values_that_are_not_finite(folder: Path, refused: Refused, value: float) -> None:
    image = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    image[3, 4] = value
    Image.fromarray(image).save(folder / "float.tif")
    assert "float.tif has 1 infinite pixels" in refused(infrared="float.tif")


def test_float_values_outside_the_range_name_the_flag(folder: Path, refused: Refused) -> None:
    Image.fromarray(np.linspace(0, 90, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)).save(folder / "f.tif")
    assert "--visible-range" in refused(visible="f.tif")
    assert fused(folder, "f.tif", "ir.png", "--visible-range", "0,90").shape == (HEIGHT, WIDTH)


# ---- pairs that do not fit -------------------------------------------------------------------------------------------


def test_sizes_differ(folder: Path, refused: Refused) -> None:
    write_image(folder / "small.png", np.full((HEIGHT // 2, WIDTH // 2), 90, np.uint8))
    told = refused(infrared="small.png")
    assert "32x24 and 16x12" in told and "--resize" in told and "--align" in told
    assert fused(folder, "vi.png", "small.png", "--resize").shape == (HEIGHT, WIDTH, 3)


def test_options_that_exclude_each_other(refused: Refused) -> None:
    assert "one of them" in refused("vi.png", "ir.png", "--resize", "--align")


def test_a_file_and_a_folder(folder: Path, refused: Refused) -> None:
    (folder / "many").mkdir()
    assert "two files or two folders" in refused(infrared="many")


def test_folders_with_no_matches(folder: Path, refused: Refused) -> None:
    for side, name in (("a", "1.png"), ("b", "2.png")):
        (folder / side).mkdir()
        write_image(folder / side / name, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert "(1) and" in (told := refused("a", "b", out="results")) and "share none" in told
    assert "must be different files, got" in (told := refused("a", "a", out="results")) and "1.png twice" in told
    (folder / "empty").mkdir()
    assert "no images in" in refused("a", "empty", out="results")
    assert not (folder / "results").exists()


# ---- where the result goes -------------------------------------------------------------------------------------------


def test_output_exists(folder: Path, refused: Refused) -> None:
    (folder / "out.png").write_bytes(b"precious")
    assert "exists already" in (told := refused()) and "--overwrite" in told
    assert fused(folder, "vi.png", "ir.png", "--overwrite").shape == (HEIGHT, WIDTH, 3)


def test_output_is_a_source(refused: Refused) -> None:
    assert "one of the sources" in refused("vi.png", "ir.png", "--overwrite", out="vi.png")


def test_output_not_writable(folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "vi.png" in refused(out="vi.png/out.png")  # below a file; tests may run as root, who may write anywhere

    def read_only(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", read_only)
    assert "out.png cannot be written: Permission denied" in refused()


def test_output_format(refused: Refused) -> None:
    assert "cannot tell the image format" in refused(out="out")
    assert "8 bits only" in refused("vi.png", "ir.png", "--bits", "16", out="out.jpg")


def test_disk_full(folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused()
    (folder / "out.png").write_bytes(b"precious")
    assert "No space left on device" in refused("vi.png", "ir.png", "--overwrite")


# ---- systems, weights, devices ---------------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_closest(refused: Refused) -> None:
    assert "did you mean 'average'?" in refused(system="avarage")
    assert "unknown weights 'nowhere'" in refused("vi.png", "ir.png", "--weights", "nowhere", system="tdfusion")


def test_corrupt_and_wrong_weight_files(folder: Path, refused: Refused) -> None:
    (folder / "corrupt.safetensors").write_bytes(b"\x80\x04\x95 not safetensors at all")
    save_file({"layer.weight": torch.zeros(3)}, folder / "wrong.safetensors")
    torch.save({"layer.weight": torch.zeros(3)}, folder / "pickled.pth")
    for name, words in (
        ("corrupt.safetensors", "not a readable"),
        ("wrong.safetensors", "TDFusion"),
        ("pickled.pth", "convert"),
    ):
        assert words in refused("vi.png", "ir.png", "--weights", str(folder / name), system="tdfusion")
    assert "must be a file" in refused(
        "vi.png", "ir.png", "--weights", str(folder / "gone.safetensors"), system="tdfusion"
    )


def test_cuda_asked_for_and_absent(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device cuda" in (told := refused("vi.png", "ir.png", "--device", "cuda")) and "leave out --device" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tile", "4"], "at least 32"),
        (["--tile", "big"], "--tile cannot be 'big'"),
        (["--threads", "0"], "between 1 and 1024"),
        (["--bits", "12"], "'8', '16', got '12'"),
        (["--stretch", "max"], "--stretch must be one of"),
        (["--colour", "grey"], "unknown option --colour"),
        (["--infrared-range", "9,1"], "value range"),
        (["--rig", "gone.json"], "gone.json"),
    ],
)
def test_flags_that_make_no_sense(refused: Refused, flags: list[str], words: str) -> None:
    assert words in refused("vi.png", "ir.png", *flags)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fuze", "a", "b"], "did you mean 'fuse'?"),
        (["fuse"], "needs VISIBLE -o OUT"),
        (["fuse", "a.png", "b.png"], "needs -o OUT"),
        (["fuse", ".", ".", ".", ".", "-o", "x"], "quote patterns"),
        (["fuse", "a.png", "b.png", "-o"], "needs a value"),
        (["fuse", "a.png", "b.png", "--overwrit"], "unknown option --overwrit; did you mean --overwrite?"),
        (["fuse", "a.png", "b.png", "-q"], "unknown option -q"),
        (["align", ".", ".", ".", "-o", "x"], "align does not take .; quote patterns"),
        (["train", "x", "-o", "x", "--steps=1.5"], "--steps cannot be '1.5'"),
        (["downstream", "x", "-o", "x", "--data=.", "--images=x", "--size", "9"], "--size must be WIDTHxHEIGHT"),
        (["weights"], "weights list, weights convert"),
        (["data", "chek"], "did you mean 'data check'?"),
        (["weights", "list", "--jsn"], "did you mean --json?"),
        (["weights", "convert"], "needs CHECKPOINT"),
    ],
)
def test_command_lines_that_are_wrong(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and told.startswith("tectum: ")


# ---- input that only looks wrong -------------------------------------------------------------------------------------


def test_one_pixel(folder: Path) -> None:
    write_image(folder / "a.png", np.full((1, 1, 3), (200, 100, 50), np.uint8))
    write_image(folder / "b.png", np.full((1, 1), 40, np.uint8))
    assert fused(folder, "a.png", "b.png", "--report").shape == (1, 1, 3)
    assert (folder / "out-report.png").exists()


def test_20000_px_wide(folder: Path) -> None:
    wide = np.tile(np.arange(20000, dtype=np.uint32).astype(np.uint8), (8, 1))
    write_image(folder / "a.png", wide)
    write_image(folder / "b.png", wide[:, ::-1])
    assert np.array_equal(
        fused(folder, "a.png", "b.png"), np.round((wide / 2 + wide[:, ::-1] / 2) + 1e-6).astype(np.uint8)
    )


def test_constant_images(folder: Path) -> None:
    write_image(folder / "flat.png", np.full((HEIGHT, WIDTH), 100, np.uint8))
    write_image(folder / "black.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert (fused(folder, "flat.png", "black.png") == 50).all()
    assert (fused(folder, "flat.png", "black.png", "--stretch", "minmax", "--overwrite") == 50).all()
    y = read_image(folder / "vi.png").y.numpy()[0]
    with_colour = read_image_y(fused(folder, "vi.png", "flat.png", "--overwrite"))
    assert np.abs(with_colour - (y + 100 / 255) / 2).max() < 2 / 255


def read_image_y(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(rgb / 255 @ np.array([0.299, 0.587, 0.114]))


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_on_a_single_pair(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ctrl_c: Callable[[], None]
) -> None:
    monkeypatch.setattr(FusePipeline, "__call__", lambda *_: ctrl_c())
    paths = [str(folder / "vi.png"), str(folder / "ir.png"), "-o", str(folder / "out.png")]
    assert main(["fuse", *paths, "--system", "average"]) == 130
    assert capsys.readouterr().err == "tectum: interrupted\n"
    assert not (folder / "out.png").exists()


def test_ctrl_c_is_ignored_where_it_was_ignored_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[], None]
) -> None:
    fuse = FusePipeline.__call__

    def press_and_fuse(pipeline: FusePipeline, *pictures: Any) -> Any:
        ctrl_c()
        return fuse(pipeline, *pictures)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(FusePipeline, "__call__", press_and_fuse)
    assert fused(folder).shape == (HEIGHT, WIDTH, 3)


def test_an_error_of_our_own_is_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        int("a slip in the code")

    monkeypatch.setattr(FusePipeline, "__call__", broken)
    with pytest.raises(ValueError, match="a slip"):
        fused(folder)
