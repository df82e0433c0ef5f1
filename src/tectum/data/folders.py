"""Image files of a data set: files by name, 8-bit pixels, and packaged lists of names."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tectum.color import rgb_to_ycbcr
from tectum.errors import UserError
from tectum.io.image import EXTENSIONS, read_pixels
from tectum.kinds import KINDS


def suggest_kind(folders: Iterable[Path]) -> str:
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


def image_files(folder: Path) -> dict[str, Path]:
    """Returns the image files of a folder by name without extension.

    Raises:
        ValueError: two files of one stem.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if path.stem in files:
            raise UserError(
                f"one file per pair must be in {folder}, got {files[path.stem].name} and {path.name}; remove one"
            )
        files[path.stem] = path
    return files


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
