"""Recipes, and the verbs `train` and `weights` as a person types them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tectum import recipes, weights
from tectum.cli import main
from tectum.data.synthetic import render, save
from tectum.engine.trainer import Schedule
from tectum.protocols import System
from tectum.systems import SYSTEMS, TDFusion, TDFusionLoss

TINY = ["--steps", "4", "--batch", "2", "--crop-px", "16", "--quiet"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of seven small pairs."""
    for seed in range(7):
        save(render(seed, (32, 40)), tmp_path / "pairs", f"scene-{seed}")
    return tmp_path / "pairs"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """TDFusion with 8 channels, so that a step takes milliseconds."""
    monkeypatch.setitem(SYSTEMS, "tdfusion", System(lambda: TDFusion(8), TDFusionLoss))


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_a_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = recipes.RECIPES[name]()
    assert recipe.name == name
    recipes.save(recipe, tmp_path / "recipe.json")
    assert recipes.read(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schedule": {"stepps": 3}}', '{"schedule": {}, "colour": 1}'])
def test_a_file_that_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match="must hold a recipe"):
        recipes.read(tmp_path / "recipe.json")


def test_validation_pairs_are_not_trained_on(pairs: Path) -> None:
    _, _, train, validation = recipes.build(recipes.tdfusion_fixed(), pairs)
    names = [[part[i].name[0] for i in range(len(part))] for part in (train, validation)]
    assert sorted(names[0] + names[1]) == [f"scene-{i}" for i in range(7)]
    assert names[1] == ["scene-0", "scene-6"]


def test_the_seed_decides_the_initial_weights(pairs: Path) -> None:
    recipe = recipes.tdfusion_fixed()
    first, again, other = (
        recipes.build(replace(recipe, schedule=Schedule(seed=seed)), pairs)[0].state_dict() for seed in (0, 0, 1)
    )
    name = "encoder_visible.0.attn.qkv.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.usefixtures("small")
def test_train_leaves_weights_that_fuse_takes(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "tdfusion-fixed", "--data", str(pairs), "-o", str(run), *TINY]) == 0
    assert "best.safetensors: validation loss" in capsys.readouterr().out
    assert recipes.read(run / "recipe.json").schedule.steps == 4
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 4 and line["valid_loss"] > 0
    assert list((run / "samples").glob("*.png"))
    vi, ir = pairs / "vi" / "scene-0.png", pairs / "ir" / "scene-0.png"
    out = tmp_path / "fused.png"
    assert main(["fuse", str(vi), str(ir), "-o", str(out), "--weights", str(run / "best.safetensors")]) == 0
    assert out.exists()


@pytest.mark.usefixtures("small")
def test_a_run_is_repeated_from_its_recipe(pairs: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["train", "tdfusion-fixed", "--data", str(pairs), "-o", str(first), "--seed", "3", *TINY]) == 0
    recipe = str(first / "recipe.json")
    assert main(["train", recipe, "--data", str(pairs), "-o", str(again), "--quiet"]) == 0
    a, b = (load_file(run / "best.safetensors") for run in (first, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tdfusion-fixd"], "unknown recipe 'tdfusion-fixd'; did you mean 'tdfusion-fixed'?"),
        (["tdfusion-fixed"], "needs a folder of pairs (vi and ir inside); give it with --data"),
        (["tdfusion-fixed", "--data", "nowhere"], "pairs not found in nowhere"),
        (["tdfusion-fixed-street", "--steps", "0"], "steps must be greater than 0 and finite, got 0"),
        (["missing.json"], "a recipe must be a file"),
    ],
)
def test_train_says_what_is_wrong(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("small")
def test_crops_larger_than_the_images_are_refused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "tdfusion-fixed", "--data", str(pairs), "-o", str(tmp_path / "run"), "--quiet"]
    assert main(arguments) == 2
    assert "crops of 128 px need images at least as large" in capsys.readouterr().err


def test_weights_are_listed_with_card_and_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    text = capsys.readouterr().out
    assert "tdfusion-fixed-msrs" in text
    assert "not covered by that licence" in " ".join(text.split())
    assert main(["weights", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == weights.cards()


def test_convert_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "convert", str(tmp_path / "none.pth")]) == 2
    assert "a checkpoint must be a file" in capsys.readouterr().err
    (tmp_path / "text.pth").write_text("no checkpoint")
    assert main(["weights", "convert", str(tmp_path / "text.pth")]) == 2
    assert "without running code" in capsys.readouterr().err
    assert not (tmp_path / "text.safetensors").exists()


@pytest.mark.slow
def test_minutes_on_synthetic_scenes_make_people_visible(tmp_path: Path) -> None:
    """The recipe that needs no data, shortened: people stand out more than in the visible image and than untrained."""
    from tectum.color import rgb_to_ycbcr
    from tectum.inference.tiling import fuse_tensors

    run = tmp_path / "run"
    assert main(["train", "tdfusion-fixed-street", "-o", str(run), "--steps", "60", "--quiet"]) == 0
    trained = weights.load("tdfusion", run / "best.safetensors")
    torch.manual_seed(0)
    untrained = TDFusion().eval()

    def contrast(image: torch.Tensor, people: torch.Tensor) -> float:
        return float(image[people].mean() - image[~people].mean())

    gains = []
    for seed in range(1000, 1008):
        scene = render(seed, (192, 256))
        people = scene.mask == 2
        if people.sum() < 100:
            continue
        visible = rgb_to_ycbcr(scene.visible)[0]
        after, before = (fuse_tensors(f, visible[None], scene.infrared[None])[0, 0] for f in (trained, untrained))
        gains.append((contrast(after, people), contrast(before, people), contrast(visible[0], people)))
    assert len(gains) >= 4
    after_mean, before_mean, visible_mean = (sum(x) / len(gains) for x in zip(*gains, strict=True))
    assert after_mean > 0.1
    assert after_mean > before_mean + 0.05
    assert after_mean > visible_mean + 0.1
