"""Names of the pairs of a part (split): packaged lists, list files, and a draw with a seed.

    HOME/train.txt, HOME/SET_train.txt, ...        which names belong to a part, where its folders do not say so

Letter case does not matter.
"""

import filecmp
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from tectum.data.boxes import PixelBox, read_list
from tectum.data.folders import find_folder

SPLITS = ("train", "val", "test")


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
