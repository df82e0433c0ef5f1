"""SFOFusion: the released network with its defects, and the repaired one with what its abstract promises."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from measures import count, gflops
from tectum.models import sfofusion
from tectum.models.sfofusion import SFOFusion, SFOFusionLoss, energy
from tectum.models.sfofusion_published import (
    PublishedLossGenerator,
    PublishedSFOFusion,
    PublishedSFOFusionLoss,
    cosines,
    published_bands,
)
from tectum.models.tdfusion import TDFusion
from tectum.nn.filters import variation_gradient
from tectum.nn.spectrum import amplitude, image, low_cosines, phasor, radial_bands, rotate_phasor, spectrum
from tectum.nn.stages import WHOLE
from tectum.pair import Pair
from tectum.training.bilevel import hypergradient, sgd_step

Images = Callable[..., tuple[Tensor, ...]]
Perturb = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def literal_sfofusion(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    """benchmarks/literal_sfofusion.py: the released network, written as its description reads."""
    return benchmark_module("literal_sfofusion")


@pytest.fixture
def fuser(perturb: Perturb) -> Any:
    return perturb(SFOFusion())


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# ---- as published: sizes, exactness ----------------------------------------------------------------------------------


def test_parameters_of_the_published_network() -> None:
    net = PublishedSFOFusion()
    assert count(net) == 78_047
    assert (count(net.separation), count(net.gains), count(net.align)) == (27_301, 51, 2_625)
    assert count(net.query, net.key, net.value, net.phase) == 225
    assert (count(net.clues, net.amplitude), count(net.unused), count(net.gate)) == (3_405, 1_473, 2)
    assert count(net.analyse_visible) == count(net.analyse_infrared) == 10_641
    assert count(net.strength_visible) == count(net.strength_infrared) == 1_522
    assert (count(net.edges), count(net.extract1, net.extract2), count(net.output)) == (68, 9_888, 7_393)


def test_operations_of_the_published_network(literal_sfofusion: ModuleType) -> None:
    assert gflops(PublishedSFOFusion().eval()) == pytest.approx(33.40, rel=0.02)
    with torch.no_grad():
        a = torch.zeros(1, 1, 48, 64)
        with FlopCounterMode(display=False) as counter:
            literal_sfofusion.LiteralSFOFusion().eval()(a, a)
    assert counter.get_total_flops() * 100 / 1e9 == pytest.approx(33.40, rel=0.03)  # a hundredth of the pixels


@pytest.mark.parametrize("training", [False, True])
def test_the_published_network_is_the_literal_one(
    literal_sfofusion: ModuleType, perturb: Perturb, images: Images, training: bool
) -> None:
    theirs, ours = perturb(literal_sfofusion.LiteralSFOFusion(), 3), PublishedSFOFusion()
    ours.load_state_dict(theirs.state_dict())
    a, b = images(37, 52, batch=2)
    with torch.no_grad():
        expected = theirs.train(training)(a, b)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.train(training)(a, b), expected, rtol=0, atol=1e-5)
    moved = theirs.state_dict()  # the statistics of the normalisations too
    for name, x in ours.state_dict().items():
        torch.testing.assert_close(x, moved[name], rtol=1e-5, atol=1e-5)


# ---- as published: the defects ---------------------------------------------------------------------------------------


def test_published_frequencies_are_nearly_nothing(images: Images) -> None:
    torch.manual_seed(0)
    a, b = images(64, 80, batch=2)
    x = PublishedSFOFusion().train().mixture(a, b)
    assert x.std() < 0.02 < 0.2 < a.std()
    assert ((a - x).abs() - a).abs().mean() < 0.02, "the differences are the sources"


def test_published_split_and_unused_parameters_do_nothing(perturb: Perturb, images: Images) -> None:
    net = perturb(PublishedSFOFusion()).train()
    a, b = images(16, 16, batch=2)
    (net(a, b) - torch.maximum(a, b)).square().mean().backward()
    for name in ("tau", "steepness"):
        grad = net.get_parameter(f"separation.{name}").grad
        assert grad is not None and grad.abs().max() == 0
    dead = {name for name, p in net.named_parameters() if p.grad is None}
    assert dead == {name for name, _ in net.named_parameters() if name.startswith("unused")}


def test_published_bands_are_not_rings_around_the_mean() -> None:
    band = published_bands(480, 321, torch.zeros(1))
    assert band[0, 0] == 5 and band[240, 160] == 0
    shares = [float((band == k).double().mean()) * 100 for k in range(6)]
    assert shares == pytest.approx([0.9, 3.4, 7.7, 14.6, 25.6, 47.8], abs=0.06)


def test_published_cosines_of_a_constant_are_all_there() -> None:
    constant = torch.full((1, 1, 16, 16), 0.5, dtype=torch.float64)
    assert int((cosines(constant).abs() > 1e-6).sum()) == 256


def test_published_gate_is_a_square(perturb: Perturb, images: Images) -> None:
    """x <- (1 - a) x + a y x^2: with all of it gated, an image of half the values has a quarter of the result."""
    net: Any = perturb(PublishedSFOFusion())
    with torch.no_grad():
        net.gate_share.fill_(50.0)
        for layer in (net.gate[0], net.gate[2]):
            layer.weight.zero_()
    a, b = images(12, 12)
    gated = net.mixture(a, b)
    with torch.no_grad():
        net.gate_share.fill_(-50.0)
    torch.testing.assert_close(gated, 0.5 * net.mixture(a, b).square(), rtol=1e-4, atol=1e-9)


def test_published_angles_are_lengths(
    fuser: Any, perturb: Perturb, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same phases with whole turns added give another mixture; the repaired network knows no angles."""
    a, b = images(24, 20)
    published: Any = perturb(PublishedSFOFusion())
    with torch.no_grad():
        before, ours = published.mixture(a, b), fuser(a, b)
        monkeypatch.setattr(Tensor, "angle", lambda z: torch.angle(z) + 2 * torch.pi)
        assert (published.mixture(a, b) - before).std() > 0.1 * before.std()
        assert torch.equal(fuser(a, b), ours)


