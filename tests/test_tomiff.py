"""TOMIFF: as published it is the published network with its defects, and repaired it keeps what its abstract says."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from measures import count, gflops
from tectum.models import SYSTEMS
from tectum.models.tdfusion import TDFusionLoss
from tectum.models.tomiff import TOMIFF, FourScalars, TOMIFFLoss, low_passes, stronger
from tectum.models.tomiff_published import PublishedTOMIFF, PublishedTOMIFFLoss, one_sided, published_weight
from tectum.nn.filters import box_mean, variation_gradient
from tectum.nn.gabor import GaborAttention, GaborBank, windows
from tectum.nn.stages import Stage, extend, fuse_tensors
from tectum.pair import Pair
from tectum.training.bilevel import hypergradient, sgd_step

Images = Callable[..., tuple[Tensor, ...]]
Perturb = Callable[..., nn.Module]


@pytest.fixture
def repaired(perturb: Perturb) -> Any:
    return perturb(TOMIFF())


def unsettled(fuser: nn.Module) -> nn.Module:
    """BatchNorm statistics away from 0 and 1."""
    generator = torch.Generator().manual_seed(2)
    for module in fuser.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    return fuser


@pytest.fixture
def published(perturb: Perturb) -> Any:
    return unsettled(perturb(PublishedTOMIFF()))


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_parameters_of_the_published_network() -> None:
    sizes = {"base": 90_389, "gate": 4, "detail": 12_773, "merge": 1_313, "output": 19_604}
    fuser = PublishedTOMIFF()
    assert {name: count(part) for name, part in fuser.named_children()} == sizes
    assert count(fuser) == sum(sizes.values()) == 124_083
    assert (count(fuser.base.branches[0]), count(fuser.detail.bank)) == (4_420, 36)  # type: ignore[index,arg-type]
    assert count(PublishedTOMIFFLoss()) == 4


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_attention_without_derivatives_is_the_same_at_any_scale_of_the_scores(scale: float) -> None:
    """Powers that are divided only at the end could overflow: at large scores the softmax must do it."""
    torch.manual_seed(0)
    attention = GaborAttention().eval()
    even, odd = scale * torch.randn(2, 1, attention.bank.forward(torch.zeros(1, 1, 8, 8))[0].shape[1], 24, 16)
    with torch.inference_mode():
        expected, quick = (attention.attend(even, odd, at_once=2, quick=quick) for quick in (False, True))
    assert expected.isfinite().all() and expected.std() > 0
    torch.testing.assert_close(quick, expected, rtol=1e-5, atol=1e-6 * scale)


def test_the_repaired_network_is_no_larger() -> None:
    assert 114_000 < count(TOMIFF()) == 123_172 < 126_000
    assert count(TOMIFFLoss()) == 4


def test_operations() -> None:
    assert gflops(PublishedTOMIFF()) == pytest.approx(60.68, rel=0.02)
    assert gflops(TOMIFF()) == pytest.approx(35.49, rel=0.02)


@pytest.mark.parametrize("name", ["tomiff", "tomiff-published"])
def test_the_systems(name: str) -> None:
    system = SYSTEMS[name]
    assert system.objective is not None and system.learned is not None
    assert not list(system.objective().parameters())
    learned = system.learned(alpha=0.25, beta=3.0)
    assert (learned.alpha, learned.beta) == (0.25, 3.0)
    assert {name.rpartition(".")[2] for name, _ in learned.named_parameters()} == {"alpha", "beta", "gamma", "eta"}


# ---- as published ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(37, 52), (16, 24), (63, 65)])
def test_the_published_variant_is_the_published_network(
    published: Any, images: Images, size: tuple[int, int], benchmark_module: Callable[[str], Any]
) -> None:
    literal = benchmark_module("literal_tomiff").LiteralTOMIFF().eval()
    literal.load_state_dict(published.state_dict())
    a, b = images(*size, batch=2)
    with torch.no_grad():
        expected = literal(a, b)
        assert expected.std() > 0.05 and (literal(b, a) - expected).abs().max() > 0.05
        torch.testing.assert_close(published(a, b), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(fuse_tensors(published, a[:1], b[:1]), literal(a[:1], b[:1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (30, 40)])
def test_the_published_variant_takes_any_size(published: Any, images: Images, size: tuple[int, int]) -> None:
    fused = fuse_tensors(published, *images(*size))
    assert fused.shape == (1, 1, *size) and fused.isfinite().all()


def test_the_published_image_depends_on_its_batch_mates(published: Any, repaired: Any, images: Images) -> None:
    a, b = images(16, 16, batch=2)
    for fuser, depends in ((published, True), (repaired, False)):
        assert ((fuser(a, b)[:1] - fuser(a[:1], b[:1])).abs().max() > 1e-3) == depends
    low, high = published(a, b).detach().aminmax()
    assert (float(low), float(high)) == (0, pytest.approx(1, abs=1e-4))
    with pytest.raises(ValueError, match="PublishedTOMIFF has no stages and cannot be tiled exactly"):
        fuse_tensors(published, a, b, tile=32)


def test_published_orientations_fall_together() -> None:
    degrees = torch.rad2deg(PublishedTOMIFF().detail.bank.angles()).tolist()  # type: ignore[union-attr,operator]
    assert degrees == pytest.approx([0, 140.5, 174.6, 179.3, 179.9, 179.99], abs=0.05)
    lines = sorted(min(angle, 180 - angle) for angle in degrees)
    assert sum(angle < 1 for angle in lines) == 4, "0 and 180 degrees are the same line"


def test_published_branches_that_lead_nowhere(published: Any, images: Images) -> None:
    a, b = images(16, 16, batch=2)
    sum(TDFusionLoss()(published.train()(a, b), a, b).values()).backward()
    dead = {name for name, p in published.named_parameters() if p.grad is None}
    assert dead == {f"base.branches.{j}.high" for j in range(5)}


def test_published_details_favour_the_infrared() -> None:
    one, nearly = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.9]]]])
    assert float(one_sided(nearly, -one)) == pytest.approx(-1, abs=1e-5)
    assert float(one_sided(one, -nearly)) == pytest.approx(0.9 * -0.9 + 0.1 * 1, abs=1e-5)
    assert float(stronger(one, -nearly)) == float(stronger(-nearly, one))
    assert float(stronger(one, -nearly)) == pytest.approx((1.001 - 0.901 * 0.9) / 1.902, abs=1e-6)


def test_published_scalars_that_are_dead_and_weights_that_say_nothing(images: Images) -> None:
    """The reference is the midpoint, so both errors are equal: 1/2 wherever the sources differ."""
    objective = PublishedTOMIFFLoss()
    fused, a, b = images(16, 16, batch=2, count=3)
    b[..., :4] = a[..., :4]
    sum(objective(fused, a, b).values()).backward()
    alive = {name.rpartition(".")[2] for name, p in objective.named_parameters() if p.grad is not None}
    assert alive == {"beta", "eta"}
    w = objective.weights(a, b).detach()
    assert w.shape == (2, 2, 16, 16)
    torch.testing.assert_close(w.sum(1), torch.ones(2, 16, 16))
    differ = ((a - b).abs() > 4 / 255)[:, 0]
    assert (w[:, 0][differ] - 0.5).abs().max() < 0.02
    torch.testing.assert_close(w[:, 0, :, :4], torch.full((2, 16, 4), 0.999), rtol=0, atol=1e-3)


def test_published_weights_count_squared(images: Images) -> None:
    fused, a, b = images(12, 12, count=3)
    objective = PublishedTOMIFFLoss(alpha=0.5, beta=2)
    w = objective.weights(a, b)
    expected = ((w[:, :1] * (a - fused)) ** 2 + (w[:, 1:] * (b - fused)) ** 2).mean()
    torch.testing.assert_close(objective(fused, a, b)["intensity"], 2 * expected)


def variation_slope(w: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    variation = sum((w.diff(dim=axis).square() + 1e-6).sqrt().sum() for axis in (2, 3))
    (slope,) = torch.autograd.grad(variation, w)  # type: ignore[arg-type]
    return slope


def test_the_gradient_of_the_total_variation(images: Images) -> None:
    (w,) = (x.double() for x in images(9, 13, batch=2, count=1))
    torch.testing.assert_close(variation_gradient(w), variation_slope(w))
    cosine = F.cosine_similarity(variation_gradient(w, smooth=False).flatten(), variation_slope(w).flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-3)


def test_sign_of_the_total_variation(images: Images) -> None:
    """As published beta makes the weights rougher, repaired it makes them smoother."""
    a, b = (x.double() for x in images(9, 13, batch=2))
    b = a + 1e-3 * (1 + b)  # so close to each other that the published weight is no constant
    one, none = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def released(beta: Tensor) -> Tensor:
        return published_weight(a, b, beta, 0.01 * one)

    def ours(beta: Tensor) -> Tensor:
        scalars = FourScalars().double()
        with torch.no_grad():
            scalars.beta.copy_(beta)
            return scalars(a, b)[:, :1]

    for moved, before, expected in ((released(one), released(none), 1), (ours(none), ours(none - 50), -1)):
        step, slope = (moved - before).flatten(), variation_slope(before).flatten()
        assert step.abs().max() > 1e-3
        assert float(F.cosine_similarity(step, slope, dim=0)) == pytest.approx(expected, abs=1e-2)


# ---- repaired: what the abstract says --------------------------------------------------------------------------------


def test_orientations_are_six_and_kernels_are_normalised() -> None:
    bank = GaborBank()
    torch.testing.assert_close(bank.angle.detach(), torch.arange(6) * math.pi / 6)
    even, odd = (k[:, 0].detach() for k in bank.kernels())
    for kernels in (even, odd):
        torch.testing.assert_close(kernels.abs().sum((1, 2)), torch.ones(6))
        cosines = F.cosine_similarity(kernels.flatten(1)[:, None], kernels.flatten(1)[None], dim=2)
        assert (cosines - torch.eye(6)).abs().max() < 0.95, "no two are alike"
    torch.testing.assert_close(odd.sum((1, 2)), torch.zeros(6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("turned", range(6))
def test_each_orientation_answers_its_own_wave(turned: int) -> None:
    v, u = torch.meshgrid(*(torch.arange(24.0),) * 2, indexing="ij")
    angle = turned * math.pi / 6
    wave = 0.5 + 0.5 * torch.sin(2 * math.pi * (u * math.cos(angle) + v * math.sin(angle)) / 4)
    _, odd = GaborBank()(wave[None, None])
    assert int(odd[0, :, 4:-4, 4:-4].abs().mean((1, 2)).argmax()) == turned


def test_low_passes_are_local_means(images: Images) -> None:
    (x,) = images(64, 96, count=1)
    for level, low in enumerate(low_passes(x), start=1):
        side = 2**level
        blocks = x.reshape(1, 1, 64 // side, side, 96 // side, side)
        torch.testing.assert_close(low, blocks.mean((3, 5)))
    assert all(low.unique().tolist() == [0.5] for low in low_passes(torch.full((1, 1, 32, 32), 0.5)))


def test_the_gate_moves_with_the_correlation(images: Images) -> None:
    """The same image and its negative: means and deviations are equal, the correlation is not."""
    torch.manual_seed(0)
    (x,) = images(32, 32, count=1)
    x = box_mean(x, 1)
    negative = 2 * box_mean(x, 5) - x
    gate: Any = TOMIFF().gate
    with torch.no_grad():
        same, opposite = gate.share(x, x), gate.share(x, negative)
        assert float((opposite - same).mean()) > 0.1 and float((opposite - same).min()) > 0
        weights = PublishedTOMIFF().gate.share(x, x), PublishedTOMIFF().gate.share(x, negative)  # type: ignore
    assert same.shape == x.shape and weights[0].shape == (1, 1, 1, 1)


def test_weights_of_the_loss_say_where_something_is() -> None:
    """Texture at the left of the visible, at the right of the infrared image."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.full((1, 1, 32, 64), 0.5) for _ in range(2))
    a[..., :28] += 0.3 * torch.rand(1, 1, 32, 28, generator=generator)
    b[..., 36:] += 0.3 * torch.rand(1, 1, 32, 28, generator=generator)
    w = TOMIFFLoss().weights(a, b)[0, 0].detach()
    assert w[:, :24].mean() - w[:, 40:].mean() > 0.3
    released = PublishedTOMIFFLoss().weights(a, b)[0, 0].detach()
    assert (released[:, :24].mean() - released[:, 40:].mean()).abs() < 0.05


