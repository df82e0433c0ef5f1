"""Stripes and tiles: exactly the whole image, whatever its size - and the test that could tell if they were not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tectum.nn import stages as tiling
from tectum.nn.stages import fuse_tensors, windows
from tectum.protocols import Stage
from tectum.systems import SYSTEMS
from tectum.systems.baselines import Average
from tectum.systems.tdfusion import TDFusion

Images = Callable[..., tuple[Tensor, ...]]
Perturb = Callable[..., nn.Module]
STAGED = sorted(name for name, system in SYSTEMS.items() if hasattr(system.fuser, "stages"))
EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(params=STAGED)
def fuser(request: pytest.FixtureRequest, perturb: Perturb) -> nn.Module:
    return perturb(SYSTEMS[request.param].fuser())


@pytest.fixture
def tdfusion(perturb: Perturb) -> Any:
    return perturb(TDFusion())


def test_something_is_tested() -> None:
    assert "tdfusion" in STAGED


# ---- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 61), (7, 90), (90, 7), (1, 1), (33, 1)])
@pytest.mark.parametrize("rows", [8, 13, 1000])
def test_stripes_equal_the_whole_image(
    fuser: nn.Module, images: Images, size: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "STRIPE_PX", rows * size[1])
    a, b = images(*size)
    with torch.no_grad():
        torch.testing.assert_close(fuse_tensors(fuser, a, b), fuser(a, b), **EXACT)


@pytest.mark.parametrize("num_stripes", [1, 2, 5])
def test_the_default_is_stripes_and_exact(
    fuser: nn.Module, images: Images, num_stripes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heights at, one below and one above a whole number of stripes."""
    monkeypatch.setattr(tiling, "STRIPE_PX", 23 * 9)
    seen: list[int] = []
    monkeypatch.setattr(tiling, "windows", lambda *args: [seen.append(args[2]), *windows(*args)][1:])
    for height in (9 * num_stripes - 1, 9 * num_stripes, 9 * num_stripes + 1):
        a, b = images(height, 23)
        with torch.no_grad():
            torch.testing.assert_close(fuse_tensors(fuser, a, b), fuser(a, b), **EXACT)
    if tiling.common(fuser.stages()) == 1:  # type: ignore[operator]  # else images are extended, and stripes aligned
        assert set(seen) == {9}


