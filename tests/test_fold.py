"""More than two exposures or foci: all count at once in whatever order, files and folders of them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tectum.cli import main
from tectum.data.synthetic import render
from tectum.fusion.fuse import fuse
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.fusion.stack import merge_to_two
from tectum.io.folders import find_stacks
from tectum.io.image import Picture, picture_from_array, write_image
from tectum.kinds import KINDS
from test_kinds import HEIGHT, WIDTH, photo, pixels
from test_kinds import folder as folder


class Leaning(nn.Module):
    """Not symmetric and not linear, so that places and order matter."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return 0.7 * a**2 + 0.3 * b


def bracket(seed: int, evs: Sequence[float]) -> list[np.ndarray]:
    """Exposures of a rendered street through one camera curve."""
    linear = render(seed, (120, 160)).visible.permute(1, 2, 0).numpy().astype(np.float64) ** 2.2
    linear *= 0.1 / linear.mean()
    return [np.clip((linear * 2.0**ev) ** (1 / 2.2) * 255, 0, 255).astype(np.uint8) for ev in evs]


def focus_stack(num: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Foci of a street from the far upper end to the near lower one; in front of them the sharpest there is of it."""
    sharp = bracket(4, [1])[0]
    blurred = np.stack([cv2.GaussianBlur(sharp, (0, 0), s) if s else sharp for s in range(5)])
    depth = np.linspace(0, 1, len(sharp))
    amounts = [np.minimum(np.abs(depth - i / (num - 1)) * 2 * num, 4).round().astype(int) for i in range(num)]
    amounts.insert(0, np.stack(amounts).min(0))
    best, *foci = (np.stack([blurred[k, row] for row, k in enumerate(amount)]) for amount in amounts)
    return best, foci


@pytest.mark.parametrize("kind", ["exposure", "focus"])
def test_the_order_given_makes_no_difference_to_any_bit(kind: str) -> None:
    images = bracket(3, (-3, -1, 1, 3)) if kind == "exposure" else focus_stack(4)[1]
    pipeline = FusePipeline(FuseOptions("average", kind=kind), fuser=Leaning())
    results = [pipeline(*map(picture_from_array, order)) for order in list(permutations(images))[::5]]
    assert all(torch.equal(fused.y, results[0].y) for fused in results)
    assert all(torch.equal(fused.chroma, results[0].chroma) for fused in results)
    twins = [images[0], images[0], images[1]]
    a, b = (pipeline(*map(picture_from_array, order)) for order in (twins, twins[::-1]))
    assert torch.equal(a.y, b.y)


def test_two_images_are_not_touched() -> None:
    a, b = (picture_from_array(x) for x in (photo(200, 1), photo(40, 2)))
    for kind in ("exposure", "focus"):
        fused = FusePipeline(FuseOptions("average", kind=kind), fuser=Leaning())(b, a)
        assert torch.equal(fused.y, Leaning()(b.y, a.y)), "in the order given, darker first or not"


@pytest.mark.parametrize("seed", [3, 6])
def test_more_exposures_keep_no_less_of_the_shadows(seed: int) -> None:
    """Pairwise fusion of nine kept 23 levels where that of three kept 58 (scene 3)."""
    reference = cv2.cvtColor(bracket(seed, [0])[0], cv2.COLOR_RGB2GRAY)
    dark = reference < np.percentile(reference, 30)
    light = reference > np.percentile(reference, 97)
    shadows, spread, highlights = [], [], []
    for evs in ((-4, 0, 4), (-4, -2, 0, 2, 4), range(-4, 5)):
        fused = np.asarray(fuse(bracket(seed, evs), kind="exposure", output="grey")).astype(float)
        shadows.append(fused[dark].mean()), spread.append(fused[dark].std()), highlights.append(fused[light].mean())
    assert min(shadows[1:]) > shadows[0] - 1 and min(spread[1:]) > spread[0] - 0.5
    assert shadows[0] > 2 * reference[dark].mean()
    assert max(highlights) < 245, "lamps are not clipped"


def test_all_exposures_count_where_they_are_best() -> None:
    """One dark, one bright half in each image: the merged pair shows both well."""
    steps = [np.clip(np.repeat([[0.02, 0.4]], 32, 0).repeat(32, 1) * 2.0**ev, 0, 1) for ev in (-3, -1, 1, 4)]
    pictures = [picture_from_array((x * 255).round().astype(np.uint8)) for x in steps]
    bright, dark = merge_to_two(pictures, KINDS["exposure"])
    assert bright.y[0, 16, 8] == pytest.approx(0.32, abs=0.02) and bright.y[0, 16, 56] == pytest.approx(0.8, abs=0.03)
    assert dark.y[0, 16, 56] == pytest.approx(0.2, abs=0.02)


def test_many_foci_lose_no_sharpness() -> None:
    for num in (3, 5, 9):
        sharp, foci = focus_stack(num)
        reference = picture_from_array(sharp).y
        pipeline = FusePipeline(FuseOptions(kind="focus"))
        fused = pipeline(*map(picture_from_array, foci)).y
        error, best = ((x - reference).square().mean() for x in (fused, picture_from_array(foci[0]).y))
        assert error < best / 200 and error < 2e-5, (num, error, best)
        assert fused.diff(dim=1).abs().mean() > 0.985 * reference.diff(dim=1).abs().mean(), num


@pytest.mark.parametrize("kind", ["exposure", "focus"])
def test_equal_images_merge_into_themselves(kind: str) -> None:
    picture = picture_from_array(photo(120, 5))
    for merged in merge_to_two([picture] * 5, KINDS[kind]):
        assert torch.allclose(merged.y, picture.y, atol=1e-6) and torch.allclose(
            merged.chroma, picture.chroma, atol=1e-6
        )


def test_pixels_without_data_take_no_part() -> None:
    """What lies where a picture is not valid, or transparent, reaches no pixel of the result."""
    images = [picture_from_array(x) for x in bracket(3, (-3, -1, 1, 3))]
    valid = torch.ones_like(images[0].y, dtype=torch.bool)
    valid[:, :30, :50] = False
    results = []
    for level in (0.0, 1.0):
        damaged = replace(images[1], y=torch.where(valid, images[1].y, level), valid=valid)
        for picture in (damaged, replace(damaged, valid=None, alpha=valid.float())):
            results += [merge_to_two([images[0], picture, *images[2:]], KINDS["exposure"])[1]]
    assert all(torch.allclose(result.y, results[0].y, atol=1e-6) for result in results)
    nobody = [replace(picture, valid=valid) for picture in images]
    assert all(torch.equal(merged.valid, valid) for merged in merge_to_two(nobody, KINDS["exposure"]))


def test_sizes_that_differ_are_told_by_place() -> None:
    pictures = [picture_from_array(x) for x in (photo(40, 0), photo(90, 1), photo(150, 2)[:-2])]
    with pytest.raises(ValueError, match=r"must share one size, got .* \(first\), .* \(second\) and .* \(third\);"):
        FusePipeline(FuseOptions("average", kind="exposure"), fuser=Leaning())(*pictures)


def test_the_stretch_comes_once_at_the_end() -> None:
    foci = [photo(100, i) for i in range(3)]
    plain, wide = (
        FusePipeline(FuseOptions("average", kind="focus", stretch=stretch), fuser=Leaning())(
            *(picture_from_array(x) for x in foci)
        ).y
        for stretch in ("none", "minmax")
    )
    assert torch.allclose(wide, (plain - plain.min()) / (plain.max() - plain.min()), atol=1e-6)


@pytest.mark.parametrize("kind", ["exposure", "focus"])
def test_a_list_of_two_is_the_plain_call(kind: str) -> None:
    a, b = photo(180, 1), photo(70, 2)
    plain = np.asarray(fuse(a, b, kind=kind, system="laplacian"))
    assert np.array_equal(plain, np.asarray(fuse([a, b], kind=kind, system="laplacian")))
    tensors = [torch.from_numpy(x / 255).permute(2, 0, 1)[None].float() for x in (a, b, a)]
    assert torch.as_tensor(fuse(tensors, kind=kind, system="average")).shape == (1, 3, HEIGHT, WIDTH)


def test_the_command_and_the_call_agree_on_three_files(folder: Path) -> None:
    files = [str(folder / f"{i}.png") for i in (2, 4, 1)]
    assert main(["fuse", *files, "-o", str(folder / "out.png"), "--kind", "MEF", "--system", "laplacian"]) == 0
    expected = np.asarray(fuse(files, kind="exposure", system="laplacian"))
    assert np.array_equal(pixels(folder / "out.png"), expected)


def test_three_folders_are_grouped_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in range(3):
        for name in ("x", "y", *(["alone"] if side == 2 else [])):
            (tmp_path / str(side)).mkdir(exist_ok=True)
            write_image(tmp_path / str(side) / f"{name}.png", photo(80 + 40 * side, side + len(name)))
    places = [str(tmp_path / str(side)) for side in range(3)]
    argv = ["fuse", *places, "-o", str(tmp_path / "out"), "--kind", "focus", "--system", "laplacian"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "2 of 2 pairs" in said.out and "1 third without first or second of that name, skipped: alone" in said.err
    for name in ("x", "y"):
        expected = fuse([Path(place) / f"{name}.png" for place in places], kind="focus", system="laplacian")
        assert np.array_equal(pixels(tmp_path / "out" / f"{name}.png"), np.asarray(expected))
    assert main(argv) == 0 and "2 were there already" in capsys.readouterr().out
    assert main([*argv[:-4], "--kind", "exposure", *argv[-2:]]) == 2  # another kind is another setting
    assert "kind: focus there, exposure here" in capsys.readouterr().err


def write_stacks(folder: Path) -> dict[str, list[Path]]:
    """Folders of 2, 4 and 1 exposures, darkest first; names whose natural order is not that of letters."""
    stacks = {"s9": [2, 10], "s10": [1, 2, 9, 10], "lone": [5]}
    for name, numbers in stacks.items():
        (folder / name).mkdir(parents=True)
        for i, number in enumerate(numbers):
            write_image(folder / name / f"x{number}.png", photo(40 + 45 * i, number))
    (folder / "notes").mkdir()
    return {name: [folder / name / f"x{i}.png" for i in numbers] for name, numbers in stacks.items()}


def test_stacks_are_folders_in_natural_order(tmp_path: Path) -> None:
    stacks = write_stacks(tmp_path)
    found = find_stacks(str(tmp_path), results=tmp_path / "out")
    assert [pair.name for pair in found.pairs] == ["s9", "s10"]
    assert all(list(pair.files) == stacks[pair.name] for pair in found.pairs)
    assert "two images or more, got" in found.ambiguous["lone"]
    (alone,) = find_stacks(str(tmp_path / "s10"), results=tmp_path).pairs
    assert alone.name == "s10" and list(alone.files) == stacks["s10"]
    assert [pair.name for pair in find_stacks(f"{tmp_path}/s*", results=tmp_path).pairs] == ["s9", "s10"]
    write_image(tmp_path / "beside.png", photo(40, 1))
    with pytest.raises(ValueError, match="holds images and folders of images"):
        find_stacks(str(tmp_path), results=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no images in"):
        find_stacks(str(tmp_path / "notes"), results=tmp_path)


def test_stacks_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stacks, out = write_stacks(tmp_path / "in"), tmp_path / "in" / "out"
    argv = ["fuse", "--stack", str(tmp_path / "in"), "-o", str(out), "--kind", "exposure", "--system", "laplacian"]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert "2 of 3 stacks fused" in said.out and "lone: a stack must have two" in said.err and "swapped" not in said.err
    for name, files in stacks.items():
        if len(files) > 1:  # of two exposures the brighter one comes first, whatever its name
            expected = fuse(files[::-1], kind="exposure", system="laplacian")
            assert np.array_equal(pixels(out / f"{name}.png"), np.asarray(expected))
    assert main(argv) == 1 and "2 were there already" in capsys.readouterr().out, "results are no stack"
    assert main([*argv[:-4], "--kind", "focus", *argv[-2:]]) == 2
    assert "kind: exposure there, focus here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stack", "x"], "--stack is for --kind exposure or focus, got infrared"),
        (["--stack", "x", "x", "--kind", "MEF"], "takes one folder of stacks"),
        (["--stack", "x", "--kind", "MFF", "--report"], "leave out --report"),
        (["--stack", "y", "--kind", "MFF"], "does not exist"),
        (["x", "--kind", "MEF"], "got one; add the other, or --stack for a folder"),
        (["x"], "(visible and infrared), got one; add the other"),
    ],
)
def test_stacks_that_cannot_be(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["fuse", *arguments, "-o", "out"]) == 2
    assert says in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_a_stack_has_one_range(tmp_path: Path) -> None:
    for i, top in enumerate((1000, 2500, 4000)):
        write_image(tmp_path / f"{i}.png", np.linspace(0, top, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16))
    argv = ["fuse", "--stack", str(tmp_path), "-o", str(tmp_path / "out"), "--kind", "MEF", "--system", "average"]
    assert main(argv) == 1, "12 bits in 16"
    assert main([*argv, "--visible-range", "0,4095", "--overwrite"]) == 0
    assert pixels(tmp_path / "out" / f"{tmp_path.name}.png").max() > 150


def test_alpha_and_grey() -> None:
    y = [torch.full((1, 3, 4), v) for v in (0.2, 0.4, 0.6)]
    half = torch.full((1, 3, 4), 0.5)
    for kind in ("focus", "exposure"):
        pipeline = FusePipeline(FuseOptions("average", kind=kind))
        fused = pipeline(*(Picture(x, alpha=half) for x in y))
        assert fused.chroma is None and fused.alpha is not None and torch.equal(fused.alpha, half)
    seen = FusePipeline(FuseOptions("average", kind="focus"))(Picture(y[0]), Picture(y[1], alpha=half)).y
    assert torch.allclose(seen, torch.full((1, 3, 4), 0.25)), "b shows half of what it has"
