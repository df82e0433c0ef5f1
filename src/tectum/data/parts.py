"""Files of a part (split) of a data set: images, labels, and the names that belong to it.

    HOME/train/vi   HOME/vi/train   HOME/vi        images, and the same three places for labels and boxes
    HOME/train.txt, HOME/SET_train.txt, ...        which names belong to a part, where its folders do not say so

Letter case does not matter.
"""

import filecmp
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tectum.data.boxes import BoxFiles, PixelBox, read_lines, read_list, voc_objects
from tectum.data.folders import image_files
from tectum.data.labelled import Labels
from tectum.data.masks import MaskFiles, read_indices
from tectum.data.scenes import brighter_first, find_side
from tectum.data.scenes import find_folder as find_folder
from tectum.data.transforms import IGNORE_INDEX
from tectum.errors import UserError
from tectum.kinds import KINDS, Kind

Layouts = tuple[tuple[str, str], ...]


def layouts_of(kind: Kind, sides: Layouts = ()) -> Layouts:
    """Returns the folder layouts of a kind, (a, b) relative to the set's folder, most usual first.

    Args:
        kind: of the pairs.
        sides: folder names of a and b in place of the kind's.

    >>> layouts_of(KINDS["exposure"])[0], ("{split}/MEF/over", "{split}/MEF/low") in layouts_of(KINDS["exposure"])
    (('{split}/over', '{split}/under'), True)
    """
    sides = sides or kind.sides
    return (
        *((f"{{split}}/{a}", f"{{split}}/{b}") for a, b in sides),
        *((f"{a}/{{split}}", f"{b}/{{split}}") for a, b in sides),
        *((f"{{split}}/{tag}/{a}", f"{{split}}/{tag}/{b}") for tag in kind.tags for a, b in sides),
        *sides,
    )


LAYOUTS = layouts_of(KINDS["infrared"])
LABELS = {
    "masks": ("labels", "label", "masks", "mask", "segmentation_labels", "SegmentationClass"),
    "boxes": ("boxes", "Annotations", "Annotation", "labels", "label"),
}
SPLITS = ("train", "val", "test")
Files = dict[str, Path]


@dataclass(frozen=True)
class SetImages:
    """Image files of a part by name; `divided` says that the folders themselves are one part of the set.

    `visible` and `infrared` hold a and b of whatever kind the set is.
    """

    home: Path
    visible: Files
    infrared: Files
    divided: bool


def find_images(
    home: Path, layouts: Iterable[tuple[str, str]], split: str, *, part: str = "", brighter: bool = False
) -> SetImages | None:
    """Returns the image files of a part below `home`, in the first layout that exists; None without one.

    Args:
        home: the set's folder.
        layouts: (a, b), with {split}, or {part} for a set that calls its parts otherwise.
        split: which part.
        part: what the set calls it.
        brighter: files of one folder do not say which is a; it is the brighter one.
    """
    for layout in layouts:
        if "{part}" in layout[0] and not part:
            continue
        a, b = (find_side(home, side.format(split=split, part=part)) for side in layout)
        if a is not None and b is not None:
            if brighter and "*" in layout[0]:
                a, b = brighter_first(a, b)
            return SetImages(home, a, b, "{split}" in layout[0] or "{part}" in layout[0])
    return None


def find_labels(home: Path, split: str, label_type: str) -> tuple[Path, Files] | None:
    """Returns the label folder of a part and its files by name (images for masks, text or XML for boxes), or None."""
    for name in LABELS[label_type]:
        for place in ((split, name), (name, split), (name,)):
            folder = find_folder(home, place)
            files = {} if folder is None else _list_label_files(folder, label_type)
            if folder is not None and files:
                return folder, files
    return None


def _list_label_files(folder: Path, label_type: str) -> Files:
    if label_type == "masks":
        return image_files(folder)
    for suffix in (".xml", ".txt"):
        files = {x.stem: x for x in sorted(folder.iterdir()) if x.suffix.lower() == suffix and x.stem != "classes"}
        if files:
            return files
    return {}


def find_list(home: Path, folders: Sequence[str], split: str, label_type: str | None) -> Path | None:
    """Returns the file that lists the names of a part, or None."""
    sets = ("Segmentation", "Main") if label_type == "masks" else ("Main", "Segmentation")
    set_lists = [f"{name}_{split}.txt" for name in dict.fromkeys((*folders, home.name.lower()))]
    searched = [(home, [f"{split}.txt", *set_lists]), (home.parent, set_lists)]
    for folder, parts in ((home, ("splits",)), (home.parent, ("splits",)), *((home, ("ImageSets", x)) for x in sets)):
        if (inner := find_folder(folder, parts)) is not None:
            searched.append((inner, set_lists if folder == home.parent else [f"{split}.txt", *set_lists]))
    for folder, candidates in searched:
        files = {x.name.lower(): x for x in sorted(folder.iterdir()) if x.is_file()}
        for name in candidates:
            if name.lower() in files:
                return files[name.lower()]
    return None


