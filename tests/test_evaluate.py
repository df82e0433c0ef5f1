"""An evaluation: the numbers of the metrics themselves, resumed to the same table, nothing lost to one bad image."""

import inspect
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tectum
from tectum.cli import main
from tectum.data.datasets import DATASETS, find_pairs
from tectum.data.parts import read_split
from tectum.evaluation.evaluate import Evaluation, Evaluator
from tectum.evaluation.options import BASELINES
from tectum.io.image import write_image
from tectum.metrics import METRICS
from tectum.metrics.conventions import CONVENTIONS

HEIGHT, WIDTH, NUM = 44, 52, 5
QUICK = ("EN", "MSE", "SSIM")


@pytest.fixture
def folder(tmp_path: Path, images: Callable[..., tuple[Tensor, ...]]) -> Path:
    """vi (colour) and ir of five pairs, and two methods: ours (the mean) and theirs (darker, noisy), in grey."""
    for i in range(NUM):
        a, b = (x[0, 0].numpy() for x in images(HEIGHT, WIDTH, seed=i))
        mean = (a + b) / 2
        save(tmp_path / "vi" / f"{i}.png", np.stack([a, a * 0.8, 1 - a], axis=-1))
        save(tmp_path / "ir" / f"{i}.png", b)
        save(tmp_path / "ours" / f"{i}.png", mean)
        noise = np.random.default_rng(i).normal(0, 0.05, mean.shape)
        save(tmp_path / "theirs" / f"{i}.png", (mean * 0.7 + noise).clip(0, 1))
    return tmp_path


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    write_image(path, (image * 255 + 0.5).astype(np.uint8))


def both(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("ours", "theirs")}


def quick(folder: Path, methods: dict | None = None, **options) -> Evaluator:  # type: ignore[type-arg, no-untyped-def]
    options = {"metrics": QUICK, "baselines": (), **options}
    return Evaluator(methods or both(folder), folder / "vi", folder / "ir", **options)


def table(found: Evaluation) -> dict[tuple[str, str], list[float]]:
    return {
        (image, method): found.scores.values[i, m].tolist()
        for i, image in enumerate(found.scores.images)
        for m, method in enumerate(found.scores.methods)
    }


def luminance(path: Path) -> Tensor:
    """As evaluators read a file: BT.601 of floats, rounded to 8 bits."""
    import cv2

    grey = cv2.cvtColor(cv2.imread(str(path)).astype(np.float32), cv2.COLOR_BGR2GRAY).round()
    return torch.from_numpy(grey).double()[None, None] / 255


# ---- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_values_are_those_of_the_metrics_on_the_files(folder: Path, convention: str) -> None:
    found = quick(folder, metrics=None, convention=convention).run(quiet=True)
    assert found.scores.metrics == tuple(CONVENTIONS[convention].metrics) and len(found.scores.images) == NUM
    fused, a, b = (luminance(folder / where / "3.png") for where in ("theirs", "vi", "ir"))
    expected = [float(make()(fused, a, b)) for make in CONVENTIONS[convention].metrics.values()]
    assert table(found)["3", "theirs"] == pytest.approx(expected, rel=1e-5)


def test_one_worker_or_three_one_table(folder: Path) -> None:
    one, three = (quick(folder, workers=n).run(quiet=True) for n in (1, 3))
    assert table(one) == table(three) and one.scores.images == tuple("01234")
    assert torch.get_num_threads() == 1


def test_a_system_scores_like_the_files_that_fuse_writes(folder: Path) -> None:
    argv = ["fuse", str(folder / "vi"), str(folder / "ir"), "-o", str(folder / "fused"), "--output", "grey", "--quiet"]
    assert main(argv) == 0
    found = quick(folder, {"files": folder / "fused", "made": "tdfusion"}, out=folder / "out").run(quiet=True)
    assert np.array_equal(found.scores.values[:, 0], found.scores.values[:, 1])
    kept = list((folder / "out" / "fused" / "made").rglob("*.png"))
    assert sorted(path.name for path in kept) == [f"{i}.png" for i in range(NUM)]
    written, here = luminance(folder / "fused" / "2.png"), luminance(next(p for p in kept if p.stem == "2"))
    assert torch.equal(written, here)


