"""Pyramids for exposures and foci: contrast without clipping, and the source that is sharp."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tectum.data.synthetic import render
from tectum.models.baselines import LaplacianPyramid
from tectum.models.pyramids import ExposurePyramid, FocusSelection, soften


def street(seed: int = 2, size: tuple[int, int] = (192, 256)) -> np.ndarray:
    return render(seed, size).visible.numpy().mean(0)


def tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]


def psnr(x: Tensor, truth: Tensor) -> float:
    return -10 * float((x - truth).square().mean().log10())


# ---- foci ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("edge", ["straight", "curved"])
def test_foci_are_near_the_picture_that_is_sharp_everywhere(noise: float, edge: str) -> None:
    sharp, rng = street(), np.random.default_rng(0)
    rows, columns = np.indices(sharp.shape)
    left = columns < 120 if edge == "straight" else (rows - 90) ** 2 + (columns - 130) ** 2 < 60**2
    soft = cv2.GaussianBlur(sharp, (0, 0), 2.5)
    noisy = [np.where(part, sharp, soft) + noise * rng.standard_normal(sharp.shape) for part in (left, ~left)]
    a, b, truth = tensor(noisy[0]), tensor(noisy[1]), tensor(sharp)
    selected = psnr(FocusSelection()(a, b), truth)
    assert selected > psnr(LaplacianPyramid()(a, b), truth) + 1.5
    assert selected > psnr((a + b) / 2, truth) + 6
    assert selected > max(psnr(a, truth), psnr(b, truth)) + 6


def test_foci_are_between_their_sources_and_can_be_exchanged() -> None:
    a, b = torch.rand(2, 1, 1, 37, 50, generator=torch.Generator().manual_seed(0))
    fused = FocusSelection()(a, b)
    assert bool((fused <= torch.maximum(a, b) + 1e-6).all()) and bool((fused >= torch.minimum(a, b) - 1e-6).all())
    torch.testing.assert_close(FocusSelection()(b, a), fused, rtol=0, atol=1e-5)
    flat, half = torch.full_like(a, 0.3), torch.full_like(a, 0.3)
    assert torch.equal(FocusSelection()(flat, half), flat)


# ---- exposures -------------------------------------------------------------------------------------------------------


def expose(x: np.ndarray, gain: float) -> Tensor:
    return tensor(np.clip(x.astype(np.float64) ** 2.2 * gain, 0, 1) ** (1 / 2.2))


def test_exposures_keep_shadows_and_lamps_and_contrast_over_large_areas() -> None:
    scene = street(3)
    over, under = expose(scene, 8), expose(scene, 1 / 8)
    fused = ExposurePyramid()(over, under)
    dark, lamps = tensor(scene) < 0.1, tensor(scene) > 0.9
    assert float(fused[dark].mean()) > 1.8 * float(tensor(scene)[dark].mean())
    assert float((over[lamps] > 0.996).float().mean()) > 0.9 > 0.2 > float((fused[lamps] > 0.996).float().mean())
    assert float(fused[lamps].std()) > 0.5 * float(under[lamps].std())
    assert float(fused.std()) > float(((over + under) / 2).std())


def test_larger_exposures_have_more_levels() -> None:
    """Twice the size, the same picture: areas must count as large as they are in it."""
    scene = cv2.resize(street(3), (560, 520), interpolation=cv2.INTER_LINEAR)
    small = [expose(scene, gain) for gain in (8, 1 / 8)]
    large = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in small]
    expected = ExposurePyramid()(*small).repeat_interleave(2, 2).repeat_interleave(2, 3)
    seven = ExposurePyramid()(*(x[..., :1000, :1000] for x in large))
    eight = ExposurePyramid()(*large)
    away = [float((x - expected[..., : x.shape[2], : x.shape[3]]).abs().mean()) for x in (seven, eight)]
    assert away[1] < 0.6 * away[0]


def test_softening_leaves_pictures_within_white_as_they_are_and_keeps_the_order() -> None:
    x = torch.linspace(-0.1, 1.0, 23).view(1, 1, 1, -1)
    assert torch.equal(soften(x), x.clamp(0, 1))
    rising = soften(torch.linspace(0, 1.19, 50).view(1, 1, 1, -1)).flatten()
    assert bool((rising.diff() > 0).all()) and float(rising.max()) <= 1
    both = torch.cat([x, x * 1.15])
    assert torch.equal(soften(both)[:1], soften(x)), "each picture by itself"
