"""AdaSFFuse: as published it is the published network with its defects, and repaired it keeps its abstract's word."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from measures import count, gflops
from tectum.kinds import KINDS
from tectum.losses import ssim_map
from tectum.models import SYSTEMS, adasffuse, adasffuse_published
from tectum.models.adasffuse import BANDS, AdaSFFuse, AdaSFFuseLoss, octaves
from tectum.models.adasffuse_published import Mixer, PublishedAdaSFFuse, PublishedAdaSFFuseLoss, hilbert
from tectum.nn.filters import sobel
from tectum.nn.pyramid import blend
from tectum.nn.stages import fuse_tensors
from tectum.nn.wavelet import rotate_back

Images = Callable[..., tuple[Tensor, ...]]
Perturb = Callable[..., nn.Module]


@pytest.fixture
def repaired(perturb: Perturb) -> Any:
    return perturb(AdaSFFuse())


@pytest.fixture
def published(perturb: Perturb) -> Any:
    """With weights so small that little is cut off at 0 and 1."""
    fuser = perturb(PublishedAdaSFFuse())
    with torch.no_grad():
        fuser.output3.weight.mul_(0.05)
        fuser.output3.bias.fill_(0.5)
    return fuser


@pytest.fixture(scope="module")
def literal(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_module("literal_adasffuse")


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_parameters_of_the_published_network() -> None:
    net: Any = PublishedAdaSFFuse()
    sizes = {"embed": 640, "wavelet": 8, "enhance_high": 5_376, "enhance_low": 640}
    sizes |= {"high": 953_508, "low": 122_764, "whole": 245_528}
    sizes |= {"output1": 18_464, "output2": 4_624, "output3": 145, "unused": 128}
    assert {name: count(part) for name, part in net.named_children()} == sizes
    assert count(net) == sum(sizes.values()) == 1_351_825
    assert (count(net.high[0]), count(net.low[0])) == (476_754, 61_382)
    block = net.low[0]
    assert [count(x) for x in (block.fc1, block.fc2, block.mixer.local, block.mixer.norm)] == [
        16_640,
        8_256,
        2_560,
        256,
    ]


def test_the_repaired_network_is_an_eighth() -> None:
    assert 100_000 < count(AdaSFFuse()) < 1_351_825 / 8


def test_operations() -> None:
    """Published: 163.6 GMACs of layers, and the scan; the filter's other product is ours."""
    assert 2 * 163.6 < 25 * gflops(PublishedAdaSFFuse(), 96, 128) < 2 * 250  # a 25th of 640x480
    assert 25 * gflops(AdaSFFuse(), 96, 128) < 25


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of infrared, exposure, focus, medical, got 'ivf'"):
        AdaSFFuseLoss("ivf")  # type: ignore[arg-type]