def test_a_file_a_system_and_a_baseline_round_alike(folder: Path) -> None:
    """Grey sources under the average: every second pixel is half way between two levels."""
    for i in range(NUM):
        save(folder / "grey" / f"{i}.png", np.random.default_rng(i).random((HEIGHT, WIDTH)))
    argv = ["fuse", str(folder / "grey"), str(folder / "ir"), "-o", str(folder / "fused"), "--quiet"]
    assert main([*argv, "--system", "average"]) == 0
    methods = {"file": folder / "fused", "made": "average"}
    found = Evaluator(methods, folder / "grey", folder / "ir", metrics=("EN", "MSE"), baselines=("average",))
    values = found.run(quiet=True).scores.values
    assert np.array_equal(values[:, 0], values[:, 1]) and np.array_equal(values[:, 0], values[:, 2])


class Bright(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b) * 0.5 + 0.2


def test_a_stretching_convention_stretches_systems_and_not_files_or_baselines(folder: Path) -> None:
    methods = {"ours": folder / "ours", "bright": Bright()}
    plain, stretched = (
        quick(folder, methods, convention=name, metrics=("SD",), baselines=("average",)).run(quiet=True)
        for name in ("tectum", "cddfuse")
    )
    files, bright, average = ((stretched.scores.values / plain.scores.values)[:, m, 0] for m in range(3))
    assert files == pytest.approx(1) and average == pytest.approx(1) and (bright > 1.5).all()


def test_baselines_are_what_they_say(folder: Path) -> None:
    found = quick(folder, {"ours": folder / "ours"}, metrics=("MSE", "VIF"), baselines=BASELINES)
    result = found.run(quiet=True)
    rows = {name: result.scores.values[:, m, 0] for m, name in enumerate(result.scores.methods)}
    assert rows["visible"] == pytest.approx(rows["infrared"])  # both: half the squared distance of the sources
    assert all((rows["average"] <= row).all() for row in rows.values())
    assert (result.scores.values[:, 4:, 1] > result.scores.values[:, 1:2, 1]).all()  # a copy beats the average


def test_python_verb(folder: Path) -> None:
    found = tectum.evaluate(both(folder), folder / "vi", folder / "ir", metrics=QUICK, baselines=("maximum",))
    assert found.scores.methods == ("ours", "theirs", "maximum") and found.summary.reference == "ours"
    assert found.summary.ranks["MSE"][0] == ("ours",) and found.summary.differences["theirs"]["MSE"].better == 0.0
    assert found.higher_is_better == {"EN": True, "MSE": False, "SSIM": True} and not found.failures


def test_a_text_that_is_a_folder_is_a_folder(folder: Path) -> None:
    as_text = tectum.evaluate({"ours": str(folder / "ours")}, folder / "vi", folder / "ir", metrics=QUICK)
    as_path = tectum.evaluate({"ours": folder / "ours"}, folder / "vi", folder / "ir", metrics=QUICK)
    assert table(as_text) == table(as_path)


def test_help_shows_the_options_of_the_verb() -> None:
    parameters = inspect.signature(tectum.evaluate).parameters
    assert parameters["convention"].default == "tectum" and "workers" in parameters
    with pytest.raises(TypeError, match="metric"):
        tectum.evaluate({"ours": "average"}, "vi", "ir", metric="EN")


def test_names_choose_pairs_and_all_takes_every_metric(folder: Path) -> None:
    found = quick(folder, names=["3", "1"], metrics=("all",)).run(quiet=True)
    assert found.scores.images == ("3", "1") and set(found.scores.metrics) == METRICS.keys()


# ---- cut short, gone on with -----------------------------------------------------------------------------------------


def count_scored(monkeypatch: pytest.MonkeyPatch, *, stop_after: int | None = None) -> list[str]:
    """Watch which images are read for scoring; optionally Ctrl-C after some."""
    from tectum.evaluation import evaluate as module

    seen: list[str] = []
    original = module.read_pair

    def read(pair, **options):  # type: ignore[no-untyped-def]
        if stop_after is not None and len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(pair.name)
        return original(pair, **options)

    monkeypatch.setattr(module, "read_pair", read)
    return seen


