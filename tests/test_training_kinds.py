"""Training on every kind of pairs: the objective is told the kind, a and b are where the kind says, flags reach it."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from small_training import Small
from tectum.cli import main
from tectum.kinds import KINDS
from tectum.models import SYSTEMS
from tectum.models.tdfusion import TDFusionLoss
from tectum.protocols import System
from tectum.training import recipes
from tectum.training.recipes import Recipe
from tectum.training.recipes.build import build
from test_data_kinds import TREE, put_all, sides_are_right
from test_recipes import TINY


class OfKind(nn.Module):
    """Remembers what it was told; draws the image to a alone where the pairs are medical, else to the mean."""

    def __init__(self, kind: str = "unknown", *, scale: float = 1.0) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale

    def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        aim = a if self.kind == "medical" else (a + b) / 2
        return {"intensity": self.scale * (fused - aim).abs().mean()}


OWN = "test_training_kinds:OfKind"


def own(kind: str = "focus") -> Recipe:
    return Recipe("own", "small", "folder", kind=kind, objective=OWN)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "small", System(Small, TDFusionLoss))
    monkeypatch.setitem(SYSTEMS, "told", System(Small, OfKind))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Seven pairs of each kind in the published tree."""
    for a, b in TREE.values():
        put_all(tmp_path / "tree" / "train", a + "/{}.png", b + "/{}.png", map(str, range(7)))
    return tmp_path / "tree"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_built_from_its_part_of_the_tree(tree: Path, kind: str) -> None:
    built = build(replace(own(kind), options={"scale": 2.0}), tree)
    assert (len(built.pairs), len(built.validation)) == (5, 2)
    assert isinstance(built.objective, OfKind) and (built.objective.kind, built.objective.scale) == (kind, 2.0)
    pairs = [built.pairs[i] for i in range(5)]
    assert all(pair.a.mean() > pair.b.mean() for pair in pairs)
    if kind != "infrared":
        assert sides_are_right(built.pairs) and sides_are_right(built.validation)  # type: ignore[arg-type]


def test_an_objective_of_the_system_that_takes_the_kind_is_told_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "focus", replace(KINDS["focus"], objective=None))
    built = build(replace(own("MFF"), system="told", objective=None), tree)
    assert isinstance(built.objective, OfKind) and built.objective.kind == "focus"
    assert isinstance(build(replace(own("infrared"), objective=None), tree).objective, TDFusionLoss)


def test_the_kinds_own_objective_comes_before_the_systems(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "medical", replace(KINDS["medical"], objective=OWN))
    built = build(replace(own("medical"), objective=None), tree)
    assert isinstance(built.objective, OfKind) and built.objective.kind == "medical"


def test_an_objective_for_infrared_is_not_taken_for_another_kind(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "focus", replace(KINDS["focus"], objective=None))
    with pytest.raises(ValueError, match="trains focus pairs and the objective of 'small' is for infrared ones"):
        build(replace(own(), objective=None), tree)


def test_what_does_not_go_with_a_kind_is_said(tree: Path) -> None:
    with pytest.raises(ValueError, match="takes kind, got alpha; leave out --alpha"):
        build(replace(recipes.RECIPES["adasffuse-focus"], options={"alpha": 0.1}), tree)
    with pytest.raises(ValueError, match="taught on infrared pairs, got --kind focus"):
        build(replace(recipes.RECIPES["tdfusion-refit"], kind="focus"), tree)
    built = build(replace(recipes.RECIPES["tomiff-fixed-msrs"], kind="focus"), tree)
    assert len(built.pairs) > len(built.validation) > 0, "a list of infrared pairs is no list of these"


def test_train_and_repeat_by_the_command(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    tiny = [flag if flag != "16" else "8" for flag in TINY]
    command = ["train", "test_training_kinds:own", "--data", str(tree), "-o", run, *tiny]
    assert main([*command, "--kind", "MEF", "--ema", "0.9", "--turns"]) == 0
    recipe = recipes.read(tmp_path / "run" / "recipe.json")
    assert (recipe.kind, recipe.objective, recipe.schedule.ema, recipe.schedule.dihedral) == (
        "exposure",
        OWN,
        0.9,
        True,
    )
    assert main(["train", f"{run}/recipe.json", "--data", str(tree), "-o", f"{run}-again", "--quiet"]) == 0
    weights = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("run", "run-again")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert main([*command, "--ema", "0.9", "--turns"]) == 2
    assert "a run with another kind;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learned": True}, "leave out --objective"),
        ({"loss": "tdfusion-msrs"}, "leave out --objective"),
        ({"data": "street"}, "renders infrared scenes, got focus"),
        ({"kind": "fokus"}, "did you mean 'focus'"),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(own(), **changes)  # type: ignore[arg-type]


def test_objectives_that_are_not_there(tree: Path) -> None:
    for name, words in (("nowhere:Loss", "objective 'nowhere:Loss' must be importable"), ("mef", "unknown objective")):
        with pytest.raises(ValueError, match=words):
            build(replace(own(), objective=name), tree)
    with pytest.raises(ValueError, match="needs a folder of pairs \\(imageA and imageB inside\\)"):
        build(own(), None)
