"""The fusion metrics that no reference implementation vouches for: each against a slow loop from its formula, and laws.

The loops take one window, region or pixel at a time, in plain float64 numpy, and share nothing with the package.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tectum.metrics import windows as filters
from tectum.metrics.exposure import MEFSSIM
from tectum.metrics.features import FMI
from tectum.metrics.metric import Metric, SourceMetric
from tectum.metrics.multiscale import MSSSIM, VIFF
from tectum.metrics.perception import Qcb, Qcv
from tectum.metrics.saliency import Qe, Qw
from tectum.metrics.windows import pad_border

Image = NDArray[np.float64]
Images = Callable[..., tuple[Tensor, ...]]

METRICS: list[type[Metric]] = [MSSSIM, MEFSSIM, VIFF, FMI, Qcb, Qcv, Qw, Qe]
SMALLEST = {"MS-SSIM": 176, "MEF-SSIM": 44, "VIFF": 41, "FMI": 5, "Qcb": 1, "Qcv": 1, "Qw": 8, "Qe": 10}
BEST = {"Qcv": 0.0}


def pair(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views (1,1,H,W) of one scene: shapes in common, shapes of their own, flat and saturated places."""
    generator = torch.Generator().manual_seed(seed)

    def shapes() -> Tensor:
        image = torch.zeros(1, 1, height, width)
        for step in (1, 3, 9, 27):
            coarse = torch.randn(1, 1, -(-height // step), -(-width // step), generator=generator)
            coarse = coarse.repeat_interleave(step, 2).repeat_interleave(step, 3)[:, :, :height, :width]
            image += coarse * (0.15 if step == 1 else 0.5)
        return image

    common = shapes()
    a, b = ((0.5 + 0.25 * common + 0.15 * shapes()).clamp(0, 1) for _ in range(2))
    a[..., : height // 3, : width // 3] = 0
    b[..., : height // 4, width // 2 :] = 1
    return a, b


def mixed(a: Tensor, b: Tensor) -> Tensor:
    """A fused image that is unlike both: the average, sharpened, and flat in a corner."""
    fused = (1.4 * (0.6 * a + 0.4 * b) - 0.2).clamp(0, 1)
    fused[..., -9:, -12:] = 0.25
    return fused


# ---- oracles ---------------------------------------------------------------------------------------------------------


def windows(*images: Image, size: int) -> Any:
    """The same window of each image, all windows inside it one after another."""
    height, width = images[0].shape
    for i in range(height - size + 1):
        for j in range(width - size + 1):
            yield [image[i : i + size, j : j + size] for image in images]


def gauss(size: int, sigma: float) -> Image:
    """A two-dimensional Gaussian window with sum 1."""
    offsets = np.arange(size) - (size - 1) / 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2))
    return window / window.sum()


def moments(w: Image, x: Image, y: Image) -> tuple[float, float, float, float, float]:
    """Weighted means, variances and covariance of one window, from differences to the means."""
    mx, my = float((w * x).sum()), float((w * y).sum())
    dx, dy = x - mx, y - my
    return mx, my, float((w * dx * dx).sum()), float((w * dy * dy).sum()), float((w * dx * dy).sum())


def slow_ms_ssim(f: Image, a: Image, b: Image) -> float:
    def against(f: Image, x: Image) -> float:
        value = 1.0
        for scale, beta in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333), 1):
            similarities = []
            for wf, wx in windows(f, x, size=11):
                mf, mx, vf, vx, cov = moments(gauss11, wf, wx)
                cs = (2 * cov + 58.5225) / (vf + vx + 58.5225)
                luminance = (2 * mf * mx + 6.5025) / (mf**2 + mx**2 + 6.5025) if scale == 5 else 1
                similarities.append(luminance * cs)
            value *= max(float(np.mean(similarities)), 0) ** beta
            height, width = (side // 2 for side in f.shape)
            f, x = (
                np.array(
                    [[y[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(width)] for i in range(height)]
                )
                for y in (f, x)
            )
        return value

    gauss11 = gauss(11, 1.5)
    return (against(255 * f, 255 * a) + against(255 * f, 255 * b)) / 2


def slow_mef_ssim(f: Image, a: Image, b: Image) -> float:
    """Patches as vectors: split into contrast and structure, put together again, compared."""

    def similarity(wf: Image, wa: Image, wb: Image) -> float:
        y, *xs = (root * (w - (gauss11 * w).sum()) for w in (wf, wa, wb))  # products of these are weighted moments
        c = [math.sqrt((x * x).sum()) if (x * x).sum() > 1e-14 else 0.0 for x in xs]
        total = sum(xs)
        agree = min(math.sqrt((total * total).sum()) / sum(c), 0.99) if sum(c) > 0 else 0.0
        p = min(math.tan(math.pi / 2 * agree), 10.0)
        s = sum((ck / max(c)) ** p * x / ck for ck, x in zip(c, xs, strict=True) if ck > 0)
        best = max(c) * s / math.sqrt((s * s).sum()) if max(c) > 0 else 0 * y
        return float((2 * (best * y).sum() + 58.5225) / ((best * best).sum() + (y * y).sum() + 58.5225))

    gauss11, value, f, a, b = gauss(11, 1.5), 1.0, 255 * f, 255 * a, 255 * b
    root = np.sqrt(gauss11)
    for beta in (0.0448, 0.2856, 0.3001):
        mean = np.mean([similarity(*patches) for patches in windows(f, a, b, size=11)])
        value *= max(float(mean), 0) ** (beta / 0.6305)
        f, a, b = (x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2] for x in (f, a, b))
        f, a, b = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4 for x in (f, a, b))
    return value


