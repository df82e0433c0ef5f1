"""Every known set on a generated tree in its published layout, and what is refused when a tree is not whole.

Each pair shows one bright rectangle in the infrared, and its label says where: a set is read right where they agree.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tectum.data.datasets import find_pairs, get_known_set, open_set
from tectum.data.known import DATASETS
from tectum.data.labelled import LabelledPairs
from tectum.data.parts import draw_names, read_split

HEIGHT, WIDTH = 24, 40
Box = tuple[int, int, int, int]


def box_of(stem: str) -> Box:
    """Where the rectangle of a name is: x1, y1, x2, y2."""
    rng = np.random.default_rng(list(stem.encode()))
    x1, y1 = int(rng.integers(0, 20)), int(rng.integers(0, 12))
    return x1, y1, x1 + int(rng.integers(4, 20)), y1 + int(rng.integers(4, 12))


def pictures(stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Colours without a trace of the rectangle, and the infrared."""
    rng = np.random.default_rng(list(stem.encode()))
    x1, y1, x2, y2 = box_of(stem)
    infrared = np.zeros((HEIGHT, WIDTH), np.uint8)
    infrared[y1:y2, x1:x2] = 255
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), infrared


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pair(visible: Path, infrared: Path, *stems: str) -> None:
    for stem in stems:
        colours, heat = pictures(stem)
        put(visible / f"{stem}.png", colours)
        put(infrared / f"{stem}.png", heat)


