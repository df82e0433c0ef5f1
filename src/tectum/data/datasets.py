"""Data sets by name: open the pairs of a part (split), or find their files.

    ROOT/<one of the set's folders>/<one of the layouts>        e.g. ROOT/MSRS/test/vi and ROOT/MSRS/test/ir

Letter case does not matter. Which pairs a part has is said by its folder; else by a list beside the images, such as
M3FD_train.txt (whose boxes count too, where it has any); else by a packaged list, or by a draw with a seed.
"""

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tectum.data.folders import Files, brighter_first, check_folder, find_folder, find_side, list_subfolders
from tectum.data.known import DATASETS, FOLDER, VOC, KnownSet
from tectum.data.labelled import LabelledPairs
from tectum.data.labels import open_labels
from tectum.data.parts import SPLITS, SetImages, choose_names
from tectum.errors import UserError, unknown
from tectum.io.folders import Matches, PairFiles
from tectum.io.image import EXTENSIONS
from tectum.kinds import KINDS

__all__ = ["DATASETS", "FOLDER", "VOC", "KnownSet", "find_pairs", "open_set"]


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
    pair_names, rows = choose_names(images, target, names, seed)
    pair_names = pair_names[::every]
    _check_images(images, pair_names)
    labels = None if target is None else open_labels(images, target, rows)
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


def find_pairs(name: str, root: str | Path, split: str = "test", kind: str | None = None) -> Matches:
    """Returns the files of the pairs of a part (split), for any kind and layout: the pairs that `open_set` opens.

    An image without a partner is in `unmatched`, where `open_set` refuses the part.

    Args:
        name: as of `open_set`.
        root: the folder that holds the set's folder, or is it.
        split: the part, or "all".
        kind: of the pairs of "folder".

    Raises:
        ValueError: as `open_set`, or the set keeps both images of a pair in one file.
        FileNotFoundError: as `open_set`, or there is not one whole pair.
    """
    images = find_part(name, get_known_set(name, kind), Path(root), split)
    a, b, home = images.visible, images.infrared, images.home
    if a and a == b:
        raise UserError(
            f"{name} in {home} keeps both images of a pair in one file of four channels; write them into two folders "
            "first, or open it with tectum.data.datasets.open_set"
        )
    pair_names, _ = choose_names(images)
    if any(stem not in a and stem not in b for stem in pair_names):  # of a list
        _check_images(images, pair_names)
    pairs = tuple(PairFiles(stem, a[stem], b[stem]) for stem in pair_names if stem in a and stem in b)
    if not pairs:
        raise FileNotFoundError(f"{name} in {home} has not one whole pair in its part {split}; add images")
    sides = dict(zip(images.known.pair_kind.roles, ((a, b), (b, a)), strict=True))
    return Matches(
        pairs,
        {role: tuple(x for x in pair_names if x in here and x not in there) for role, (here, there) in sides.items()},
        {},
        {role: next(iter(here.values())).parent for role, (here, _) in sides.items()},
    )


def find_part_if_any(name: str, known: KnownSet, root: Path, split: str) -> SetImages | None:
    """Returns the image files of a part, as `find_part`, or None where neither folders nor lists make such a part."""
    try:
        images = find_part(name, known, root, split)
        with contextlib.suppress(ValueError):  # a list that cannot be read: told when the part is
            choose_names(images)
    except FileNotFoundError:
        return None
    return images


def find_part(name: str, known: KnownSet, root: Path, split: str) -> SetImages:
    """Returns the image files of a part, or of the whole set where its folders do not divide it."""
    home, layout, a, b = _find_layout(name, known, root, split)
    if known.brighter and "*" in layout:
        a, b = brighter_first(a, b)
    return SetImages(name, known, split, home, a, b, divided="{split}" in layout or "{part}" in layout)


