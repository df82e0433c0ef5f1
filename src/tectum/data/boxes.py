"""Readers of bounding boxes: YOLO text, VOC XML, and lists with a line per image; boxes relative to the image.

    boxes/NAME.txt        class cx cy w h                       a line per box, relative, classes from 0; none: no boxes
    Annotation/NAME.xml   <object><name>, <bndbox>              pixels, classes by name
    SET_train.txt         NAME.png x1,y1,x2,y2,class ...        pixels, a line per image, classes from 0

x is divided by the WIDTH and y by the HEIGHT. (The published TDFusion loader divides x by the height and y by the
width, so its detectors learned boxes 4/3 as far to the right and 3/4 as far down, in images of 4:3.)

A box may reach out of its image by half a pixel, which rounding does, and is clipped; more is refused.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch

from tectum.errors import UserError
from tectum.io.files import normalise_name, read_lines
from tectum.io.image import EXTENSIONS
from tectum.pair import Boxes

_TOLERANCE_PX = 0.5


class PixelBox(NamedTuple):
    """A box in pixels, its class, and its place in a file for messages."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    where: str


def to_relative(rows: Sequence[PixelBox], size: tuple[int, int]) -> Boxes:
    """Convert boxes in pixels to parts of an image of `size` (height, width).

    Raises:
        ValueError: a box has no area, or reaches out of the image by more than rounding does.

    >>> to_relative([PixelBox(160, 60, 320, 240, 1, "a.txt, line 1")], (240, 320))["boxes"].tolist()
    [[0.5, 0.25, 1.0, 1.0]]
    """
    height, width = size
    for row in rows:
        box = f"{row.x1:g},{row.y1:g},{row.x2:g},{row.y2:g}"
        if not all(math.isfinite(x) for x in row[:4]) or row.x2 <= row.x1 or row.y2 <= row.y1:
            raise UserError(f"a box must go from its left top to its right bottom, {row.where} has {box}; correct it")
        overhang = max(-row.x1, -row.y1, row.x2 - width, row.y2 - height)
        if overhang > _TOLERANCE_PX + 1e-6 * max(size):
            raise UserError(
                f"a box must lie in its image, {row.where} has {box} in {width}x{height} pixels; correct it, or "
                "check that the boxes belong to images of this size"
            )
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float64).reshape(-1, 4)
    boxes = boxes / torch.tensor([width, height, width, height])
    labels = torch.tensor([row.label for row in rows], dtype=torch.int64)
    return {"boxes": boxes.clamp(0, 1).float(), "labels": labels}


def read_yolo(path: Path, classes: Sequence[str], size: tuple[int, int], order: Sequence[str] = ()) -> list[PixelBox]:
    """Returns the boxes of a YOLO text file (`class cx cy w h`), in pixels; a file without lines has none.

    Raises:
        ValueError: a line is not of that form, or its class is not there.
    """
    rows, height, width = [], *size
    for where, line in read_lines(path):
        fields = line.split()
        try:
            label, cx, cy, w, h = (float(x) for x in fields)
        except ValueError:
            raise UserError(f"a line must read `class cx cy w h`, {where} has {line[:60]!r}; correct it") from None
        check_label(label, order or classes, where)
        index = list(classes).index(order[int(label)]) if order else int(label)
        if max(abs(cx), abs(cy), abs(w), abs(h)) > 2:
            raise UserError(
                f"boxes in text files must be relative (0 to 1), {where} has {line[:60]!r}; divide x by the width and "
                "y by the height"
            )
        corners = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        rows.append(PixelBox(*corners, index, where))
    return rows


def read_voc(path: Path, classes: Sequence[str], size: tuple[int, int] | None = None) -> list[PixelBox]:
    """Returns the boxes of a VOC annotation, in pixels; coordinates are edges, as the common tools write them.

    Raises:
        ValueError: it is not such a file, is of an image of another size, or names a class that is not there.
    """
    rows, class_index = [], {normalise_name(name).lower(): index for index, name in enumerate(classes)}
    for number, (name, corners) in enumerate(voc_objects(path, size), 1):
        if name.lower() not in class_index:
            raise UserError(
                f"a class must be one of {', '.join(classes)}, {path} names {name!r}; correct it, or name all classes"
            )
        rows.append(PixelBox(*corners, class_index[name.lower()], f"{path}, object {number}"))
    return rows


def voc_objects(path: Path, size: tuple[int, int] | None = None) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Returns the class name and corners of each object in a VOC annotation."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
        annotated_size = [int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width")]
        objects = []
        for node in root.iter("object"):
            x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax"))
            objects.append((normalise_name((node.findtext("name") or "").strip()), (x1, y1, x2, y2)))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(
            f"{path} must be a VOC annotation (object, name, bndbox with xmin ymin xmax ymax), but {error}; correct it"
        ) from None
    if size is not None and all(annotated_size) and tuple(annotated_size) != tuple(size):
        raise UserError(
            f"an annotation must be of its image's size, {path} is for {annotated_size[1]}x{annotated_size[0]} and the "
            f"image has {size[1]}x{size[0]} pixels; take the image it was made on"
        )
    return objects


def read_list(path: Path) -> dict[str, list[PixelBox]]:
    """Returns the boxes in pixels of a list `NAME x1,y1,x2,y2,class ...`, by name without folder and extension.

    A name may hold spaces; two files of one name in a line (`vi/1.png ir/1.png`) are the pair of that name.

    Raises:
        ValueError: a line is not of that form, or a name comes twice.
    """
    boxes_by_name: dict[str, list[PixelBox]] = {}
    for where, line in read_lines(path):
        parts = re.fullmatch(r"(\S.*?)((?:\s+\S*,\S*)*)", line)
        assert parts is not None
        stem, boxes = _listed_name(parts[1]), parts[2].split()
        if stem in boxes_by_name:
            raise UserError(f"a list must name each image once, {where} has {stem} again; remove one")
        boxes_by_name[stem] = []
        for box in boxes:
            try:
                x1, y1, x2, y2, label = (float(x) for x in box.split(","))
            except ValueError:
                raise UserError(f"a box must read `x1,y1,x2,y2,class`, {where} has {box[:40]!r}; correct it") from None
            if label != int(label):
                raise UserError(f"a class must be a whole number, {where} has {label:g}; correct it")
            boxes_by_name[stem].append(PixelBox(x1, y1, x2, y2, int(label), where))
    return boxes_by_name


def _listed_name(text: str) -> str:
    """Returns the name of the pair that a line of a list names, without folder and image extension."""
    endings = (*EXTENSIONS, ".txt", ".xml")
    files = text.split()
    if len(files) > 1 and all(file.lower().endswith(endings) for file in files):
        names = {_listed_name(file) for file in files}
        if len(names) == 1:
            return names.pop()
    file = Path(text.replace("\\", "/"))
    return normalise_name(file.stem if file.suffix.lower() in endings else file.name)


def check_label(label: float, classes: Sequence[str], where: str) -> None:
    """Refuse a class number that is not one of `classes`."""
    if not (math.isfinite(label) and label == int(label) and 0 <= label < len(classes)):
        raise UserError(
            f"a class must be a number from 0 to {len(classes) - 1} ({', '.join(classes)}), {where} has {label:g}; "
            "correct it, or name all the classes"
        )