def slow_viff(f: Image, a: Image, b: Image) -> float:
    noise, value = 0.005 * 255**2, 0.0
    f, a, b = 255 * f, 255 * a, 255 * b
    for k, (size, p) in enumerate(zip((17, 9, 5, 3), (1 / 2.15, 0, 0.15 / 2.15, 1 / 2.15), strict=True)):
        w = gauss(size, size / 5)
        if k:
            height, width = f.shape
            rows, columns = range(0, height - size + 1, 2), range(0, width - size + 1, 2)
            f, a, b = (
                np.array([[(w * x[i : i + size, j : j + size]).sum() for j in columns] for i in rows])
                for x in (f, a, b)
            )
        fvid = fvind = 0.0
        for wf, *sources in windows(f, a, b, size=size):
            terms = []
            for wx in sources:
                _, _, vf, vx, cov = moments(w, wf, wx)
                vx = vx if vx > 1e-10 else 0.0
                g = cov / vx if vx and vf > 1e-10 and cov > 0 else 0.0
                vv = max(vf - g * cov, 0)
                terms.append((g, math.log2(1 + vx / noise), math.log2(1 + g * g * vx / (vv + noise))))
            _, vind, vid = max(terms)  # by gain, then by VIND
            fvid, fvind = fvid + vid, fvind + vind
        value += p * fvid / fvind
    return value


def joint_distribution(p: Image, q: Image, rho: float) -> Image:
    """The two distributions made dependent to the degree rho, from cumulative distributions."""
    cp, cq = np.cumsum(p), np.cumsum(q)
    bound = np.zeros((9, 9))
    for i in range(9):
        for j in range(9):
            bound[i, j] = min(cp[i], cq[j]) if rho > 0 else max(cp[i] + cq[j] - 1, 0)
    bound = np.diff(np.diff(bound, axis=0, prepend=0), axis=1, prepend=0)
    at = np.arange(1, 10)
    mp, mq = (at * p).sum(), (at * q).sum()
    sp, sq = math.sqrt(((at - mp) ** 2 * p).sum()), math.sqrt(((at - mq) ** 2 * q).sum())
    cov = sum((at[i] - mp) * (at[j] - mq) * bound[i, j] for i in range(9) for j in range(9))
    phi = min(rho / (cov / (sp * sq)), 1) if rho and sp and sq else 0.0
    return phi * bound + (1 - phi) * np.outer(p, q)


