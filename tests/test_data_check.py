"""`tectum data`: what is in a folder, every problem in it, and the tables of docs/data.md."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tectum import cli
from tectum.data.check import check, detect
from tectum.data.command import make_markdown
from tectum.data.known import DATASETS
from tectum.data.synthetic import render, save

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Three labelled scenes, two to train on."""
    for seed in range(3):
        save(render(seed, (HEIGHT, WIDTH), hour="day"), tmp_path / ("test" if seed == 2 else "train"), f"{seed}")
    (tmp_path / "classes.txt").write_text("background\ncar\nperson\nlamp\n")
    return tmp_path


def run(*argv: str) -> int:
    return cli.parse(["data", *argv]).run()


def test_counts_are_those_of_the_files(street: Path) -> None:
    [train, test] = check(street, "folder")
    assert (train.split, train.names, test.split, test.names) == ("train", ["0", "1"], "test", ["2"])
    assert train.sizes == {f"{WIDTH}x{HEIGHT}": 2} and not train.problems
    scenes = [render(seed, (HEIGHT, WIDTH), hour="day") for seed in range(2)]
    masks, boxes = train.class_counts["masks"], train.class_counts["boxes"]
    assert masks.classes == ("background", "car", "person", "lamp")
    assert masks.amount == [sum(int((x.mask == k).sum()) for x in scenes) for k in range(4)]
    assert masks.images == [sum(bool((x.mask == k).any()) for x in scenes) for k in range(4)]
    assert boxes.amount == [sum(int((x.labels == k).sum()) for x in scenes) for k in range(4)]
    assert sum(boxes.amount) > 2 and masks.ignored == boxes.num_empty == 0


def test_a_clean_folder_is_told_and_gives_0(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(street), "--quiet") == 0
    out = capsys.readouterr().out
    assert "folder: Your own pairs (told by nothing that names a known set; --data NAME says otherwise)" in out
    assert "train: 2 pairs, 64x48" in out and f"masks: {2 * HEIGHT * WIDTH} pixels" in out
    assert out.endswith("problems: none\n")


def unlink(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def write(path: str, content: bytes) -> Callable[[Path], None]:
    def overwrite(root: Path) -> None:
        (root / path).write_bytes(content)

    return overwrite


def mask(path: str, value: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(np.full(size, value, np.uint8)).save(root / path)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (unlink("train/labels/1.png"), "train: 1 has no masks in"),
        (unlink("train/boxes/1.txt"), "train: 1 has no boxes in"),
        (unlink("train/ir/1.png"), "train: 1 has no infrared image in"),
        (unlink("test/vi/2.png"), "test: 2 has no visible image in"),
        (mask("train/labels/9.png", 0), "labels/9.png belongs to no image"),
        (mask("train/labels/0.png", 4), "labels/0.png has 4 in row 0, column 0 (100.0% of it is no class)"),
        (mask("train/labels/0.png", 0, (9, 8)), "labels/0.png is 8x9 for an image of 64x48"),
        (mask("train/ir/0.png", 0, (9, 8)), "0 has images of 64x48 (visible) and 8x9 (infrared) pixels"),
        (write("train/labels/1.png", b""), "labels/1.png is empty (0 bytes)"),
        (write("train/vi/1.png", b"text"), "vi/1.png is not an image tectum can read"),
        (write("train/boxes/1.txt", b"9 0.5 0.5 0.1 0.1"), "boxes/1.txt, line 1 has 9"),
        (write("train/boxes/1.txt", b"1 0.9 0.5 0.5 0.1"), "boxes/1.txt, line 1 has 41.6,21.6,73.6,26.4 in 64x48"),
    ],
)
def test_each_problem_is_one_line(
    street: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], says: str
) -> None:
    harm(street)
    assert run("check", str(street), "--quiet") == 1
    problems = capsys.readouterr().out.partition("problems: ")[2].splitlines()
    assert problems[0] == "1" and len(problems) == 2
    assert says in problems[1]


def test_an_empty_text_file_is_no_problem(street: Path) -> None:
    (street / "test/boxes/2.txt").write_text("")
    [_, test] = check(street, "folder")
    assert (test.class_counts["boxes"].num_empty, sum(test.class_counts["boxes"].amount), test.problems) == (1, 0, [])