@pytest.mark.parametrize("stripe_px", [1, 400, 30_000])
@pytest.mark.parametrize(
    ("size", "tile"), [((70, 45), 32), ((64, 64), 32), ((65, 33), 32), ((20, 30), 32), ((50, 50), 400), ((3, 40), 32)]
)
def test_tiles_equal_the_whole_image(
    fuser: nn.Module, images: Images, size: tuple[int, int], tile: int, stripe_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each tile is itself run in stripes."""
    monkeypatch.setattr(tiling, "STRIPE_PX", stripe_px)
    a, b = images(*size)
    with torch.no_grad():
        torch.testing.assert_close(fuse_tensors(fuser, a, b, tile=tile), fuser(a, b), **EXACT)


def test_each_image_of_a_batch_has_sums_of_its_own(fuser: nn.Module, images: Images) -> None:
    a, b = images(40, 36, batch=3)
    with torch.no_grad():
        expected = fuser(a, b)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    for tile in (None, 32):
        torch.testing.assert_close(fuse_tensors(fuser, a, b, tile=tile), expected, **EXACT)


def test_tiles_on_their_own_would_not_do(tdfusion: Any, images: Images) -> None:
    """The network run tile by tile, with a halo for all its convolutions, sees other sums: these tests can fail."""
    a, b = images(64, 48)
    naive = torch.empty_like(a)
    halo = sum(stage.halo for stage in tdfusion.stages())
    with torch.no_grad():
        whole = tdfusion(a, b)
        for core, inner, outer in windows(64, 48, 32, 32, halo):
            naive[:, :, *core] = tdfusion(a[:, :, *outer], b[:, :, *outer])[:, :, *inner]
    assert (naive - whole).abs().max() > 1e-2
    assert (naive - whole).abs().mean() > 1e-3


@pytest.mark.parametrize("thin", range(6))
def test_every_halo_is_needed(tdfusion: Any, images: Images, thin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(24, 20)
    stages = tdfusion.stages()
    assert len(stages) == 6
    stages[thin] = Stage(stages[thin].run, stages[thin].halo - 1)
    monkeypatch.setattr(tdfusion, "stages", lambda: stages)
    monkeypatch.setattr(tiling, "STRIPE_PX", 8 * 20)
    with torch.no_grad():
        assert (fuse_tensors(tdfusion, a, b) - tdfusion(a, b)).abs().max() > 1e-4


@pytest.mark.parametrize(("size", "window"), [((10, 7), (3, 7)), ((10, 7), (4, 2)), ((5, 5), (9, 9)), ((1, 1), (1, 1))])
@pytest.mark.parametrize("halo", [0, 2, 20])
def test_windows_cover_each_pixel_once(size: tuple[int, int], window: tuple[int, int], halo: int) -> None:
    pixels = torch.arange(size[0] * size[1]).reshape(size)
    covered = torch.zeros(size, dtype=torch.int)
    for core, inner, outer in windows(*size, *window, halo):
        covered[core] += 1
        assert torch.equal(pixels[outer][inner], pixels[core])
        for axis in range(2):
            assert outer[axis].start == max(0, core[axis].start - halo)
            assert outer[axis].stop == min(size[axis], core[axis].stop + halo)
    assert covered.unique().tolist() == [1]


# ---- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, 32])
def test_bfloat16_is_close(perturb: Perturb, images: Images, tile: int | None) -> None:
    """Rounded to 8 bits of mantissa at every layer: within 0.01 of float32 on average, within 0.15 anywhere."""
    a, b = images(48, 40)
    exact = fuse_tensors(perturb(TDFusion()), a, b)
    short = fuse_tensors(perturb(TDFusion()).bfloat16(), a, b, tile=tile)
    assert short.dtype == torch.float32
    assert 0 < float((short - exact).abs().mean()) < 0.01
    assert float((short - exact).abs().max()) < 0.15


def test_results_are_plain_numbers_in_range(images: Images) -> None:
    class Bright(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return 2 * a - 0.5 * b

    a, b = images(9, 9)
    for fused in (fuse_tensors(Bright(), a, b), fuse_tensors(Bright(), a.double(), b.double())):
        assert fused.dtype == torch.float32 and not fused.requires_grad
        torch.testing.assert_close(fused, (2 * a - 0.5 * b).clamp(0, 1))


def test_sources_are_left_alone(fuser: nn.Module, images: Images) -> None:
    a, b = images(40, 20)
    before = a.clone(), b.clone()
    fuse_tensors(fuser, a, b)
    fuse_tensors(fuser, a, b, tile=32)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_tiles_never_hold_more_than_a_tile_and_its_halo(tdfusion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels given to any stage do not grow with the image."""
    stages, seen = tdfusion.stages(), []

    def watched(stage: Stage) -> Stage:
        def run(state: Any, moments: Any, window: Any) -> Any:
            seen.append(state[0].shape[2] * state[0].shape[3])
            return stage.run(state, moments, window)

        return Stage(run, stage.halo)

    monkeypatch.setattr(tdfusion, "stages", lambda: [watched(stage) for stage in stages])
    largest = []
    for side in (80, 112):
        seen.clear()
        fuse_tensors(tdfusion, torch.zeros(1, 1, side, side), torch.zeros(1, 1, side, side), tile=32)
        largest.append(max(seen))
    halo = sum(stage.halo for stage in stages)
    assert largest == [(32 + 2 * halo) ** 2] * 2


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9)),
        (torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8)),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)),
        (torch.zeros(8, 8), torch.zeros(8, 8)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(a: Tensor, b: Tensor) -> None:
    with pytest.raises(ValueError, match=r"share one shape \(B,1,H,W\), got .*; register or resize"):
        fuse_tensors(Average(), a, b)


@pytest.mark.parametrize("tile", [31, 1, 0, -64])
def test_small_tiles_are_refused(tdfusion: nn.Module, tile: int) -> None:
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=f"tile must be at least 32 pixels, got {tile}"):
        fuse_tensors(tdfusion, x, x, tile=tile)


def test_a_fuser_without_stages_is_not_tiled() -> None:
    class Opaque(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a + b - (a + b).mean()).sigmoid()

    x = torch.zeros(1, 1, 8, 8)
    assert fuse_tensors(Opaque(), x, x).unique().tolist() == [0.5]
    with pytest.raises(ValueError, match="Opaque has no stages and cannot be tiled exactly; leave out --tile"):
        fuse_tensors(Opaque(), x, x, tile=32)
