"""The core metrics equal float64 loops written from their formulas, and keep the laws these imply."""

import math
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tectum.metrics import METRICS
from tectum.metrics.edges import Nabf, Qabf
from tectum.metrics.information import EN, MI, NMI
from tectum.metrics.metric import Metric
from tectum.metrics.statistics import AG, CC, MSE, PSNR, SCD, SD, SF
from tectum.metrics.structure import SSIM, VIF

Images = Callable[..., tuple[Tensor, ...]]
Array = np.ndarray[Any, np.dtype[np.float64]]
CORE = ("EN", "SD", "SF", "AG", "MI", "CC", "SCD", "PSNR", "MSE", "SSIM", "VIF", "Qabf", "NMI", "Nabf")


@pytest.fixture
def three(images: Images) -> tuple[Tensor, ...]:
    """Fused, a, b: three pairs, on 8-bit levels."""
    fused, a, b = images(96, 112, batch=3, seed=1, count=3)
    return tuple(x.mul(255).round().div(255) for x in ((fused + a + b) / 3, a, b))


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-7, equal_nan=True)


# ---- loops from the formulas -----------------------------------------------------------------------------------------


def loop_entropy(*images: Array) -> float:
    """In nats, of one image or of two together."""
    levels = [np.round(x).astype(int).ravel().tolist() for x in images]
    counts = Counter(zip(*levels, strict=True)).values()
    return -sum(n / len(levels[0]) * math.log(n / len(levels[0])) for n in counts)


def loop_mi(f: Array, s: Array) -> float:
    return loop_entropy(f) + loop_entropy(s) - loop_entropy(f, s)


def loop_nmi(f: Array, a: Array, b: Array) -> float:
    return sum(2 * loop_mi(f, s) / (loop_entropy(f) + loop_entropy(s)) for s in (a, b))


def loop_sf(f: Array) -> float:
    h, w = f.shape
    along = [(f[i, j] - f[i, j - 1]) ** 2 for i in range(h) for j in range(1, w)]
    down = [(f[i, j] - f[i - 1, j]) ** 2 for i in range(1, h) for j in range(w)]
    return math.sqrt(np.mean(along) + np.mean(down))


def loop_ag(f: Array) -> float:
    h, w = f.shape
    total = 0.0
    for i in range(h):
        for j in range(w):
            up, down, left, right = max(i - 1, 0), min(i + 1, h - 1), max(j - 1, 0), min(j + 1, w - 1)
            gy, gx = (f[down, j] - f[up, j]) / (down - up), (f[i, right] - f[i, left]) / (right - left)
            total += math.sqrt((gx * gx + gy * gy) / 2)
    return total / (h * w)


def loop_scd(f: Array, a: Array, b: Array) -> float:
    return float(np.corrcoef(a.ravel(), (f - b).ravel())[0, 1] + np.corrcoef(b.ravel(), (f - a).ravel())[0, 1])