def information(p: Image) -> float:
    """Entropy in bits."""
    return -sum(x * math.log2(x) for x in p.flat if x > 0)


def slow_fmi(f: Image, a: Image, b: Image, feature: str = "gradient") -> float:
    if feature == "gradient":
        f, a, b = (
            np.array(
                [
                    [
                        math.hypot((x[i, j + 1] - x[i, j - 1]) / 2, (x[i + 1, j] - x[i - 1, j]) / 2)
                        for j in range(1, x.shape[1] - 1)
                    ]
                    for i in range(1, x.shape[0] - 1)
                ]
            )
            for x in (f, a, b)
        )
    value = 0.0
    for x in (a, b):
        ratios = []
        for wf, wx in windows(f, x, size=3):
            if wx.var() <= 1e-12:
                continue
            if wf.var() <= 1e-12:
                ratios.append(0.0)
                continue
            p, q = wf.flatten() / wf.sum(), wx.flatten() / wx.sum()
            entropies = information(p) + information(q)
            joint = joint_distribution(p, q, float(np.corrcoef(wf.flatten(), wx.flatten())[0, 1]))
            if entropies > 0:
                ratios.append(2 * (entropies - information(joint)) / entropies)
        value += float(np.mean(ratios)) / 2
    return value


def slow_qcv(f: Image, a: Image, b: Image) -> float:
    def sobel(x: Image) -> Image:
        x = np.pad(x, 1, mode="edge")
        strength = np.zeros((x.shape[0] - 2, x.shape[1] - 2))
        for i in range(strength.shape[0]):
            for j in range(strength.shape[1]):
                n = x[i : i + 3, j : j + 3]
                across = n[0, 2] + 2 * n[1, 2] + n[2, 2] - n[0, 0] - 2 * n[1, 0] - n[2, 0]
                down = n[2, 0] + 2 * n[2, 1] + n[2, 2] - n[0, 0] - 2 * n[0, 1] - n[0, 2]
                strength[i, j] = math.sqrt(across**2 + down**2)
        return strength

    def weight_by_sensitivity(difference: Image) -> Image:
        height, width = difference.shape
        spectrum = np.fft.fft2(difference)
        for i in range(height):
            for j in range(width):
                v, u = min(i, height - i) / height, min(j, width - j) / width
                r = 32 * math.sqrt(u * u + v * v)
                spectrum[i, j] *= 2.6 * (0.0192 + 0.114 * r) * math.exp(-((0.114 * r) ** 1.1))
        return np.fft.ifft2(spectrum).real

    f, a, b = 255 * f, 255 * a, 255 * b
    above = below = 0.0
    for x, edges in ((a, sobel(a)), (b, sobel(b))):
        for i in range(0, f.shape[0], 16):
            for j in range(0, f.shape[1], 16):
                region = slice(i, i + 16), slice(j, j + 16)
                saliency = edges[region].sum()
                above += saliency * (weight_by_sensitivity(x[region] - f[region]) ** 2).mean()
                below += saliency
    return above / below


def slow_qcb(f: Image, a: Image, b: Image) -> float:
    def blurred(x: Image, sigma: float, margin: int) -> Image:
        """Weighted means around each pixel but those of the margin, over four deviations."""
        m = math.ceil(4 * sigma)
        w = gauss(2 * m + 1, sigma)
        rows, columns = (range(margin, side - margin) for side in x.shape)
        return np.array([[(w * x[i - m : i + m + 1, j - m : j + m + 1]).sum() for j in columns] for i in rows])

    def contrast(x: Image) -> Image:
        narrow, wide = (math.sqrt(4 + (32 / (math.sqrt(2) * math.pi * f)) ** 2) for f in (15.3870, 1.3456))
        r, m = math.ceil(4 * wide), math.ceil(4 * math.sqrt(12))
        x = np.pad(x, r + m, mode="edge")
        low = blurred(x, narrow, r) - 0.7622 * blurred(x, wide, r)
        c = np.abs(low[m:-m, m:-m] / blurred(low, math.sqrt(12), m) - 1)
        c[c < 1e-9] = 0
        return c**3 / (c**2 + 1e-4)

    total, maps = 0.0, [contrast(x) for x in (f, a, b)]
    for cf, ca, cb in zip(*(m.flat for m in maps), strict=True):
        share = ca**2 / (ca**2 + cb**2)
        total += share * min(ca, cf) / max(ca, cf) + (1 - share) * min(cb, cf) / max(cb, cf)
    return total / f.size


