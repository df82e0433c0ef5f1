"""Read all of a set and say what is in it and what is wrong with it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tectum.data.datasets import box_list, choose, find_part, known_set, labels_of
from tectum.data.folders import luminance
from tectum.data.known import DATASETS, KnownSet
from tectum.data.labelled import Labels, pixels
from tectum.data.parts import SPLITS, Files, Images, below, find_labels, shared
from tectum.data.transforms import IGNORED
from tectum.errors import UserError
from tectum.kinds import KINDS as KINDS_OF_PAIRS

KINDS = ("masks", "boxes")
WRONG = (ValueError, OSError)
"""What the readers raise at a file that is not right."""


@dataclass
class Histogram:
    """How much of each class there is: pixels of masks, or boxes."""

    classes: tuple[str, ...]
    amount: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    """How many images show the class."""
    ignored: int = 0
    """Pixels of no known class."""
    bare: int = 0
    """Images without a box."""

    def __post_init__(self) -> None:
        self.amount, self.images = [0] * len(self.classes), [0] * len(self.classes)

    def add(self, indices: Tensor) -> None:
        """The classes of an image's pixels or boxes."""
        counts = torch.bincount(indices.flatten().long(), minlength=IGNORED + 1)
        self.ignored += int(counts[IGNORED])
        self.bare += indices.numel() == 0
        for index in range(len(self.classes)):
            self.amount[index] += int(counts[index])
            self.images[index] += bool(counts[index])


@dataclass
class Part:
    """What a part of a set holds."""

    split: str
    names: list[str]
    sizes: Counter[str] = field(default_factory=Counter)
    found: dict[str, Histogram] = field(default_factory=dict)
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
    """Read every image and label of a set.

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
    known = known_set(name, kind)
    parts = []
    pictures: dict[str, Files] = {}
    for split, found in parts_of(root, name, known, splits):
        part = Part(split, [])
        parts.append(part)
        labels = readers(name, known, found, targets, part)
        pictures[split] = {stem: found.visible[stem] for stem in part.names if stem in found.visible}
        if split == "test" and (both := shared(pictures.get("train", {}), pictures[split])):
            part.problems.append(
                f"{len(both)} of {len(part.names)} pairs are in train too, the first is {both[0]}; what is scored "
                "must not be trained on, take them out of one"
            )
        lonely(found, part, known)
        for stem in each(split, part.names):
            read(stem, found, labels, part, known)
    return parts


def detect(root: str | Path) -> tuple[str, str]:
    """Which set a folder holds, and by what it was told.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds several.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"the folder {root} does not exist; check the path")
    for name, known in DATASETS.items():
        if root.name.lower() in known.folders:
            return name, "the folder's name"
    if any(below(root, parts) for parts in (("JPEGImages_ir",), ("VOCdevkit",), ("VOC2007",), ("VOC2012",))):
        return "voc", "its folders"
    if below(root, ("crop_LR_visible",)):
        return "roadscene", "its folders"
    if below(root, ("images",)) and (root / "train.txt").exists():
        return "mfnet", "its folders"
    inside = [name for name, known in DATASETS.items() if any(below(root, (folder,)) for folder in known.folders)]
    if len(inside) > 1:
        raise UserError(f"a folder with one set is needed, {root} holds {', '.join(inside)}; give the folder of one")
    return (inside[0], "the name of a folder in it") if inside else ("folder", "nothing that names a known set")


def detect_kind(root: str | Path) -> str:
    """The kind of the pairs in a folder of one's own: infrared, or the one that a tree such as train/MEF names.

    Raises:
        ValueError: the tree holds several.
    """
    root = Path(root).resolve()
    held = [
        kind.name
        for kind in KINDS_OF_PAIRS.values()
        if any(below(root, (split, tag)) for split in SPLITS for tag in kind.tags)
    ]
    if len(held) > 1:
        raise UserError(f"pairs of one kind are needed, {root} holds {', '.join(held)}; name one with --kind")
    return held[0] if held else "infrared"


