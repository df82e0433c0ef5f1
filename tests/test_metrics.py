"""Every metric keeps one contract, and the twelve core ones equal reference values."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics import METRICS, local_statistics, windows
from tectum.metrics.metric import Metric, SourceMetric

Images = Callable[..., tuple[Tensor, ...]]
Array = np.ndarray[Any, np.dtype[np.float64]]
CORE = ("EN", "SD", "SF", "AG", "MI", "CC", "SCD", "PSNR", "MSE", "SSIM", "VIF", "Qabf", "NMI", "Nabf")
SIZE = 176, 180  # large enough for every metric


@pytest.fixture(params=sorted(METRICS))
def metric(request: pytest.FixtureRequest) -> Metric:
    return METRICS[request.param]()


@pytest.fixture
def three(images: Images) -> tuple[Tensor, ...]:
    """Fused, a, b: three pairs, on 8-bit levels."""
    fused, a, b = images(*SIZE, batch=3, seed=1, count=3)
    return tuple(x.mul(255).round().div(255) for x in ((fused + a + b) / 3, a, b))


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-7, equal_nan=True)


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_names(metric: Metric) -> None:
    assert METRICS[metric.symbol] is type(metric)
    assert metric.title and metric.source and type(metric).__doc__ and metric.bounds[0] < metric.bounds[1]
    assert isinstance(metric.higher_is_better, bool) and isinstance(metric.symmetric, bool)


def test_names_in_any_case() -> None:
    for name, metric in METRICS.items():
        for spelt in (name, name.lower(), name.upper()):
            assert METRICS[spelt] is METRICS.get(spelt) is metric and spelt in METRICS
    assert METRICS.get("SSIN") is None and METRICS.get("SSIN", 3) == 3 and "SSIN" not in METRICS
    with pytest.raises(KeyError) as error:
        METRICS["ssin"]
    assert isinstance(error.value, UserError)
    assert str(error.value).startswith("unknown metric 'ssin'; did you mean 'SSIM'? available: AG, CC, ")


def test_one_value_per_image(metric: Metric, three: tuple[Tensor, ...]) -> None:
    before = [x.clone() for x in three]
    values = metric(*three)
    assert values.shape == (3,) and values.dtype == torch.float64 and not values.requires_grad
    assert values.isfinite().all() and len(set(values.tolist())) == 3
    assert all(torch.equal(x, y) for x, y in zip(three, before, strict=True))
    low, high = metric.bounds
    assert low <= values.min() and values.max() <= high


def test_batching_does_not_matter(metric: Metric, three: tuple[Tensor, ...]) -> None:
    together = metric(*three)
    close(together, torch.cat([metric(*(x[i : i + 1] for x in three)) for i in range(3)]))


def test_one_pair_under_many_images(metric: Metric, three: tuple[Tensor, ...]) -> None:
    fused, a, b = three
    together = metric(fused, a[:1], b[:1])
    close(together, metric(fused, a[:1].expand(3, -1, -1, -1), b[:1].expand(3, -1, -1, -1)))
    close(together, torch.cat([metric(fused[i : i + 1], a[:1], b[:1]) for i in range(3)]))


def test_symmetry_is_as_declared(metric: Metric, three: tuple[Tensor, ...]) -> None:
    fused, a, b = three
    values, exchanged = metric(fused, a, b), metric(fused, b, a)
    if metric.symmetric:
        close(values, exchanged)
    else:
        assert (values - exchanged).abs().max() > 1e-6


def test_layout_and_dtype_do_not_matter(metric: Metric, three: tuple[Tensor, ...]) -> None:
    values = metric(*three)
    turned = tuple(x.transpose(2, 3).contiguous().transpose(2, 3) for x in three)
    sliced = tuple(torch.stack([x, x], 4)[..., 0] for x in three)
    assert not turned[0].is_contiguous() and not sliced[0].is_contiguous()
    close(metric(*turned), values)
    close(metric(*sliced), values)
    # k / 255 in float32 is not k / 255 in float64: 8-bit images are divided in the dtype they have
    close(metric(*(x.double().mul(255).round().div(255) for x in three)), values, rtol=1e-5)
    close(metric(three[0].double(), three[1], three[2].double()), values, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (7, 7), (6, 30), (17, 33)])
def test_small_images_have_a_value_or_none(metric: Metric, size: tuple[int, int], images: Images) -> None:
    values = metric(*images(*size, batch=2, count=3))
    assert values.shape == (2,)
    defined = values[~values.isnan()]
    assert ((defined >= metric.bounds[0]) & (defined <= metric.bounds[1])).all()


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_images_raise_nothing(metric: Metric, level: float, images: Images) -> None:
    a, b = images(*SIZE)
    flat = torch.full_like(a, level)
    for three in ((flat, a, b), (a, flat, b), (a, b, flat), (a, flat, flat), (flat, flat, flat)):
        value = float(metric(*three))
        assert math.isnan(value) or metric.bounds[0] <= value <= metric.bounds[1]


def test_summary(metric: Metric, three: tuple[Tensor, ...]) -> None:
    empty = metric.compute()
    assert math.isnan(empty.mean) and (empty.num, empty.num_undefined) == (0, 0)
    values = torch.cat([metric.update(*(x[:2] for x in three)), metric.update(*(x[2:] for x in three))])
    score = metric.compute()
    assert score.mean == pytest.approx(float(values.mean())) and (score.num, score.num_undefined) == (3, 0)
    assert score.std == pytest.approx(float(values.std(correction=0)))
    metric.reset()
    assert metric.compute().num == 0


def test_summary_counts_what_is_undefined(three: tuple[Tensor, ...]) -> None:
    metric = METRICS["CC"]()
    values = metric.update(*three)
    flat = torch.full_like(three[0][:1], 0.3)
    assert metric.update(three[0][:1], flat, three[2][:1]).isnan().all()
    score = metric.compute()
    assert (score.mean, score.num, score.num_undefined) == (pytest.approx(float(values.mean())), 3, 1)


def test_the_sum_is_twice_the_mean(metric: Metric, three: tuple[Tensor, ...]) -> None:
    if not isinstance(metric, SourceMetric):
        with pytest.raises(TypeError):
            type(metric)(reduction="sum")  # type: ignore[call-arg]
        return
    total = type(metric)(reduction="sum")
    both = total.per_source(*three)
    assert both.shape == (2, 3)
    close(total(*three), both.sum(0))
    close(total(*three), 2 * metric(*three))
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum' over the two sources, got 'max'"):
        type(metric)(reduction="max")  # type: ignore[arg-type]


def test_wrong_input_is_refused(metric: Metric) -> None:
    x = torch.rand(2, 1, 8, 9)
    for fused, a, b, message in (
        (x[:, 0], x, x, "must be luminances"),
        (x.expand(2, 3, 8, 9), x, x, "convert colour images first"),
        (x, x[..., 1:], x, "must share one size"),
        (x, x, x[:1], "must share one size"),
        (x[:1], x, x, "one pair, or one for each fused image"),
        ((x * 255).byte(), x, x, "fused must be floating point in .0,1., got torch.uint8; divide by 255"),
        (x, x + 0.5, x, "a must lie in .0,1. and be finite"),
        (x, x, torch.full_like(x, math.nan), "b must lie in .0,1. and be finite, got nan to nan"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(fused, a, b)


def test_the_number_of_threads_is_left_alone(metric: Metric, three: tuple[Tensor, ...]) -> None:
    torch.set_num_threads(2)
    try:
        metric(*three)
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError):
            metric(three[0], three[1] + 1, three[2])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", CORE)
def test_stripes_do_not_matter(name: str, three: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = METRICS[name]()(*three)
    for size in (1, 3000):
        monkeypatch.setattr(windows, "STRIPE_PX", size)
        monkeypatch.setattr("tectum.metrics.information.COUNT_PX", size)
        monkeypatch.setattr(local_statistics, "ROWS", 1 + size // 500)
        monkeypatch.setattr(local_statistics, "COLUMNS", 11)
        monkeypatch.setattr(local_statistics, "TILE", size)
        close(METRICS[name]()(*three), whole)


# ---- reference values ------------------------------------------------------------------------------------------------

# Made by benchmarks/literal_metrics.py, which equals the reference values on real pairs to 1e-14:
#     i, j = np.mgrid[:44, :53]
#     a, b = np.abs((3 * i + 5 * j) % 200 - 100) + i + 17.0, np.abs((4 * i - 3 * j) % 150 - 75) + 2 * j + (i * j) % 7
#     f = np.floor((a + 2 * b) / 3 + (i * i + j) % 5)
#     literal_metrics.twelve(f, a, b)
LITERALS = {
    "EN": 6.724706417071992,
    "SF": 5.623389184656927,
    "SCD": 1.3976408707869339,
    "VIF": 0.19871171477927557,
    "Qabf": 0.44084280546749566,
    "SSIM": 0.6855037141859028,
    "SD": 26.803279727118692,
    "AG": 3.0048454897658976,
    "MI": 2.0065037232811855,
    "CC": 0.6555326554122083,
    "MSE": 657.8724271012006,
    "PSNR": 16.427561582270314,
}


def generated() -> tuple[Tensor, ...]:
    i, j = np.mgrid[:44, :53]
    a, b = np.abs((3 * i + 5 * j) % 200 - 100) + i + 17.0, np.abs((4 * i - 3 * j) % 150 - 75) + 2 * j + (i * j) % 7
    f = np.floor((a + 2 * b) / 3 + (i * i + j) % 5)
    return tuple(torch.from_numpy(x.astype(np.float32))[None, None] / 255 for x in (f, a, b))


@pytest.mark.parametrize("name", LITERALS)
def test_golden_literals(name: str) -> None:
    assert float(METRICS[name]()(*generated())) == pytest.approx(LITERALS[name], rel=1e-6)


@pytest.fixture(scope="module")
def golden() -> Path:
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data, with golden beside it")
    folder = Path(os.environ["TECTUM_DATA"]).parent / "golden"
    if not (folder / "metrics.json").is_file():
        pytest.skip(f"the reference values are not in {folder}")
    return folder


def test_reference_values(golden: Path) -> None:
    from PIL import Image

    def read(path: Path) -> Tensor:
        return torch.from_numpy(np.array(Image.open(path), np.float32))[None, None] / 255

    reference = json.loads((golden / "metrics.json").read_text())
    assert len(reference) == 11
    for pair, of_fused in reference.items():
        a, b = (read(golden / pair / f"{side}.png") for side in "ab")
        names = ("average", "maximum", "unsharp")
        fused = torch.cat([read(golden / pair / f"{name}.png") for name in names])
        for symbol in CORE[:12]:
            metric = METRICS[symbol]()
            if symbol in ("MI", "VIF", "SSIM"):
                assert isinstance(metric, SourceMetric)
                values = metric.per_source(fused, a, b)
                expected = torch.tensor([[of_fused[name][f"{symbol}_{side}"] for name in names] for side in "ab"])
            else:
                values = metric(fused, a, b)
                expected = torch.tensor([of_fused[name][symbol] for name in names])
            torch.testing.assert_close(values, expected.double(), rtol=1e-6, atol=0, msg=f"{symbol} of {pair}")
