"""Check of a data set: read every file, count its contents, list its problems."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from tectum.data.datasets import find_part, find_part_if_any, get_known_set
from tectum.data.folders import Files, check_folder, find_folder, luminance
from tectum.data.known import DATASETS, KnownSet
from tectum.data.labelled import read_pair_pixels
from tectum.data.labels import Labels, find_labels, open_labels
from tectum.data.parts import SPLITS, SetImages, choose_names, find_duplicates
from tectum.data.transforms import IGNORE_INDEX
from tectum.errors import UserError, abbreviate
from tectum.kinds import KINDS

_LABEL_TYPES = ("masks", "boxes")
_FEW = 0.002
"""Of an image's pixels. In MSRS each of the nine classes takes up 0.7 % or more of the images that show it."""
_READ_ERRORS = (ValueError, OSError)
"""What the readers raise at a file that is not right."""


@dataclass
class ClassCounts:
    """Number of pixels (masks) or boxes of each class, and of images that show it."""

    classes: tuple[str, ...]
    amount: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    """How many images show the class."""
    ignored: int = 0
    """Pixels of no known class."""
    ignored_among: int = 0
    """All pixels of the images that have such ones."""
    num_empty: int = 0
    """Images without a box."""

    def __post_init__(self) -> None:
        self.amount, self.images = [0] * len(self.classes), [0] * len(self.classes)

    def add(self, indices: Tensor) -> None:
        """The classes of an image's pixels or boxes."""
        counts = torch.bincount(indices.flatten().long(), minlength=IGNORE_INDEX + 1)
        self.ignored += int(counts[IGNORE_INDEX])
        self.ignored_among += indices.numel() if counts[IGNORE_INDEX] else 0
        self.num_empty += indices.numel() == 0
        for index in range(len(self.classes)):
            self.amount[index] += int(counts[index])
            self.images[index] += bool(counts[index])

    @property
    def ignores_areas(self) -> bool:
        """Whether more is ignored, in the images that ignore any, than single pixels: as much as things take up."""
        return self.ignored > _FEW * self.ignored_among

    def present(self) -> list[str]:
        """Names of the classes that have a pixel or a box."""
        return [name for name, amount in zip(self.classes, self.amount, strict=True) if amount]


@dataclass
class Part:
    """Contents of a part (split): names, image sizes, class counts, problems."""

    split: str
    names: list[str]
    sizes: Counter[str] = field(default_factory=Counter)
    class_counts: dict[str, ClassCounts] = field(default_factory=dict)
    """By "masks" and "boxes"."""
    problems: list[str] = field(default_factory=list)


def check(
    root: str | Path,
    name: str,
    *,
    splits: Sequence[str] = (),
    targets: Sequence[str] = (),
    kind: str | None = None,
    each: Callable[[str, list[str]], Iterable[str]] = lambda split, names: names,
) -> list[Part]:
    """Read every image and label of a set and list its problems.

    Args:
        root: the set's folder, or the one that holds it.
        name: a key of DATASETS, "voc" or "folder".
        splits: the parts to read; none takes all there are.
        targets: "masks", "boxes" or both, which must be there; none takes what is there.
        kind: of the pairs of "folder".
        each: shown the names of a part, gives them back one by one: a place for a progress bar.

    Raises:
        ValueError, FileNotFoundError: the set or a part is not there at all.
    """
    parts = []
    pictures: dict[str, Files] = {}
    for images in _find_parts(Path(root), name, get_known_set(name, kind), splits):
        split = images.split
        part = Part(split, [])
        parts.append(part)
        labels = _open_label_files(images, targets, part)
        pictures[split] = {stem: images.visible[stem] for stem in part.names if stem in images.visible}
        if split != "train" and (both := find_duplicates(pictures.get("train", {}), pictures[split])):
            part.problems.append(
                f"{len(both)} of {len(part.names)} pairs are in train too, the first is {both[0]}; what is scored "
                "must not be trained on, take them out of one"
            )
        for side, missing in images.missing(part.names):
            part.problems += [
                f"{stem} has no {side} image in {images.home}; add it, or leave the pair out" for stem in missing
            ]
        for stem in each(split, part.names):
            _check_pair(stem, images, labels, part)
        if not part.names and not part.problems:
            part.problems.append(f"there is not one pair in {images.home}; add images, or name another folder")
    for part in parts:
        for label_type, counts in part.class_counts.items():
            others = [x.class_counts[label_type] for x in parts if x is not part and label_type in x.class_counts]
            part.problems += _find_class_problems(label_type, counts, others)
    return parts


def detect(root: str | Path) -> tuple[str, str]:
    """Returns the name of the set that a folder holds, and the evidence for it, in words.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds several.
    """
    root = Path(root).resolve()
    check_folder(root)
    for name, known in DATASETS.items():
        if root.name.lower() in known.folders:
            return name, "the folder's name"
    if any(find_folder(root, parts) for parts in (("JPEGImages_ir",), ("VOCdevkit",), ("VOC2007",), ("VOC2012",))):
        return "voc", "its folders"
    if find_folder(root, ("crop_LR_visible",)):
        return "roadscene", "its folders"
    if find_folder(root, ("images",)) and (root / "train.txt").exists():
        return "mfnet", "its folders"
    inside = [name for name, known in DATASETS.items() if any(find_folder(root, (folder,)) for folder in known.folders)]
    if len(inside) > 1:
        raise UserError(f"a folder with one set is needed, {root} holds {', '.join(inside)}; give the folder of one")
    return (inside[0], "the name of a folder in it") if inside else ("folder", "nothing that names a known set")