def parts_of(root: str | Path, name: str, known: KnownSet, splits: Sequence[str]) -> list[tuple[str, Images]]:
    """The parts that are asked for, or all there are."""
    if splits:
        return [(split, find_part(name, known, Path(root), split)) for split in splits]
    found: list[tuple[str, Images]] = []
    reason: FileNotFoundError | None = None
    for split in SPLITS:
        try:
            images = find_part(name, known, Path(root), split)
        except FileNotFoundError as error:
            reason = error
            continue
        if not images.divided:
            return undivided(name, known, images)
        found.append((split, images))
    if not found and reason is not None:
        raise reason
    return found


def undivided(name: str, known: KnownSet, images: Images) -> list[tuple[str, Images]]:
    """The parts that lists or a rule make of a set whose folders make none."""
    parts = []
    for split in SPLITS:
        try:
            choose(name, known, images, split, None, None, 0)
        except FileNotFoundError:
            continue
        except ValueError:
            pass  # a list that cannot be read: told when the part is
        parts.append(split)
    return [("all", images)] if len(parts) == 1 else [(split, images) for split in parts]


def readers(name: str, known: KnownSet, found: Images, targets: Sequence[str], part: Part) -> dict[str, Labels]:
    """Readers of the labels that are there, and the names of the part."""
    labels: dict[str, Labels] = {}
    names: dict[str, None] = {}
    for kind in targets or KINDS:
        try:
            chosen, rows = choose(name, known, found, part.split, kind, None, 0)
            names |= dict.fromkeys(chosen)
            if kind == "boxes" and rows:
                labels[kind] = box_list(rows, known.boxes)
            elif targets or find_labels(found.home, part.split, kind) is not None:
                labels[kind] = labels_of(name, known, found, part.split, kind)
        except WRONG as error:
            part.problems += [str(error)] * (str(error) not in part.problems)  # a list is read for both kinds
            continue
        if kind in labels:
            part.problems += strays(found, part.split, kind)
            part.found[kind] = Histogram(labels[kind].classes)
            bare = [stem for stem in chosen if stem not in labels[kind]]
            part.problems += [f"{stem} has no {kind} in {found.home}; add them, or leave it out" for stem in bare]
    part.names = list(names)
    return labels


def strays(found: Images, split: str, kind: str) -> list[str]:
    """Labels of a part that belong to no image of it."""
    place = find_labels(found.home, split, kind)
    if place is None or (found.divided and split not in (place[0].name.lower(), place[0].parent.name.lower())):
        return []  # one folder for all parts
    lost = [path for stem, path in place[1].items() if stem not in found.visible and stem not in found.infrared]
    return [f"{path} belongs to no image; add the pair, or remove it" for path in lost]


def lonely(found: Images, part: Part, known: KnownSet) -> None:
    """Names that lack an image."""
    for side, files in zip(known.role.words, (found.visible, found.infrared), strict=True):
        for stem in part.names:
            if stem not in files:
                part.problems.append(f"{stem} has no {side} image in {found.home}; add it, or leave the pair out")


def read(stem: str, found: Images, labels: dict[str, Labels], part: Part, known: KnownSet) -> None:
    """One pair and what is known about it."""
    if stem not in found.visible or stem not in found.infrared:
        return
    try:
        visible, infrared = (luminance(x) for x in pixels(found.visible[stem], found.infrared[stem]))
    except WRONG as error:
        part.problems.append(str(error))
        return
    size = visible.shape[0], visible.shape[1]
    part.sizes[f"{size[1]}x{size[0]}"] += 1
    if infrared.shape != visible.shape:
        part.problems.append(
            f"{stem} has images of {size[1]}x{size[0]} ({known.role.words[0]}) and "
            f"{infrared.shape[1]}x{infrared.shape[0]} ({known.role.words[1]}) pixels; register or resize them"
        )
    for kind, reader in labels.items():
        if stem not in reader:
            continue
        try:
            target = reader.read(stem, size)
        except WRONG as error:
            part.problems.append(str(error))
            continue
        part.found[kind].add(target if isinstance(target, Tensor) else target["labels"])