def test_pairs_to_train_on_and_to_score_are_told(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("vi", "ir", "labels"):
        shutil.copy(street / "train" / place / "1.png", street / "test" / place / "1.png")
        shutil.copy(street / "test" / place / "2.png", street / "train" / place / "3.png")  # by content alone: not told
    for split, name in (("test", "1"), ("train", "3")):
        shutil.copy(street / "train/boxes/1.txt", street / split / "boxes" / f"{name}.txt")
    assert run("check", str(street), "--quiet") == 1
    problems = capsys.readouterr().out.partition("problems: ")[2].splitlines()
    assert problems[0] == "1" and "test: 1 of 2 pairs are in train too, the first is 1;" in problems[1]
    save(render(7, (HEIGHT, WIDTH), hour="day"), street / "test", "1")  # another scene of that name
    assert run("check", str(street), "--quiet") == 0


def test_the_same_list_for_both_parts_is_told(tmp_path: Path) -> None:
    for folder in ("vi", "ir"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / f"{i}.png")
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("0\n1\n")
    [train, test] = check(tmp_path, "folder")
    assert not train.problems and ["2 of 2 pairs are in train too" in x for x in test.problems] == [True]


def test_at_most_twenty_problems_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("vi", "ir"):
        (tmp_path / folder).mkdir()
        for i in range(25):
            Image.fromarray(np.zeros((4, 4 if folder == "vi" else 5), np.uint8)).save(
                tmp_path / folder / f"{i:02d}.png"
            )
    assert run("check", str(tmp_path), "--quiet") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["all: 25 pairs, 4x4", "  no labels"]
    assert lines[3] == "problems: 25" and len(lines) == 25 and lines[-1] == "  and 5 more"


def test_a_part_or_folder_that_cannot_be_is_refused(street: Path) -> None:
    file = next(path for path in street.rglob("*.png"))
    with pytest.raises(ValueError, match=r"split must be one of train, val, test, got 'tets'"):
        check(street, "folder", splits=("tets",))
    with pytest.raises(ValueError, match=r"a folder is needed, .* is a file"):
        check(file, "folder")


def test_parts_and_kinds_may_be_chosen(street: Path) -> None:
    [part] = check(street, "folder", splits=["test"], targets=["boxes"])
    assert (part.split, list(part.class_counts)) == ("test", ["boxes"])
    (street / "test/boxes/2.txt").unlink()
    [part] = check(street, "folder", splits=["test"], targets=["boxes"])
    assert "has no boxes for test" in part.problems[0]
    with pytest.raises(FileNotFoundError, match="has no part called val"):
        check(street, "folder", splits=["val"])


def test_sets_are_known_by_their_names_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made, name in (
        ("MSRS/train/vi", "msrs"),
        ("x/VOCdevkit/VOC2007/JPEGImages", "voc"),
        ("y/JPEGImages_ir", "voc"),
        ("z/crop_LR_visible", "roadscene"),
        ("u/LLVIP", "llvip"),
        ("v/vi", "folder"),
    ):
        (tmp_path / made).mkdir(parents=True)
        assert detect(tmp_path / Path(made).parts[0])[0] == name
    (tmp_path / "u" / "fmb").mkdir()
    with pytest.raises(ValueError, match="holds fmb, llvip; give the folder of one"):
        detect(tmp_path / "u")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        detect(tmp_path / "nowhere")


def test_a_list_without_parts_is_read_with_its_boxes(tmp_path: Path) -> None:
    for folder in ("Vis", "Ir"):
        (tmp_path / folder).mkdir()
        for i in range(4):
            Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "train.txt").write_text("0.png 0,0,16,8,4\n1.png 0,0,1,1,5 0,0,8,4,5\n2.png\n")
    (tmp_path / "test.txt").write_text("3.png 0,0,8,16,0\n9.png\n")
    [train, test] = check(tmp_path, "m3fd")
    assert train.class_counts["boxes"].amount == [0, 0, 0, 0, 1, 2] and train.class_counts["boxes"].num_empty == 1
    assert not train.problems
    assert [x.partition(",")[0] for x in test.problems[-1:]] == ["a box must lie in its image"]
    assert sum("9 has no" in x for x in test.problems) == 2


def test_every_set_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    out = capsys.readouterr().out
    for name, known in DATASETS.items():
        assert f"{name}: {known.title}\n" in out and known.url in out and known.licence in out
    assert "1 car, 2 person" in out and "0 person, 1 bicycle, 2 car" in out


def test_the_page_has_the_tables_of_the_facts() -> None:
    """`tectum data list --markdown` makes them."""
    assert make_markdown() in (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_real_pairs_are_whole() -> None:
    """794 + 216 + 294 boxes in the 221 pairs to train on; nothing to complain about in 15 pairs of M3FD."""
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data")
    data = Path(os.environ["TECTUM_DATA"])
    [train] = check(data / "msrs", "msrs", splits=["train"], targets=["boxes"])
    assert (len(train.names), train.class_counts["boxes"].amount, train.problems) == (221, [794, 216, 294], [])
    [test] = check(data / "m3fd", "m3fd")
    assert (len(test.names), sum(test.class_counts["boxes"].amount), test.problems) == (15, 224, [])
    assert torch.tensor(test.class_counts["boxes"].images).max() == 15
