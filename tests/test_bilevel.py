"""The hypergradient: equal to double backward, to the closed form, and to what the optimiser really does."""

import copy
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.models import SYSTEMS
from tectum.models.adasffuse_published import PublishedAdaSFFuse
from tectum.models.tdfusion import LossGenerator, PublishedTDFusion, PublishedTDFusionLoss, TDFusion, TDFusionLoss
from tectum.pair import Pair
from tectum.pretrained.conversion import TDFUSION_KEYS
from tectum.tasks import TASKS
from tectum.training.bilevel import HyperGradient, InnerOptimizer, adam_step, hypergradient, sgd_step
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer

SIZE = 12


class Likes:
    """A task that wants the image, seen through a fixed random filter, to be the target."""

    def __init__(self, dtype: torch.dtype, *, dropout: float = 0.0) -> None:
        self.filter = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(9)).to(dtype)
        self.dropout = dropout

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        seen = F.dropout(F.conv2d(fused, self.filter, padding=1).tanh(), self.dropout)
        return F.mse_loss(seen, F.conv2d(target, self.filter, padding=1).tanh())

    def predict(self, fused: Tensor) -> Tensor:
        return fused


class Unsteady(nn.Module):
    """A fuser with BatchNorm and dropout: both must draw, and leave, what they should."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 1, 1)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = F.dropout(torch.tanh(self.norm(self.first(torch.cat([a, b], 1)))), 0.3, self.training)
        return torch.sigmoid(self.last(x))


Images = Callable[..., tuple[Tensor, ...]]
Case = tuple[nn.Module, nn.Module, Likes, Pair, Pair]


@pytest.fixture
def case(images: Callable[..., tuple[Tensor, ...]], perturb: Callable[..., nn.Module]) -> Callable[..., Case]:
    """A fuser, TDFusion's loss with a small generator, a task and two pairs."""

    def make(fuser: str = "tdfusion", dtype: torch.dtype = torch.float64, variant: str = "repaired") -> Case:
        torch.manual_seed(0)
        network = perturb(TDFusion(8), 1) if fuser == "tdfusion" else Unsteady()
        make = PublishedTDFusionLoss if variant == "published" else TDFusionLoss
        objective = make(perturb(LossGenerator(8), 2))
        a, b, target = (x.to(dtype) for x in images(SIZE, SIZE, batch=2, count=3, seed=3))
        pairs = Pair(a[:1], b[:1]), Pair(a[1:], b[1:], target=target[1:])
        return network.to(dtype).train(), objective.to(dtype), Likes(dtype, dropout=0.2), *pairs

    return make


def steps(fuser: nn.Module, kind: str) -> InnerOptimizer:
    """Plain SGD, or Adam that has taken a step already."""
    if kind == "sgd":
        return sgd_step(0.05)
    optimizer = torch.optim.Adam(fuser.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(4)
    before = copy.deepcopy(fuser.state_dict())
    for p in fuser.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p) * 1e-2
    optimizer.step()
    fuser.load_state_dict(before)
    optimizer.zero_grad()
    return adam_step(optimizer, fuser)