def _find_layout(name: str, known: KnownSet, root: Path, split: str) -> tuple[Path, str, Files, Files]:
    """Returns the set's folder, the layout of a, and the files of a and b, in the first layout that exists.

    Folders that do not name a part and hold no images themselves do not count: their parts may be inside.

    Raises:
        FileNotFoundError: there is none; the message says what was looked for.
    """
    root = root.resolve()
    check_folder(root)
    subfolders = functools.cache(list_subfolders)  # many paths are tried, and a folder may hold many files
    homes = _find_homes(root, known)
    layouts = (*known.layouts, *_layouts_of(known))
    empty: dict[Path, None] = {}
    for part in (split, *SPLITS):
        for home in homes:
            for layout in layouts:
                if "{part}" in layout[0] and part not in known.parts:
                    continue
                sides = [x.format(split=part, part=known.parts.get(part)) for x in layout]
                a, b = (find_side(home, side, subfolders) for side in sides)
                if a is None or b is None:
                    continue
                if "{" not in layout[0] and not a and not b:
                    empty |= dict.fromkeys(home / side for side in sides)
                    continue
                if part != split:
                    raise FileNotFoundError(
                        f"{name} in {home} has no part called {split}, but one called {part}; take that"
                    )
                return home, layout[0], a, b
    raise FileNotFoundError(_describe_missing(name, known, root, split, homes, list(empty)))


def _find_homes(root: Path, known: KnownSet) -> list[Path]:
    """Returns the folders that may be the set's own: those of its names in `root`, and `root` itself."""
    inside = [home for folder in known.folders if (home := find_folder(root, (folder,))) is not None]
    deeper = [home for x in inside for folder in known.folders if (home := find_folder(x, (folder,))) is not None]
    return [*inside, *deeper, root]


def _describe_missing(
    name: str, known: KnownSet, root: Path, split: str, homes: Sequence[Path], empty: Sequence[Path]
) -> str:
    """Returns the message that a set was not found: what was looked for, and what is there in its place."""
    if empty:
        return (
            f"{name} was not found in {root}: {empty[0]} and {empty[1]} hold no images ({', '.join(EXTENSIONS)}); "
            "put them there, or into folders of its parts (train, val, test)"
        )
    layouts = (*known.layouts, *_layouts_of(known))
    examples = (layouts[0], ("visible", "infrared") if known.kind == "infrared" else known.pair_kind.sides[0])
    (a_folder, b_folder), (first, second) = (
        [side.format(split=split, part=known.parts.get(split, "")) for side in layout] for layout in examples
    )
    contents = "a visible and an infrared folder" if known.kind == "infrared" else f"the folders of {known.kind} pairs"
    where = f"; get it from {known.url}" if known.url else ""
    hint = _suggest_kind([home / part for home in homes for part in ("", *SPLITS)]) if known == FOLDER else ""
    return (
        f"{name} was not found in {root}: expected {contents} there, such as {a_folder} and {b_folder} or {first} and "
        f"{second}{where}; see tectum data list{hint}"
    )


def _layouts_of(known: KnownSet) -> list[tuple[str, str]]:
    """Returns the folder layouts of a set's kind, (a, b) relative to the set's folder, most usual first.

    >>> layouts = _layouts_of(replace(FOLDER, kind="exposure"))
    >>> layouts[0], ("{split}/MEF/over", "{split}/MEF/low") in layouts
    (('{split}/over', '{split}/under'), True)
    """
    sides = known.sides or known.pair_kind.sides
    forms = ["{{split}}/{0}", "{0}/{{split}}", *(f"{{{{split}}}}/{tag}/{{0}}" for tag in known.pair_kind.tags), "{0}"]
    return [(form.format(a), form.format(b)) for form in forms for a, b in sides]


def _suggest_kind(folders: Sequence[Path]) -> str:
    """Returns a hint at folders of another kind, for the message that visible and infrared are missing; else ""."""
    for folder in folders:
        inside = {x.name.lower() for x in folder.iterdir() if x.is_dir()} if folder.is_dir() else set()
        for kind in KINDS.values():
            for a, b in kind.sides:
                if kind.name != "infrared" and {a.lower(), b.lower()} <= inside:
                    first, second = sorted((a, b))
                    same = [x.name for x in KINDS.values() if (a, b) in x.sides or (b, a) in x.sides]
                    what = " or ".join(same)
                    return f"; {folder} has folders {first} and {second}: if they are {what} pairs, say so (--kind)"
    return ""


def _check_images(images: SetImages, pair_names: Sequence[str]) -> None:
    """Refuse names that lack an image."""
    for side, missing in images.missing(pair_names):
        if missing:
            raise FileNotFoundError(
                f"every pair of {images.name} needs both images, {len(missing)} of {len(pair_names)} have no {side} "
                f"one in {images.home}, the first is {missing[0]}; add them, or leave these pairs out"
            )