def test_the_published_network_takes_bfloat16(perturb: Perturb, images: Images) -> None:
    a, b = (x.bfloat16() for x in images(21, 18))
    fused = perturb(PublishedSFOFusion()).bfloat16()(a, b)
    assert (fused.shape, fused.dtype) == (a.shape, torch.bfloat16) and fused.isfinite().all()


def test_published_image_depends_on_its_batch_mates(perturb: Perturb, images: Images) -> None:
    net = perturb(PublishedSFOFusion())
    a, b = images(24, 17, batch=2)
    with torch.no_grad():
        alone, together = net(a[:1], b[:1]), net(a, b)
    assert (together[:1] - alone).abs().max() > 1e-5
    assert float(together.min()) == 0 and float(together.max()) == pytest.approx(1, abs=1e-4)


def test_published_loss_has_two_dead_scalars(perturb: Perturb, images: Images) -> None:
    objective = perturb(PublishedSFOFusionLoss()).double()
    fused, a, b = (x.double() for x in images(16, 16, batch=2, count=3))
    total(objective(fused, a, b)).backward()
    grads = {name: objective.get_parameter(f"generator.{name}").grad for name in ("beta", "eta", "lam", "sigma")}
    assert all(g is not None for g in grads.values())
    assert float(grads["lam"].abs()) < 1e-15 and float(grads["sigma"].abs()) < 1e-15  # type: ignore[union-attr]
    assert float(grads["beta"].abs()) > 1e-9 < float(grads["eta"].abs())  # type: ignore[union-attr]
    middle = (a + b) / 2
    one = torch.ones(1, dtype=torch.float64)
    difference = energy(middle - a, 0.5 * one, one) - energy(middle - b, 0.5 * one, one)
    assert difference.abs().max() < 1e-15


