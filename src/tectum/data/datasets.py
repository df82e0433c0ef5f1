"""Data sets by name: open the pairs of a part (split), or find their files.

    ROOT/<one of the set's folders>/<one of the layouts>        e.g. ROOT/MSRS/test/vi and ROOT/MSRS/test/ir

Letter case does not matter. Which pairs a part has is said by its folder; else by a list beside the images, such as
M3FD_train.txt (whose boxes count too, where it has any); else by a packaged list, or by a draw with a seed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tectum.data.boxes import BoxList, PixelBox
from tectum.data.folders import exclude_names, list_splits, read_split, suggest_kind
from tectum.data.known import DATASETS, FOLDER, VOC, KnownSet
from tectum.data.labelled import LabelledPairs, Labels
from tectum.data.parts import (
    LAYOUTS,
    SPLITS,
    SetImages,
    draw_names,
    find_folder,
    find_images,
    find_labels,
    find_list,
    layouts_of,
    make_labels,
    read_names,
)
from tectum.errors import UserError, unknown
from tectum.kinds import KINDS
from tectum.protocols import resolve

__all__ = ["DATASETS", "FOLDER", "LAYOUTS", "VOC", "KnownSet", "find_pairs", "find_set", "open_set"]


def open_set(
    name: str,
    root: str | Path,
    *,
    split: str = "train",
    target: str | None = None,
    names: Sequence[str] | str | Path | None = None,
    every: int = 1,
    seed: int = 0,
    channels: int = 1,
    memory_gib: float = 4.0,
    kind: str | None = None,
) -> LabelledPairs:
    """Open the pairs of a part (split) of a set, with masks, boxes or no labels.

    Args:
        name: a key of DATASETS, "voc" for a VOCdevkit, or "folder" for pairs of your own.
        root: the set's folder, or the one that holds it.
        split: "train", "test", for some sets "val", or "all" where the folders do not divide the set.
        target: "masks", "boxes" or None.
        names: pairs to take, in this order; or a file that lists them, with boxes or without; or a packaged list.
        every: take one in so many of the sorted names, beginning with the first.
        seed: of the part that is drawn where neither folders nor lists say which pairs are for the test.
        channels: 3 keeps the colours in memory too, for `LabelledPairs.visible_rgb`.
        memory_gib: how much to keep in memory.
        kind: of the pairs of "folder": infrared without it, else "exposure", "focus" or "medical".

    Raises:
        ValueError: the set, the part or the target is not there, or the labels cannot be told.
        FileNotFoundError: folders, images or labels are missing.

    >>> from tectum.data.synthetic import demo_folder
    >>> street = open_set("folder", demo_folder(), target="boxes")
    >>> street.names, street[0].target[0]["boxes"].shape
    (['street-1', 'street-2', 'street-3'], torch.Size([21, 4]))
    """
    known = get_known_set(name, kind)
    if target not in (None, "masks", "boxes"):
        raise UserError(f"target must be masks, boxes or None, got {target!r}; choose one of them")
    if name not in ("voc", "folder") and target is not None and not getattr(known, target):
        label_types = [x for x in ("masks", "boxes") if getattr(known, x)]
        raise UserError(f"{name} has no {target}; choose {' or '.join((*label_types, 'None'))}")
    if every < 1:
        raise UserError(f"every must be at least 1, got {every}; 1 takes all")
    images = find_part(name, known, Path(root), split)
    pair_names, rows = choose_names(name, known, images, split, target, names, seed)
    pair_names = pair_names[::every]
    _check_images(images, pair_names, name, known)
    labels: Labels | None = None
    if target == "boxes" and rows:
        labels = make_box_list(rows, known.boxes)
    elif target is not None:
        labels = open_labels(name, known, images, split, target)
    files = {stem: (images.visible[stem], images.infrared[stem]) for stem in pair_names}
    return LabelledPairs(files, labels, channels=channels, memory_gib=memory_gib, words=known.pair_kind.words)


def get_known_set(name: str, kind: str | None = None) -> KnownSet:
    """Returns the facts of a set by its name, "voc" or "folder", checked against the kind that is asked for.

    Raises:
        ValueError: the set is unknown, or of another kind.
    """
    table = {**DATASETS, "voc": VOC, "folder": FOLDER}
    if name not in table:
        raise UserError(unknown(name, table, noun="dataset"))
    known, kind_name = table[name], None if kind is None else KINDS[kind].name
    if name == "folder" and kind_name is not None:
        return replace(known, kind=kind_name)
    if kind_name not in (None, known.kind):
        raise UserError(f"{name} holds {known.kind} pairs, not {kind_name}; choose a set of that kind, or folder")
    return known


def find_pairs(
    name: str, root: str | Path, split: str = "test", kind: str | None = None
) -> tuple[SetImages, list[str]]:
    """Returns the image files of a part and the names of its pairs, for any kind and layout.

    Raises:
        ValueError, FileNotFoundError: as `open_set`.
    """
    known = get_known_set(name, kind)
    images = find_part(name, known, Path(root), split)
    pair_names, _ = choose_names(name, known, images, split, None, None, 0)
    _check_images(images, pair_names, name, known)
    return images, pair_names


def find_part(name: str, known: KnownSet, root: Path, split: str) -> SetImages:
    """Returns the image files of a part, or of the whole set where its folders do not divide it."""
    root = root.resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"the folder {root} does not exist; check the path")
    inside = [home for folder in known.folders if (home := find_folder(root, (folder,))) is not None]
    deeper = [home for x in inside for folder in known.folders if (home := find_folder(x, (folder,))) is not None]
    homes = [*inside, *deeper, root]
    kind = known.pair_kind
    layouts = (*known.layouts, *layouts_of(kind, known.sides))
    for home in homes:
        part = known.parts.get(split, "")
        if (images := find_images(home, layouts, split, part=part, brighter=known.brighter)) is not None:
            return images
    for home in homes:
        for other in SPLITS:
            if find_images(home, layouts, other, part=known.parts.get(other, "")) is not None:
                raise FileNotFoundError(
                    f"{name} in {home} has no part called {split}, but one called {other}; take that"
                )
    a, b = layouts[0]
    first, second = LAYOUTS[-1] if known.kind == "infrared" else kind.sides[0]
    folders_to_search = [home / part for home in homes for part in ("", *SPLITS)]
    hint = suggest_kind(folders_to_search) if name == "folder" and known.kind == "infrared" else ""
    where = f"; get it from {known.url}" if known.url else ""
    raise FileNotFoundError(
        f"{name} was not found in {root}: expected {known.expected} there, such as "
        f"{a.format(split=split, part=part)} and {b.format(split=split, part=part)} or {first} and {second}{where}; "
        f"see tectum data list{hint}"
    )


def choose_names(
    name: str,
    known: KnownSet,
    images: SetImages,
    split: str,
    target: str | None,
    names: Sequence[str] | str | Path | None,
    seed: int,
) -> tuple[list[str], dict[str, list[PixelBox]]]:
    """Returns the names of a part, and their boxes where a list has them."""
    all_names = sorted(images.visible.keys() | images.infrared.keys())
    if isinstance(names, str) and not Path(names).exists() and names in list_splits():
        return read_split(names), _read_listed_boxes(known, images, split, target)
    if isinstance(names, str | Path):
        if not Path(names).is_file():
            raise FileNotFoundError(
                f"names must be a list of names, a file, or one of {', '.join(list_splits())}, got {names}; "
                "check the path"
            )
        return read_names(Path(names))
    if names is not None:
        return list(names), _read_listed_boxes(known, images, split, target)
    if images.divided or split == "all":
        return all_names, {}
    lists = {part: find_list(images.home, known.folders, part, target) for part in (split, *SPLITS)}
    if (path := lists[split]) is not None:
        return read_names(path)
    # what is listed for another part is not for this one
    unlisted = exclude_names(all_names, [x for path in lists.values() if path is not None for x in read_names(path)[0]])
    other = {"train": "test", "test": "train"}.get(split)
    if other is not None and lists[other] is not None:
        return unlisted, {}
    if known.test_list is not None and other is not None:
        test = read_split(known.test_list)
        return (test if split == "test" else exclude_names(unlisted, test)), {}
    if known.every and other is not None:
        part = draw_names(unlisted, known.every, seed)
        return [x for x in unlisted if (x in part) == (split == "test")], {}
    if split == ("test" if tuple(known.splits) == ("test",) else "train"):
        return unlisted, {}
    raise FileNotFoundError(
        f"{name} in {images.home} has no part called {split}: expected its folder, or a list {split}.txt; add one, or "
        "ask for split='all'"
    )


def _read_listed_boxes(known: KnownSet, images: SetImages, split: str, target: str | None) -> dict[str, list[PixelBox]]:
    """The boxes in the list of a part that its folders do not make; they count before those in files."""
    if target != "boxes" or images.divided or split == "all":
        return {}
    path = find_list(images.home, known.folders, split, target)
    return {} if path is None else read_names(path)[1]


def _check_images(images: SetImages, pair_names: Sequence[str], name: str, known: KnownSet) -> None:
    """Refuse names that lack an image."""
    for side, files in zip(known.pair_kind.words, (images.visible, images.infrared), strict=True):
        missing = [stem for stem in pair_names if stem not in files]
        if missing:
            raise FileNotFoundError(
                f"every pair of {name} needs both images, {len(missing)} of {len(pair_names)} have no {side} one in "
                f"{images.home}, the first is {missing[0]}; add them, or leave these pairs out"
            )


def open_labels(name: str, known: KnownSet, images: SetImages, split: str, target: str) -> Labels:
    """Returns the reader of the masks or boxes of a part."""
    label_folder = find_labels(images.home, split, target)
    if label_folder is None:
        raise FileNotFoundError(
            f"{name} in {images.home} has no {target} for {split}: expected a folder such as {split}/"
            f"{'labels' if target == 'masks' else 'boxes'} with one file per image; see tectum data list"
        )
    folder, files = label_folder
    classes = known.masks if target == "masks" else known.boxes
    return make_labels(target, folder, files, classes, (folder.parent, images.home), unordered=known.unordered)


def make_box_list(rows: dict[str, list[PixelBox]], classes: tuple[str, ...]) -> BoxList:
    """Returns the reader of listed boxes; without class names the classes are the numbers in use."""
    used = 1 + max((row.label for boxes in rows.values() for row in boxes), default=-1)
    return BoxList(rows, classes or tuple(str(i) for i in range(used)))


def find_set(name: str, root: str | Path, split: str = "test") -> tuple[Path, Path]:
    """Returns the two image folders of a known set: (visible, infrared), or a and b of its kind.

    Sets that keep both images of a pair in one folder are found by `find_pairs` only.

    Args:
        name: a key of DATASETS.
        root: the folder that holds the set's folder, or is it.
        split: "train" or "test", where the set has them.

    Raises:
        ValueError: the set is unknown.
        FileNotFoundError: it is not there; the message says what was looked for.
    """
    known, root = resolve(DATASETS, name, noun="dataset"), Path(root).resolve()
    pairs = [pair for pair in (*known.layouts, *layouts_of(known.pair_kind, known.sides)) if "*" not in pair[0]]
    layouts = [(a.format(split=split), b.format(split=split)) for a, b in pairs]
    if not root.is_dir():
        raise FileNotFoundError(f"the folder of data sets {root} does not exist; give another with --root")
    homes = [home for folder in known.folders if (home := find_folder(root, (folder,))) is not None]
    if root.name.lower() in known.folders:
        homes.append(root)
    for home in homes:
        for a, b in layouts:
            visible, infrared = find_folder(home, a.split("/")), find_folder(home, b.split("/"))
            if visible is not None and visible == infrared:
                raise UserError(
                    f"{name} in {home} keeps both images of a pair in one file of four channels; write them into two "
                    "folders first, or open it with tectum.data.datasets.open_set"
                )
            if visible is not None and infrared is not None:
                return visible, infrared
    other = "train" if split == "test" else "test"
    if homes and any(find_folder(homes[0], a.format(split=other).split("/")) for a, _ in pairs):
        raise FileNotFoundError(f"{name} in {homes[0]} has no part called {split}, but one called {other}; take that")
    where = homes[0] if homes else root / known.folders[0]
    raise FileNotFoundError(
        f"{name} was not found in {where}: expected {known.expected} there, such as "
        f"{' and '.join(layouts[0])} or {' and '.join(layouts[-1])}; get it from {known.url}, or give --root"
    )
