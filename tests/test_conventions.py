"""Conventions: what differs between tables, what test scripts save, and rows of published tables again."""

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tectum.io.image import to_array
from tectum.metrics import METRICS
from tectum.metrics.conventions import CONVENTIONS, Convention, with_metrics

Images = Callable[..., tuple[Tensor, ...]]


@pytest.fixture(params=sorted(CONVENTIONS))
def convention(request: pytest.FixtureRequest) -> Convention:
    return CONVENTIONS[request.param]


@pytest.fixture
def three(images: Images) -> tuple[Tensor, ...]:
    """Two fused images, and one pair."""
    fused, a, b = (x.mul(255).round().div(255) for x in images(64, 70, batch=2, seed=2, count=3))
    return (fused + a + b) / 3, a[:1], b[:1]


def test_every_convention_says_what_it_is(convention: Convention) -> None:
    assert CONVENTIONS[convention.name] is convention
    assert convention.levels in ("round", "truncate") and isinstance(convention.stretch, bool)
    for words in (convention.summary, convention.luma, convention.notes):
        assert len(words.split()) > 5
    with pytest.raises(FrozenInstanceError):
        convention.stretch = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        convention.metrics["EN"] = METRICS["SD"]  # type: ignore[index]


def test_one_value_per_fused_image(convention: Convention, three: tuple[Tensor, ...]) -> None:
    values = convention(*three)
    assert list(values) == list(convention.metrics)
    assert all(value.shape == (2,) and value.isfinite().all() for value in values.values())
    one = convention(three[0][1:], *three[1:])
    for name, value in values.items():
        torch.testing.assert_close(one[name], value[1:], rtol=1e-6, atol=0)


def test_columns() -> None:
    columns = {name: " ".join(convention.metrics) for name, convention in CONVENTIONS.items()}
    assert columns == {
        "tectum": "EN SD SF AG MI CC SCD PSNR MSE SSIM VIF Qabf",
        "tdfusion": "EN SF SCD VIF Qabf SSIM",
        "cddfuse": "EN SD SF MI SCD VIF Qabf SSIM",
        "adasffuse": "EN SD SF MI SCD VIFF Qabf SSIM",
        "vifb": "CE EN MI PSNR AG EI Qabf SD SF Qcb Qcv RMSE SSIM",
        "mefb": "CE EN PSNR AG EI Qabf SD SF Qcb Qcv NMI TE Qncie FMI Qw Qy MEF-SSIM VIF",
        "mfifb": "CE EN PSNR AG EI Qabf SD SF Qcb Qcv NMI TE Qncie FMI Qw Qy SSIM VIF",
        "ivif-zoo": "EN SF AG CC SCD Qabf MSE PSNR",
    }


def test_how_the_tables_differ(three: tuple[Tensor, ...]) -> None:
    tables = {name: convention(*three) for name, convention in CONVENTIONS.items()}
    ours, td, cdd, ada = (tables[name] for name in ("tectum", "tdfusion", "cddfuse", "adasffuse"))

    def same(x: Tensor, y: Tensor) -> None:
        torch.testing.assert_close(x, y, rtol=1e-6, atol=0)

    for other in (td, cdd, ada):
        for name in ("EN", "SF", "SCD", "Qabf"):
            same(other[name], ours[name])
    same(td["VIF"], ours["VIF"])
    same(cdd["VIF"], 2 * ours["VIF"])
    same(ada["VIFF"], cdd["VIF"])
    same(cdd["MI"], 2 * ours["MI"])
    same(ada["SSIM"], 2 * ours["SSIM"])
    assert bool((cdd["SSIM"] < ada["SSIM"] - 1e-3).all())


def test_ssim_is_cut_to_whole_levels_by_tdfusion_only(three: tuple[Tensor, ...]) -> None:
    fused, a, b = three
    off = (fused * 255 + 0.7).clamp(0, 255).div(255).float()
    cut = (off * 255 + 1e-4).floor() / 255
    td, ours = CONVENTIONS["tdfusion"].metrics["SSIM"](), CONVENTIONS["tectum"].metrics["SSIM"]()
    torch.testing.assert_close(td(off, a, b), ours(cut, a, b), rtol=1e-9, atol=0)
    assert (td(off, a, b) - ours(off, a, b)).abs().min() > 1e-7
    torch.testing.assert_close(td(cut, a, b), ours(cut, a, b), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["MSE", "EN"], "MSE EN"),
        (("en", "ssim", "qABF", "ms-ssim", "EN"), "EN SSIM Qabf MS-SSIM"),
        (("all",), " ".join(METRICS)),
        (["ALL"], " ".join(METRICS)),
        (None, "EN SD SF AG MI CC SCD PSNR MSE SSIM VIF Qabf"),
    ],
)
def test_other_columns(names: list[str] | None, expected: str) -> None:
    assert " ".join(with_metrics(CONVENTIONS["tectum"], names).metrics) == expected


