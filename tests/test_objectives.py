"""The natural objective: its terms against what they are named after, its laws, and its way through training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tectum.cli import main
from tectum.losses import contrast_ssim_loss, difference_correlation_loss, ssim_map
from tectum.metrics import METRICS
from tectum.models import SYSTEMS
from tectum.objectives import OBJECTIVES, NaturalLoss

Images = Callable[..., tuple[Tensor, ...]]


def test_the_correlation_of_differences_is_the_metric(images: Images) -> None:
    fused, a, b = (x.double() for x in images(40, 56, batch=3, count=3))
    expected = 2 - METRICS["SCD"]()(fused, a, b)
    for i in range(3):
        each = difference_correlation_loss(*(x[i : i + 1] for x in (fused, a, b)))
        torch.testing.assert_close(each, expected[i], rtol=0, atol=1e-8)
    torch.testing.assert_close(difference_correlation_loss(fused, a, b), expected.mean(), rtol=0, atol=1e-8)


def test_structure_is_asked_of_the_source_that_has_it(images: Images) -> None:
    a, _ = images(48, 48)
    flat = torch.full_like(a, 0.5)
    assert float(contrast_ssim_loss(a, a, flat)) < 0.02
    both = 1 - (ssim_map(a, a).mean() + ssim_map(a, flat).mean()) / 2
    assert float(both) > 0.2, "equal weights ask half of the image to be flat"


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_flat_and_equal_images_have_finite_gradients(level: float) -> None:
    flat = torch.full((2, 1, 24, 24), level)
    for a, b in ((flat, flat), (flat, torch.rand(2, 1, 24, 24))):
        for start in (flat, b):
            fused = start.clone().requires_grad_()
            sum(NaturalLoss()(fused, a, b).values()).backward()  # type: ignore[union-attr]
            assert fused.grad is not None and bool(fused.grad.isfinite().all())


def test_the_terms_have_their_weights(images: Images) -> None:
    fused, a, b = images(24, 24, count=3)
    once = NaturalLoss(1, 1, 1, 1)(fused, a, b)
    for name in once:
        doubled = NaturalLoss(**{key: 2.0 if key == name else 1.0 for key in once})(fused, a, b)
        assert float(doubled[name]) == pytest.approx(2 * float(once[name]))
        assert all(float(doubled[key]) == float(once[key]) for key in once if key != name)


@pytest.mark.parametrize("system", [name for name, x in SYSTEMS.items() if x.objective and x.variant != "published"])
def test_every_system_can_be_trained_on_it(system: str, images: Images) -> None:
    torch.manual_seed(0)
    fuser = SYSTEMS[system].fuser().train()
    a, b = images(32, 32)
    sum(OBJECTIVES["natural"]()(fuser(a, b), a, b).values()).backward()  # type: ignore[union-attr]
    assert any(float(p.grad.abs().max()) > 0 for p in fuser.parameters() if p.grad is not None)


def test_two_sets_train_as_one(tmp_path: Path, images: Images) -> None:
    from PIL import Image

    for folder, names in (("msrs", "abcdefg"), ("roadscene", "xyz")):
        for side, i in (("vi", 0), ("ir", 1)):
            (tmp_path / folder / "train" / side).mkdir(parents=True)
            for k, name in enumerate(names):
                pixels = (images(40, 48, seed=k)[i][0, 0] * 255).byte().numpy()
                Image.fromarray(pixels).save(tmp_path / folder / "train" / side / f"{name}.png")
    run = tmp_path / "run"
    flags = ["--steps", "2", "--validate-every", "2", "--batch", "2", "--crop-px", "32", "--quiet"]
    assert main(["train", "swift-natural", "--data", str(tmp_path), "-o", str(run), *flags]) == 0
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert {f"valid_{name}" for name in NaturalLoss()(*images(16, 16, count=3))} <= line.keys()
    from tectum.training.recipes import recipe as recipes
    from tectum.training.recipes.build import build

    built = build(recipes.read(run / "recipe.json"), tmp_path)
    seen = [built.pairs[i].name[0] for i in range(len(built.pairs))]
    assert [built.validation[i].name[0] for i in range(len(built.validation))] == ["a", "g", "x"]
    assert seen == ["b", "c", "d", "e", "f", "y", "y", "y", "z", "z"], "each set weighs alike, spread evenly"