def slow_qw(f: Image, a: Image, b: Image) -> float:
    def q0(x: Image, y: Image) -> float:
        mx, my, vx, vy, cov = moments(np.full((8, 8), 1 / 64), x, y)
        return 4 * cov * mx * my / ((mx**2 + my**2) * (vx + vy))

    total = weights = 0.0
    for wf, wa, wb in windows(f, a, b, size=8):
        sa, sb = (s if s > 1e-12 else 0.0 for s in (wa.var(), wb.var()))
        c = max(sa, sb)
        if c == 0:
            continue
        share = sa / (sa + sb)
        total += c * ((share * q0(wa, wf) if sa else 0.0) + ((1 - share) * q0(wb, wf) if sb else 0.0))
        weights += c
    return total / weights


def slow_qe(f: Image, a: Image, b: Image) -> float:
    def edges(x: Image) -> Image:
        kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        rows, columns = range(x.shape[0] - 2), range(x.shape[1] - 2)
        return np.array(
            [
                [
                    math.hypot((x[i : i + 3, j : j + 3] * kernel).sum(), (x[i : i + 3, j : j + 3] * kernel.T).sum())
                    for j in columns
                ]
                for i in rows
            ]
        )

    return math.sqrt(slow_qw(f, a, b) * slow_qw(edges(f), edges(a), edges(b)))


@pytest.mark.parametrize(
    ("metric", "slow", "size"),
    [
        (MSSSIM(), slow_ms_ssim, (176, 179)),
        (MEFSSIM(), slow_mef_ssim, (44, 51)),
        (VIFF(), slow_viff, (44, 49)),
        (FMI(), slow_fmi, (24, 31)),
        (FMI(feature="pixel"), lambda f, a, b: slow_fmi(f, a, b, "pixel"), (22, 27)),
        (Qcv(), slow_qcv, (37, 48)),
        (Qcb(), slow_qcb, (17, 22)),
        (Qw(), slow_qw, (33, 40)),
        (Qe(), slow_qe, (33, 40)),
    ],
    ids=lambda x: x.symbol if isinstance(x, Metric) else "",
)
def test_equals_a_loop_written_from_its_formula(
    metric: Metric, slow: Callable[[Image, Image, Image], float], size: tuple[int, int]
) -> None:
    a, b = pair(*size)
    fused = mixed(a, b)
    expected = slow(*(x[0, 0].double().numpy() for x in (fused, a, b)))
    assert float(metric(fused, a, b)) == pytest.approx(expected, rel=1e-9)


def test_qcb_is_the_published_filter_in_the_frequency_domain() -> None:
    """A contrast sensitivity function, then two Gaussians, all as transfer functions; ours are four Gaussians."""
    a = 0.3 + 0.6 * pair(40, 44)[0]  # far from black, where the contrast is a quotient of two small numbers
    canvas = np.pad(a[0, 0].double().numpy(), 44, mode="edge")
    v, u = (np.fft.fftfreq(side) for side in canvas.shape)
    nu = np.hypot(v[:, None], u)
    r = 32 * nu
    spectrum = np.fft.fft2(canvas) * (np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2)))
    near, far = (np.fft.ifft2(spectrum * np.exp(-2 * (math.pi * sigma * nu) ** 2)).real for sigma in (2, 4))
    c = np.abs(near / far - 1)[44:-44, 44:-44]
    ours = Qcb()._masked_contrast(pad_border(a.double(), 37))[0, 0].numpy()
    assert c.max() > 0.5 > c.min()
    np.testing.assert_allclose(ours, c**3 / (c**2 + 1e-4), atol=2e-3)


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> tuple[Tensor, Tensor]:
    return pair(180, 177, seed=3)