def apart(one: HyperGradient, two: HyperGradient) -> float:
    """The largest difference of two hypergradients, relative to the largest entry."""
    largest = max(float(g.abs().max()) for g in two.gradient.values())
    assert largest > 0
    return max(float((one.gradient[k] - g).abs().max()) for k, g in two.gradient.items()) / largest


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("fuser", ["tdfusion", "unsteady"])
@pytest.mark.parametrize("variant", ["repaired", "published"])
def test_forward_equals_reverse(case: Callable[..., Case], fuser: str, kind: str, variant: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        given = case(fuser, dtype, variant)
        forward, reverse = (hypergradient(*given, step=steps(given[0], kind), method=m) for m in ("forward", "reverse"))
        assert forward.gradient.keys() == dict(given[1].named_parameters()).keys()
        assert apart(forward, reverse) < tolerance
        torch.testing.assert_close(forward.outer_loss, reverse.outer_loss)


@pytest.mark.parametrize("name", sorted(name for name, system in SYSTEMS.items() if system.learned))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_forward_equals_reverse_for_every_system(
    name: str, dtype: torch.dtype, tolerance: float, images: Callable[..., tuple[Tensor, ...]]
) -> None:
    """As published: SegFormer-B0 with its dropout and BatchNorm judges."""
    torch.manual_seed(0)
    system = SYSTEMS[name]
    assert system.learned is not None
    fuser, objective, task = system.fuser(), system.learned(), TASKS["segformer-b0"](("road", "car", "person"))
    networks = [network.to(dtype).train() for network in (fuser, objective, task)]
    a, b, c, d = (x.to(dtype) for x in images(32, 32, batch=2, count=4, seed=5))
    pairs = Pair(a[..., :SIZE, :SIZE], b[..., :SIZE, :SIZE]), Pair(c, d, target=(c[:, 0] * 2.99).long())
    forward, reverse = (
        hypergradient(*networks, *pairs, step=sgd_step(0.05), method=method, seed=4)
        for method in ("forward", "reverse")
    )
    assert apart(forward, reverse) < tolerance


def test_the_networks_as_published_have_the_same_hypergradient(
    literal: ModuleType, images: Callable[..., tuple[Tensor, ...]]
) -> None:
    """Fuser and generator written literally, differentiated twice, against ours: the first and last layers of G."""
    torch.manual_seed(0)
    ours = [PublishedTDFusion().double(), LossGenerator().double()]
    theirs = [literal.LiteralTDFusion().double(), literal.LiteralLossGenerator().double()]
    assert sum(p.numel() for p in theirs[1].parameters()) == 44_529
    names = {new: old for old, new in TDFUSION_KEYS.items()}
    for own, other in zip(ours, theirs, strict=True):
        state = {}
        for name, x in own.state_dict().items():
            prefix = max((p for p in names if name == p or name.startswith(p + ".")), key=len, default="")
            state[names.get(prefix, prefix) + name.removeprefix(prefix)] = x
        other.load_state_dict(state)
    a, b, target = (x.double() for x in images(SIZE, SIZE, batch=2, count=3, seed=3))
    pairs = Pair(a[:1], b[:1]), Pair(a[1:], b[1:], target=target[1:])
    forward, reverse = (
        hypergradient(
            fuser,
            PublishedTDFusionLoss(g),
            Likes(torch.float64),
            *pairs,
            step=sgd_step(0.05),
            method=method,
        ).gradient
        for (fuser, g), method in ((ours, "forward"), (theirs, "reverse"))
    )
    for one, other in (("embed_visible", "project_in_2"), ("output", "project_out_1"), ("decoder.0.attn.qkv",) * 2):
        expected = reverse[f"generator.{other}.weight"]
        largest = float(expected.abs().max())
        assert largest > 0
        torch.testing.assert_close(forward[f"generator.{one}.weight"], expected, rtol=0, atol=1e-8 * largest)


def test_finite_is_near(case: Callable[..., Case]) -> None:
    given = case()
    forward, finite = (hypergradient(*given, step=sgd_step(0.05), method=m) for m in ("forward", "finite"))
    assert 0 < apart(finite, forward) < 1e-2
    assert forward.image_gradient is not None and finite.image_gradient is not None
    assert F.cosine_similarity(forward.image_gradient.flatten(), finite.image_gradient.flatten(), dim=0) > 0.9999


class Shift(nn.Module):
    """f = theta everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.theta.expand_as(a)


class Aim(nn.Module):
    """L = (f - phi)^2 / 2."""

    def __init__(self, phi: float) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.tensor(phi, dtype=torch.float64))

    def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"aim": 0.5 * (fused - self.phi).square().mean()}


class Wants:
    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (fused - target).square().mean()

    def predict(self, fused: Tensor) -> Tensor:
        return fused


@pytest.mark.parametrize("method", ["forward", "reverse", "finite"])
def test_closed_form_on_a_quadratic(method: str) -> None:
    """theta' = theta - r (theta - phi), lesson = (theta' - y)^2 / 2, so d/dphi = r (theta' - y)."""
    theta, phi, y, rate = 0.3, 0.9, 0.7, 0.25
    x = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    train, test = Pair(x, x), Pair(x, x, target=torch.full_like(x, y))
    found = hypergradient(Shift(theta), Aim(phi), Wants(), train, test, step=sgd_step(rate), method=method)  # type: ignore[arg-type]
    ahead = theta - rate * (theta - phi)
    assert float(found.gradient["phi"]) == pytest.approx(rate * (ahead - y), rel=1e-9)
    assert float(found.outer_loss) == pytest.approx(0.5 * (ahead - y) ** 2, rel=1e-12)
    if found.image_gradient is not None:  # the task wants more than theta': brighter
        assert torch.allclose(found.image_gradient, torch.full_like(x, -rate * (ahead - y)))


def test_the_lesson_is_what_a_finite_change_of_the_loss_brings(case: Callable[..., Case]) -> None:
    fuser, objective, task, train, test = case("tdfusion")
    task.dropout = 0.0
    found = hypergradient(fuser, objective, task, train, test, step=sgd_step(0.05))
    direction = {name: torch.randn_like(p) for name, p in objective.named_parameters()}
    reach = 1e-5

    def moved(sign: float) -> float:
        other = copy.deepcopy(objective)
        with torch.no_grad():
            for name, p in other.named_parameters():
                p += sign * reach * direction[name]
        return float(hypergradient(fuser, other, task, train, test, step=sgd_step(0.05)).outer_loss)

    slope = sum(float((g * direction[name]).sum()) for name, g in found.gradient.items())
    assert (moved(1) - moved(-1)) / (2 * reach) == pytest.approx(slope, rel=1e-3)


def test_the_look_ahead_of_adam_is_the_step_adam_takes(case: Callable[..., Case]) -> None:
    fuser, *_ = case("tdfusion")
    optimizer = torch.optim.Adam(fuser.parameters(), lr=1e-3, betas=(0.8, 0.95), eps=1e-6)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):  # the first step has no moments, the others have
        theta = {name: p.detach().clone() for name, p in fuser.named_parameters()}
        g = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in theta.items()}
        step = adam_step(optimizer, fuser)(theta, g)
        for name, p in fuser.named_parameters():
            p.grad = g[name].clone()
        optimizer.step()
        for name, p in fuser.named_parameters():
            torch.testing.assert_close(theta[name] - step.offset[name] - step.scale[name] * g[name], p.detach())