def detect_kind(root: str | Path) -> str:
    """Returns the kind of the pairs in a user's folder: infrared, or the one that a tree such as train/MEF names.

    Raises:
        ValueError: the tree holds several.
    """
    root = Path(root).resolve()
    kind_names = [
        kind.name
        for kind in KINDS.values()
        if any(find_folder(root, (split, tag)) for split in SPLITS for tag in kind.tags)
    ]
    if len(kind_names) > 1:
        raise UserError(f"pairs of one kind are needed, {root} holds {', '.join(kind_names)}; name one with --kind")
    return kind_names[0] if kind_names else "infrared"


def _find_parts(root: Path, name: str, known: KnownSet, splits: Sequence[str]) -> list[SetImages]:
    """Returns the parts that were asked for, or all that exist."""
    for split in splits:
        if split not in SPLITS:
            raise UserError(f"split must be one of {', '.join(SPLITS)}, got '{split}'")
    if splits:
        return [find_part(name, known, root, split) for split in splits]
    parts = [images for split in SPLITS if (images := find_part_if_any(name, known, root, split)) is not None]
    parts = parts or [find_part(name, known, root, SPLITS[0])]
    undivided = len(parts) == 1 and not parts[0].divided
    return [replace(parts[0], split="all")] if undivided else parts


def _open_label_files(images: SetImages, targets: Sequence[str], part: Part) -> dict[str, Labels]:
    """Returns the label readers of a part; fills in its names."""
    labels: dict[str, Labels] = {}
    names: dict[str, None] = {}
    for label_type in targets or _LABEL_TYPES:
        try:
            names_of_part, rows = choose_names(images, label_type)
            names |= dict.fromkeys(names_of_part)
            listed = label_type == "boxes" and rows
            if not (targets or listed or find_labels(images.home, part.split, label_type)):
                continue
            labels[label_type] = open_labels(images, label_type, rows)
        except _READ_ERRORS as error:
            part.problems += [str(error)] * (str(error) not in part.problems)  # a list is read for both kinds
            continue
        part.problems += _find_orphan_labels(images, label_type)
        part.class_counts[label_type] = ClassCounts(labels[label_type].classes)
        part.problems += [
            f"{stem} has no {label_type} in {images.home}; add them, or leave it out"
            for stem in names_of_part
            if stem not in labels[label_type]
        ]
    part.names = list(names)
    return labels


def _find_orphan_labels(images: SetImages, label_type: str) -> list[str]:
    """Returns a problem for each label file that belongs to no image of the part."""
    labels = find_labels(images.home, images.split, label_type)
    if labels is None:
        return []
    folder, files = labels
    if images.divided and images.split not in (folder.name.lower(), folder.parent.name.lower()):
        return []  # one folder for all parts
    orphans = [path for stem, path in files.items() if stem not in images.visible and stem not in images.infrared]
    return [f"{path} belongs to no image; add the pair, or remove it" for path in orphans]


def _find_class_problems(label_type: str, counts: ClassCounts, others: Sequence[ClassCounts]) -> list[str]:
    """Returns a problem for what makes the labels of a part useless: a class taken for ignored, or nothing but one.

    A class without pixels may be written as 255 if more than a few pixels are: not one that another part has beside
    its own ignored areas. Masks of 0 and 255 have no other class at all.
    """
    total = sum(counts.amount) + counts.ignored
    if label_type == "boxes":
        nothing = not total and counts.num_empty > 1
        return [f"not one of {counts.num_empty} images has a box; check the label files"] * nothing
    if not total:
        return []
    present = counts.present()
    elsewhere = {name for other in others if other.ignores_areas for name in other.present()}
    absent = [name for name in counts.classes if name not in present]
    unexplained = [name for name in absent if name not in elsewhere]
    ignored = counts.ignored / total
    problems = []
    if counts.ignored and (len(present) < 2 or (unexplained and counts.ignores_areas)):
        lacks = f"{abbreviate(unexplained or absent)} has none" if absent else f"{present[0]} is the only class"
        problems.append(
            f"{ignored:.3%} of the mask pixels are {IGNORE_INDEX}, which means ignored, and {lacks}; if {IGNORE_INDEX} "
            "stands for a class, write its number (0, 1, ...) instead"
        )
    elif ignored > 0.5:
        problems.append(f"{ignored:.0%} of the mask pixels are {IGNORE_INDEX}, which means ignored; label more of them")
    elif len(present) == 1 < len(counts.classes) and max(counts.images) > 1:
        problems.append(f"all masks hold nothing but {present[0]}; check that they are masks of class numbers")
    return problems


def _check_pair(stem: str, images: SetImages, labels: dict[str, Labels], part: Part) -> None:
    """Read one pair and its labels; add its size, classes and problems."""
    if stem not in images.visible or stem not in images.infrared:
        return
    try:
        visible, infrared = (luminance(x) for x in read_pair_pixels(images.visible[stem], images.infrared[stem]))
    except _READ_ERRORS as error:
        part.problems.append(str(error))
        return
    size = visible.shape[0], visible.shape[1]
    part.sizes[f"{size[1]}x{size[0]}"] += 1
    if infrared.shape != visible.shape:
        a, b = images.known.pair_kind.words
        part.problems.append(
            f"{stem} has images of {size[1]}x{size[0]} ({a}) and {infrared.shape[1]}x{infrared.shape[0]} ({b}) pixels; "
            "register or resize them"
        )
    for label_type, reader in labels.items():
        if stem not in reader:
            continue
        try:
            target = reader.read(stem, size)
        except _READ_ERRORS as error:
            part.problems.append(str(error))
            continue
        part.class_counts[label_type].add(target if isinstance(target, Tensor) else target["labels"])
