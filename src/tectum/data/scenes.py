"""One side of the pairs of a set: a folder of images, or files that share a folder with the other side's.

    'imageA'            the images of a folder, by name
    'imageA/*_A'        001_A.png has the name 001
    'input/*/*_B'       a folder a scene: its name is the scene's, one of its files ends so
    'Part1/*/<last>'    a folder a scene with numbered images: the one with the highest number; <first>: the lowest

Letter case does not matter, except in what a name becomes.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from tectum.data.folders import image_files, luminance, read_8bit
from tectum.errors import UserError
from tectum.io.image import EXTENSIONS

_EXTREMES = ("<first>", "<last>")


def find_side(home: Path, side: str) -> dict[str, Path] | None:
    """Returns the image files of a side by name, or None without such a folder.

    Raises:
        ValueError: two files have one name.
    """
    *folders, last = side.split("/")
    if "*" not in side:
        folder = find_folder(home, (*folders, last))
        return None if folder is None else image_files(folder)
    star = folders.index("*") if "*" in folders else len(folders)
    top = find_folder(home, folders[:star])
    if top is None:
        return None
    scene_folders = [top] if star == len(folders) else _list_scene_folders(top)
    files: dict[str, Path] = {}
    for scene_folder in scene_folders:
        for name, path in _match_files(scene_folder, last):
            name = name if star == len(folders) else scene_folder.name
            if name in files:
                raise UserError(
                    f"one image per scene must be called {last} in {scene_folder}, got "
                    f"{files[name].name} and {path.name}; remove one"
                )
            files[name] = path
    return files or None


def _list_scene_folders(top: Path) -> list[Path]:
    """Returns the folders of the scenes, without those of reference images."""
    return sorted(x for x in top.iterdir() if x.is_dir() and not x.name.lower().startswith("label"))


def _match_files(place: Path, last: str) -> list[tuple[str, Path]]:
    """Returns (text of the star, file) of the images of a folder; for <first> and <last> the one by its number."""
    image_paths = [x for x in sorted(place.iterdir()) if x.suffix.lower() in EXTENSIONS and not x.name.startswith(".")]
    if last in _EXTREMES:
        numbered = sorted((int(x.stem), x) for x in image_paths if x.stem.isdecimal())
        return [(place.name, numbered[-1 if last == "<last>" else 0][1])] if len(numbered) > 1 else []
    pattern = re.compile("(.+)".join(map(re.escape, last.split("*"))), re.IGNORECASE)
    return [(match[1], x) for x in image_paths if (match := pattern.fullmatch(x.stem))]


def brighter_first(a: dict[str, Path], b: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Exchange the two files of each scene whose second image is brighter; returns both sides."""
    swapped = {name for name in a.keys() & b.keys() if _measure_luminance(a[name]) < _measure_luminance(b[name])}
    return (
        {name: b[name] if name in swapped else path for name, path in a.items()},
        {name: a[name] if name in swapped else path for name, path in b.items()},
    )


def _measure_luminance(path: Path) -> float:
    """Returns the mean luminance, 0..255; of an eighth of the size where the format offers it (JPEG).

    Raises:
        ValueError: no image that can be read.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        try:
            with Image.open(path) as image:
                image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
                return float(
                    sum(i * n for i, n in enumerate(image.convert("L").histogram())) / image.width / image.height
                )
        except OSError:
            pass  # told by the reader below
    return float(luminance(read_8bit(path)).to(torch.float32).mean())


def find_folder(folder: Path, parts: Sequence[str]) -> Path | None:
    """Returns the folder at the path `parts` below another, in any letter case, or None."""
    for part in parts:
        matches = [path for path in folder.iterdir() if path.name.lower() == part.lower() and path.is_dir()]
        if not matches:
            return None
        folder = min(matches, key=lambda path: (path.name != part, path.name))
    return folder