def write_masks(folder: Path, *stems: str, label: int = 1) -> None:
    for stem in stems:
        put(folder / f"{stem}.png", (pictures(stem)[1] // 255 * label).astype(np.uint8))


def write_yolo(folder: Path, *stems: str, label: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        x1, y1, x2, y2 = box_of(stem)
        relative = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
        (folder / f"{stem}.txt").write_text(" ".join([str(label), *(f"{x:.6f}" for x in relative)]) + "\n")


def write_xml(folder: Path, *stems: str, label: str = "person") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        tags = "".join(f"<{k}>{x}</{k}>" for k, x in zip(("xmin", "ymin", "xmax", "ymax"), box_of(stem), strict=True))
        (folder / f"{stem}.xml").write_text(
            f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            f"<object><name>{label}</name><bndbox>{tags}</bndbox></object></annotation>"
        )


def in_list(*stems: str, label: int = 0) -> str:
    return "".join(f"{stem}.png {','.join(map(str, box_of(stem)))},{label}\n" for stem in stems)


def agrees(pairs: LabelledPairs, label: int) -> bool:
    """Every label lies on the rectangle of its picture and is of that class."""
    for index, stem in enumerate(pairs.names):
        pair = pairs[index]
        assert pair.name == (stem,) and pair.a.shape == (1, 1, HEIGHT, WIDTH)
        assert torch.equal(pair.b[0, 0] * 255, torch.from_numpy(pictures(stem)[1]).float())
        if isinstance(pair.target, Tensor):
            assert pair.target.dtype == torch.int64
            if not torch.equal(pair.target, (pair.b[0] > 0.5).long() * label):
                return False
        else:
            [entry] = pair.target
            x1, y1, x2, y2 = box_of(stem)
            wanted = [x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]
            if entry["labels"].tolist() != [label] or entry["boxes"][0].tolist() != pytest.approx(wanted, abs=2e-6):
                return False
    return True


# ---- the published layouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sides", "label"),
    [
        ("msrs", ("{}/vi", "{}/ir"), "{}/Segmentation_labels"),
        ("msrs", ("{}/vi", "{}/ir"), "{}/labels"),
        ("fmb", ("{}/Visible", "{}/Infrared"), "{}/Label"),
    ],
)
def test_sets_with_masks(tmp_path: Path, name: str, sides: tuple[str, str], label: str) -> None:
    home = tmp_path / name.upper()
    for split, stems in (("train", ("00001D", "00002N")), ("test", ("00003D",))):
        write_pair(home / sides[0].format(split), home / sides[1].format(split), *stems)
        write_masks(home / label.format(split), *stems, label=8)
    train = open_set(name, tmp_path, target="masks")
    assert (train.names, train.label_type, train.classes) == (["00001D", "00002N"], "masks", DATASETS[name].masks)
    assert agrees(train, 8)
    test = open_set(name, home, split="test", target="masks")
    assert test.names == ["00003D"] and agrees(test, 8)
    assert open_set(name, tmp_path)[0].target is None


def test_llvip(tmp_path: Path) -> None:
    """Annotations of both parts lie in one folder; the published protocol takes every tenth."""
    stems = [f"{i:06d}" for i in range(10001, 10022)]
    for split, some in (("train", stems[:12]), ("test", stems[12:])):
        write_pair(tmp_path / "LLVIP/visible" / split, tmp_path / "LLVIP/infrared" / split, *some)
    write_xml(tmp_path / "LLVIP/Annotations", *stems)
    train = open_set("llvip", tmp_path, target="boxes")
    assert len(train) == 12 and train.classes == ("person",) and agrees(train, 0)
    tenth = open_set("llvip", tmp_path, target="boxes", every=10)
    assert tenth.names == [stems[0], stems[10]]
    assert open_set("llvip", tmp_path, split="test").names == stems[12:]


def test_m3fd_is_divided_by_a_draw_or_by_lists(tmp_path: Path) -> None:
    stems = [f"{i:05d}" for i in range(20)]
    home = tmp_path / "M3FD_Detection"
    write_pair(home / "Vis", home / "Ir", *stems)
    write_xml(home / "Annotation", *stems, label="Lamp")
    train, test = (open_set("m3fd", tmp_path, split=split, target="boxes") for split in ("train", "test"))
    assert (len(train), len(test)) == (15, 5) and sorted(train.names + test.names) == stems
    assert agrees(train, 5) and agrees(test, 5)
    assert open_set("m3fd", tmp_path, split="test", target="boxes").names == test.names
    assert open_set("m3fd", tmp_path, split="test", seed=1).names != test.names
    (tmp_path / "M3FD_test.txt").write_text(in_list("00003", "00001", label=3))
    listed = open_set("m3fd", tmp_path, split="test", target="boxes")
    assert listed.names == ["00003", "00001"] and agrees(listed, 3), "the boxes of a list are those of its protocol"
    rest = open_set("m3fd", tmp_path, target="boxes")
    assert len(rest) == 18 and not set(rest.names) & set(listed.names) and agrees(rest, 5)


def test_m3fd_text_needs_the_order_of_its_numbers(tmp_path: Path) -> None:
    """Three orders are in circulation: 2 is a bus for some, a motorcycle for others."""
    home = tmp_path / "m3fd" / "test"
    write_pair(home / "vi", home / "ir", "00000")
    write_yolo(home / "boxes", "00000", label=2)
    with pytest.raises(ValueError, match=r"numbered in more than one way .*boxes.classes.txt"):
        open_set("m3fd", tmp_path, split="test", target="boxes")
    for names, label in ((("People", "Car", "Bus"), 2), (("People", "Car", "Motorcycle"), 3)):
        (home / "boxes" / "classes.txt").write_text("\n".join(names))
        assert agrees(open_set("m3fd", tmp_path, split="test", target="boxes"), label)
    (home / "boxes" / "classes.txt").write_text("Dog")
    with pytest.raises(ValueError, match="names Dog, the set has People, Car"):
        open_set("m3fd", tmp_path, split="test", target="boxes")
    (home / "boxes" / "classes.txt").unlink()
    (tmp_path / "manifest.json").write_text(
        '{"datasets": {"m3fd": {"box_classes": {"0": "Car", "1": "Bus", "2": "Lamp"}}}}'
    )
    assert agrees(open_set("m3fd", tmp_path, split="test", target="boxes"), 5)


def test_mfnet_keeps_both_images_in_one_file(tmp_path: Path) -> None:
    home = tmp_path / "ir_seg_dataset"
    for stem in ("00001D", "00002N", "00003D"):
        colours, heat = pictures(stem)
        put(home / "images" / f"{stem}.png", np.concatenate([colours, heat[..., None]], 2))
    write_masks(home / "labels", "00001D", "00002N", "00003D", label=2)
    (home / "train.txt").write_text("00002N\n00001D\n")
    (home / "test_day.txt").write_text("00003D\n")
    train = open_set("mfnet", tmp_path, target="masks", channels=3)
    assert train.names == ["00002N", "00001D"] and agrees(train, 2)
    assert torch.equal((train.visible_rgb(0)[0] * 255).byte().permute(1, 2, 0), torch.from_numpy(pictures("00002N")[0]))
    assert open_set("mfnet", tmp_path, split="test_day", target="masks").names == ["00003D"]
    with pytest.raises(FileNotFoundError, match=r"has no part called val: expected its folder, or a list val.txt"):
        open_set("mfnet", tmp_path, split="val")
    with pytest.raises(ValueError, match="both images of a pair in one file"):
        find_pairs("mfnet", tmp_path, "train")
    put(home / "images" / "00001D.png", pictures("00001D")[0])
    with pytest.raises(ValueError, match=r"00001D.png must have four channels"):
        open_set("mfnet", tmp_path, target="masks")[1]


def test_roadscene_has_a_packaged_test_list(tmp_path: Path) -> None:
    home = tmp_path / "RoadScene-master"
    stems = read_split("roadscene-test")
    write_pair(home / "crop_LR_visible", home / "cropinfrared", *stems, "FLIR_00006")
    assert open_set("roadscene", tmp_path, split="test").names == stems
    assert open_set("roadscene", tmp_path).names == ["FLIR_00006"]
    (home / "cropinfrared" / f"{stems[3]}.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 50 have no infrared one in .*, the first is {stems[3]}"):
        open_set("roadscene", tmp_path, split="test")


def test_tno_is_all_for_the_test(tmp_path: Path) -> None:
    write_pair(tmp_path / "tno/vi", tmp_path / "tno/ir", "01", "02")
    for split in ("test", "all"):
        assert open_set("tno", tmp_path, split=split).names == ["01", "02"]
    with pytest.raises(FileNotFoundError, match="has no part called train"):
        open_set("tno", tmp_path)


def test_classes_depend_on_the_target(tmp_path: Path) -> None:
    """In MSRS a car is 1 in the masks and 2 in the boxes."""
    home = tmp_path / "msrs/train"
    write_pair(home / "vi", home / "ir", "a")
    write_masks(home / "labels", "a", label=1)
    write_yolo(home / "boxes", "a", label=2)
    masks, boxes = (open_set("msrs", tmp_path, target=kind) for kind in ("masks", "boxes"))
    assert agrees(masks, 1) and agrees(boxes, 2)
    assert masks.classes[1] == boxes.classes[2] == "car"


@pytest.mark.parametrize("visible", ["JPEGImages_vis", "JPEGImages"])
def test_vocdevkit(tmp_path: Path, visible: str) -> None:
    home, stems = tmp_path / "VOCdevkit/VOC2007", [f"{i:03d}" for i in range(20)]
    write_pair(home / visible, home / "JPEGImages_ir", *stems)
    write_xml(home / "Annotations", *stems[:10], label="car")
    write_xml(home / "Annotations", *stems[10:], label="person")
    write_masks(home / "SegmentationClass", *stems, label=3)
    train, test = (open_set("voc", tmp_path, split=split, target="boxes") for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (18, 2, ("car", "person"))
    assert not set(train.names) & set(test.names)
    assert open_set("voc", home, split="all", target="masks").classes == ("0", "1", "2", "3")
    (home / "classes.txt").write_text("sky\nperson\ncar\ntree\n")
    everything = open_set("voc", home, split="all", target="masks")
    assert everything.classes == ("sky", "person", "car", "tree") and agrees(everything, 3)
    for part, text in (("Main", "000\n001\n"), ("Segmentation", "002\n")):
        (home / "ImageSets" / part).mkdir(parents=True)
        (home / "ImageSets" / part / "val.txt").write_text(text)
    boxes = open_set("voc", tmp_path, split="val", target="boxes")
    assert boxes.names == ["000", "001"] and agrees(boxes, 2)
    assert open_set("voc", tmp_path, split="val", target="masks").names == ["002"]


# ---- which pairs a part has: one answer for training and for scoring -------------------------------------------------


def opened(name: str, root: Path, split: str) -> list[str] | str:
    """The names that are trained on, or the reason why there are none."""
    try:
        return open_set(name, root, split=split).names
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def scored(name: str, root: Path, split: str) -> list[str] | str:
    """The names that are scored, or the reason why there are none."""
    try:
        return [pair.name for pair in find_pairs(name, root, split).pairs]
    except (ValueError, FileNotFoundError) as error:
        return str(error)


@pytest.mark.parametrize("lists", [(), ("test",), ("train", "test"), ("train", "val", "test")], ids="+".join)
@pytest.mark.parametrize("name", [*DATASETS, "voc", "folder"])
def test_a_set_that_folders_do_not_divide_is_scored_as_it_is_trained_on(
    tmp_path: Path, name: str, lists: tuple[str, ...]
) -> None:
    known = get_known_set(name)
    a, b = (known.sides or known.pair_kind.sides)[0]
    if name == "voc":
        a, b = "JPEGImages", "JPEGImages_ir"
    stems = [*(f"p{i:03d}" for i in range(12)), *(read_split(known.test_list) if known.test_list else ())]
    write_pair(tmp_path / a, tmp_path / b, *stems)
    parts = {"train": stems[:3], "val": stems[3:4], "test": stems[4:6]}
    for part in lists:
        (tmp_path / f"{part}.txt").write_text("\n".join(parts[part]))
    for split in parts:
        names = scored(name, tmp_path, split)
        assert names == opened(name, tmp_path, split)
        assert split not in lists or names == parts[split]
    assert scored(name, tmp_path, "all") == sorted(stems)


def test_a_list_may_name_no_pair_that_is_not_there_and_a_lone_image_is_told(tmp_path: Path) -> None:
    write_pair(tmp_path / "vi", tmp_path / "ir", "a", "b", "c")
    (tmp_path / "ir" / "b.png").unlink()
    (tmp_path / "test.txt").write_text("a\nb\n")
    matches = find_pairs("folder", tmp_path)
    assert [pair.name for pair in matches.pairs] == ["a"]
    assert matches.unmatched == {"visible": ("b",), "infrared": ()}
    (tmp_path / "test.txt").write_text("a\nx\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 have no visible one in .*, the first is x"):
        find_pairs("folder", tmp_path)
    (tmp_path / "test.txt").write_text("b\n")
    with pytest.raises(FileNotFoundError, match="has not one whole pair in its part test"):
        find_pairs("folder", tmp_path)


# ---- pairs of one's own ----------------------------------------------------------------------------------------------


def own(root: Path, *stems: str) -> Path:
    write_pair(root / "vi", root / "ir", *stems)
    write_masks(root / "labels", *stems, label=2)
    write_yolo(root / "boxes", *stems, label=1)
    return root


def test_own_pairs_without_parts(tmp_path: Path) -> None:
    own(tmp_path, "b", "a")
    masks, boxes = (open_set("folder", tmp_path, target=kind) for kind in ("masks", "boxes"))
    assert (masks.names, masks.classes, boxes.classes) == (["a", "b"], ("0", "1", "2"), ("0", "1"))
    assert agrees(masks, 2) and agrees(boxes, 1)
    (tmp_path / "classes.txt").write_text("# ours\nroad\ncar\nperson\n")
    assert open_set("folder", tmp_path, target="boxes").classes == ("road", "car", "person")
    with pytest.raises(FileNotFoundError, match=r"has no part called test: expected its folder, or a list test.txt"):
        open_set("folder", tmp_path, split="test")
    (tmp_path / "test.txt").write_text("a\n")
    assert open_set("folder", tmp_path, split="test").names == ["a"]
    assert open_set("folder", tmp_path).names == ["b"], "what is for the test is not trained on"


def test_own_pairs_in_parts(tmp_path: Path) -> None:
    own(tmp_path / "train", "a")
    own(tmp_path / "val", "b")
    assert open_set("folder", tmp_path, target="masks").names == ["a"]
    assert agrees(open_set("folder", tmp_path, split="val", target="boxes"), 1)
    with pytest.raises(FileNotFoundError, match="has no part called test, but one called train"):
        open_set("folder", tmp_path, split="test")


def test_names_match_in_both_forms_of_unicode(tmp_path: Path) -> None:
    """macOS writes an accent as a letter of its own (NFD), other systems one letter (NFC)."""
    apart, composed = "cafe\u0301", "caf\u00e9"
    own(tmp_path, composed, "b")
    for folder, ending in (("ir", "png"), ("boxes", "txt")):
        (tmp_path / folder / f"{composed}.{ending}").rename(tmp_path / folder / f"{apart}.{ending}")
    (tmp_path / "train.txt").write_text(f"{apart}.png\n", encoding="utf-8-sig")
    (tmp_path / "classes.txt").write_text("road\nB\u00e4r\nx\n", encoding="utf-16")
    pairs = open_set("folder", tmp_path, target="boxes")
    assert (pairs.names, pairs.classes) == ([composed], ("road", "B\u00e4r", "x"))
    assert pairs[0].target[0]["labels"].tolist() == [1]
    assert open_set("folder", tmp_path, names=[apart]).names == [composed]
    assert open_set("folder", tmp_path, split="test").names == ["b"]


def test_names_choose_and_order(tmp_path: Path) -> None:
    own(tmp_path, "a", "b", "c", "d")
    assert open_set("folder", tmp_path, names=["c", "a"], target="masks").names == ["c", "a"]
    assert open_set("folder", tmp_path, names=["d", "b", "c", "a"], every=2).names == ["d", "c"]
    (tmp_path / "some.txt").write_text(in_list("d", "b", label=4))
    listed = open_set("folder", tmp_path, names=tmp_path / "some.txt", target="boxes")
    assert listed.names == ["d", "b"] and agrees(listed, 4) and len(listed.classes) == 5
    with pytest.raises(FileNotFoundError, match=r"1 of 2 have no visible one in .*, the first is x"):
        open_set("folder", tmp_path, names=["a", "x"])


def test_a_subset_keeps_the_boxes_of_the_list(tmp_path: Path) -> None:
    home = tmp_path / "m3fd"
    write_pair(home / "Vis", home / "Ir", "a", "b", "c", "d")
    (home / "M3FD_train.txt").write_text(in_list("a", "b", "c", label=3))
    whole = open_set("m3fd", tmp_path, target="boxes")
    part = whole.subset(["c", "a"])
    assert (part.names, part.classes, part.label_type) == (["c", "a"], whole.classes, "boxes") and agrees(part, 3)
    write_xml(home / "Annotation", "a", "b", "c", "d", label="Car")  # other labels, which do not count
    assert agrees(open_set("m3fd", tmp_path, target="boxes", names=["b", "a"]), 3)
    assert agrees(open_set("m3fd", tmp_path, target="boxes").subset(["b"]), 3)
    with pytest.raises(ValueError, match="1 of 2 are not among its 3, the first is d"):
        whole.subset(["a", "d"])


def test_a_list_of_another_part_leaves_train_and_test_apart(tmp_path: Path) -> None:
    stems = list("abcdefghij")
    own(tmp_path / "own", *stems)
    (tmp_path / "own" / "val.txt").write_text("b\n")
    assert open_set("folder", tmp_path / "own").names == [x for x in stems if x != "b"]
    with pytest.raises(FileNotFoundError, match="has no part called test"):
        open_set("folder", tmp_path / "own", split="test")
    home = tmp_path / "m3fd"
    write_pair(home / "Vis", home / "Ir", *stems)
    (home / "m3fd_val.txt").write_text("b\n")
    train, test = (open_set("m3fd", tmp_path, split=split).names for split in ("train", "test"))
    assert sorted(train + test) == [x for x in stems if x != "b"] and len(test) == 2


def test_what_is_read_stays_and_is_never_shared(tmp_path: Path) -> None:
    pairs = open_set("folder", own(tmp_path, "a", "b"), target="boxes")
    first = pairs[0]
    for folder in ("vi", "ir", "boxes"):
        shutil.rmtree(tmp_path / folder)
    again = pairs[-2]
    again.a.zero_()
    again.target[0]["boxes"].zero_()
    assert torch.equal(pairs[0].a, first.a) and torch.equal(pairs[0].target[0]["boxes"], first.target[0]["boxes"])
    with pytest.raises(FileNotFoundError):
        pairs[1]
    with pytest.raises(IndexError):
        pairs[2]


def test_memory_is_bounded(tmp_path: Path) -> None:
    pairs = open_set("folder", own(tmp_path, "a", "b", "c"), target="masks", memory_gib=7 * HEIGHT * WIDTH / 2**30)
    assert agrees(pairs, 2) and len(pairs._cache) == 2, "three planes a pair, room for seven"
    assert agrees(pairs, 2)


def test_colours_are_those_of_the_file_and_luminance_is_that_of_pair_folders(tmp_path: Path) -> None:
    own(tmp_path, "a")
    for channels in (1, 3):
        pairs = open_set("folder", tmp_path, channels=channels)
        rgb = pairs.visible_rgb(0)
        assert torch.equal((rgb[0] * 255).byte().permute(1, 2, 0), torch.from_numpy(pictures("a")[0]))
        assert torch.equal(pairs[0].a, open_set("folder", tmp_path)[0].a)
    put(tmp_path / "vi" / "a.png", pictures("a")[1])
    grey = open_set("folder", tmp_path).visible_rgb(0)
    assert grey.shape == (1, 3, HEIGHT, WIDTH) and torch.equal(grey[:, 0], grey[:, 2])


def test_draws_depend_on_the_names_and_the_seed_alone() -> None:
    names = [str(i) for i in range(100)]
    assert draw_names(names, 4, 0) == draw_names(reversed(names), 4, 0) != draw_names(names, 4, 1)
    assert len(draw_names(names, 4, 0)) == 25


# ---- what is not whole -----------------------------------------------------------------------------------------------


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def empty(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).open("wb").close()


def shrink(path: str) -> Callable[[Path], None]:
    return lambda root: put(root / path, np.zeros((HEIGHT, WIDTH - 1), np.uint8))


@pytest.mark.parametrize(
    ("harm", "target", "says"),
    [
        (remove("labels/b.png"), "masks", "every image needs its label, 1 of 2 have none, the first is b; add"),
        (remove("boxes/a.txt"), "boxes", "the first is a; an empty text file says that nothing is there"),
        (remove("ir/a.png"), "masks", "every pair of folder needs both images, 1 of 2 have no infrared one"),
        (empty("labels/a.png"), "masks", r"labels.a.png is empty \(0 bytes\)"),
        (shrink("labels/a.png"), "masks", "labels.a.png is 39x24 for an image of 40x24"),
        (shrink("ir/a.png"), "boxes", r"a has 40x24 \(visible\) and 39x24 \(infrared\)"),
    ],
)
def test_sets_that_are_not_whole(tmp_path: Path, harm: Callable[[Path], None], target: str, says: str) -> None:
    own(tmp_path, "a", "b")
    (tmp_path / "classes.txt").write_text("0\n1\n2\n")
    harm(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        open_set("folder", tmp_path, target=target)[0]


def test_an_empty_text_file_is_an_image_without_things(tmp_path: Path) -> None:
    own(tmp_path, "a", "b")
    empty("boxes/a.txt")(tmp_path)
    assert open_set("folder", tmp_path, target="boxes")[0].target[0]["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("msr", {}, "unknown dataset 'msr'; did you mean 'msrs'"),
        ("llvip", {"target": "masks"}, "llvip has no masks; choose boxes or None"),
        ("tno", {"target": "boxes"}, "tno has no boxes; choose None"),
        ("folder", {"target": "depth"}, "target must be masks, boxes or None, got 'depth'"),
        ("folder", {"every": 0}, "every must be at least 1"),
        ("folder", {"channels": 2}, "channels must be 1"),
        ("folder", {"names": "nowhere.txt"}, "a file, or one of .*msrs-test, .*, got nowhere.txt"),
        ("folder", {"names": []}, "must hold at least one pair, got none"),
        ("fmb", {"split": "test"}, "fmb was not found in|has no part called test"),
    ],
)
def test_questions_that_have_no_answer(tmp_path: Path, name: str, options: dict[str, object], says: str) -> None:
    own(tmp_path / "x", "a")
    root = tmp_path if name == "fmb" else tmp_path / "x"
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        open_set(name, root, **options)  # type: ignore[arg-type]


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    write_pair(tmp_path / "train/vi", tmp_path / "train/ir", "a")
    with pytest.raises(FileNotFoundError, match="has no masks for train: expected a folder such as train/labels"):
        open_set("folder", tmp_path, target="masks")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_set("folder", tmp_path / "nowhere")


# ---- real pairs ------------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data")
    return Path(os.environ["TECTUM_DATA"]) / name


def covered(mask: Tensor, entry: dict[str, Tensor], kinds: Sequence[int]) -> float:
    """The share of a mask's pixels that lie in boxes of some classes."""
    inside = torch.zeros_like(mask, dtype=torch.bool)
    height, width = mask.shape
    for (x1, y1, x2, y2), label in zip(entry["boxes"].tolist(), entry["labels"].tolist(), strict=True):
        if label in kinds:
            inside[round(y1 * height) : round(y2 * height), round(x1 * width) : round(x2 * width)] = True
    return float(inside[mask == 1].float().mean())


def test_msrs_masks_and_boxes_agree() -> None:
    """Boxes of the right class cover most of the pixels of people and cars; those of the other class do not."""
    root, names = real("msrs"), read_split("msrs-validation")
    masks, boxes = (open_set("msrs", root, names=names, target=kind) for kind in ("masks", "boxes"))
    for kind in ("person", "car"):
        shares: dict[str, list[float]] = {"right": [], "wrong": []}
        for i in range(len(names)):
            mask, [entry] = (masks[i].target[0] == masks.classes.index(kind)).int(), boxes[i].target
            if int(mask.sum()) > 150:
                right = boxes.classes.index(kind)
                shares["right"].append(covered(mask, entry, [right]))
                shares["wrong"].append(covered(mask, entry, [x for x in range(3) if x != right]))
        assert len(shares["right"]) > 15
        assert np.mean(shares["right"]) > 0.85 > 0.5 > np.mean(shares["wrong"])


def test_the_m3fd_pack_and_the_published_list_agree() -> None:
    """Their numbers differ (2 and 3 change places); read with names, the same things have the same class."""
    root = real("m3fd")
    pack = open_set("m3fd", root, split="test", target="boxes")
    lists = root.parent / "splits"
    text = "".join((lists / f"M3FD_{split}.txt").read_text() for split in ("train", "test"))
    boxes = {line.split(".")[0]: line for line in text.splitlines()}
    checked = 0
    for i, stem in enumerate(pack.names):
        rows = [[float(x) for x in box.split(",")] for box in boxes[stem].split()[1:]]
        [entry] = pack[i].target
        corners = entry["boxes"] * torch.tensor([1024, 768, 1024, 768])
        for corner, label in zip(corners, entry["labels"].tolist(), strict=True):
            near = min(rows, key=lambda row: float((torch.tensor(row[:4]) - corner).abs().sum()))
            assert int(near[4]) == label
            checked += 1
    assert checked == 224
