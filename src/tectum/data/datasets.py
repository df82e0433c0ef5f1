"""Known sets of pairs: under which names their folders lie, as published and as people unpack them.

    ROOT/<one of the set's folders>/<one of the layouts>        e.g. ROOT/MSRS/test/vi and ROOT/MSRS/test/ir

Letter case does not matter. Nothing is downloaded: the sets come from their authors, and most state no licence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tectum.protocols import resolve

SIDES = (("vi", "ir"), ("vis", "ir"), ("visible", "infrared"))
LAYOUTS = (
    *((f"{{split}}/{a}", f"{{split}}/{b}") for a, b in SIDES),
    *((f"{a}/{{split}}", f"{b}/{{split}}") for a, b in SIDES),
    *SIDES,
)
"""(visible, infrared) below a set's folder; sets with layouts of their own have these too."""


@dataclass(frozen=True)
class KnownSet:
    """A published set of infrared-visible pairs.

    Attributes:
        title: with authors and year.
        folders: names its folder goes by.
        layouts: (visible, infrared) below it, `{split}` standing for train or test, before `LAYOUTS`.
        url: where it comes from.
    """

    title: str
    folders: tuple[str, ...]
    url: str
    layouts: tuple[tuple[str, str], ...] = ()


DATASETS: dict[str, KnownSet] = {
    "msrs": KnownSet("MSRS, Tang et al. 2022", ("msrs", "msrs-main"), "https://github.com/Linfeng-Tang/MSRS"),
    "fmb": KnownSet("FMB, Liu et al. 2023", ("fmb",), "https://github.com/JinyuanLiu-CV/SegMiF"),
    "m3fd": KnownSet(
        "M3FD, Liu et al. 2022", ("m3fd", "m3fd_detection", "m3fd_fusion"), "https://github.com/JinyuanLiu-CV/TarDAL"
    ),
    "llvip": KnownSet("LLVIP, Jia et al. 2021", ("llvip",), "https://github.com/bupt-ai-cz/LLVIP"),
    "roadscene": KnownSet(
        "RoadScene, Xu et al. 2020",
        ("roadscene", "roadscene-master"),
        "https://github.com/hanna-xu/RoadScene",
        (("crop_LR_visible", "cropinfrared"),),
    ),
    "tno": KnownSet(
        "TNO Image Fusion Dataset, Toet 2014",
        ("tno", "tno_image_fusion_dataset"),
        "https://doi.org/10.6084/m9.figshare.1008029",
    ),
}


def find_set(name: str, root: str | Path, split: str = "test") -> tuple[Path, Path]:
    """The folders of a known set: (visible, infrared).

    Args:
        name: a key of DATASETS.
        root: the folder that holds the set's folder, or is it.
        split: "train" or "test", where the set has them.

    Raises:
        ValueError: the set is unknown.
        FileNotFoundError: it is not there; the message says what was looked for.
    """
    known, root = resolve(DATASETS, name, kind="dataset"), Path(root).resolve()
    layouts = [(a.format(split=split), b.format(split=split)) for a, b in (*known.layouts, *LAYOUTS)]
    if not root.is_dir():
        raise FileNotFoundError(f"the folder of data sets {root} does not exist; give another with --root")
    homes = [home for folder in known.folders if (home := below(root, (folder,))) is not None]
    if root.name.lower() in known.folders:
        homes.append(root)
    for home in homes:
        for a, b in layouts:
            visible, infrared = below(home, a.split("/")), below(home, b.split("/"))
            if visible is not None and infrared is not None:
                return visible, infrared
    other = "train" if split == "test" else "test"
    if homes and any(below(homes[0], a.format(split=other).split("/")) for a, _ in (*known.layouts, *LAYOUTS)):
        raise FileNotFoundError(f"{name} in {homes[0]} has no part called {split}, but one called {other}; take that")
    where = homes[0] if homes else root / known.folders[0]
    raise FileNotFoundError(
        f"{name} was not found in {where}: expected a visible and an infrared folder there, such as "
        f"{' and '.join(layouts[0])} or {' and '.join(layouts[-1])}; get it from {known.url}, or give --root"
    )


def below(folder: Path, parts: Sequence[str]) -> Path | None:
    """The folder `parts` below another, whatever its letter case, or None."""
    for part in parts:
        found = [path for path in folder.iterdir() if path.name.lower() == part.lower() and path.is_dir()]
        if not found:
            return None
        folder = min(found, key=lambda path: (path.name != part, path.name))
    return folder