def read_names(path: Path) -> tuple[list[str], dict[str, list[PixelBox]]]:
    """Returns the names in a list file, and their boxes; a plain list of names gives no boxes."""
    rows = read_list(path)
    return list(rows), (rows if any(rows.values()) else {})


def find_duplicates(one: Mapping[str, Path], other: Mapping[str, Path]) -> list[str]:
    """Returns the names whose image is the same in both parts: one file, or the same bytes."""
    return [name for name in one if name in other and filecmp.cmp(one[name], other[name], shallow=False)]


def draw_names(names: Iterable[str], every: int, seed: int) -> set[str]:
    """Draw one in `every` names by a seed; the order of the names has no effect.

    >>> len(draw_names([str(i) for i in range(4200)], 4, seed=0))
    1050
    """
    ordered = sorted(names)
    order = np.random.default_rng(seed).permutation(len(ordered))
    return {ordered[i] for i in order[: round(len(ordered) / every)]}


def make_labels(
    label_type: str,
    folder: Path,
    files: Files,
    classes: tuple[str, ...],
    homes: Sequence[Path],
    *,
    unordered: bool = False,
) -> Labels:
    """Returns the reader of the labels in a folder, with its class names.

    Args:
        label_type: "masks" or "boxes".
        folder: that holds `files`.
        files: by name.
        classes: names of the classes; without any they come from classes.txt, else from what the files hold.
        homes: where classes.txt may lie, beside `folder`.
        unordered: the numbers in text files have no one order for this set, so classes.txt must name them.

    Raises:
        ValueError: the order is needed and nowhere, or names a class that the set has not.
    """
    class_names = _read_class_names((folder, *homes))
    if label_type == "masks":
        return MaskFiles(files, classes or class_names or _count_mask_classes(files))
    text = next(iter(files.values())).suffix.lower() == ".txt"
    class_names = class_names or (_read_manifest_classes(homes[-1]) if text else ())
    if not classes:
        return BoxFiles(files, class_names or _count_box_classes(files))
    same = {name.lower(): name for name in classes}
    unknown_names = [name for name in class_names if name.lower() not in same]
    if unknown_names:
        raise UserError(
            f"classes.txt for {folder} names {unknown_names[0]}, the set has {', '.join(classes)}; correct it"
        )
    if text and unordered and not class_names:
        raise UserError(
            f"the classes of {folder} are numbered in more than one way by those who share them; write the names in "
            f"the order of its numbers into {folder / 'classes.txt'}, one a line ({', '.join(classes)})"
        )
    return BoxFiles(files, classes, tuple(same[name.lower()] for name in class_names) if text else ())


def _read_class_names(folders: Iterable[Path]) -> tuple[str, ...]:
    """Returns the lines of the first classes.txt."""
    for folder in folders:
        if (folder / "classes.txt").is_file():
            return tuple(line for _, line in read_lines(folder / "classes.txt"))
    return ()


def _read_manifest_classes(home: Path) -> tuple[str, ...]:
    """Returns the "box_classes" of a set in a `manifest.json` beside its folder, {"datasets": {SET: ...}}, or none."""
    path = home.parent / "manifest.json"
    if not path.is_file():
        return ()
    try:
        class_names = json.loads(path.read_text(encoding="utf-8"))["datasets"][home.name]["box_classes"]
        return tuple(class_names[str(i)] for i in range(len(class_names)))
    except (ValueError, KeyError, TypeError):
        return ()  # somebody else's manifest


def _count_mask_classes(files: Files) -> tuple[str, ...]:
    """Returns as many classes as the masks use, named by number."""
    top = 0
    for path in files.values():
        indices = read_indices(path)
        top = max(top, int(indices[indices != IGNORE_INDEX].max(initial=0)))
    return tuple(str(i) for i in range(top + 1))


def _count_box_classes(files: Mapping[str, Path]) -> tuple[str, ...]:
    """Returns the classes that the boxes use: names in XML, numbers in text."""
    names: set[str] = set()
    top = 0
    for path in files.values():
        if path.suffix.lower() == ".xml":
            names |= {name for name, _ in voc_objects(path)}
            continue
        for where, line in read_lines(path):
            first = line.split()[0]
            if not first.isdecimal():
                raise UserError(f"a line must start with a class from 0, {where} has {first!r}; correct it")
            top = max(top, int(first))
    return tuple(sorted(names)) or tuple(str(i) for i in range(top + 1))