@pytest.mark.parametrize("clip", [0.3, 1e6])
def test_the_look_ahead_of_a_trainer_is_its_next_fit_step(images: Images, clip: float) -> None:
    """With clipping: the weights that the outer loss sees are those after the fit step on the same crops."""
    torch.manual_seed(0)
    a, b, target = (x.double() for x in images(SIZE, SIZE, batch=2, count=3, seed=3))
    crops, labelled = Pair(a, b), Pair(a, b, target=target)
    fuser, objective = TDFusion(8).double(), TDFusionLoss(LossGenerator(8).double())
    schedule = Schedule(steps=9, meta_steps=1, lr=1e-2, warmup=0, clip=clip)

    class Sees(nn.Module):
        """Keeps the image of the look-ahead."""

        def loss(self, fused: Tensor, target: Tensor) -> Tensor:
            self.seen = fused.detach()
            return fused.square().mean()

    fuser.embed_visible.requires_grad_(False)  # a frozen part stays where it is
    trainer = Trainer(fuser, objective, Sees(), schedule)
    norms: list[float] = []

    def check(name: str, value: Tensor, batch: Pair) -> None:
        norms.extend([float(value.detach())] * (name == "norm of the gradient"))

    for step in range(3):
        trainer.set_rates(step, 0)
        trainer.fuser.train()
        objective.requires_grad_(True)
        trainer.hypergradient(crops, labelled, seed=0)
        seen = trainer.task.seen
        trainer.fit_step(crops, None, check)
        torch.testing.assert_close(fuser(a, b).detach(), seen, rtol=0, atol=1e-12)
    assert min(norms) > 0.3, "the smaller limit is in effect"


def test_finite_agrees_where_a_published_fuser_drops_out(images: Images) -> None:
    """Published AdaSFFuse: the passes of the difference, which need no gradient, must drop what the others drop."""
    torch.manual_seed(0)
    a, b, target = (x.double() for x in images(16, 16, batch=2, count=3, seed=3))
    pairs = Pair(a[:1], b[:1]), Pair(a[1:], b[1:], target=target[1:])
    fuser = PublishedAdaSFFuse().double().train()
    given = fuser, TDFusionLoss(LossGenerator(8).double()), Likes(torch.float64), *pairs
    finite, reverse = (hypergradient(*given, step=sgd_step(0.05), method=m) for m in ("finite", "reverse"))
    assert apart(finite, reverse) < 1e-6


@pytest.mark.parametrize("method", ["forward", "reverse", "finite"])
def test_nothing_is_changed(case: Callable[..., Case], method: str) -> None:
    fuser, objective, task, train, test = case("unsteady")
    before = [copy.deepcopy(module.state_dict()) for module in (fuser, objective)]
    state = torch.get_rng_state()
    hypergradient(fuser, objective, task, train, test, step=sgd_step(0.05), method=method)  # type: ignore[arg-type]
    for module, kept in zip((fuser, objective), before, strict=True):
        assert all(torch.equal(x, kept[name]) for name, x in module.state_dict().items())
        assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), state) and fuser.training


def test_what_cannot_be_learned_is_refused(case: Callable[..., Case]) -> None:
    fuser, objective, task, train, test = case()
    for change, words in (
        ({"objective": TDFusionLoss()}, "must have parameters to learn, TDFusionLoss has none"),
        ({"test": train}, "the test pair has no target"),
        ({"method": "backward"}, "must be one of forward, reverse, finite, got 'backward'"),
    ):
        given = {"objective": objective, "test": test, "method": "forward", **change}
        with pytest.raises(ValueError, match=words):
            hypergradient(fuser, task=task, train=train, step=sgd_step(0.1), **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without weight_decay and amsgrad"):
        adam_step(torch.optim.Adam(fuser.parameters(), weight_decay=0.1), fuser)