def test_other_columns_are_taken_as_the_convention_takes_them(three: tuple[Tensor, ...]) -> None:
    cdd = CONVENTIONS["cddfuse"]
    other = with_metrics(cdd, ["vif", "AG", "mi"])
    values, own = other(*three), cdd(*three)
    assert list(values) == ["VIF", "AG", "MI"] and (other.name, other.stretch) == (cdd.name, cdd.stretch)
    assert torch.equal(values["VIF"], own["VIF"]) and torch.equal(values["MI"], own["MI"])
    assert torch.equal(values["AG"], METRICS["AG"]()(*three))
    assert list(with_metrics(CONVENTIONS["adasffuse"], ["all"]).metrics) == list(METRICS)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "at least one metric must be given"),
        (["SSIN"], "unknown metric 'SSIN'; did you mean 'SSIM'?"),
        (["EN", "all"], "unknown metric 'all'"),
    ],
)
def test_wrong_columns(names: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        with_metrics(CONVENTIONS["tectum"], names)


# ---- what is saved ---------------------------------------------------------------------------------------------------


def test_saved_images_are_on_levels(convention: Convention, images: Images) -> None:
    (x,) = images(20, 30, batch=3, count=1)
    x = 0.2 + 0.5 * x
    before, saved = x.clone(), convention.quantize(x)
    assert torch.equal(x, before) and saved.shape == x.shape
    levels = saved * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    for i in range(3):  # each image by itself
        assert torch.equal(convention.quantize(x[i : i + 1]), saved[i : i + 1])
    low, high = saved.amin((1, 2, 3)), saved.amax((1, 2, 3))
    if convention.stretch:
        assert low.tolist() == [0, 0, 0] and high.tolist() == [1, 1, 1]
    else:
        assert low.min() > 0.19 and high.max() < 0.71


def test_rounded_or_truncated() -> None:
    x = torch.tensor([0.0, 10.2, 10.5, 10.8, 200.49, 255.0]).view(1, 1, 1, 6) / 255
    levels = {c.name: (c.quantize(x) * 255).flatten().round().int().tolist() for c in CONVENTIONS.values()}
    assert levels["tectum"] == [0, 10, 11, 11, 200, 255]
    assert levels["tdfusion"] == levels["cddfuse"] == levels["adasffuse"] == [0, 10, 10, 10, 200, 255]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_ours_are_saved_as_fuse_writes_them(share: float) -> None:
    """What is scored is what is in the file: of means of 8-bit images, half of them halves of levels, and of any."""
    generator = torch.Generator().manual_seed(5)
    a, b = torch.randint(0, 256, (2, 1, 1, 256, 256), generator=generator) / 255
    mean = (a + b) / 2
    fused = torch.where(torch.rand(mean.shape, generator=generator) < share, a, mean)
    halves = ((fused * 255) % 1 - 0.5).abs() < 1e-4
    assert halves.double().mean() == pytest.approx((1 - share) / 2, abs=0.01)
    for y in (fused, torch.rand(fused.shape, generator=generator)):
        written = torch.from_numpy(to_array(y[0])).float() / 255
        assert torch.equal(CONVENTIONS["tectum"].quantize(y)[0, 0], written)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_on_levels_over_the_full_range_stays(convention: Convention, dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=dtype).view(1, 1, 16, 16) / 255
    torch.testing.assert_close(convention.quantize(levels), levels, rtol=0, atol=1e-7)
    as_read = (torch.arange(256.0).view(1, 1, 16, 16) / 255).to(dtype)  # float32 quotients in float64
    torch.testing.assert_close(convention.quantize(as_read), levels, rtol=0, atol=1e-7)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_image_keeps_its_value(convention: Convention, level: int) -> None:
    saved = convention.quantize(torch.full((2, 1, 4, 4), level / 255))
    assert (saved * 255).round().unique().tolist() == [level]


def test_stretching_raises_what_rewards_contrast(three: tuple[Tensor, ...]) -> None:
    fused = 0.3 + 0.4 * three[0]
    stretched, plain = CONVENTIONS["cddfuse"], CONVENTIONS["tectum"]
    for name in ("EN", "SD", "SF"):
        metric = METRICS[name]()
        assert bool((metric(stretched.quantize(fused), *three[1:]) > metric(plain.quantize(fused), *three[1:])).all())


# ---- rows of published tables ----------------------------------------------------------------------------------------

COLUMNS = ("EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM")
ROWS = {  # the reference evaluator's means over CDDFuse's test sets, to the printed digits
    ("tno", "average"): (6.42, 26.11, 6.94, 1.61, 1.54, 0.57, 0.36, 1.02),
    ("tno", "maximum"): (6.81, 40.01, 10.06, 4.71, 1.54, 0.92, 0.60, 1.00),
    ("tno", "visible"): (6.88, 47.00, 10.82, 5.16, math.nan, 1.04, 0.58, 1.00),
    ("tno", "infrared"): (6.59, 40.37, 7.54, 4.96, math.nan, 1.03, 0.51, 1.00),
    ("roadscene", "average"): (6.64, 28.52, 7.51, 2.01, 1.42, 0.57, 0.38, 0.95),
    ("roadscene", "maximum"): (7.03, 44.01, 11.63, 5.11, 1.41, 0.85, 0.60, 0.97),
    ("roadscene", "visible"): (6.66, 40.95, 9.10, 5.26, math.nan, 1.03, 0.47, 0.98),
    ("roadscene", "infrared"): (7.43, 50.68, 12.26, 5.80, math.nan, 1.05, 0.66, 0.98),
}


@pytest.fixture(scope="module")
def data() -> Path:
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data")
    return Path(os.environ["TECTUM_DATA"])


def grey(path: Path) -> Tensor:
    """BT.601 grey on 8-bit levels, as the evaluator reads a file."""
    import cv2

    image = cv2.imread(str(path))
    assert image is not None
    return torch.from_numpy(np.round(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2GRAY)))[None, None] / 255


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tno", "roadscene"])
def test_published_rows_come_out_to_the_printed_digit(name: str, data: Path) -> None:
    about = json.loads((data / "manifest.json").read_text())["datasets"][name]
    names = about["splits"]["test"]["names"]
    if name == "tno":
        (subset,) = (names for key, names in about["subsets"].items() if key.startswith("cddfuse_25"))
        names = list(subset.values())
    convention = CONVENTIONS["cddfuse"]
    values = []
    for image in names:
        a, b = (grey(next((data / name / "test" / folder).glob(f"{image}.*"))) for folder in ("vi", "ir"))
        average = ((a + b) / 2 * 255 + 0.5).floor() / 255  # rounded, not stretched
        table = convention(torch.cat([average, torch.maximum(a, b), a, b]), a, b)
        values.append(torch.stack([table[column] for column in COLUMNS]))
    means = torch.stack(values).mean(0)  # (columns, methods)
    for i, method in enumerate(("average", "maximum", "visible", "infrared")):
        assert means[:, i].tolist() == pytest.approx(ROWS[name, method], abs=0.00501, nan_ok=True), method


