"""Metrics as losses (gradients against finite differences), as modules, and inside a torchmetrics collection."""

import copy
import math
import pickle
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tectum.metrics import METRICS
from tectum.metrics.metric import Metric
from tectum.metrics.structure import SSIM

Images = Callable[..., tuple[Tensor, ...]]
COUNTING = {"EN", "MI", "NMI", "FMI", "CE", "Qncie", "TE"}
VARIANTS: dict[str, Callable[[], Metric]] = {
    **METRICS,
    **{f"FMI of {feature}": partial(METRICS["FMI"], feature=feature) for feature in ("gradient", "pixel", "dct")},
    "Nabf in the unit range": partial(METRICS["Nabf"], unit_range=True),
    "Qw of edges": partial(METRICS["Qw"], edges=True),
    "SSIM Gaussian": partial(METRICS["SSIM"], window="gaussian"),
    "Qabf periodic": partial(METRICS["Qabf"], periodic=True),
    "Qcv of smaller exponent": partial(METRICS["Qcv"], gamma=0.5),
    "SSIM sum": partial(METRICS["SSIM"], reduction="sum"),
}
DIFFERENTIABLE = [name for name in VARIANTS if name not in COUNTING]
ALONE = {"SD", "SF", "AG", "EI"}  # of the fused image only
SIZE = 176, 180
JUMPS = {  # finite differences see more of
    *("Nabf", "Nabf in the unit range", "VIFF"),  # a threshold, the choice of a source
    *("PSNR", "Qcb", "Qcv", "Qcv of smaller exponent"),  # the darkest or brightest pixels, of which there are many
    *("FMI of gradient", "FMI of pixel", "FMI of dct"),  # a flat window that begins to vary
    "Qg",  # a gradient that begins to turn
}


@pytest.fixture
def three(images: Images) -> tuple[Tensor, ...]:
    """Fused, a, b in float64, away from the ends of the range."""
    fused, a, b = (0.1 + 0.8 * x.double() for x in images(*SIZE, seed=1, count=3))
    return (fused + a + b) / 3, a, b


def directional(metric: Metric, three: tuple[Tensor, ...], i: int, direction: Tensor) -> tuple[float, float]:
    """The derivative along a direction of image i: of autograd, and of a central difference."""
    images = [x.clone() for x in three]
    images[i].requires_grad_()
    (gradient,) = torch.autograd.grad(metric(*images).sum(), images[i])
    assert gradient.isfinite().all() and gradient.dtype == three[i].dtype
    step = 1e-6
    moved = [[x + sign * step * direction if k == i else x for k, x in enumerate(three)] for sign in (1, -1)]
    ahead, behind = (float(metric(*x).sum()) for x in moved)
    return float((gradient * direction).sum()), (ahead - behind) / (2 * step)


@pytest.mark.parametrize(
    ("name", "i"), [(name, i) for name in DIFFERENTIABLE for i in (0, 1) if not (name in ALONE and i)]
)
def test_gradients_equal_finite_differences(name: str, i: int, three: tuple[Tensor, ...]) -> None:
    """Of the fused image and of a source, along a smooth direction."""
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(three[0].shape, generator=generator, dtype=torch.float64)
    direction = nn.functional.avg_pool2d(direction, 5, 1, 2)
    slope, difference = directional(VARIANTS[name](), three, i, direction)
    if name in JUMPS:
        assert slope != 0
    else:
        assert slope == pytest.approx(difference, rel=5e-3, abs=1e-7)


@pytest.mark.parametrize("name", ["Qg", "Qcb", "Qcv", "FMI of gradient", "FMI of pixel", "FMI of dct"])
@pytest.mark.parametrize("i", [0, 1])
def test_gradients_equal_finite_differences_where_nothing_jumps(name: str, i: int) -> None:
    """No two pixels alike: one is the darkest, one the brightest, and no window is flat."""
    generator = torch.Generator().manual_seed(2)
    three = tuple(0.1 + 0.8 * torch.rand(1, 1, 33, 40, generator=generator, dtype=torch.float64) for _ in range(3))
    direction = torch.randn(three[0].shape, generator=generator, dtype=torch.float64)
    slope, difference = directional(VARIANTS[name](), three, i, direction)
    assert slope == pytest.approx(difference, rel=2e-2)  # p log |p| is steep at 0


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_finite_where_formulas_divide_by_zero(name: str, images: Images) -> None:
    """Flat and black regions, pixels equal to a source, float32: one of them must not spoil the whole gradient."""
    a, b = images(*SIZE)
    a[..., :60, :60], b[..., :60, :60] = 0, 0
    a[..., 100:, 100:], b[..., 100:, 100:] = 0.5, 0.25
    fused = torch.maximum(a, b)
    for flat in (False, True):
        x = (torch.full_like(fused, 0.5) if flat else fused).clone().requires_grad_()
        values = VARIANTS[name]()(x, a.clone().requires_grad_(), b)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all() or values.isnan().all(), name


@pytest.mark.parametrize("name", VARIANTS)
def test_values_with_gradients_are_those_without(name: str, three: tuple[Tensor, ...]) -> None:
    metric = VARIANTS[name]()
    plain = metric(*three)
    assert not plain.requires_grad and not plain.is_inference()
    watched = metric(*(x.clone().requires_grad_() for x in three))
    torch.testing.assert_close(watched.detach(), plain, rtol=1e-12, atol=0)
    assert watched.requires_grad is metric.is_differentiable
    with torch.no_grad():
        assert torch.equal(metric(*(x.clone().requires_grad_() for x in three)), plain)
    with torch.inference_mode():
        assert torch.equal(metric(*three), plain)