@pytest.mark.parametrize("metric", METRICS)
def test_three_equal_images_are_as_good_as_it_gets(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    assert float(metric()(a, a, a)) == pytest.approx(BEST.get(metric.symbol, 1.0), abs=1e-9)
    worse = float(metric()(a, a, b))
    assert worse > 1 if metric is Qcv else worse < 0.99 or metric is VIFF


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("damage", ["noise", "blur"])
def test_more_damage_is_worse(metric: type[Metric], damage: str) -> None:
    from torch.nn.functional import avg_pool2d

    scores = []
    for seed in range(3):
        a, b = pair(180, 180, seed)
        fused = 0.6 * a + 0.4 * b
        noise = torch.randn(fused.shape, generator=torch.Generator().manual_seed(seed))
        if damage == "noise":
            damaged = [(fused + level * noise).clamp(0, 1) for level in (0, 0.05, 0.15, 0.4)]
        else:
            damaged = [avg_pool2d(fused, n, 1, n // 2, count_include_pad=False) for n in (1, 3, 5)]
        scores.append(metric()(torch.cat(damaged), a, b))
    steps = torch.stack(scores).mean(0).diff()
    assert (steps < 0).all() if metric.higher_is_better else (steps > 0).all(), steps


@pytest.mark.parametrize("metric", METRICS)
def test_sources_may_be_exchanged(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    fused = mixed(a, b)
    assert metric.symmetric
    torch.testing.assert_close(metric()(fused, a, b), metric()(fused, b, a), rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_many_fused_images_under_one_pair(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    fused = torch.cat([a, mixed(a, b), torch.maximum(a, b)])
    values = metric()(fused, a, b)
    assert values.shape == (3,) and values.dtype == torch.float64 and values.unique().numel() == 3
    one_by_one = torch.cat([metric()(image[None], a, b) for image in fused])
    torch.testing.assert_close(values, one_by_one, rtol=1e-12, atol=0)
    pairs = metric()(fused, torch.cat([a, b, a]), torch.cat([b, a, b]))
    torch.testing.assert_close(pairs, one_by_one, rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_stripes_of_rows_are_seamless(
    metric: type[Metric], scene: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (x[..., :176].repeat(1, 1, 3, 1) for x in scene)
    monkeypatch.setattr(filters, "STRIPE_PX", 1 << 30)
    whole = metric()(mixed(a, b), a, b)
    monkeypatch.setattr(filters, "STRIPE_PX", 1)
    torch.testing.assert_close(metric()(mixed(a, b), a, b), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_too_small_is_undefined(metric: type[Metric]) -> None:
    a, b = pair(190, 190)
    smallest = SMALLEST[metric.symbol]
    a, b = a[..., -smallest:, -smallest - 3 :], b[..., -smallest:, -smallest - 3 :]
    if smallest > 1:
        assert metric()(mixed(a, b), a, b).isfinite().all()
        for cut in (slice(1, None), slice(None)):
            x, y = (s[..., cut, : smallest - (cut.start is None)] for s in (a, b))
            assert metric()(x, x, y).isnan().all()


@pytest.mark.parametrize("metric", METRICS)
def test_no_images_and_single_pixels(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    assert metric()(a[:0], a, b).shape == (0,)
    pixel = metric()(*(x[..., :1, :1] for x in (a, a, b)))
    assert pixel.shape == (1,) and (pixel.isnan().all() or metric is Qcb)


@pytest.mark.parametrize("metric", METRICS)
def test_sources_without_anything_to_see(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    fused, flat = scene[0], torch.full_like(scene[0], 0.3)
    value = metric()(torch.cat([fused, flat]), flat, flat)
    if metric in (MSSSIM, MEFSSIM):  # its constants decide: two flat images are alike
        assert value[0] < 0.5 and float(value[1]) == pytest.approx(1)
    else:
        assert value.isnan().all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_flat_fused_image_is_bad_not_undefined(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    flat, average = metric()(torch.cat([torch.full_like(a, 0.5), (a + b) / 2]), a, b)
    assert flat > average if metric is Qcv else 0 <= flat < 0.5 * average


@pytest.mark.parametrize("metric", [MSSSIM, FMI])
def test_reductions_of_the_two_sources(metric: type[SourceMetric], scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    fused = mixed(a, b)
    of_a, of_b = metric().per_source(fused, a, b)
    assert of_a != of_b
    assert float(metric(reduction="sum")(fused, a, b)) == pytest.approx(float(of_a + of_b))
    assert float(metric(reduction="mean")(fused, a, b)) == pytest.approx(float(of_a + of_b) / 2)
    torch.testing.assert_close(metric().per_source(fused, b, a), torch.stack([of_b, of_a]))


def test_an_inverted_image_has_no_structure_in_common(scene: tuple[Tensor, Tensor]) -> None:
    a, _ = scene
    assert float(MSSSIM()(1 - a, a, a)) == 0 == float(Qe()(1 - a, a, a))
    assert -1 <= float(Qw()(1 - a, a, a)) < -0.1
    assert float(VIFF()(1 - a, a, a)) < 0.05


def test_mef_ssim_of_sources_that_agree_on_nothing(scene: tuple[Tensor, Tensor]) -> None:
    """Inverse sources want a flat image, a flat source leaves the say to the other."""
    x = scene[0].double()  # in float32 1 - x is not quite the inverse
    flat = torch.full_like(x, 0.5)
    assert float(MEFSSIM()(flat, x, 1 - x)) == pytest.approx(1, abs=1e-6)
    assert float(MEFSSIM()(x, x, 1 - x)) < 0.2
    assert float(MEFSSIM()(x, x, flat)) == pytest.approx(1, abs=1e-9)
    assert float(MEFSSIM()(flat, x, flat)) < 0.5


def test_viff_of_contrast() -> None:
    a, _ = pair(64, 64)
    a = 0.35 + 0.3 * a
    fainter, stronger = 0.5 + 0.5 * (a - 0.5), 0.5 + 1.5 * (a - 0.5)
    values = VIFF()(torch.cat([fainter, a, stronger]), a, a)
    assert values[0] < 0.9 < float(values[1]) < 1.1 < values[2]


def test_viff_takes_each_block_from_the_source_with_more_gain() -> None:
    a, b = pair(96, 96)
    half = torch.cat([a[..., :48], b[..., 48:]], -1)
    copied, average = VIFF()(torch.cat([half, (a + b) / 2]), a, b)
    assert copied > 0.9 > average


def test_units_that_do_not_matter(scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    fused = mixed(a, b)
    for metric in (Qw(), Qe(), Qcb(), FMI(), FMI(feature="pixel")):
        darker = metric(fused.double() / 4, a.double() / 4, b.double() / 4)
        torch.testing.assert_close(darker, metric(fused.double(), a.double(), b.double()), rtol=1e-4, atol=0)
    dimmed = Qcv()(fused.double() / 4, a.double() / 4, b.double() / 4)
    torch.testing.assert_close(dimmed, Qcv()(fused.double(), a.double(), b.double()) / 16, rtol=1e-9, atol=0)
    lifted = (0.5 * x.double() + 0.3 for x in (fused, a, b))
    torch.testing.assert_close(Qcv()(*lifted), Qcv()(fused.double(), a.double(), b.double()) / 4, rtol=1e-9, atol=0)


def test_qcv_counts_differences_as_the_eye_sees_them() -> None:
    edge = torch.full((1, 1, 32, 32), 0.5)
    edge[..., 16:] = 0.8
    columns = torch.arange(32) / 32
    ripples = [edge + 0.05 * torch.cos(2 * math.pi * columns * cycles) for cycles in (2, 8, 14)]  # per degree
    coarse, middle, fine = Qcv()(torch.cat(ripples), edge, edge)
    assert middle > 3 * coarse > 0 and middle > 1.4 * fine
    coarse_far, _, fine_far = Qcv(pixels_per_degree=64)(torch.cat(ripples), edge, edge)
    assert coarse_far > 1.5 * coarse and fine_far < 0.3 * fine


def test_qcv_looks_where_the_sources_have_edges() -> None:
    a = torch.full((1, 1, 32, 64), 0.5)
    a[..., :16:2, :32] = 0.7
    lost, added = a.clone(), a.clone()
    lost[..., :32] += 0.1
    added[..., 32:] += 0.1
    at_edges, elsewhere = Qcv()(torch.cat([lost, added]), a, a)
    assert at_edges > 5 * elsewhere > 0


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_qe_lies_between_the_images_and_their_edges(alpha: float, scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    images = (mixed(a, b), a, b)
    plain, edges = float(Qw()(*images)), float(Qe(alpha=1)(*images))
    assert float(Qe(alpha=0)(*images)) == pytest.approx(plain)
    assert float(Qe(alpha=alpha)(*images)) == pytest.approx(plain ** (1 - alpha) * edges**alpha)
    assert edges != pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Qe(alpha=1.5), r"alpha must lie in \[0,1\], got 1.5"),
        (lambda: Qcv(gamma=0), "must be > 0"),
        (lambda: Qcb(pixels_per_degree=-1), "must be > 0, got -1"),
        (lambda: VIFF(weights=(1, 1)), "four weights"),
        (lambda: FMI(feature="edge"), "'gradient' or 'pixel', got 'edge'"),  # type: ignore[arg-type]
        (lambda: MSSSIM(reduction="max"), "'mean' or 'sum'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings(make: Callable[[], Metric], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


# ---- real pictures ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, Tensor]]:
    """The pairs with their fused images, {pair: {name: (1,1,H,W)}}; the largest are cut."""
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data, with golden beside it")
    folder = Path(os.environ["TECTUM_DATA"]).parent / "golden"
    if not (folder / "metrics.json").is_file():
        pytest.skip(f"the golden pictures are not in {folder}")
    from PIL import Image as Pictures

    pairs = {}
    for pair_folder in (folder / name for name in json.loads((folder / "metrics.json").read_text())):
        arrays = {path.stem: np.asarray(Pictures.open(path).convert("L")) for path in pair_folder.glob("*.png")}
        tensors = {name: torch.from_numpy(x[:192, :240].astype(np.float32) / 255) for name, x in arrays.items()}
        pairs[pair_folder.name] = {name: x[None, None] for name, x in tensors.items()}
    return pairs


@pytest.mark.parametrize("metric", METRICS)
def test_on_real_pictures(metric: type[Metric], golden: dict[str, dict[str, Tensor]]) -> None:
    assert len(golden) == 11
    low, high = metric.bounds
    qualities = []
    for name, x in golden.items():
        a, b = x["b"], x["a"]  # there a is the infrared image
        noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
        blurred = torch.nn.functional.avg_pool2d(x["maximum"], 9, 1, 4, count_include_pad=False)
        fused = [x["average"], x["unsharp"], x["maximum"], (x["maximum"] + 0.2 * noise).clamp(0, 1), blurred]
        values = metric()(torch.cat(fused), a, b)
        assert ((low <= values) & (values <= high)).all(), (name, values)
        qualities.append(values if metric.higher_is_better else -values)
    _, _, maximum, noisy, blurred = torch.stack(qualities).mean(0)
    assert noisy < maximum and blurred < maximum, (maximum, noisy, blurred)