def variation_by_autograd(w: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    variation = sum((w.diff(dim=dim).square() + 1e-6).sqrt().sum() for dim in (2, 3))
    (gradient,) = torch.autograd.grad(variation, w)  # type: ignore[arg-type]
    return gradient


def cosine(x: Tensor, y: Tensor) -> float:
    return float(F.cosine_similarity(x.detach().flatten(), y.detach().flatten(), dim=0))


def test_the_variation_falls_repaired_and_rises_published(images: Images) -> None:
    (w,) = (x.double() for x in images(9, 12, count=1))
    exact = variation_by_autograd(w)
    torch.testing.assert_close(variation_gradient(w), exact, rtol=0, atol=1e-12)
    assert cosine(variation_gradient(w), exact) == pytest.approx(1, abs=1e-12)

    generator = PublishedLossGenerator().double()
    logit = torch.logit(w.clamp(0.01, 0.99))
    slope = generator.slope(logit, w, w, None) / generator.beta
    assert cosine(slope, variation_by_autograd(torch.sigmoid(logit))) == pytest.approx(-1, abs=1e-3)


# ---- repaired: size --------------------------------------------------------------------------------------------------


def test_the_repaired_network_keeps_the_promise_of_its_abstract() -> None:
    """A quarter fewer parameters and 30 % less computation than the published systems of this package."""
    fuser = SFOFusion()
    assert count(fuser) == 23_873
    assert (count(fuser.frequency), count(fuser.space)) == (3_587, 20_286)
    flops = gflops(fuser)
    assert flops == pytest.approx(12.6, rel=0.02)
    tdfusion = 36.97
    assert count(fuser) < 0.75 * count(TDFusion()) < 0.75 * 124_083 and flops < 0.7 * tdfusion < 0.7 * 60.68
    assert not [m for m in fuser.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


# ---- repaired: spectra -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (5, 8), (6, 9)])
def test_amplitude_times_phasor_is_the_spectrum(images: Images, size: tuple[int, int]) -> None:
    (x,) = (y.double() for y in images(*size, batch=2, count=1))
    z = spectrum(x)
    torch.testing.assert_close(image(amplitude(z) * phasor(z), *size), x, rtol=0, atol=1e-12)
    weights = torch.full((size[1] // 2 + 1,), 2.0, dtype=torch.float64)
    weights[0] = 1
    if size[1] % 2 == 0:
        weights[-1] = 1
    energies = (z.abs().square() * weights).sum((1, 2, 3))
    torch.testing.assert_close(energies, x.square().sum((1, 2, 3)))


def test_what_is_no_spectrum_of_an_image_is_left_out() -> None:
    """The transform of the image made of any numbers is the nearest spectrum: doing it twice changes nothing."""
    for size in ((6, 8), (5, 7), (1, 1), (4, 1)):
        z = torch.randn(1, 1, size[0], size[1] // 2 + 1, dtype=torch.complex128)
        x = image(z, *size)
        torch.testing.assert_close(image(spectrum(x), *size), x, rtol=0, atol=1e-12)


def test_nothing_has_a_derivative_too() -> None:
    z = torch.zeros(1, 1, 2, 3, dtype=torch.complex128, requires_grad=True)
    (amplitude(z).sum() + phasor(z).real.sum()).backward()
    assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (480, 640), (13, 8)])
def test_bands_are_rings_and_share_everything(size: tuple[int, int]) -> None:
    bands = radial_bands(6, *size, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(bands.sum(0), torch.ones_like(bands[0]))
    assert bands[:, 0, 0].tolist() == [1, 0, 0, 0, 0, 0]
    if min(size) > 8:
        assert bands[5, size[0] // 2, -1] > 0.9 and bands[:, size[0] // 2, -1].argmax() == 5
        torch.testing.assert_close(bands[:, 1:], bands[:, 1:].flip(1))  # frequencies y and -y


def test_four_cosines_are_those_of_a_whole_transform(images: Images) -> None:
    (x,) = (y.double() for y in images(6, 9, count=1))

    def matrix(n: int) -> Tensor:
        rows = [[math.cos(math.pi * (2 * i + 1) * k / (2 * n)) for i in range(n)] for k in range(n)]
        scale = torch.tensor([1 / n] + [2 / n] * (n - 1), dtype=torch.float64).sqrt()
        return torch.tensor(rows, dtype=torch.float64) * scale[:, None]

    whole = matrix(6) @ x[0, 0] @ matrix(9).T
    assert torch.allclose(matrix(9) @ matrix(9).T, torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(low_cosines(x)[0], whole[:2, :2].flatten() / (6 * 9) ** 0.5)
    assert int((matrix(6) @ torch.full((6, 9), 0.5, dtype=torch.float64) @ matrix(9).T > 1e-9).sum()) == 1
    assert int((low_cosines(torch.full((1, 1, 6, 9), 0.5)).abs() > 1e-6).sum()) == 1


def test_a_phasor_turns_the_shorter_way() -> None:
    def at(degrees: float) -> Tensor:
        return torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor([math.radians(degrees)]).double())

    def angle(p: Tensor) -> float:
        return math.degrees(float(p.angle()))

    half, whole, none = (torch.full((1,), x, dtype=torch.float64) for x in (0.5, 1.0, 0.0))
    assert abs(angle(rotate_phasor(at(170), at(-170), half))) == pytest.approx(
        180, abs=1e-4
    )  # the mean of angles says 0
    assert angle(rotate_phasor(at(20), at(60), half)) == pytest.approx(40, abs=1e-4)
    assert angle(rotate_phasor(at(20), at(60), whole)) == pytest.approx(60, abs=1e-4)
    assert angle(rotate_phasor(at(20), at(60), none)) == pytest.approx(20, abs=1e-4)


def test_multiples_of_a_whole_turn_cannot_be_told_apart() -> None:
    """A linear map of angles gives another phase for phi + 2 pi; the phase of a sum of phasors does not."""
    generator = torch.Generator().manual_seed(0)
    phi, psi, alpha = (torch.rand(50, generator=generator, dtype=torch.float64) * 6 - 3 for _ in range(3))
    turns = torch.randint(-2, 3, (50,), generator=generator).double() * 2 * torch.pi

    def mixed(phi: Tensor) -> Tensor:
        one = torch.ones_like(phi)
        return rotate_phasor(torch.polar(one, phi), torch.polar(one, psi), torch.sigmoid(alpha))

    assert (turns != 0).any()
    torch.testing.assert_close(mixed(phi + turns), mixed(phi), rtol=0, atol=1e-9)


# ---- repaired: the network -------------------------------------------------------------------------------------------


def test_an_untrained_mixture_is_an_image(images: Images) -> None:
    """All shares one half: phase of the sum, mean of the amplitudes; contrasted as the sources, as bright as both."""
    net = SFOFusion().frequency
    with torch.no_grad():
        for branch in (net.align, net.fuse_phase, net.fuse_amplitude):
            branch[2].weight.zero_()
            branch[2].bias.fill_(0.0)
        net.align[2].bias.fill_(-50.0)
        net.gains.strength.fill_(-50.0)
        net.gate.share.fill_(-50.0)
    a, b = images(64, 80)
    x, _ = net(a, b, net.separation.sum_features(torch.cat([a, b]), WHOLE))
    assert float(x.detach().mean()) == pytest.approx(float((a.mean() + b.mean()) / 2), abs=1e-3)
    assert 0.8 < float(x.detach().std() / a.std()) < 1.2
    assert cosine(x.detach() - x.detach().mean(), (a + b) - (a + b).mean()) > 0.9
    same, _ = net(a, a, net.separation.sum_features(torch.cat([a, a]), WHOLE))
    torch.testing.assert_close(same, a, rtol=0, atol=1e-5)


def test_an_untrained_result_is_a_mixture(images: Images) -> None:
    a, b = images(48, 56)
    for seed in range(3):
        torch.manual_seed(seed)
        fused = SFOFusion()(a, b).detach()
        both = (a + b) / 2
        assert cosine(fused - fused.mean(), both - both.mean()) > 0.7
        assert fused.std() > 0.5 * both.std()


def test_mask_and_gains_are_alive(fuser: Any, images: Images) -> None:
    a, b = images(24, 24)
    before = fuser(a, b).detach()
    for parameter in (fuser.frequency.separation.tau, fuser.frequency.separation.steepness):
        with torch.no_grad():
            parameter.add_(1.0)
            assert (fuser(a, b) - before).abs().max() > 1e-4
            parameter.sub_(1.0)
    with torch.no_grad():
        fuser.frequency.gains.strength.add_(1.0)
        assert (fuser(a, b) - before).abs().max() > 1e-4


def test_the_compensation_answers_to_differences(fuser: Any, images: Images) -> None:
    a, b, x = images(20, 20, count=3)
    scene = torch.zeros(1, 32)
    space = fuser.space
    with torch.no_grad():
        before = space.compensate(a, b, x, scene)
        x2 = x.clone()
        x2[..., 10, 10] += 0.3
        moved = (space.compensate(a, b, x2, scene) - before).abs().amax(1)[0]
        assert moved[10, 10] > 1e-4
        far = torch.ones(20, 20, dtype=torch.bool)
        far[10 - 8 : 10 + 9, 10 - 8 : 10 + 9] = False
        assert moved[far].max() == 0
        space.strength.fill_(-50.0)  # no strength, no compensation
        assert space.compensate(a, b, x, scene).abs().max() < 1e-12


@pytest.mark.parametrize("thin", [0, 2])
def test_every_halo_is_needed(fuser: Any, images: Images, thin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes are exact, and would not be with less."""
    fuser.double()
    a, b = (x.double() for x in images(97, 40))
    whole = fuser(a, b).detach()
    stages = [replace(stage, stripe_px=1) for stage in fuser.stages()]
    monkeypatch.setattr(fuser, "stages", lambda: stages)
    with torch.inference_mode():
        assert (fuser(a, b) - whole).abs().max() < 1e-12
        stages[thin] = replace(stages[thin], halo=stages[thin].halo - 1)
        assert (fuser(a, b) - whole).abs().max() > 1e-12


@pytest.mark.parametrize("halo", [4, 3])
def test_large_spectra_are_worked_in_blocks(
    fuser: Any, images: Images, halo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 64 rows are exact with four rows around them, and would not be with three."""
    fuser.double()
    a, b = (x.double() for x in images(150, 20))
    whole = fuser(a, b).detach()
    monkeypatch.setattr(sfofusion, "_SPECTRUM_PX", 1)
    monkeypatch.setattr(sfofusion, "_SPECTRUM_HALO", halo)
    with torch.inference_mode():
        assert ((fuser(a, b) - whole).abs().max() < 1e-12) == (halo == 4)


def test_forward_mode_equals_finite_differences(fuser: Any, derivatives: Images) -> None:
    out, plain, u, difference = derivatives(fuser.double())
    assert torch.equal(out, plain) and u.abs().max() > 0.1
    assert (u - difference).norm() / u.norm() < 1e-6


def test_black_and_white_have_derivatives(images: Images) -> None:
    fuser = SFOFusion()
    black, white = torch.zeros(1, 1, 6, 7), torch.ones(1, 1, 6, 7)
    for a, b in ((black, black), (white, white), (black, white)):
        fuser.zero_grad()
        fuser(a, b).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in fuser.parameters())


# ---- repaired: the loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SFOFusionLoss, PublishedSFOFusionLoss])
def test_weights_are_shares(perturb: Perturb, images: Images, make: Any) -> None:
    objective: Any = perturb(make())
    assert count(objective) == count(objective.generator) == 5_097
    a, b = images(13, 9, batch=2)
    w = objective.weights(a, b)
    assert w.shape == (2, 2, 13, 9) and float(w.detach().min()) > 0
    torch.testing.assert_close(w.sum(1), torch.ones(2, 13, 9))
    assert w.std() > 0.02 and set(objective(a, a, b)) == {"intensity", "gradient"}


def test_every_weight_of_the_repaired_loss_moves(perturb: Perturb, images: Images) -> None:
    for objective in (perturb(SFOFusionLoss()), SFOFusionLoss()):  # anywhere, and at the start
        fused, a, b = images(16, 16, batch=2, count=3)
        total(objective(fused, a, b)).backward()
        for name in ("beta", "eta", "lam", "sigma"):
            grad = objective.get_parameter(f"generator.{name}").grad
            assert grad is not None and grad.abs().max() > 1e-9, name
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_the_brighter_source_has_the_lower_energy(images: Images) -> None:
    """Against max(a, b): without a logit, w_a is above one half where a is the brighter."""
    objective = SFOFusionLoss()
    nn.init.zeros_(objective.generator.output[2].weight)
    nn.init.zeros_(objective.generator.output[2].bias)
    a, b = images(16, 16)
    w = objective.weights(a, b)[:, :1]
    assert (w[a > b + 0.01] > 0.5).all() and (w[b > a + 0.01] < 0.5).all()


@pytest.mark.parametrize("scale", [1e-7, 1.0])
def test_a_task_gets_more_of_the_source_it_asks_for(perturb: Perturb, images: Images, scale: float) -> None:
    """A task that wants the image brighter has a negative gradient: more of the brighter source, at any scale."""
    objective: Any = perturb(SFOFusionLoss())
    with torch.no_grad():
        objective.generator.eta.fill_(0.5)
    a, b = images(16, 16, batch=2)
    brighter = torch.full_like(a, -scale)
    moved = objective.weights(a, b, task_grad=brighter)[:, :1] - objective.weights(a, b)[:, :1]
    assert (moved[a > b + 0.01] > 0).all() and (moved[b > a + 0.01] < 0).all()
    darker = objective.weights(a, b, task_grad=-brighter)[:, :1] - objective.weights(a, b)[:, :1]
    assert (darker * moved <= 0).all()
    fused = torch.maximum(a, b)
    assert objective(fused, a, b, task_grad=brighter)["intensity"] < objective(fused, a, b)["intensity"]
    assert objective.weights(a, b, task_grad=torch.zeros_like(a)).isfinite().all()


def test_centred_weights_cannot_want_one_source_everywhere(images: Images) -> None:
    a, b = images(16, 16)
    for make, no_variation in ((SFOFusionLoss, -50.0), (PublishedSFOFusionLoss, 0.0)):
        torch.manual_seed(0)
        plain, centred = (make(centred=c).eval() for c in (False, True))
        centred.load_state_dict(plain.state_dict())
        before, centred_before = plain.weights(a, b), centred.weights(a, b)
        with torch.no_grad():
            for objective in (plain, centred):
                objective.generator.output[2].bias.add_(3.0)
                objective.generator.beta.fill_(no_variation)
        assert float((plain.weights(a, b) - before)[:, 0].detach().mean()) > 0.2
        logits = torch.logit(centred.weights(a, b)[:, 0].detach())
        assert float(logits.mean()) == pytest.approx(0, abs=1e-4)
        assert (centred.weights(a, b) - centred_before).abs().max() < 0.02


def test_alpha_and_beta_weigh_their_terms(images: Images) -> None:
    fused, a, b = images(8, 8, count=3)
    torch.manual_seed(0)
    one = SFOFusionLoss()
    other = SFOFusionLoss(alpha=3.0, beta=0.5)
    other.load_state_dict(one.state_dict())
    first, second = one(fused, a, b), other(fused, a, b)
    assert float(second["gradient"]) == pytest.approx(3 * float(first["gradient"]), rel=1e-6)
    assert float(second["intensity"].detach()) == pytest.approx(0.5 * float(first["intensity"].detach()), rel=1e-6)


def test_published_weights_are_squared(images: Images) -> None:
    fused, a, b = images(8, 8, count=3)
    objective = PublishedSFOFusionLoss().eval()
    w = objective.weights(a, b)
    expected = sum(((w[:, k : k + 1] * (x - fused)).square()).mean() for k, x in ((0, a), (1, b)))
    torch.testing.assert_close(objective(fused, a, b)["intensity"], expected)


class Likes:
    """A task that wants the image, seen through a fixed random filter, to be the target."""

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        taps = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(9)).to(fused)
        return F.mse_loss(*(F.conv2d(x, taps, padding=1).tanh() for x in (fused, target)))


@pytest.mark.parametrize("centred", [False, True])
def test_what_the_task_teaches_is_exact(perturb: Perturb, images: Images, centred: bool) -> None:
    fuser, objective = perturb(SFOFusion(), 1).double().train(), SFOFusionLoss(centred=centred).double().train()
    a, b, target = (x.double() for x in images(12, 12, batch=2, count=3, seed=3))
    pairs = Pair(a[:1], b[:1]), Pair(a[1:], b[1:], target=target[1:])
    forward, reverse = (
        hypergradient(fuser, objective, Likes(), *pairs, step=sgd_step(0.05), method=method).gradient  # type: ignore[arg-type]
        for method in ("forward", "reverse")
    )
    largest = max(float(g.abs().max()) for g in reverse.values())
    assert largest > 0
    assert max(float((forward[k] - g).abs().max()) for k, g in reverse.items()) < 1e-10 * largest
    for name in ("beta", "eta", "lam", "sigma"):
        assert float(reverse[f"generator.{name}"].abs()) > 1e-8 * largest, name
