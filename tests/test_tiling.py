"""Stages: stripes and tiles are exactly the whole image, whatever its size - and tests that could tell otherwise."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from tectum.models import SYSTEMS
from tectum.models.baselines import Average
from tectum.models.tdfusion import TDFusion
from tectum.nn.stages import Stage, StagedFuser, fuse_tensors, windows
from tectum.pretrained.loading import load

Images = Callable[..., tuple[Tensor, ...]]
Perturb = Callable[..., nn.Module]
FUSERS = {name: system.fuser for name, system in SYSTEMS.items()}
STAGED = sorted(n for n, make in FUSERS.items() if isinstance(make, type) and issubclass(make, StagedFuser))
EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(params=sorted(set(STAGED) - {"tdfusion-published"}))  # the network of tdfusion
def fuser(request: pytest.FixtureRequest, perturb: Perturb) -> Any:
    return perturb(FUSERS[request.param]())


@pytest.fixture
def tdfusion(perturb: Perturb) -> Any:
    return perturb(TDFusion())


@pytest.fixture
def restage(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Give a fuser stages with other fields; returns how often each is run, counted from then on."""

    def change(fuser: Any, which: int | None = None, **fields: Any) -> list[int]:
        stages = fuser.stages()
        counts = [0] * len(stages)

        def count(index: int, stage: Stage) -> Stage:
            def run(*given: Any) -> Any:
                counts[index] += 1
                return stage.run(*given)

            return replace(stage, run=run, **(fields if which in (None, index) else {}))

        monkeypatch.setattr(fuser, "stages", lambda: [count(i, stage) for i, stage in enumerate(stages)])
        return counts

    return change


