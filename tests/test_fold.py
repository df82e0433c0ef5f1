"""More than two exposures or foci: the order of the fold, nothing rounded in between, files and folders of them."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tectum.cli import main
from tectum.fusion.fuse import fuse
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.image import Picture, picture_from_array, write_image
from test_kinds import HEIGHT, WIDTH, photo, pixels
from test_kinds import folder as folder


class Leaning(nn.Module):
    """Not symmetric and not linear, so that places and order matter."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return 0.7 * a**2 + 0.3 * b


def by_hand(kind: str, order: list[np.ndarray]) -> Tensor:
    """F(F(F(1, 2), 3), ..) in float64, the brighter in front for exposures."""
    y = [picture_from_array(x).y.double() for x in order]
    fused = Leaning()(y[0], y[1])
    for later in y[2:]:
        front = kind == "exposure" and later.mean() > fused.mean()
        fused = Leaning()(later, fused) if front else Leaning()(fused, later)
    return fused


@pytest.mark.parametrize("num", [2, 3, 4, 5])
def test_foci_are_folded_in_the_order_given_without_rounding(num: int) -> None:
    foci = [photo(110 + i, i) for i in range(num)]
    pipeline = FusePipeline(FuseOptions("average", kind="focus"), fuser=Leaning())
    fused = pipeline(*(picture_from_array(x) for x in foci))
    assert (fused.y - by_hand("focus", foci)).abs().max() < 1e-6
    if num > 2:
        back = pipeline(*(picture_from_array(x) for x in reversed(foci)))
        assert (back.y - fused.y).abs().max() > 1 / 255


def test_exposures_are_folded_from_the_outside_in_whatever_the_order_given() -> None:
    dark, dim, light, bright = (photo(level, level) for level in (40, 90, 150, 210))
    pipeline = FusePipeline(FuseOptions("average", kind="exposure"), fuser=Leaning())
    wanted = by_hand("exposure", [bright, dark, light, dim])
    for given in list(permutations([dark, dim, light, bright]))[::5]:
        pictures = [picture_from_array(x) for x in given]
        assert (pipeline(*pictures).y - wanted).abs().max() < 1e-6


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


def test_fold_of_alpha_and_grey() -> None:
    y = [torch.full((1, 3, 4), v) for v in (0.2, 0.4, 0.6)]
    pipeline = FusePipeline(FuseOptions("average", kind="focus"))
    half = torch.full((1, 3, 4), 0.5)
    fused = pipeline(Picture(y[0], alpha=half), Picture(y[1]), Picture(y[2]))
    assert fused.chroma is None and fused.alpha is not None and torch.equal(fused.alpha, half)
    assert torch.allclose(fused.y, torch.full((1, 3, 4), 0.45))
    exposures = FusePipeline(FuseOptions("average", kind="exposure"))
    fused = exposures(Picture(y[0]), Picture(y[2] + 0.3, alpha=half), Picture(y[2] + 0.2))  # 0.9 and 0.2, then 0.8
    assert fused.alpha is not None and torch.equal(fused.alpha, half)
    assert torch.allclose(fused.y, torch.full((1, 3, 4), 0.675)), "what has been fused hides nothing"
    seen = pipeline(Picture(y[0]), Picture(y[1], alpha=half)).y  # b shows half of what it has
    assert torch.allclose(seen, torch.full((1, 3, 4), 0.25))
