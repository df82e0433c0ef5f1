"""Pairs of a part (split) of a set: their image files, and their names by packaged lists, list files or a draw.

    HOME/train.txt, HOME/SET_train.txt, ...        which names belong to a part, where its folders do not say so

Letter case does not matter.
"""

import filecmp
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tectum.data.boxes import PixelBox, read_list
from tectum.data.folders import Files, find_folder
from tectum.data.known import KnownSet
from tectum.io.files import normalise_name

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SetImages:
    """Image files of a part (split) of a set, by name.

    Args:
        name: of the set.
        known: facts of the set.
        split: the part.
        home: the set's folder.
        visible: visible images, or a of the set's kind.
        infrared: infrared images, or b of the set's kind.
        divided: the folders themselves are one part of the set.
    """

    name: str
    known: KnownSet
    split: str
    home: Path
    visible: Files
    infrared: Files
    divided: bool

    def missing(self, pair_names: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Returns, for both sides, what the side is called and which of the names have no image there."""
        sides = zip(self.known.pair_kind.words, (self.visible, self.infrared), strict=True)
        return [(word, [name for name in pair_names if name not in files]) for word, files in sides]


def choose_names(
    images: SetImages,
    target: str | None = None,
    names: Sequence[str] | str | Path | None = None,
    seed: int = 0,
) -> tuple[list[str], dict[str, list[PixelBox]]]:
    """Returns the names of a part, and their boxes where a list has them."""
    known, split = images.known, images.split
    all_names = sorted(images.visible.keys() | images.infrared.keys())
    if isinstance(names, str) and not Path(names).exists() and names in list_splits():
        return read_split(names), _read_listed_boxes(images, target)
    if isinstance(names, str | Path):
        if not Path(names).is_file():
            raise FileNotFoundError(
                f"names must be a list of names, a file, or one of {', '.join(list_splits())}, got {names}; "
                "check the path"
            )
        return _read_names(Path(names))
    if names is not None:
        return [normalise_name(name) for name in names], _read_listed_boxes(images, target)
    if images.divided or split == "all":
        return all_names, {}
    lists = {part: _find_list(images.home, known.folders, part, target) for part in (split, *SPLITS)}
    if (path := lists[split]) is not None:
        return _read_names(path)
    # what is listed for another part is not for this one
    unlisted = exclude_names(
        all_names, [x for path in lists.values() if path is not None for x in _read_names(path)[0]]
    )
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
        f"{images.name} in {images.home} has no part called {split}: expected its folder, or a list {split}.txt; add "
        "one, or take all pairs (split all)"
    )


def _read_listed_boxes(images: SetImages, target: str | None) -> dict[str, list[PixelBox]]:
    """The boxes in the list of a part that its folders do not make; they count before those in files."""
    if target != "boxes" or images.divided or images.split == "all":
        return {}
    path = _find_list(images.home, images.known.folders, images.split, target)
    return {} if path is None else _read_names(path)[1]


def read_split(split: str) -> list[str]:
    """Returns the names of a packaged list of pairs, e.g. "msrs-validation".

    >>> len(read_split("msrs-validation"))
    40
    """
    text = (resources.files("tectum.data") / "splits" / f"{split}.txt").read_text(encoding="utf-8")
    return [name for line in text.splitlines() if not line.startswith("#") for name in line.split()]


def list_splits() -> list[str]:
    """Returns the names of the packaged lists that `read_split` takes."""
    return sorted(p.name.removesuffix(".txt") for p in (resources.files("tectum.data") / "splits").iterdir())


def exclude_names(names: Iterable[str], left_out: Iterable[str]) -> list[str]:
    """Returns the names that are not in `left_out`, in their order."""
    out = set(left_out)
    return [name for name in names if name not in out]


def _find_list(home: Path, folders: Sequence[str], split: str, label_type: str | None) -> Path | None:
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


def _read_names(path: Path) -> tuple[list[str], dict[str, list[PixelBox]]]:
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