def test_interrupted_and_resumed_equals_uninterrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table(quick(folder).run(quiet=True))
    with monkeypatch.context() as patch:
        seen = count_scored(patch, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            quick(folder, out=folder / "out", workers=1).run(quiet=True)
        assert len(seen) == 2
    scored = (folder / "out" / "scores.jsonl").read_text()
    (folder / "out" / "scores.jsonl").write_text(scored[:-25])  # the last line was cut off by a crash
    with monkeypatch.context() as patch:
        seen = count_scored(patch)
        assert table(quick(folder, out=folder / "out", workers=1).run(quiet=True)) == whole
        assert len(seen) == NUM - 1  # one pair was whole, of the other one method is missing
    with monkeypatch.context() as patch:
        seen = count_scored(patch)
        assert table(quick(folder, out=folder / "out").run(quiet=True)) == whole and not seen
        quick(folder, out=folder / "out").run(quiet=True, overwrite=True)
        assert len(seen) == NUM


def test_scores_survive_odd_names_and_torn_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "\u2028 \x85 é 夜"
    for where in ("vi", "ir", "ours", "theirs"):
        shutil.copy(folder / where / "0.png", folder / where / f"{odd}.png")
    quick(folder, out=folder / "out").run(quiet=True)
    file = folder / "out" / "scores.jsonl"
    file.write_bytes(file.read_bytes() + '{"image": "é'.encode()[:-1])  # cut within a letter
    seen = count_scored(monkeypatch)
    assert odd in quick(folder, out=folder / "out").run(quiet=True).scores.images and not seen


def test_what_changed_is_scored_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quick(folder, out=folder / "out").run(quiet=True)
    save(folder / "theirs" / "4.png", np.zeros((HEIGHT, WIDTH)))
    seen = count_scored(monkeypatch)
    second = quick(folder, out=folder / "out").run(quiet=True)
    assert seen == ["4"] and table(second)["4", "theirs"][0] == 0.0
    assert table(first)["4", "ours"] == table(second)["4", "ours"]
    for change in ({"metrics": ("SD",)}, {"convention": "cddfuse", "metrics": QUICK}):
        del seen[:]
        quick(folder, out=folder / "out", **change).run(quiet=True)
        assert sorted(seen) == list("01234")


def test_kept_images_are_those_of_these_sources(folder: Path) -> None:
    """A system's images in OUT/fused are remade when the sources change, or are others of the same names."""
    (folder / "day").mkdir()
    for i in range(NUM):
        shutil.copy(folder / "ours" / f"{i}.png", folder / "day" / f"{i}.png")

    def deviation(visible: Path) -> float:
        methods = {"mine": "tdfusion"}
        found = Evaluator(methods, visible, folder / "ir", metrics=("SD",), baselines=(), out=folder / "out")
        return float(found.run(quiet=True).scores.values[1, 0, 0])

    night, day = deviation(folder / "vi"), deviation(folder / "day")
    assert night != day and night == deviation(folder / "vi")
    save(folder / "vi" / "1.png", np.zeros((HEIGHT, WIDTH, 3)))
    black = deviation(folder / "vi")
    assert black not in (night, day)
    write_old(folder / "day" / "1.png", folder / "vi" / "1.png")
    assert deviation(folder / "vi") == day


def write_old(source: Path, target: Path) -> None:
    """Copy with a time of long ago, as an archive does when it is unpacked."""
    target.unlink()
    shutil.copy(source, target)
    os.utime(target, (1e9, 1e9))


def test_overwrite_fuses_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tectum.fusion.pipeline import FusePipeline

    calls = []
    original = FusePipeline.__call__
    monkeypatch.setattr(FusePipeline, "__call__", lambda self, *x: calls.append(1) or original(self, *x))
    for overwrite, num in ((False, NUM), (False, NUM), (True, 2 * NUM)):
        quick(folder, {"mine": "tdfusion"}, metrics=("EN",), out=folder / "out").run(quiet=True, overwrite=overwrite)
        assert len(calls) == num


class Keeps(nn.Module):
    """A user's fuser that keeps what it is doing in itself, and normalises by the batch in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.seen = a
        time.sleep(0.005)
        return (self.norm(self.seen) / 2 + b / 2).clamp(0, 1)


def test_a_fuser_of_ones_own_is_not_entered_twice_and_left_as_it_was(folder: Path) -> None:
    fuser = Keeps().train()
    one, four = (quick(folder, {"mine": fuser}, workers=n).run(quiet=True) for n in (1, 4))
    assert table(one) == table(four)
    assert fuser.training and fuser.norm.training and float(fuser.norm.running_mean) == 0.0


def test_other_weights_are_not_taken_for_the_same(folder: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * self.scale

    bright, dark = (
        quick(folder, {"mine": Scaled(scale)}, metrics=("SD",), out=folder / "out").run(quiet=True).scores.values
        for scale in (1.0, 0.5)
    )
    assert bright.mean() > 1.5 * dark.mean()


# ---- what is wrong with the images -----------------------------------------------------------------------------------


def test_one_bad_image_does_not_end_the_run(folder: Path) -> None:
    (folder / "theirs" / "2.png").write_bytes(b"no image")
    found = quick(folder).run(quiet=True)
    assert found.scores.images == ("0", "1", "3", "4") and list(found.failures) == ["2"]
    assert "theirs" in found.failures["2"]


class EvenOnly(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if float(a.mean()) < 0.1:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")
        return a


def test_a_network_that_fails_on_one_image_does_not_end_the_run(folder: Path) -> None:
    save(folder / "vi" / "3.png", np.zeros((HEIGHT, WIDTH, 3)))
    found = quick(folder, {"mine": EvenOnly()}).run(quiet=True)
    assert found.failures == {"3": "mine cannot fuse it: mat1 and mat2 shapes cannot be multiplied"}
    assert len(found.scores.images) == NUM - 1


def test_two_files_of_one_name(folder: Path) -> None:
    shutil.copy(folder / "vi" / "0.png", folder / "vi" / "0.bmp")
    found = quick(folder).run(quiet=True)
    assert list(found.failures) == ["0"] and "2 files of this name" in found.failures["0"]
    for i in range(1, NUM):
        shutil.copy(folder / "vi" / f"{i}.png", folder / "vi" / f"{i}.bmp")
    with pytest.raises(ValueError, match="not one of 5 pairs can be told apart; 0: 2 files"):
        quick(folder)


def test_two_exposures_may_both_be_in_colour(folder: Path) -> None:
    shutil.copytree(folder / "vi", folder / "too")
    with pytest.raises(ValueError, match=r"must be grey.* --both-colour"):
        Evaluator(both(folder), folder / "vi", folder / "too", baselines=()).run(quiet=True)
    found = Evaluator(both(folder), folder / "vi", folder / "too", metrics=QUICK, both_colour=True)
    assert len(found.run(quiet=True).scores.images) == NUM


def test_missing_images_leave_the_common_ones_and_are_told(folder: Path) -> None:
    (folder / "theirs" / "2.png").unlink()
    (folder / "ir" / "4.png").unlink()
    found = quick(folder).run(quiet=True)
    assert found.scores.images == ("0", "1", "3") and not found.failures
    notes = " | ".join(found.warnings)
    assert "theirs lacks 1 of 4 images: 2" in notes and "3 images that they have in common" in notes
    assert "1 visible images have no partner" in notes


@pytest.mark.parametrize(
    ("where", "damage", "words"),
    [
        ("theirs", lambda x: x[:-2], "must have the size of its sources, 52x44, got 52x42"),
        ("ir", lambda x: x[:-2], "must share one size, got 52x44 and 52x42"),
        ("ir", lambda x: x.astype(np.uint16) * 40, "16 bits a pixel; say which .* --infrared-range"),
        ("vi", lambda x: x.astype(np.uint16) * 200, "16 bits a pixel; say which .* --visible-range"),
        ("vi", lambda x: x.astype(np.uint16) * 40, "as cameras of 14 bits .* --visible-range"),
        ("theirs", lambda x: x.astype(np.uint16), "16 bits a pixel but no value above \\d+ of 65535"),
        ("theirs", lambda x: x.astype(np.uint16) * 16, "no value above .* as if fewer bits were meant"),
        ("ir", lambda x: np.stack([x, 255 - x, x // 2], -1), "an infrared image must be grey, .* in colour"),
    ],
)
def test_images_that_cannot_be_compared(
    folder: Path, where: str, damage: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    from PIL import Image

    path = folder / where / "1.png"
    write_image(path, damage(np.asarray(Image.open(path))))
    found = quick(folder).run(quiet=True)
    assert list(found.failures) == ["1"] and len(found.scores.images) == NUM - 1
    assert re.search(words, found.failures["1"]), found.failures["1"]


def test_sixteen_bits_are_scored_when_their_range_is_given(folder: Path) -> None:
    from PIL import Image

    plain = quick(folder).run(quiet=True)
    for i in range(NUM):
        path = folder / "ir" / f"{i}.png"
        write_image(path, np.asarray(Image.open(path)).astype(np.uint16) * 10 + 1000)
    found = quick(folder, infrared_range="1000,3550").run(quiet=True)
    assert not found.failures and found.scores.values == pytest.approx(plain.scores.values, rel=1e-6)


def test_not_one_image(folder: Path) -> None:
    for path in (folder / "theirs").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"not one of 5 images could be scored; \d: "):
        quick(folder).run(quiet=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"convention": "tdfuson"}, "unknown convention 'tdfuson'; did you mean 'tdfusion'?"),
        ({"metrics": ("SSIN",)}, "unknown metric 'SSIN'; did you mean 'SSIM'?"),
        ({"metrics": ()}, "at least one metric must be given"),
        ({"baselines": ("averag",)}, "unknown baseline 'averag'; did you mean 'average'?"),
        ({"reference": "our"}, "unknown method 'our'; did you mean 'ours'?"),
        ({"names": ["0", "17"]}, "must hold every pair of the list, but lack 17"),
        ({"names": []}, "list of pairs is empty"),
        ({"infrared_range": "9,3"}, "a finite low end below its high end"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_scored(folder: Path, options: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        quick(folder, **options)
    assert words in str(caught.value)


def test_methods_that_cannot_be_scored(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "other").mkdir()
    shutil.copy(folder / "ours" / "0.png", folder / "other" / "zero.png")
    for methods, words in (
        ({"ours": folder / "empty"}, "no images in"),
        ({"ours": folder / "other"}, "matched with their sources by name, but ours has none"),
        ({"ours": folder / "nowhere"}, "no such folder"),
        ({"ours": "tdfuson"}, "unknown system 'tdfuson'; did you mean 'tdfusion'?"),
        ({"visible": folder / "ours"}, "'visible' is the name of a source"),
        ({"../ours": folder / "ours"}, "must do for a folder"),
        ({}, "nothing to score"),
        ("average", "methods must be a dict of names"),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            Evaluator(methods, folder / "vi", folder / "ir", baselines=() if not methods else ("maximum",))
        assert words in str(caught.value)


# ---- known sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "visible", "infrared"),
    [
        ("msrs", "MSRS/test/vi", "MSRS/test/ir"),
        ("msrs", "msrs-main/test/vi", "msrs-main/test/ir"),
        ("roadscene", "RoadScene-master/crop_LR_visible", "RoadScene-master/cropinfrared"),
        ("llvip", "LLVIP/visible/test", "LLVIP/infrared/test"),
        ("m3fd", "M3FD_Detection/Vis", "M3FD_Detection/Ir"),
        ("fmb", "FMB/test/Visible", "FMB/test/Infrared"),
        ("tno", "tno/test/vi", "tno/test/ir"),
    ],
)
def test_known_sets_are_found_in_their_published_folders(
    tmp_path: Path, name: str, visible: str, infrared: str
) -> None:
    for stem in read_split("roadscene-test") if name == "roadscene" else "1234":
        for side in (visible, infrared):
            (tmp_path / side).mkdir(parents=True, exist_ok=True)
            (tmp_path / side / f"{stem}.png").touch()
    for root in (tmp_path, tmp_path / Path(visible).parts[0]):
        matches = find_pairs(name, root)
        assert matches.folders == {"visible": tmp_path / visible, "infrared": tmp_path / infrared}
        assert len(matches.pairs) == {"roadscene": 50, "m3fd": 1}.get(name, 4)


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    for name in DATASETS:
        with pytest.raises(FileNotFoundError, match=f"{name} was not found in .*; get it from https"):
            find_pairs(name, tmp_path)
    with pytest.raises(ValueError, match="unknown dataset 'msr'; did you mean 'msrs'"):
        find_pairs("msr", tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_pairs("msrs", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({"train": "012", "test": "34"}, {"train": "012", "test": "34"}),
        ({"test": "34"}, {"train": "012", "test": "34"}),
        ({"val": "2", "test": "34"}, {"train": "01", "val": "2", "test": "34"}),
    ],
)
def test_the_command_scores_the_pairs_of_the_part_alone(
    folder: Path, lists: dict[str, str], parts: dict[str, str]
) -> None:
    for part, names in lists.items():
        (folder / f"{part}.txt").write_text("\n".join(names))
    command = ["eval", "--system", "mine=average", "--metrics", "EN", "--no-report", "--quiet"]
    command += ["--data", "folder", "--root", str(folder)]
    for part, names in parts.items():
        assert main([*command, "--split", part, "-o", str(folder / part)]) == 0
        evaluation = json.loads((folder / part / "evaluation.json").read_text())
        assert list(evaluation["scores"]) == list(names) and evaluation["data"] == f"folder {part}"


def test_pairs_that_nothing_divides_are_scored_by_all_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--system", "mine=average", "--metrics", "EN", "--no-report", "--quiet"]
    command += ["--data", "folder", "--root", str(folder), "-o", str(folder / "out")]
    assert main(command) == 2
    assert "has no part called test: expected its folder, or a list test.txt; add one, or take all" in (
        capsys.readouterr().err
    )
    assert main([*command, "--split", "all"]) == 0
    assert list(json.loads((folder / "out" / "evaluation.json").read_text())["scores"]) == list("01234")


# ---- the command -----------------------------------------------------------------------------------------------------


def argv(folder: Path, *flags: str, out: str = "out") -> list[str]:
    sources = ["--visible", str(folder / "vi"), "--infrared", str(folder / "ir"), "-o", str(folder / out)]
    return ["eval", *sources, "--metrics", "EN,MSE,SSIM", *flags]


def test_the_command_writes_its_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = [f"--fused={name}={where}" for name, where in both(folder).items()]
    assert main(argv(folder, *fused, "--no-report")) == 0
    told = capsys.readouterr()
    assert "ours" in told.out and "maximum" in told.out and "best" in told.out and told.err == ""
    stored = json.loads((folder / "out" / "evaluation.json").read_text())
    assert stored["reference"] == "ours" and stored["methods"]["maximum"] == "baseline"
    assert stored["scores"]["2"]["ours"].keys() == {"EN", "MSE", "SSIM"}
    lines = (folder / "out" / "scores.csv").read_text().splitlines()
    assert lines[0] == "image,method,EN,MSE,SSIM" and len(lines) == 1 + NUM * 7
    assert len((folder / "out" / "summary.csv").read_text().splitlines()) == 1 + 7 * 3
    assert main(argv(folder, *fused, "--no-report", "--quiet")) == 0 and capsys.readouterr().out == ""


def test_a_name_is_taken_from_the_folder(folder: Path) -> None:
    assert main(argv(folder, "--fused", str(folder / "theirs"), "--no-baselines", "--no-report", "--quiet")) == 0
    assert json.loads((folder / "out" / "evaluation.json").read_text())["methods"] == {"theirs": "method"}


def test_a_perfect_copy_has_an_infinite_psnr_and_still_a_table(folder: Path) -> None:
    shutil.copytree(folder / "ir", folder / "same")
    shutil.copytree(folder / "ir", folder / "too")
    argv = ["eval", "--visible", str(folder / "ir"), "--infrared", str(folder / "too"), "-o", str(folder / "out")]
    assert main([*argv, "--fused", str(folder / "same"), "--fused", str(folder / "ours"), "--quiet"]) == 0
    text = (folder / "out" / "evaluation.json").read_text()
    json.loads(text, parse_constant=lambda x: pytest.fail(f"{x} is no JSON"))
    assert (folder / "out" / "report.html").stat().st_size > 10_000


def test_tiny_images_have_a_report_without_costs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in ("vi", "ir"):
        for i in range(NUM):
            save(folder / where / f"{i}.png", np.random.default_rng(i).random((12, 12)))
    assert main(argv(folder, "--system", "average")) == 0
    assert "costs are not measured: a size must be at least" in capsys.readouterr().err
    assert (folder / "out" / "report.html").exists()


def test_costs_may_be_written_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = folder / "costs.json"
    costs.write_text('[{"name": "ours", "seconds_median": 0.2, "macs": 1e9}, {"name": "theirs", "params": 12}]')
    given = [f"--fused={name}={where}" for name, where in both(folder).items()]
    assert main(argv(folder, *given, "--costs", str(costs), "--quiet")) == 0
    assert "ours" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    for entry in (
        '{"macs": 1}',
        '{"name": "ours", "macs": "1"}',
        '{"name": "ours", "seconds_iqr": 3}',
        '{"naem": "x"}',
    ):
        costs.write_text(f"[{entry}]")
        capsys.readouterr()
        assert main(argv(folder, *given, "--costs", str(costs), out="other")) == 2
        assert "--costs must be a file as tectum bench --json writes it" in capsys.readouterr().err


def test_files_have_no_cost_whatever_they_are_called(folder: Path) -> None:
    evaluator = quick(folder, {"tdfusion": folder / "ours", "mine": "average"}, baselines=("maximum",))
    assert [method.system for method in evaluator.methods] == [None, "average", "maximum"]


def test_lists_of_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "list.txt").write_text("# mine\n3\n\n1\n")
    given = ["--fused", str(folder / "ours"), "--no-report", "--quiet"]
    assert main(argv(folder, *given, "--names", str(folder / "list.txt"))) == 0
    assert list(json.loads((folder / "out" / "evaluation.json").read_text())["scores"]) == ["3", "1"]
    assert main(argv(folder, *given, "--names", "msrs-test", out="other")) == 2
    assert "must hold every pair of the list, but lack 00196D" in capsys.readouterr().err


def test_problems_are_told_and_the_code_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "theirs" / "2.png").write_bytes(b"no image")
    (folder / "theirs" / "3.png").unlink()
    assert main(argv(folder, "--fused", str(folder / "theirs"), "--no-report", "--quiet")) == 1
    told = capsys.readouterr().err
    assert "tectum: theirs lacks 1 of 5 images: 3\n" in told and "tectum: not scored: 2: " in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--fused", "x={}/nowhere"], "does not exist"),
        (["--fused", "x={}/ours", "--fused", "x={}/theirs"], "got 'x' twice"),
        (["--fused", "a/b={}/ours"], "--fused must be DIR or NAME=DIR"),
        (["--fused", "{}/ours/*.png"], "--fused must be DIR or NAME=DIR"),
        (["--fused", "{}/ours/1.png"], "is a file; give the folder"),
        (["--system", "tdfuson"], "did you mean 'tdfusion'"),
        (["--data", "msrs"], "give either --data or --visible and --infrared"),
        (["--fused", "{}/ours", "--workers", "0"], "--workers must be between 1 and"),
        (["--fused", "{}/ours", "--names", "{}/nowhere.txt"], "nowhere.txt"),
        (["--fused", "{}/ours", "--costs", "{}/vi/0.png"], "--costs"),
        ([], "nothing to score"),
    ],
)
def test_a_mistake_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    baselines = [] if flags else ["--no-baselines"]
    assert main(argv(folder, "--no-report", *baselines, *(flag.format(folder) for flag in flags))) == 2
    told = capsys.readouterr()
    assert told.out == "" and words in told.err and told.err.count("\n") == 1 and not (folder / "out").exists()


def test_known_sets_need_a_root(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TECTUM_DATA", raising=False)
    out = ["-o", str(folder / "out"), "--no-report", "--metrics", "EN"]
    assert main(["eval", "--system", "average", "--data", "tno", *out]) == 2
    assert "give --root DIR or set TECTUM_DATA" in capsys.readouterr().err
    (folder / "tno").mkdir()
    for where in ("vi", "ir"):
        shutil.move(folder / where, folder / "tno" / where)
    assert main(["eval", "--system", "mine=average", "--data", "tno", "--root", str(folder), *out, "--quiet"]) == 0
    assert json.loads((folder / "out" / "evaluation.json").read_text())["data"] == "tno test"
    assert main(["eval", "--system", "average", *out]) == 2
    assert "needs both sources" in capsys.readouterr().err
