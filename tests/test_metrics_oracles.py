"""Metrics of public toolboxes: each against its literal restatement (benchmarks/literal_toolboxes.py), and laws.

The restatements share nothing with the package, and equal the evaluators' values on real pairs; with TECTUM_DATA set,
tests/test_metrics_toolboxes.py compares those values with the metrics directly.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tectum.metrics import windows as filters
from tectum.metrics.edges import Nabf, Qg
from tectum.metrics.exposure import MEFSSIM
from tectum.metrics.features import FMI
from tectum.metrics.haar import Qm
from tectum.metrics.information import CE, TE, Qncie
from tectum.metrics.metric import Metric, SourceMetric
from tectum.metrics.multiscale import MSSSIM, VIFF
from tectum.metrics.perception import Qcb, Qcv
from tectum.metrics.saliency import Qe, Qs, Qw
from tectum.metrics.sharpness import EI, Qsf
from tectum.metrics.similarity import Qc, Qy
from tectum.metrics.statistics import AG, PSNR, RMSE, SF
from tectum.metrics.structure import SSIM
from test_metrics_golden import read

Image = NDArray[np.float64]
Images = Callable[..., tuple[Tensor, ...]]

METRICS: list[type[Metric]] = [MSSSIM, MEFSSIM, VIFF, FMI, Qcb, Qcv, Qs, Qw, Qe]
SMALLEST = {"MS-SSIM": 176, "MEF-SSIM": 44, "VIFF": 41, "FMI": 3, "Qcb": 1, "Qcv": 1, "Qs": 11, "Qw": 11, "Qe": 11}
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


def moments(w: Image, x: Image, y: Image) -> tuple[float, float, float, float, float]:
    """Weighted means, variances and covariance of one window, from differences to the means."""
    mx, my = float((w * x).sum()), float((w * y).sum())
    dx, dy = x - mx, y - my
    return mx, my, float((w * dx * dx).sum()), float((w * dy * dy).sum()), float((w * dx * dy).sum())


def slow_universal_qw(f: Image, a: Image, b: Image) -> float:
    def q0(x: Image, y: Image) -> float:
        mx, my, vx, vy, cov = moments(np.full((8, 8), 1 / 64), x, y)
        return 4 * cov * mx * my / ((mx**2 + my**2) * (vx + vy))

    total = weights = 0.0
    for wf, wa, wb in windows(f, a, b, size=8):
        sa, sb = (s if s > 1e-9 / 255**2 else 0.0 for s in (wa.var(), wb.var()))
        c = max(sa, sb)
        if c == 0:
            continue
        share = sa / (sa + sb)
        total += c * ((share * q0(wa, wf) if sa else 0.0) + ((1 - share) * q0(wb, wf) if sb else 0.0))
        weights += c
    return total / weights


@pytest.fixture(scope="module")
def literal(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("scipy")
    return benchmark_module("literal_toolboxes")


def scenes(metric: Metric) -> list[tuple[Tensor, ...]]:
    """Fused, a, b in float64: 8-bit crops of rendered scenes at even and odd sizes, and a generated pair."""
    small = isinstance(metric, FMI) or metric.symbol not in SMALLEST  # loops in Python
    height, width = (24, 31) if small else (176, 176)
    images = []
    for name, fusion, cut in (("night", "average", 0), ("night", "maximum", 1), ("dusk", "maximum", 0)):
        three = [x[60 * small :, 60 * small :][: height - cut, : width - cut] for x in read(name, fusion)]
        images.append(tuple(torch.from_numpy(x.copy())[None, None] / 255 for x in three))
    a, b = pair(*((24, 31) if small else (180, 177)), seed=3)
    return [*images, tuple(x.mul(255).round().double() / 255 for x in (mixed(a, b), a, b))]


TSALLIS = (("nava", False), ("nava", True), ("cvejic", False), ("cvejic", True))


@pytest.mark.parametrize(
    ("metric", "name", "options"),
    [
        (MSSSIM(), "ms_ssim", {}),
        (MEFSSIM(), "mef_ssim", {}),
        (MEFSSIM(scales=1), "mef_ssim", {"scales": 1}),
        (VIFF(), "viff", {}),
        (Qcv(), "qcv", {}),
        (Qcb(), "qcb", {}),
        (Qs(), "qs", {}),
        (Qw(), "qw", {}),
        (Qw(edges=True), "qw_edges", {}),
        (Nabf(), "nabf", {}),
        (Nabf(unit_range=True), "nabf", {"scale": 1 / 255}),
        (SSIM(window="gaussian"), "ssim_gaussian", {}),
        (RMSE(root_of_sum=True), "rmse_vifb", {}),
        (PSNR(peak=255, root_of_sum=True), "psnr_vifb", {}),
        (CE(), "cross_entropy", {}),
        (Qncie(), "qncie", {}),
        *((TE(form=form, released=r), "tsallis", {"form": form, "released": r}) for form, r in TSALLIS),
        (Qsf(), "qsf", {}),
        (Qg(), "qg", {}),
        (Qm(), "qm", {}),
        (Qy(), "qy", {}),
        (Qc(), "qc", {}),
        *((FMI(feature=feature), "fmi", {"feature": feature}) for feature in ("edge", "gradient", "pixel", "dct")),
    ],
    ids=lambda x: x.symbol if isinstance(x, Metric) else str(x),
)
def test_equals_its_literal_restatement(
    metric: Metric, name: str, options: dict[str, Any], literal: ModuleType
) -> None:
    exact = name not in ("qcb", "qw_edges", "fmi")
    defined = 0
    for images in scenes(metric):
        value = float(metric(*images))
        if math.isnan(value):
            continue
        expected = getattr(literal, name)(*(np.round(255 * x[0, 0].numpy()) for x in images), **options)
        assert value == pytest.approx(expected, rel=1e-10 if exact else 1e-6, abs=1e-12)
        single = float(metric(*(x.float() for x in images)))
        assert single == pytest.approx(expected, rel=1e-6, abs=1e-10)  # 8-bit levels are found again in float32
        defined += 1
    assert defined >= 2


def test_statistics_as_vifb_divides_them(literal: ModuleType) -> None:
    fused, a, b = scenes(Qw())[0]
    f = 255 * fused[0, 0].numpy()
    assert float(AG(divide_by="differences")(fused, a, b)) == pytest.approx(literal.average_gradient_vifb(f), rel=1e-12)
    assert float(SF(divide_by="pixels")(fused, a, b)) == pytest.approx(literal.spatial_frequency_vifb(f), rel=1e-12)
    assert float(EI()(fused, a, b)) == pytest.approx(literal.edge_intensity(f), rel=1e-12)


def test_the_universal_index_equals_a_loop() -> None:
    a, b = pair(33, 40)
    images = mixed(a, b), a, b
    expected = slow_universal_qw(*(x[0, 0].double().numpy() for x in images))
    assert float(Qw(index="universal")(*images)) == pytest.approx(expected, rel=1e-9)


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
    rtol = 1e-12 if metric.symmetric else 1e-5
    torch.testing.assert_close(metric()(fused, a, b), metric()(fused, b, a), rtol=rtol, atol=0)


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
    assert pixel.shape == (1,) and pixel.isnan().all()


@pytest.mark.parametrize("metric", METRICS)
def test_sources_without_anything_to_see(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    fused, flat = scene[0], torch.full_like(scene[0], 0.3)
    value = metric()(torch.cat([fused, flat]), flat, flat)
    if metric is FMI:  # two flat windows are alike
        assert value[0] < 1 and float(value[1]) == 1
    elif metric in (MSSSIM, MEFSSIM, Qs):  # its constants decide: two flat images are alike
        assert value[0] < 0.5 and float(value[1]) == pytest.approx(1)
    else:
        assert value.isnan().all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_flat_fused_image_is_bad_not_undefined(metric: type[Metric], scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    flat, average = metric()(torch.cat([torch.full_like(a, 0.5), (a + b) / 2]), a, b)
    if metric is FMI:  # where neither image has an edge they agree
        assert flat < average
    else:
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
    assert float(MEFSSIM()(flat, x, 1 - x)) == pytest.approx(1, abs=1e-3)
    assert float(MEFSSIM()(x, x, 1 - x)) < 0.2
    assert float(MEFSSIM()(x, x, flat)) == pytest.approx(1, abs=1e-6)
    assert float(MEFSSIM()(flat, x, flat)) < 0.5


def test_viff_of_contrast() -> None:
    a, _ = pair(64, 64)
    a = 0.35 + 0.3 * a
    fainter, stronger = 0.5 + 0.5 * (a - 0.5), 0.5 + 1.5 * (a - 0.5)
    values = VIFF()(torch.cat([fainter, a, stronger]), a, a)
    assert values[0] < 0.9 < float(values[1]) < 1.1 < values[2]


def test_viff_takes_each_block_from_the_source_that_is_kept_worse() -> None:
    a, b = pair(96, 96)
    half = torch.cat([a[..., :48], b[..., 48:]], -1)
    average, *copies = VIFF()(torch.cat([(a + b) / 2, a, b, half]), a, b)
    assert 1 > average > max(copies)


def test_units_that_do_not_matter(scene: tuple[Tensor, Tensor]) -> None:
    a, b = scene
    fused = mixed(a, b)
    for metric in (Qw(index="universal"), Qe(index="universal"), Qcb(), Qcv(), FMI(), FMI(feature="pixel")):
        darker = metric(fused.double() / 4, a.double() / 4, b.double() / 4)
        torch.testing.assert_close(darker, metric(fused.double(), a.double(), b.double()), rtol=1e-4, atol=0)


def test_qcv_counts_differences_as_the_eye_sees_them() -> None:
    edge = torch.zeros(1, 1, 128, 128)
    edge[..., 64:] = 1
    columns = torch.arange(128) / 128
    ripples = [(0.1 + 0.8 * edge) + 0.1 * torch.cos(2 * math.pi * columns * cycles) for cycles in (2, 24, 60)]
    coarse, middle, fine = Qcv()(torch.cat(ripples), edge, edge)
    assert middle > 2 * coarse > 0 and middle > 1.4 * fine


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
        (lambda: Qw(index="q0"), "'ssim' or 'universal', got 'q0'"),  # type: ignore[arg-type]
        (lambda: AG(divide_by="size"), "'pixels' or 'differences', got 'size'"),  # type: ignore[arg-type]
        (lambda: SSIM(window="box"), "'uniform' or 'gaussian', got 'box'"),  # type: ignore[arg-type]
        (lambda: MEFSSIM(scales=2), "3 or 1, got 2"),
        (lambda: VIFF(weights=(1, 1)), "four weights"),
        (lambda: FMI(feature="wavelet"), "'pixel' or 'dct', got 'wavelet'"),  # type: ignore[arg-type]
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
