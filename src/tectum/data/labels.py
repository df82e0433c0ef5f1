"""Masks or boxes of a part (split): the folder they lie in, their class names, and their reader.

    HOME/train/labels   HOME/labels/train   HOME/labels        and other names of the folder, see `_LABEL_FOLDERS`
    classes.txt                                                names of the classes, beside the labels or in HOME

Letter case does not matter.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tectum.data.boxes import PixelBox, check_label, read_voc, read_yolo, to_relative, voc_objects
from tectum.data.folders import Files, find_folder, image_files
from tectum.data.masks import read_indices, read_mask
from tectum.data.parts import SetImages
from tectum.data.transforms import IGNORE_INDEX
from tectum.errors import UserError
from tectum.io.files import file_sha256, fingerprint, normalise_name, read_lines, read_text
from tectum.pair import Boxes

_LABEL_FOLDERS = {
    "masks": ("labels", "label", "masks", "mask", "segmentation_labels", "SegmentationClass"),
    "boxes": ("boxes", "Annotations", "Annotation", "labels", "label"),
}


@dataclass(frozen=True)
class Labels:
    """Reader of masks or boxes by the name of the image.

    Args:
        label_type: "masks" or "boxes".
        classes: names of the class numbers; for masks the background is the first.
        entries: of each image its file (a mask, or boxes in .txt or .xml), or its boxes in a list file.
        order: class names in the order of the numbers in text files, where it is another.
    """

    label_type: str
    classes: tuple[str, ...]
    entries: Mapping[str, Path | Sequence[PixelBox]]
    order: tuple[str, ...] = ()

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def fingerprint(self, name: str) -> str:
        """Returns a hash of the label of an image: of its file or its boxes in a list, and of the class names."""
        entry = self.entries[name]
        content = file_sha256(entry) if isinstance(entry, Path) else [box[:-1] for box in entry]  # without its place
        return fingerprint(self.label_type, self.classes, self.order, content)

    def read(self, name: str, size: tuple[int, int]) -> Tensor | Boxes:
        """Returns the mask (H,W) uint8, or the boxes, of an image of `size` (height, width).

        Raises:
            ValueError: the file cannot be read or is of another size, a box is out of the image, or a class is not
                one of `classes`.
        """
        entry = self.entries[name]
        if not isinstance(entry, Path):
            for box in entry:
                check_label(box.label, self.classes, box.where)
            return to_relative(entry, size)
        if self.label_type == "masks":
            return read_mask(entry, self.classes, size)
        if entry.suffix.lower() == ".xml":
            return to_relative(read_voc(entry, self.classes, size), size)
        return to_relative(read_yolo(entry, self.classes, size, self.order), size)


def find_labels(home: Path, split: str, label_type: str) -> tuple[Path, Files] | None:
    """Returns the label folder of a part and its files by name (images for masks, text or XML for boxes), or None."""
    for name in _LABEL_FOLDERS[label_type]:
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
        files = {
            normalise_name(x.stem): x
            for x in sorted(folder.iterdir())
            if x.suffix.lower() == suffix and x.stem != "classes" and not x.name.startswith(".")
        }
        if files:
            return files
    return {}


def open_labels(images: SetImages, label_type: str, rows: Mapping[str, Sequence[PixelBox]]) -> Labels:
    """Returns the reader of the masks or boxes of a part, with its class names.

    Where the set has no class names they come from classes.txt, else from what the labels hold.

    Args:
        images: of the part.
        label_type: "masks" or "boxes".
        rows: boxes in a list, by name, which count before those in files.

    Raises:
        FileNotFoundError: there are none.
        ValueError: classes.txt names a class that the set has not, or is missing where the numbers have no one order.
    """
    known, home, split = images.known, images.home, images.split
    classes = known.masks if label_type == "masks" else known.boxes
    if label_type == "boxes" and rows:
        used = 1 + max((row.label for boxes in rows.values() for row in boxes), default=-1)
        return Labels("boxes", classes or tuple(str(i) for i in range(used)), rows)
    label_folder = find_labels(home, split, label_type)
    if label_folder is None:
        raise FileNotFoundError(
            f"{images.name} in {home} has no {label_type} for {split}: expected a folder such as {split}/"
            f"{'labels' if label_type == 'masks' else 'boxes'} with one file per image; see tectum data list"
        )
    folder, files = label_folder
    class_names = _read_class_names((folder, folder.parent, home))
    if label_type == "masks":
        return Labels("masks", classes or class_names or _count_mask_classes(files), files)
    text = next(iter(files.values())).suffix.lower() == ".txt"
    class_names = class_names or (_read_manifest_classes(home) if text else ())
    if not classes:
        return Labels("boxes", class_names or _count_box_classes(files), files)
    order = _order_classes(folder, classes, class_names)
    if text and known.unordered and not order:
        raise UserError(
            f"the classes of {folder} are numbered in more than one way by those who share them; write the names in "
            f"the order of its numbers into {folder / 'classes.txt'}, one a line ({', '.join(classes)})"
        )
    return Labels("boxes", classes, files, order if text else ())


def _order_classes(folder: Path, classes: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of classes.txt as the set spells them."""
    same = {name.lower(): name for name in classes}
    unknown_names = [name for name in class_names if name.lower() not in same]
    if unknown_names:
        raise UserError(
            f"classes.txt for {folder} names {unknown_names[0]}, the set has {', '.join(classes)}; correct it"
        )
    return tuple(same[name.lower()] for name in class_names)


def _read_class_names(folders: Iterable[Path]) -> tuple[str, ...]:
    """Returns the lines of the first classes.txt."""
    for folder in folders:
        if (folder / "classes.txt").is_file():
            return tuple(normalise_name(line) for _, line in read_lines(folder / "classes.txt"))
    return ()


def _read_manifest_classes(home: Path) -> tuple[str, ...]:
    """Returns the "box_classes" of a set in a `manifest.json` beside its folder, {"datasets": {SET: ...}}, or none."""
    path = home.parent / "manifest.json"
    if not path.is_file():
        return ()
    try:
        class_names = json.loads(read_text(path))["datasets"][home.name]["box_classes"]
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