def test_what_counts_has_no_gradient() -> None:
    assert {name for name in METRICS if not METRICS[name]().is_differentiable} == COUNTING
    assert SSIM().is_differentiable and not SSIM(truncate=True).is_differentiable
    for name in COUNTING:
        assert "Not differentiable." in str(METRICS[name].__doc__)


def test_a_metric_trains_an_image(images: Images) -> None:
    """Gradient descent on 1 - SSIM alone brings noise nearer to the sources."""
    a, b = images(32, 32)
    fused = nn.Parameter(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    optimizer, metric = torch.optim.Adam([fused], 0.05), SSIM()
    before = float(metric(fused.detach(), a, b))
    for _ in range(30):
        optimizer.zero_grad()
        (1 - metric(fused.clamp(0, 1), a, b)).mean().backward()
        optimizer.step()
    assert float(metric(fused.detach().clamp(0, 1), a, b)) > before + 0.2


def test_a_metric_is_a_module(three: tuple[Tensor, ...]) -> None:
    losses = nn.ModuleDict({"ssim": SSIM(), "vif": METRICS["VIF"]()})
    assert not list(losses.parameters()) and not losses.state_dict()
    metric = copy.deepcopy(losses["ssim"])
    assert torch.equal(pickle.loads(pickle.dumps(metric))(*three), losses["ssim"](*three))
    calls: list[Tensor] = []
    metric.register_forward_hook(lambda module, given, values: calls.append(values))
    assert torch.equal(metric(*three), calls[0])


# ---- torchmetrics ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def importable() -> None:
    from tectum.tasks.torchvision import ensure_torchvision

    ensure_torchvision()  # a torchvision built for another torch breaks the import of torchmetrics


@pytest.mark.filterwarnings("ignore")
def test_a_collection_of_all_metrics(images: Images) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    three = images(*SIZE, batch=3, seed=2, count=3)
    collection = torchmetrics.MetricCollection([METRICS[name]().to_torchmetrics() for name in METRICS])
    assert collection.update(*(x[:2] for x in three)) is None
    of_batch = collection(*(x[2:] for x in three))  # forward: the value of this batch, added to the rest
    total = collection.compute()
    assert set(total) == set(of_batch) == set(METRICS)
    for name, metric in METRICS.items():
        values = metric()(*three)
        assert total[name].shape == () and float(total[name]) == pytest.approx(float(values.mean())), name
        assert float(of_batch[name]) == pytest.approx(float(values[2])), name
        inside = collection[name]
        assert isinstance(inside, torchmetrics.Metric) and inside.full_state_update is False
        assert (inside.is_differentiable, inside.higher_is_better) == (name not in COUNTING, metric.higher_is_better)
    assert len(collection.compute_groups) == len(METRICS)
    collection.reset()
    assert collection(*three)["SSIM"] == pytest.approx(float(SSIM()(*three).mean()))


def test_options_names_and_copies_in_a_collection(images: Images) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    three = images(48, 48, batch=2, count=3)
    metrics = {"mean": SSIM().to_torchmetrics(), "sum": SSIM(reduction="sum").to_torchmetrics()}
    collection = torchmetrics.MetricCollection(metrics, prefix="test/")
    copies = [collection.clone(prefix="copy/"), pickle.loads(pickle.dumps(collection))]
    for one in (collection, *copies):
        one.update(*three)
        values = list(one.compute().values())
        assert float(values[1]) == pytest.approx(2 * float(values[0])) and float(values[0]) > 0
    assert set(collection.compute()) == {"test/mean", "test/sum"}


def test_equal_first_values_do_not_join_metrics(images: Images) -> None:
    """A collection computes metrics of equal state once; on a copy of equal sources CC, SSIM and VIF are all 1."""
    torchmetrics = pytest.importorskip("torchmetrics")
    names = ("CC", "SSIM", "VIF")
    collection = torchmetrics.MetricCollection([METRICS[name]().to_torchmetrics() for name in names])
    fused, a, b = images(48, 48, count=3)
    collection.update(a, a, a)
    collection.update(fused, a, b)
    for name, value in collection.compute().items():
        expected = float(METRICS[name]()(torch.cat([a, fused]), torch.cat([a, a]), torch.cat([a, b])).mean())
        assert float(value) == pytest.approx(expected, abs=1e-9)


def test_images_without_a_value_and_gradients_in_a_collection(images: Images) -> None:
    pytest.importorskip("torchmetrics")
    fused, a, b = images(48, 48, count=3)
    flat = torch.full_like(a, 0.3)
    metric = METRICS["CC"]().to_torchmetrics()
    metric.update(torch.cat([fused, fused]), torch.cat([a, flat]), torch.cat([b, b]))
    assert float(metric.compute()) == pytest.approx(float(METRICS["CC"]()(fused, a, b)))
    assert metric.num_undefined == 1  # type: ignore[attr-defined]
    metric.reset()
    metric.update(fused, flat, b)
    assert math.isnan(float(metric.compute()))

    loss = SSIM().to_torchmetrics()
    x = fused.clone().requires_grad_()
    loss(x, a, b).backward()
    expected = fused.clone().requires_grad_()
    SSIM()(expected, a, b).mean().backward()
    assert x.grad is not None and torch.equal(x.grad, expected.grad)
    assert not loss.compute().requires_grad


def test_without_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from tectum.metrics import adapter

    adapter._adapter_class.cache_clear()
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ValueError, match="needs torchmetrics: pip install torchmetrics"):
        SSIM().to_torchmetrics()
