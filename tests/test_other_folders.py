"""Folders and lists as other people have them: usual names, both orders of part and side, lists, masks of 0 and 255."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tectum import cli
from tectum.data.check import check
from tectum.data.datasets import open_set
from tectum.data.synthetic import render
from tectum.training.recipes import RECIPES
from tectum.training.recipes.build import build

SCENES = {seed: render(seed, (96, 128)) for seed in (1, 2)}
SIDES = (
    ("vi", "ir"),
    ("vis", "ir"),
    ("visible", "infrared"),
    ("Visible", "Infrared"),
    ("rgb", "thermal"),
    ("RGB", "T"),
    ("visible", "lwir"),
    ("color", "thermal"),
)


def write_pair(visible: Path, infrared: Path, name: str, seed: int = 1) -> None:
    scene = SCENES[seed]
    for folder in (visible, infrared):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((scene.visible.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(visible / f"{name}.png")
    Image.fromarray((scene.infrared[0].numpy() * 255).astype(np.uint8)).save(infrared / f"{name}.png")


def names_of(recipe: str, root: Path) -> tuple[list[str], list[str]]:
    """The names that a recipe trains on and validates on."""
    built: Any = build(RECIPES[recipe], root)
    return [built.pairs[i].name[0] for i in range(len(built.pairs))], [
        built.validation[i].name[0] for i in range(len(built.validation))
    ]


@pytest.mark.parametrize("sides", SIDES, ids="/".join)
@pytest.mark.parametrize("order", ["part/side", "side/part"])
def test_usual_folders_are_read_by_check_and_recipes(sides: tuple[str, str], order: str, tmp_path: Path) -> None:
    for part, names in (("train", "abc"), ("test", "d")):
        folders = [tmp_path / part / side if order == "part/side" else tmp_path / side / part for side in sides]
        for name in names:
            write_pair(*folders, name)
    parts = {part.split: (part.names, part.problems) for part in check(tmp_path, "folder")}
    assert parts == {"train": (["a", "b", "c"], []), "test": (["d"], [])}
    assert open_set("folder", tmp_path, split="train").names == ["a", "b", "c"]
    trained, validated = names_of("tdfusion-fixed", tmp_path)
    assert set(trained) <= set("abc") and "d" not in validated


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_divide_the_pairs_of_every_recipe(encoding: str, tmp_path: Path) -> None:
    for number in range(1, 9):
        write_pair(tmp_path / "vi", tmp_path / "ir", str(number), 1 + number % 2)
    (tmp_path / "train.txt").write_text("1\r\n2 \r\n\r\n3\r\n4\r\n", encoding=encoding)
    (tmp_path / "test.txt").write_text("5\n6\n7\n8\n", encoding=encoding)
    assert [part.names for part in check(tmp_path, "folder")] == [list("1234"), list("5678")]
    trained, validated = names_of("tdfusion-fixed", tmp_path)
    assert not set(trained + validated) & set("5678") and set(trained) <= set("1234")


def test_names_of_two_systems_of_accents_are_one(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Brücke") for form in ("NFC", "NFD"))
    write_pair(tmp_path / "vi", tmp_path / "other", composed)
    write_pair(tmp_path / "another", tmp_path / "ir", decomposed)
    assert open_set("folder", tmp_path, split="all").names == [composed]


def test_a_class_taken_for_ignored_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").mkdir()
    for seed in (1, 2):
        write_pair(tmp_path / "vi", tmp_path / "ir", str(seed), seed)
        hot = (SCENES[seed].infrared[0].numpy() > 0.5).astype(np.uint8) * 255
        Image.fromarray(hot).save(tmp_path / "labels" / f"{seed}.png")
    (tmp_path / "classes.txt").write_text("background\nperson\n", encoding="utf-8")
    assert cli.main(["data", "check", str(tmp_path), "--quiet"]) == 1
    told = capsys.readouterr().out
    assert "are 255, which means ignored, and person has none" in told and "problems: 1" in told
    for path in (tmp_path / "labels").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    assert cli.main(["data", "check", str(tmp_path), "--quiet"]) == 0
    for path in (tmp_path / "labels").iterdir():
        Image.fromarray(np.zeros((96, 128), np.uint8)).save(path)
    capsys.readouterr()
    assert cli.main(["data", "check", str(tmp_path), "--quiet"]) == 1
    assert "all masks hold nothing but background" in capsys.readouterr().out