def loop_ssim(f: Array, s: Array, data_range: float = 255.0) -> float:
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(f.shape[0] - 6):
        for j in range(f.shape[1] - 6):
            x, y = f[i : i + 7, j : j + 7].ravel(), s[i : i + 7, j : j + 7].ravel()
            cov = np.cov(x, y)
            top = (2 * x.mean() * y.mean() + c1) * (2 * cov[0, 1] + c2)
            values.append(top / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    return float(np.mean(values))


def loop_vif(f: Array, s: Array) -> float:
    above = below = 0.0
    for size in (17, 9, 5, 3):
        window = np.array([[math.exp(-(y * y + x * x) / 2 / (size / 5) ** 2) for x in span(size)] for y in span(size)])
        window /= window.sum()
        h, w = (n - size + 1 for n in f.shape)
        if size < 17:
            f, s = (
                np.array(
                    [[np.sum(window * x[i : i + size, j : j + size]) for j in range(0, w, 2)] for i in range(0, h, 2)]
                )
                for x in (f, s)
            )
            h, w = (n - size + 1 for n in f.shape)
        for i in range(h):
            for j in range(w):
                x, y = f[i : i + size, j : j + size], s[i : i + size, j : j + size]
                x, y = x - np.sum(window * x), y - np.sum(window * y)
                var_f, var_s, cov = np.sum(window * x * x), np.sum(window * y * y), np.sum(window * x * y)
                gain = max(0.0, cov / var_s)
                above += math.log(1 + gain**2 * var_s / (var_f - gain * cov + 2))
                below += math.log(1 + var_s / 2)
    return above / below


def span(size: int) -> range:
    return range(-(size // 2), size // 2 + 1)


def gradient(x: Array, i: int, j: int, mode: str) -> tuple[float, float]:
    """Strength and angle of the Sobel gradient."""
    p = np.pad(x, 1, mode=mode)[i : i + 3, j : j + 3]  # type: ignore[call-overload]
    gx = p[0, 2] + 2 * p[1, 2] + p[2, 2] - p[0, 0] - 2 * p[1, 0] - p[2, 0]
    gy = p[0, 0] + 2 * p[0, 1] + p[0, 2] - p[2, 0] - 2 * p[2, 1] - p[2, 2]
    return math.hypot(gx, gy), math.pi / 2 if gx == 0 else math.atan(gy / gx)


def loop_qabf(f: Array, a: Array, b: Array, periodic: bool = False) -> float:
    above = below = 0.0
    for i in range(f.shape[0]):
        for j in range(f.shape[1]):
            g, angle = gradient(f, i, j, "constant")
            for s in (a, b):
                gs, angle_s = gradient(s, i, j, "constant")
                ratio = g if g == gs else min(g, gs) / max(g, gs)
                alignment = 1 - abs(angle - angle_s) / (math.pi / 2)
                alignment = abs(alignment) if periodic else alignment
                q = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + math.exp(-22 * (alignment - 0.8)))
                above, below = above + q * gs, below + gs
    return above / below


def loop_nabf(f: Array, a: Array, b: Array) -> float:
    above = below = 0.0
    for i in range(f.shape[0]):
        for j in range(f.shape[1]):
            g, angle = gradient(f / 8, i, j, "reflect")
            sources = [gradient(s / 8, i, j, "reflect") for s in (a, b)]
            for gs, angle_s in sources:
                ratio = min(g, gs) / max(g, gs) if g and gs else 0.0
                alignment = abs(abs(angle - angle_s) - math.pi / 2) * 2 / math.pi
                in_strength = 0.9999 / (1 + math.exp(-19 * (ratio - 0.5)))
                in_direction = 0.9995 / (1 + math.exp(-22 * (alignment - 0.5)))
                weight = gs**1.5 if gs >= 2 else 0.001
                above += (
                    (1 - math.sqrt(in_strength * in_direction)) * weight * (g > max(gs for gs, _ in sources) + 1e-9)
                )
                below += weight
    return above / below


def both(loop: Callable[..., float], **options: Any) -> Callable[..., float]:
    return lambda f, a, b: (loop(f, a, **options) + loop(f, b, **options)) / 2


LOOPS: dict[str, tuple[Metric, Callable[..., float]]] = {
    "EN": (EN(), lambda f, a, b: loop_entropy(f) / math.log(2)),
    "SD": (SD(), lambda f, a, b: math.sqrt(sum((f.ravel() - f.mean()) ** 2) / f.size)),
    "SF": (SF(), lambda f, a, b: loop_sf(f)),
    "AG": (AG(), lambda f, a, b: loop_ag(f)),
    "MI": (MI(), both(loop_mi)),
    "NMI": (NMI(), loop_nmi),
    "CC": (CC(), both(lambda f, s: float(np.corrcoef(f.ravel(), s.ravel())[0, 1]))),
    "SCD": (SCD(), loop_scd),
    "MSE": (MSE(), both(lambda f, s: float(np.mean((f - s) ** 2)))),
    "PSNR": (
        PSNR(),
        lambda f, a, b: 10 * math.log10(f.max() ** 2 / (np.mean((f - a) ** 2) + np.mean((f - b) ** 2)) * 2),
    ),
    "PSNR, peak 255": (
        PSNR(peak=255),
        lambda f, a, b: 20 * math.log10(255 / math.sqrt((np.mean((f - a) ** 2) + np.mean((f - b) ** 2)) / 2)),
    ),
    "SSIM": (SSIM(), both(loop_ssim)),
    "SSIM, range 2": (SSIM(data_range=2), both(loop_ssim, data_range=2)),
    "VIF": (VIF(), both(loop_vif)),
    "Qabf": (Qabf(), loop_qabf),
    "Qabf, periodic": (Qabf(periodic=True), lambda f, a, b: loop_qabf(f, a, b, periodic=True)),
    "Nabf": (Nabf(), loop_nabf),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("whole_levels", [True, False])
def test_loops(name: str, whole_levels: bool, images: Images) -> None:
    metric, loop = LOOPS[name]
    size = (45, 43) if name == "VIF" else (17, 14)
    fused, a, b = (x.double() for x in images(*size, seed=3, count=3))
    fused = (fused + a + b) / 3
    if whole_levels:
        fused, a, b = (x.mul(255).round().div(255) for x in (fused, a, b))
    f, x, y = ((image[0, 0] * 255).numpy() for image in (fused, a, b))
    if whole_levels:
        f, x, y = (np.round(image) for image in (f, x, y))
    # MSE, and sums of squares in general: float64 in, float64 throughout
    assert float(metric(fused, a, b)) == pytest.approx(loop(f, x, y), rel=1e-9)
    assert float(metric(fused.float(), a.float(), b.float())) == pytest.approx(loop(f, x, y), rel=2e-4)


@pytest.fixture(scope="module")
def literal(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("scipy")
    return benchmark_module("literal_metrics")


def test_the_literal_evaluator_agrees(literal: ModuleType, three: tuple[Tensor, ...]) -> None:
    """What the speed is measured against computes the same, also where its windows are cut differently."""
    f, a, b = (np.round(x[0, 0].double().numpy() * 255) for x in three)
    expected = literal.twelve(f, a, b)
    assert set(expected) == set(CORE[:12])
    for name, value in expected.items():
        assert float(METRICS[name]()(*(x[:1] for x in three))) == pytest.approx(value, rel=1e-6), name


# ---- laws ------------------------------------------------------------------------------------------------------------


def test_a_copy_of_two_equal_sources(images: Images) -> None:
    (x,) = images(64, 70, batch=2, count=1)
    x = x.mul(255).round() / 255
    values = {name: METRICS[name]()(x, x, x) for name in CORE}
    entropy = values["EN"] * math.log(2)
    expected = {"MI": entropy, "NMI": 2.0, "CC": 1.0, "MSE": 0.0, "PSNR": math.inf, "SSIM": 1.0, "VIF": 1.0}
    for name, value in expected.items():
        close(values[name], torch.as_tensor(value, dtype=torch.float64).expand(2))
    assert values["SCD"].isnan().all() and values["Nabf"].max() == 0
    close(values["Qabf"], torch.full((2,), 0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2)), dtype=torch.float64), rtol=1e-5)


def test_entropy_of_noise_and_of_few_levels(images: Images) -> None:
    noise = torch.rand(1, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    assert 7.98 < float(EN()(noise, noise, noise)) < 8
    halves = (noise > 0.5).float()
    assert float(EN()(halves, noise, noise)) == pytest.approx(1, abs=1e-4)
    shuffled = noise.flatten()[torch.randperm(noise.numel())].view_as(noise)
    assert torch.equal(EN()(shuffled, noise, noise), EN()(noise, noise, noise))
    assert float(MI()(shuffled, noise, noise)) < 0.2 < 5 < float(MI()(noise, noise, noise))


def test_information_does_not_depend_on_which_level_is_which(three: tuple[Tensor, ...]) -> None:
    fused, a, b = three
    for metric in (MI(), NMI()):
        close(metric(1 - fused, a, b), metric(fused, a, b))
    assert bool((MI()(a, a, b) > MI()(fused, a, b)).all())  # copying pays
    close(MI(unit="bits")(*three), MI()(*three) / math.log(2))
    assert (MI(unit="bits").unit, MI().unit) == ("bits", "nats")
    with pytest.raises(ValueError, match="unit must be 'nats' or 'bits', got 'bit'"):
        MI(unit="bit")  # type: ignore[arg-type]


def test_contrast_scales_and_brightness_does_not_count(images: Images) -> None:
    x, _ = images(40, 50)
    dark, bright = x / 2, x / 2 + 0.4
    for metric in (SD(), SF(), AG()):
        close(2 * metric(dark, x, x), metric(x, x, x))
        close(metric(bright, x, x), metric(dark, x, x), rtol=1e-5)


def test_known_statistics() -> None:
    ramp = (torch.arange(20.0) * 10 / 255).expand(1, 1, 30, 20)
    zero = torch.zeros_like(ramp)
    assert float(SF()(ramp, zero, zero)) == pytest.approx(10, rel=1e-6)
    assert float(AG()(ramp, zero, zero)) == pytest.approx(10 / math.sqrt(2), rel=1e-6)
    assert float(MSE()(torch.ones_like(zero), zero, zero)) == pytest.approx(255**2)
    assert float(PSNR()(torch.ones_like(zero), zero, zero)) == pytest.approx(0, abs=1e-6)
    assert math.isnan(float(PSNR()(zero, ramp, ramp)))  # a black image has no peak
    assert float(PSNR(peak=255)(zero, ramp, ramp)) > 0
    with pytest.raises(ValueError, match="peak must be a positive grey level"):
        PSNR(peak=0)


def test_the_average_has_the_smallest_error(three: tuple[Tensor, ...]) -> None:
    fused, a, b = three
    best = MSE()((a + b) / 2, a, b)
    for other in (fused, a, b, torch.maximum(a, b)):
        assert bool((MSE()(other, a, b) >= best).all())


def test_the_sum_of_the_sources_has_all_differences(images: Images) -> None:
    a, b = (x / 2 for x in images(30, 40))
    close(SCD()(a + b, a, b), torch.tensor([2.0], dtype=torch.float64))
    for source, other in ((a, b), (b, a)):
        for shift in (0.0, 0.1):  # 0/0, of rounding only
            assert SCD()(source + shift, source, other).isnan().all()
    assert not SCD()(a, a + torch.eye(30, 40) / 255, b).isnan().any()


@pytest.mark.parametrize("name", ["MI", "NMI", "CC", "SCD", "SSIM", "SD", "SF", "AG", "EN", "Nabf"])
def test_mirrors_do_not_matter(name: str, three: tuple[Tensor, ...]) -> None:
    values = METRICS[name]()(*three)
    for dims in ((2,), (3,)):
        close(METRICS[name]()(*(x.flip(dims) for x in three)), values)
    close(METRICS[name]()(*(x.mT for x in three)), values)


def test_a_turned_picture_scores_the_same_qabf_only_with_periodic_angles(three: tuple[Tensor, ...]) -> None:
    turned = tuple(x.mT for x in three)
    close(Qabf(periodic=True)(*turned), Qabf(periodic=True)(*three))
    assert bool(((Qabf()(*turned) - Qabf()(*three)).abs() > 1e-4).all())
    assert bool((Qabf(periodic=True)(*three) > Qabf()(*three)).all())


def test_edges_are_kept_lost_or_made_up(three: tuple[Tensor, ...]) -> None:
    fused, a, b = three
    parts = Nabf().parts(fused, a, b)
    close(parts.sum(0), torch.ones(3, dtype=torch.float64))
    close(parts[2], Nabf()(fused, a, b))
    fused, a, b = fused / 4, a / 4, b / 4
    noisy = fused + 0.3 * torch.rand(fused.shape, generator=torch.Generator().manual_seed(1))
    assert bool((Nabf()(noisy, a, b) > 5 * Nabf()(fused, a, b)).all())


def test_structure_falls_with_noise_and_vif_rises_with_contrast(images: Images) -> None:
    x, noise = images(64, 64, seed=5)
    x = x / 2 + 0.25
    worse = [(x + s * (noise - 0.5)).clamp(0, 1) for s in (0.05, 0.1, 0.2)]
    for metric in (SSIM(), VIF()):
        values = [float(metric(y, x, x)) for y in (x, *worse)]
        assert values == sorted(values, reverse=True) and values[-1] < 0.95
    assert float(VIF()((x - 0.5) * 1.5 + 0.5, x, x)) > 1.05
    assert float(SSIM(data_range=2)(worse[0], x, x)) < float(SSIM()(worse[0], x, x))
    with pytest.raises(ValueError, match="data_range must be positive"):
        SSIM(data_range=-1)


def test_where_there_is_no_value(images: Images) -> None:
    a, b = images(64, 64)
    flat = torch.full_like(a, 0.3)
    for metric in (CC(), SCD(), VIF()):
        assert metric(a, flat, b).isnan().all(), metric.symbol
    assert float(VIF()(flat, a, b)) == 0  # nothing of the sources is there
    assert Qabf()(a, torch.zeros_like(a), torch.zeros_like(a)).isnan().all()
    assert (
        SSIM()(*(x[..., :6] for x in (a, a, b))).isnan().all() and SSIM()(*(x[..., :7] for x in (a, a, b))).isfinite()
    )
    assert (
        VIF()(*(x[..., :40] for x in (a, a, b))).isnan().all() and VIF()(*(x[..., :41] for x in (a, a, b))).isfinite()
    )
    assert NMI()(flat, flat, flat).isnan().all() and SF()(*(x[..., :1] for x in (a, a, b))).isnan().all()
