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


def write_labels(root: Path, part: str, *masks: np.ndarray) -> None:
    (root / part / "labels").mkdir(parents=True)
    for i, mask in enumerate(masks):
        write_pair(root / part / "vi", root / part / "ir", f"{part}-{i}")
        Image.fromarray(mask).save(root / part / "labels" / f"{part}-{i}.png")


def stripes(*labels: int) -> np.ndarray:
    """A mask of (96,128) with a stripe of four columns for each label, on background."""
    mask = np.zeros((96, 128), np.uint8)
    for i, label in enumerate(labels):
        mask[:, 8 * i : 8 * i + 4] = label
    return mask


def few(mask: np.ndarray) -> np.ndarray:
    """The mask with four pixels of it ignored."""
    mask = mask.copy()
    mask[60, :4] = 255
    return mask


TAKEN = "which means ignored, and rare has none; if 255 stands for a class"


@pytest.mark.parametrize(
    ("masks", "problem"),
    [
        ({"train": [few(stripes(1)), stripes(1)]}, ""),  # a class that no picture shows
        ({"train": [few(stripes(1)), few(stripes(1, 2))]}, ""),
        ({"train": [stripes(1, 2, 255)], "val": [stripes(1, 255)]}, ""),  # borders, as VOC has them
        ({"train": [stripes(1, 255), stripes(1)]}, TAKEN),
        ({"train": [stripes(1, 2)], "val": [stripes(1, 255)]}, TAKEN),  # 255 in one part only
        ({"train": [few(stripes()), few(stripes())]}, "ignored, and car, rare has none"),  # few or not: 0 and 255
        ({"train": [stripes(255), stripes(255)]}, "ignored, and car, rare has none"),
    ],
)
def test_a_rare_class_is_no_problem_and_one_that_is_ignored_is(
    masks: dict[str, list[np.ndarray]], problem: str, tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_text("background\ncar\nrare\n")
    for part, images in masks.items():
        write_labels(tmp_path, part, *images)
    problems = [text for part in check(tmp_path, "folder") for text in part.problems]
    assert len(problems) == bool(problem) and problem in "".join(problems)


def test_masks_of_0_and_255_need_no_names_to_be_a_problem(tmp_path: Path) -> None:
    write_labels(tmp_path, "train", stripes(255), stripes())
    [part] = check(tmp_path, "folder")
    assert len(part.problems) == 1 and "ignored, and 0 is the only class; if 255 stands for" in part.problems[0]


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