def whole_image(fuser: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """With gradients nothing is worked in stripes."""
    fused = fuser(a, b)
    assert fused.requires_grad
    return fused.detach()


def test_all_four_systems_have_stages() -> None:
    assert STAGED == ["adasffuse", "sfofusion", "tdfusion", "tdfusion-published", "tomiff"]


# ---- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 61), (7, 90), (90, 7), (1, 1), (33, 1)])
@pytest.mark.parametrize("rows", [8, 13, 1000])
def test_stripes_equal_the_whole_image(
    fuser: Any, images: Images, size: tuple[int, int], rows: int, restage: Callable[..., list[int]]
) -> None:
    a, b = images(*size)
    expected = whole_image(fuser, a, b)
    restage(fuser, stripe_px=rows * size[1])
    torch.testing.assert_close(fuse_tensors(fuser, a, b), expected, **EXACT)


@pytest.mark.parametrize("num_stripes", [1, 2, 5])
def test_rows_of_stripes(tdfusion: Any, images: Images, num_stripes: int, restage: Callable[..., list[int]]) -> None:
    """Heights at, one below and one above a whole number of stripes."""
    counts = restage(tdfusion, stripe_px=23 * 9)
    for height, expected in ((9 * num_stripes - 1, 0), (9 * num_stripes, 0), (9 * num_stripes + 1, 1)):
        a, b = images(height, 23)
        whole = whole_image(tdfusion, a, b)
        counts[:] = [0] * 6
        torch.testing.assert_close(fuse_tensors(tdfusion, a, b), whole, **EXACT)
        assert counts == [num_stripes + expected] * 6


@pytest.mark.parametrize("stripe_px", [1, 400, 30_000])
@pytest.mark.parametrize(
    ("size", "tile"), [((70, 45), 32), ((64, 64), 32), ((65, 33), 37), ((20, 30), 32), ((50, 50), 400), ((3, 40), 32)]
)
def test_tiles_equal_the_whole_image(
    fuser: Any, images: Images, size: tuple[int, int], tile: int, stripe_px: int, restage: Callable[..., list[int]]
) -> None:
    """Also where each tile is itself run in stripes."""
    a, b = images(*size)
    expected = whole_image(fuser, a, b)
    restage(fuser, stripe_px=stripe_px)
    torch.testing.assert_close(fuse_tensors(fuser, a, b, tile=tile), expected, **EXACT)


@pytest.mark.parametrize("kind", ["exposure", "focus", "medical"])
def test_tiles_of_the_other_kinds(images: Images, kind: str) -> None:
    fuser, (a, b) = load("adasffuse", kind=kind, device="cpu"), images(70, 45)
    torch.testing.assert_close(fuse_tensors(fuser, a, b, tile=32), fuse_tensors(fuser, a, b), **EXACT)


def test_each_image_of_a_batch_has_sums_of_its_own(fuser: Any, images: Images) -> None:
    a, b = images(40, 36, batch=3)
    expected = whole_image(fuser, a, b)
    assert (expected[0] - expected[1]).abs().max() > 0.05
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
def test_every_halo_is_needed(tdfusion: Any, images: Images, thin: int, restage: Callable[..., list[int]]) -> None:
    a, b = images(24, 20)
    expected, stages = whole_image(tdfusion, a, b), tdfusion.stages()
    assert len(stages) == 6
    restage(tdfusion, stripe_px=1)
    torch.testing.assert_close(fuse_tensors(tdfusion, a, b), expected, **EXACT)
    restage(tdfusion, thin, halo=stages[thin].halo - 1)
    assert (fuse_tensors(tdfusion, a, b) - expected).abs().max() > 1e-4


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


# ---- when there are stripes ------------------------------------------------------------------------------------------


def test_a_frozen_fuser_works_in_stripes_and_a_trained_one_whole(
    fuser: Any, images: Images, restage: Callable[..., list[int]]
) -> None:
    """`load` gives frozen ones: called as they are, they are as lean as `fuse_tensors`."""
    a, b = images(40, 20)
    counts = restage(fuser, stripe_px=1)

    def runs(act: Callable[[], Any]) -> int:
        counts[:] = [0] * len(counts)
        act()
        return counts[-1]

    def derive() -> Any:
        theta = {name: p.detach() for name, p in fuser.named_parameters()}
        return jvp(lambda x: functional_call(fuser, x, (a, b)), (theta,), (theta,))

    assert runs(lambda: fuse_tensors(fuser, a, b)) > 1
    assert runs(lambda: fuser(a, b)) == 1, "its parameters have gradients"
    with torch.no_grad():
        assert (runs(lambda: fuser(a, b)) == 1) == fuser.trains_whole
    assert runs(derive) == 1
    fuser.requires_grad_(False)
    assert runs(lambda: fuser(a, b)) > 1
    assert runs(derive) == 1
    assert runs(lambda: fuser(a.clone().requires_grad_(), b)) == 1


def test_training_sees_the_same_bits_with_and_without_gradients(images: Images) -> None:
    torch.manual_seed(0)
    fuser, (a, b) = TDFusion(), images(200, 200)
    expected = fuser(a, b)
    with torch.no_grad():
        assert torch.equal(fuser(a, b), expected)


# ---- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, 32])
def test_bfloat16_is_close(perturb: Perturb, images: Images, tile: int | None) -> None:
    """Rounded to 8 bits of mantissa at every layer: within 0.015 of float32 on average, within 0.15 anywhere."""
    a, b = images(48, 40)
    exact = fuse_tensors(perturb(TDFusion()), a, b)
    short = fuse_tensors(perturb(TDFusion()).bfloat16(), a, b, tile=tile)
    assert short.dtype == torch.float32
    assert 0 < float((short - exact).abs().mean()) < 0.015  # of six other draws of weights: 0.0023 to 0.012
    assert float((short - exact).abs().max()) < 0.15


def test_results_are_plain_numbers_in_range(images: Images) -> None:
    class Bright(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return 2 * a - 0.5 * b

    a, b = images(9, 9)
    for fused in (fuse_tensors(Bright(), a, b), fuse_tensors(Bright(), a.double(), b.double())):
        assert fused.dtype == torch.float32 and not fused.requires_grad
        torch.testing.assert_close(fused, (2 * a - 0.5 * b).clamp(0, 1))


def test_sources_are_left_alone(fuser: Any, images: Images) -> None:
    a, b = images(40, 20)
    before = a.clone(), b.clone()
    fuse_tensors(fuser, a, b)
    fuse_tensors(fuser, a, b, tile=32)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_tiles_never_hold_more_than_a_tile_and_its_halo(fuser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels given to any stage do not grow with the image, but for stages that say they need it whole."""
    stages, pixels = fuser.stages(), []

    def watch(stage: Stage) -> Stage:
        def run(state: Any, statistics: Any, window: Any) -> Any:
            pixels.append(state[0].shape[2] * state[0].shape[3])
            return stage.run(state, statistics, window)

        return stage if stage.whole else replace(stage, run=run)

    monkeypatch.setattr(fuser, "stages", lambda: [watch(stage) for stage in stages])
    largest = []
    for side in (96, 128) if isinstance(fuser, TDFusion) else (192, 224):
        pixels.clear()
        fuse_tensors(fuser, torch.zeros(1, 1, side, side), torch.zeros(1, 1, side, side), tile=32)
        largest.append(max(pixels))
    halo = sum(stage.halo for stage in stages)
    assert largest[0] == largest[1] <= (32 + 2 * halo + 64) ** 2
    if isinstance(fuser, TDFusion):
        assert largest[0] == (32 + 2 * halo) ** 2


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
    with pytest.raises(ValueError, match=r"must (share one shape|be luminances \(B,1,H,W\)), got .*;"):
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
