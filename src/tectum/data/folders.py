"""Image files of one side of the pairs of a set, by name, and their 8-bit pixels.

A side is a folder of images, or files that share a folder with those of the other side:

    'imageA'            the images of a folder, by name
    'imageA/*_A'        001_A.png has the name 001
    'input/*/*_B'       a folder a scene: its name is the scene's, one of its files ends so
    'Part1/*/<last>'    a folder a scene with numbered images: the one with the highest number; <first>: the lowest

Letter case does not matter, except in what a name becomes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageStat
from torch import Tensor

from tectum.color import rgb_to_ycbcr
from tectum.errors import UserError
from tectum.io.files import normalise_name
from tectum.io.image import EXTENSIONS, read_pixels

Files = dict[str, Path]
_EXTREMES = ("<first>", "<last>")


def check_folder(path: Path) -> None:
    """Refuse a path that is no folder."""
    if path.is_file():
        raise UserError(f"a folder is needed, {path} is a file; give the folder of the set")
    if not path.is_dir():
        raise FileNotFoundError(f"the folder {path} does not exist; check the path")


def list_subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder."""
    return [path for path in folder.iterdir() if path.is_dir()]


def find_folder(
    folder: Path, parts: Sequence[str], subfolders: Callable[[Path], list[Path]] = list_subfolders
) -> Path | None:
    """Returns the folder at the path `parts` below another, in any letter case, or None.

    Args:
        folder: where to begin.
        parts: names of folders, each in the one before.
        subfolders: says what a folder holds; a cached one is faster where many paths are tried.
    """
    for part in parts:
        matches = [path for path in subfolders(folder) if path.name.lower() == part.lower()]
        if not matches:
            return None
        folder = min(matches, key=lambda path: (path.name != part, path.name))
    return folder


def find_side(home: Path, side: str, subfolders: Callable[[Path], list[Path]] = list_subfolders) -> Files | None:
    """Returns the image files of a side by name, or None without such a folder; `subfolders` as of `find_folder`.

    Raises:
        ValueError: two files have one name.
    """
    *folders, last = side.split("/")
    if "*" not in side:
        folder = find_folder(home, (*folders, last), subfolders)
        return None if folder is None else image_files(folder)
    in_scenes = "*" in folders
    top = find_folder(home, folders[: folders.index("*")] if in_scenes else folders, subfolders)
    if top is None:
        return None
    files: Files = {}
    for folder in _list_scene_folders(top) if in_scenes else [top]:
        for name, path in _match_files(folder, last):
            name = normalise_name(folder.name if in_scenes else name)
            if name in files:
                raise UserError(
                    f"one image per scene must be called {last} in {folder}, got {files[name].name} and {path.name}; "
                    "remove one"
                )
            files[name] = path
    return files or None


def image_files(folder: Path) -> Files:
    """Returns the image files of a folder by name without extension.

    Raises:
        ValueError: two files of one stem.
    """
    files: Files = {}
    for path in _list_images(folder):
        name = normalise_name(path.stem)
        if name in files:
            raise UserError(
                f"one file per pair must be in {folder}, got {files[name].name} and {path.name}; remove one"
            )
        files[name] = path
    return files


def _list_images(folder: Path) -> list[Path]:
    return [x for x in sorted(folder.iterdir()) if _is_image(x)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def _list_scene_folders(top: Path) -> list[Path]:
    """Returns the folders of the scenes, without those of reference images."""
    return sorted(x for x in top.iterdir() if x.is_dir() and not x.name.lower().startswith("label"))


def _match_files(folder: Path, last: str) -> list[tuple[str, Path]]:
    """Returns (text of the star, file) of the images of a folder; for <first> and <last> the one by its number."""
    if last in _EXTREMES:
        numbered = sorted((int(x.stem), x) for x in _list_images(folder) if x.stem.isdecimal())
        return [(folder.name, numbered[-1 if last == "<last>" else 0][1])] if len(numbered) > 1 else []
    pattern = re.compile("(.+)".join(map(re.escape, last.split("*"))), re.IGNORECASE)
    return [(match[1], x) for x in _list_images(folder) if (match := pattern.fullmatch(x.stem))]


def brighter_first(a: Files, b: Files) -> tuple[Files, Files]:
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
                return float(ImageStat.Stat(image.convert("L")).mean[0])
        except OSError:
            pass  # the reader below says what is wrong
    return float(read_luminance(path).to(torch.float32).mean())


def read_luminance(path: Path) -> Tensor:
    """Returns the 8-bit luminance (H,W) uint8 of an image file, rounded.

    Raises:
        ValueError: not an image that can be read, or deeper than 8 bits.
    """
    return luminance(read_8bit(path))


def read_8bit(path: Path) -> Tensor:
    """Returns the pixels of an image file, uint8: (H,W), or (H,W,C) with RGB(A) or grey and alpha.

    Raises:
        ValueError: not an image that can be read, or deeper than 8 bits.
    """
    pixels = read_pixels(path)
    if pixels.dtype != np.uint8:
        raise UserError(f"training images must be 8-bit, {path} is {pixels.dtype}; convert it first")
    return torch.from_numpy(np.array(pixels))  # a copy: a decoder's array may be read-only


def luminance(raw: Tensor) -> Tensor:
    """Returns the luminance (H,W) uint8 of pixels as `read_8bit` gives them, rounded."""
    if raw.ndim == 2 or raw.shape[2] < 3:
        return raw if raw.ndim == 2 else raw[..., 0]
    y, _ = rgb_to_ycbcr(raw[..., :3].permute(2, 0, 1).float() / 255)
    return (y[0] * 255 + 0.5).floor().to(torch.uint8)