@pytest.mark.parametrize(("name", "moves"), [("gamma", 1.0), ("alpha", 1.0), ("eta", 1.0), ("beta", 3.0)])
def test_all_four_scalars_are_alive(images: Images, name: str, moves: float) -> None:
    scalars = FourScalars()
    fused, a, b = images(16, 16, batch=2, count=3)
    sum(TDFusionLoss(scalars)(fused, a, b).values()).backward()
    parameter = dict(scalars.named_parameters())[name]
    assert parameter.grad is not None and parameter.grad.abs() > 1e-6
    before = scalars(a, b).detach()
    with torch.no_grad():
        parameter.add_(moves)
    after = scalars(a, b).detach()
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after.sum(1), torch.ones(2, 16, 16))
    assert float(after.min()) > 0
    if name == "gamma":
        assert (after - before)[:, 0].mean() > 0.05, "more of the visible"


# ---- repaired: what is computed --------------------------------------------------------------------------------------


def plain(fuser: Any, a: Tensor, b: Tensor) -> Tensor:
    """The repaired network layer by layer, nothing folded or exchanged; sides are whole multiples of 32."""

    def base(x: Tensor) -> Tensor:
        part, lows = fuser.base, low_passes(x)
        coarse = low_passes(F.pad(lows[0], (0, 16, 0, 16), mode="replicate"))[:4]
        found = [process(low) for process, low in zip(part.process[1:], coarse, strict=True)]
        found = [F.interpolate(z, found[0].shape[2:], mode="bilinear") for z in found]
        context = torch.cat(found, dim=1)[:, :, : x.shape[2] // 4, : x.shape[3] // 4]
        context = F.interpolate(context, lows[0].shape[2:], mode="bilinear")
        y = F.relu(part.blend(torch.cat([part.process[0](lows[0]), context], dim=1)))
        return lows[0] + part.out(F.relu(part.smooth(F.relu(part.narrow(y)))))

    def detail(x: Tensor) -> Tensor:
        part = fuser.detail
        even, odd = part.bank(x)
        asking, asked = part.embed_query(windows(odd)), part.embed_key(windows(even))
        q, k, v = (
            layer(z).unflatten(2, (4, 8)).transpose(1, 2)
            for layer, z in ((part.query, asking), (part.key, asked), (part.value, asked))
        )
        found = (q @ k.transpose(2, 3) / math.sqrt(8)).softmax(-1) @ v
        found = part.project(found.transpose(1, 2).flatten(2))
        found = part.out(found + part.reduce(F.relu(part.expand(found))))
        height, width = x.shape[2:]
        found = found.reshape(len(x), height // 8, width // 8, 8, 8).transpose(2, 3).reshape(x.shape)
        return found + (odd * part.mixture.softmax(0)[:, None, None]).sum(1, keepdim=True)

    part = fuser.merge
    merged = torch.cat(
        [part.embed_base(fuser.gate(base(a), base(b))), part.embed_detail(stronger(detail(a), detail(b)))], 1
    )
    first = part.out(F.relu(part.hidden(F.relu(merged))))
    part = fuser.output
    x = part.embed(extend(torch.cat([b, a, first], dim=1), "replicate"))
    mean = x.unflatten(1, (3, 16)).mean(2)
    attention = torch.sigmoid(part.attention(F.relu(part.look(extend(mean, "replicate")))))
    x = part.out(F.relu(part.hidden2(F.relu(part.hidden1(x * attention.repeat_interleave(16, 1))))))
    return torch.sigmoid(x + torch.logit(0.01 + 0.98 * (a + b) / 2))


def test_the_folded_network_is_the_plain_one(repaired: Any, images: Images) -> None:
    a, b = (x.double() for x in images(64, 32, batch=2))
    repaired.double()
    with torch.no_grad():
        expected = plain(repaired, a, b)
        assert expected.std() > 0.1
        torch.testing.assert_close(repaired(a, b), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(repaired(a[..., :21], b[..., :21]).shape, a[..., :21].shape)


def test_an_untrained_network_is_near_the_average(images: Images) -> None:
    torch.manual_seed(0)
    a, b = images(32, 32)
    with torch.no_grad():
        away = TOMIFF()(a, b) - (a + b) / 2
    assert 1e-4 < float(away.abs().mean()) < 0.1


@pytest.mark.parametrize("thin", [0, 1, 2, 3, 5])
def test_every_halo_is_needed(repaired: Any, images: Images, thin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes are exact, and would not be with less."""
    repaired.double()
    a, b = (x.double() for x in images(128, 36))
    whole = repaired(a, b).detach()
    stages = [replace(stage, stripe_px=8 * 36) for stage in repaired.stages()]
    monkeypatch.setattr(repaired, "stages", lambda: stages)
    with torch.inference_mode():
        assert (repaired(a, b) - whole).abs().max() < 1e-12
        stages[thin] = replace(stages[thin], halo=max(0, stages[thin].halo - stages[thin].align))
        assert (repaired(a, b) - whole).abs().max() > 1e-9


@pytest.mark.parametrize(("size", "tile"), [((100, 70), 37), ((33, 1), 32), ((1, 1), 32)])
def test_stripes_and_tiles_are_exact(repaired: Any, images: Images, size: tuple[int, int], tile: int) -> None:
    a, b = images(*size)
    expected = repaired(a, b).detach()
    for given in (None, tile):
        torch.testing.assert_close(fuse_tensors(repaired, a, b, tile=given), expected, rtol=0, atol=1e-5)


def test_stages_that_sum_nothing_are_tiled_once(repaired: Any, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tiles: one look at each stage that has no statistics, then all of them for the last."""
    stages, runs = repaired.stages(), [0] * 6

    def watched(n: int) -> Stage:
        def run(*given: Any) -> Any:
            runs[n] += 1
            return stages[n].run(*given)

        return replace(stages[n], run=run)

    monkeypatch.setattr(repaired, "stages", lambda: [watched(n) for n in range(6)])
    fuse_tensors(repaired, *images(64, 64), tile=32)
    assert runs == [9, 8, 7, 6, 5, 4]


# ---- derivatives -----------------------------------------------------------------------------------------------------


def test_forward_mode_equals_finite_differences(repaired: Any, derivatives: Images) -> None:
    out, plain, u, difference = derivatives(repaired.double().train(), 1e-8)  # small: a ReLU may turn
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-12)
    assert u.abs().max() > 0.1
    assert (u - difference).norm() / u.norm() < 1e-6


class Likes:
    """A task that wants the image, seen through a fixed random filter, to be the target."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(9)
        self.filter = torch.randn(4, 1, 3, 3, generator=generator, dtype=torch.float64)

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        seen, wanted = (F.conv2d(x, self.filter, padding=1).tanh() for x in (fused, target))
        return F.mse_loss(seen, wanted)

    def predict(self, fused: Tensor) -> Tensor:
        return fused


def test_what_a_task_teaches_the_four_scalars(images: Images) -> None:
    """Forward mode against double backward through the fuser, in float64: all four get a lesson."""
    torch.manual_seed(0)
    fuser, objective = TOMIFF().double().train(), TOMIFFLoss().double()
    a, b, target = (x.double() for x in images(12, 12, batch=2, count=3, seed=3))
    pairs = Pair(a[:1], b[:1]), Pair(a[1:], b[1:], target=target[1:])
    forward, reverse = (
        hypergradient(fuser, objective, Likes(), *pairs, step=sgd_step(0.05), method=method).gradient  # type: ignore
        for method in ("forward", "reverse")
    )
    assert len(reverse) == 4
    for name, exact in reverse.items():
        assert exact != 0, name
        assert float(((forward[name] - exact) / exact).abs()) < 1e-8, name
    largest = max(float(x.abs()) for x in reverse.values())
    assert max(float((forward[name] - x).abs()) for name, x in reverse.items()) / largest < 1e-10