@pytest.mark.parametrize(
    ("name", "six", "more"),
    [
        ("00710N", (5.8973, 7.0476, 1.7675, 0.5346, 0.6138, 0.8116), (31.19, 2.3411)),
        ("00906N", (6.5614, 12.2067, 1.6359, 0.4608, 0.6286, 0.7313), (40.89, 2.1158)),
    ],
)
def test_the_evaluators_of_tdfusion_and_adasffuse_again(
    name: str, six: tuple[float, ...], more: tuple[float, ...], refusion: Path
) -> None:
    """Both evaluators' values of what a published network returns, saved as their test scripts save it."""
    raw = torch.from_numpy(np.load(refusion / f"{name}_output.npz")["fused"])[None, None]
    a, b = (grey(refusion / f"{name}_{role}.png") for role in ("visible", "infrared"))
    conventions = (CONVENTIONS["tdfusion"], CONVENTIONS["adasffuse"])
    td, ada = ({k: float(v) for k, v in c(c.quantize(raw), a, b).items()} for c in conventions)
    assert tuple(td.values()) == pytest.approx(six, abs=5.1e-5)
    assert [ada[k] for k in ("EN", "SF", "SCD", "Qabf")] == pytest.approx([td[k] for k in ("EN", "SF", "SCD", "Qabf")])
    assert (ada["VIFF"], ada["SSIM"]) == pytest.approx((2 * td["VIF"], 2 * td["SSIM"]))
    assert (ada["SD"], ada["MI"]) == (pytest.approx(more[0], abs=5.1e-3), pytest.approx(more[1], abs=5.1e-5))