# ---- as published ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(12, 16), (9, 13)])
def test_the_published_variant_is_the_published_network(
    published: Any, literal: ModuleType, images: Images, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the scan as its recurrence, in stripes of two rows and all at once."""
    monkeypatch.setattr(adasffuse_published, "_STRIPE_NUMBERS", 4 * size[1] * 64)
    net = literal.LiteralAdaSFFuse(sequential=True).eval()
    net.load_state_dict(published.state_dict())
    a, b = images(*size, batch=2)
    with torch.no_grad():
        expected = net(a, b)[:, :, : size[0], : size[1]].clamp(0, 1)
        assert expected.std() > 0.02
        torch.testing.assert_close(published(a, b), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(fuse_tensors(published, a[:1], b[:1]), expected[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(published(a, b).detach(), expected, rtol=0, atol=1e-5)


def test_both_scans_of_the_literal_network_are_one(literal: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x, b, c = (torch.randn(2, 150, *shape, generator=generator) for shape in ((3, 4), (5,), (5,)))
    dt = torch.rand(2, 150, 3, generator=generator)
    given = x, dt, -torch.tensor([0.1, 1.0, 10.0]), b, c, torch.ones(3)
    torch.testing.assert_close(literal.in_chunks(*given), literal.recurrence(*given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (1, 40)])
def test_the_published_variant_takes_any_size(published: Any, images: Images, size: tuple[int, int]) -> None:
    fused = fuse_tensors(published, *images(*size))
    assert fused.shape == (1, 1, *size) and fused.isfinite().all()


def test_the_published_variant_cannot_tell_its_sources_apart(published: Any, repaired: Any, images: Images) -> None:
    a, b = images(12, 12)
    assert torch.equal(published(a, b), published(b, a))
    assert (repaired(a, b) - repaired(b, a)).abs().max() > 1e-2


@pytest.mark.parametrize("length", [7, 8])
def test_the_published_filter_is_a_gain_and_a_hilbert_transform(length: int) -> None:
    """One complex number for all frequencies of a channel: none is told from another."""
    x = torch.randn(1, length, 1, 3, dtype=torch.float64)
    w = torch.tensor([1.5 - 0.5j, 0.3 + 2j, -1j], dtype=torch.complex128)
    expected = torch.fft.irfft(torch.fft.rfft(x[:, :, 0], dim=1, norm="ortho") * w, n=length, dim=1, norm="ortho")
    torch.testing.assert_close((w.real * x - w.imag * hilbert(x))[:, :, 0], expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(hilbert(x), hilbert(x.requires_grad_()).detach())


def test_published_parameters_that_lead_nowhere(published: Any, images: Images) -> None:
    a, b = images(12, 12, batch=2)
    sum(PublishedAdaSFFuseLoss()(published.train()(a, b), a, b).values()).backward()
    dead = {name for name, p in published.named_parameters() if p.grad is None or not p.grad.any()}
    assert dead == {"unused.weight", "unused.bias"}


def test_published_wavelets_stop_inverting(published: Any, images: Images) -> None:
    x = torch.cat(images(8, 6), 1)
    for fuser, inverts in ((PublishedAdaSFFuse(), True), (published, False)):
        back = fuser.wavelet.inverse(fuser.wavelet(x), (8, 6)).detach()
        assert ((back - x).abs().max() < 1e-6) == inverts


def test_published_groups_take_three_channels_of_one_band(published: Any) -> None:
    """What channel 0 of band LH becomes hangs on channels 1 and 2 of LH, and not on its own HL and HH."""
    x = torch.zeros(1, 192, 3, 3, requires_grad=True)
    published.enhance_high(x)[0, 0].sum().backward()
    assert x.grad is not None and x.grad.abs().sum((0, 2, 3)).nonzero().flatten().tolist() == [0, 1, 2]
    for group in (21, 42):
        assert {channel // 64 for channel in range(3 * group, 3 * group + 3)} == {group // 21 - 1, group // 21}


def reach(block: nn.Module, width: int) -> Tensor:
    """Which tokens (13,13) the one in the middle hears of."""
    torch.manual_seed(0)
    x = torch.randn(1, 13, 13, width, requires_grad=True)
    block(x)[0, 6, 6].sum().backward()
    assert x.grad is not None
    return x.grad.abs().amax((0, 3)) > 0


def test_the_published_scan_goes_one_way(perturb: Perturb) -> None:
    torch.manual_seed(0)
    mixer: Any = perturb(Mixer(64))
    v, turned = torch.randn(1, 13, 13, 256, requires_grad=True), torch.zeros(1, 13, 13, 256)
    mixer.mix(v, turned, torch.ones(1, 13, 13, 128), torch.full((1, 13, 13, 2), 0.01))[0, 6, 6].sum().backward()
    heard = v.grad.abs().amax((0, 3)) > 0  # type: ignore[union-attr]
    assert heard[:6].all() and not heard[8:].any(), "all above, and one row below by the convolution"


# ---- repaired: what the abstract says --------------------------------------------------------------------------------


def test_scans_go_both_ways_along_rows_and_columns(perturb: Perturb) -> None:
    heard = reach(perturb(AdaSFFuse().context.blocks[0]), 64)  # type: ignore[union-attr,index]
    assert heard[6].all() and heard[:, 6].all()
    both = reach(perturb(nn.Sequential(*AdaSFFuse().context.blocks)), 64)  # type: ignore[union-attr]
    assert both.all(), "after two blocks everything"


def test_wavelet_tilts_answer_to_the_image(repaired: Any, images: Images) -> None:
    a, b = images(16, 16)
    (_, _, tilts_a), (_, _, tilts_b) = repaired.encoder(a, b)
    for of_a, of_b in zip(tilts_a, tilts_b, strict=True):
        assert (of_a - of_b).abs().max() > 0.05 and of_a.std() > 0.01
    (features, bands, tilts), _ = repaired.encoder(a, b)
    torch.testing.assert_close(rotate_back(bands, *tilts), features, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("waves", "band"), [(16, 0), (8, 1), (4, 2), (1, 3)])
def test_the_filter_tells_frequencies_apart(waves: int, band: int) -> None:
    """Each band answers its own wave the most."""
    line = torch.cos(2 * torch.pi * waves * (torch.arange(64) + 0.5) / 64)
    x = (line[:, None] * line)[None, None]
    power = [float(z.square().mean()) for z in octaves(x)]
    assert len(power) == BANDS and max(range(BANDS), key=power.__getitem__) == band


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (20, 11)])
def test_octaves_add_up(images: Images, size: tuple[int, int]) -> None:
    x = torch.cat(images(*size, batch=2), 1)
    torch.testing.assert_close(torch.stack([*octaves(x)]).sum(0), x, rtol=0, atol=1e-6)
    for low in [*octaves(torch.full((1, 1, *size), 0.5))][:-1]:
        assert low.abs().max() < 1e-6, "a border is no edge"


def test_an_untrained_network_is_near_the_average(images: Images) -> None:
    torch.manual_seed(0)
    a, b = images(32, 32)
    with torch.no_grad():
        away = AdaSFFuse()(a, b) - (a + b) / 2
    assert 1e-4 < float(away.abs().mean()) < 0.05


@pytest.mark.parametrize("choice", [1, -1])
def test_it_can_choose_a_source_pixel_by_pixel(images: Images, choice: int) -> None:
    """With a weight of +-8 at every other pixel, sharp to the pixel: the choice is made at full resolution."""
    a, b = images(24, 24)
    fuser: Any = AdaSFFuse()
    with torch.no_grad():
        for parameter in fuser.output.parameters():
            parameter.zero_()
        fuser.context.out.weight.zero_()

        def checkered(_: nn.Module, __: Any, out: Tensor) -> Tensor:
            rows, columns = (torch.arange(size) for size in out.shape[2:])
            w = torch.where((rows[:, None] + columns) % 2 == (choice > 0), 8.0, -8.0)[None, None]
            return torch.cat([w, torch.zeros_like(w)], 1)

        fuser.output.out.register_forward_hook(checkered)
        even = (torch.arange(24)[:, None] + torch.arange(24)) % 2 == (choice > 0)
        expected = 0.01 + 0.98 * torch.where(even, a, b)
        torch.testing.assert_close(fuser(a, b), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("thin", [0, 2])
def test_every_halo_is_needed(repaired: Any, images: Images, thin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(60, 38)
    expected = repaired(a, b).detach()
    stages = [replace(stage, stripe_px=1) for stage in repaired.stages()]
    monkeypatch.setattr(repaired, "stages", lambda: stages)
    torch.testing.assert_close(fuse_tensors(repaired, a, b), expected, rtol=0, atol=1e-5)
    stages[thin] = replace(stages[thin], halo=0)
    assert (fuse_tensors(repaired, a, b) - expected).abs().max() > 1e-4


def test_large_images_are_worked_a_few_lines_at_a_time(
    repaired: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = images(60, 38)
    expected = fuse_tensors(repaired, a, b)
    monkeypatch.setattr(adasffuse, "_LARGE_TOKENS", 1)
    torch.testing.assert_close(fuse_tensors(repaired, a, b), expected, rtol=0, atol=1e-6)


def test_forward_mode_equals_finite_differences(repaired: Any, derivatives: Images) -> None:
    out, plain, u, difference = derivatives(repaired.double().train(), 1e-8)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-12)
    assert u.abs().max() > 0.1
    assert (u - difference).norm() / u.norm() < 1e-6


def test_a_few_steps_learn_to_choose(images: Images) -> None:
    """Left halves of a are sharp, right ones of b: descent on the objective finds out, which the average cannot."""
    torch.manual_seed(0)
    (x,) = images(32, 32, batch=4, count=1)
    blurred, left = F.avg_pool2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), 7, 1), torch.arange(32) < 16
    a, b = torch.where(left, x, blurred), torch.where(left, blurred, x)
    fuser, objective = AdaSFFuse(), AdaSFFuseLoss("focus")
    optimizer = torch.optim.Adam(fuser.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        sum(objective(fuser(a, b), a, b).values()).backward()
        optimizer.step()
    with torch.no_grad():
        away, before = ((y - x).abs().mean() for y in (fuser(a, b), (a + b) / 2))
    assert away < 0.7 * before


# ---- the objective ---------------------------------------------------------------------------------------------------


def ssim_by_hand(x: Tensor, y: Tensor) -> float:
    """The mean over all pixels of one pair of images (H,W), zeros around them."""
    g = [2.718281828459045 ** (-((i - 5) ** 2) / 4.5) for i in range(11)]
    window = [[p * q / sum(g) ** 2 for q in g] for p in g]
    height, width = x.shape
    total = 0.0
    for r in range(height):
        for c in range(width):
            sums = [0.0] * 5
            for i in range(11):
                for j in range(11):
                    u, v = r + i - 5, c + j - 5
                    p, q = (float(z[u, v]) if 0 <= u < height and 0 <= v < width else 0.0 for z in (x, y))
                    for n, term in enumerate((p, q, p * p, q * q, p * q)):
                        sums[n] += window[i][j] * term
            mx, my, xx, yy, xy = sums
            total += ((2 * mx * my + 1e-4) * (2 * (xy - mx * my) + 9e-4)) / (
                (mx * mx + my * my + 1e-4) * (xx - mx * mx + yy - my * my + 9e-4)
            )
    return total / (height * width)


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_objective(kind: Any, images: Images) -> None:
    fused, a, b = (x.double() for x in images(6, 7, batch=2, count=3))
    found = PublishedAdaSFFuseLoss(kind)(fused, a, b)
    steep_f, steep_a, steep_b = (sobel(x, padding="zeros").abs().sum(1) for x in (fused, a, b))
    target = torch.maximum(a, b) if kind in ("infrared", "medical") else (a + b) / 2
    alpha = 0.5 if kind in ("exposure", "medical") else float(steep_a.mean() / (steep_a.mean() + steep_b.mean()))
    similar = [sum(ssim_by_hand(k[i, 0], fused[i, 0]) for i in range(2)) / 2 for k in (a, b)]
    scales = (20, 100, 50) if kind == "medical" else (20, 20, 10)
    assert {name: float(x) for name, x in found.items()} == pytest.approx(
        {
            "intensity": scales[0] * float((fused - target).abs().mean()),
            "gradient": scales[1] * float((steep_f - torch.maximum(steep_a, steep_b)).abs().mean()),
            "ssim": scales[2] * (1 - alpha * similar[0] - (1 - alpha) * similar[1]),
        },
        rel=1e-6,
    )


def test_the_objective_has_no_parameters_and_knows_no_batch_mates(images: Images) -> None:
    fused, a, b = images(24, 20, batch=2, count=3)
    for kind in KINDS:
        objective = AdaSFFuseLoss(kind)
        assert not list(objective.parameters())
        both = objective(fused, a, b)
        ones = [objective(fused[i : i + 1], a[i : i + 1], b[i : i + 1]) for i in (0, 1)]
        for name, x in both.items():
            torch.testing.assert_close(x, (ones[0][name] + ones[1][name]) / 2)
    assert SYSTEMS["adasffuse"].objective is AdaSFFuseLoss


def loss(kind: str, fused: Tensor, a: Tensor, b: Tensor) -> float:
    return float(sum(AdaSFFuseLoss(kind)(fused, a, b).values()))


def test_of_two_foci_the_sharp_image_is_wanted(images: Images) -> None:
    """The published target is the average, the repaired one the sharper source: exactly, but for the seam."""
    (x,) = images(48, 48, count=1)
    blurred, left = F.avg_pool2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), 7, 1), torch.arange(48) < 24
    a, b = torch.where(left, x, blurred), torch.where(left, blurred, x)
    average = (a + b) / 2
    assert loss("focus", x, a, b) < 0.4 * loss("focus", average, a, b)
    objective = AdaSFFuseLoss("focus")
    assert objective(x, a, b)["intensity"] < 0.3 * objective(average, a, b)["intensity"]
    assert PublishedAdaSFFuseLoss("focus")(average, a, b)["intensity"] == 0


def test_of_two_exposures_the_better_exposed_is_wanted(images: Images) -> None:
    """Left all white in a, right all black in b: grey veils are the published target."""
    (x,) = images(128, 512, count=1)
    x = 0.3 + 0.4 * x
    left = torch.arange(512) < 256
    a, b = torch.where(left, torch.ones_like(x), x), torch.where(left, x, torch.zeros_like(x))
    objective = AdaSFFuseLoss("exposure")
    target = objective.target(a, b, objective.detail_share(a, b))
    torch.testing.assert_close(target, objective.target(b, a, objective.detail_share(b, a)))
    wrong = [(y - x).abs()[..., (torch.arange(512) - 256).abs() > 128].mean() for y in (target, (a + b) / 2)]
    assert wrong[0] < 0.15 * wrong[1]
    assert loss("exposure", target, a, b) < 0.7 * loss("exposure", (a + b) / 2, a, b)


def test_a_blend_has_the_stronger_details_and_no_halo(images: Images) -> None:
    """Texture left in a, right in b, over walls of two brightnesses whose share jumps in the middle."""
    (x,) = images(128, 512, count=1)
    left = torch.arange(512.0) < 256
    fine = 0.1 * (x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1))
    a, b = 0.6 + fine * left, 0.4 + fine * ~left
    found = blend(a, b, left.expand_as(a).float())
    wall = found - fine
    assert (found - blend(b, a, ~left.expand_as(a) * 1.0)).abs().max() < 1e-5
    assert (wall[..., :128] - 0.6).abs().mean() < 0.01 and (wall[..., 384:] - 0.4).abs().mean() < 0.01
    rows = wall.mean(2).flatten()
    assert rows.min() > 0.39 and rows.max() < 0.61 and rows.diff().abs().max() < 0.02


def test_an_inverted_edge_is_not_the_same(images: Images) -> None:
    (x,) = images(24, 24, count=1)
    for kind in ("infrared", "exposure", "medical", "focus"):
        terms = [make(kind)(1 - x, x, x)["gradient"] for make in (PublishedAdaSFFuseLoss, AdaSFFuseLoss)]
        assert terms[0] < 0.5 * terms[1]


def test_similarity_at_the_border(images: Images) -> None:
    """Black around both images is alike, and hides what is not."""
    a, b = images(16, 16)
    zeros, repeated = (ssim_map(a, b, padding=p)[0, 0, 0, 0] for p in ("zeros", "replicate"))  # type: ignore[arg-type]
    assert zeros > repeated
    torch.testing.assert_close(ssim_map(a, b), ssim_map(b, a))
    assert ssim_map(a, a).min() > 1 - 1e-4 and ssim_map(a, b).max() <= 1
