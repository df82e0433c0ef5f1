"""What can be scored: a folder of anyone's fused images, a system of ours, a baseline without parameters.

A method gives, for a pair, the luminance that an evaluator reads from its image file: BT.601 grey on 8-bit levels, in
[0,1]. Images that tectum makes itself are therefore rounded to 8 bits before they are scored, as `tectum fuse` rounds
them in its files, and treated as the convention says (some published tables stretch each image first). Images that are
files already are taken as they are.
"""

import hashlib
import inspect
import json
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tectum import weights
from tectum.files import write_whole
from tectum.inference.folders import PairFiles, by_name, find_images
from tectum.inference.fuse import FuseOptions, FusePipeline, is_coloured
from tectum.inference.image import Array, Picture, px, read_image, to_array, write_image

BASELINES = ("average", "maximum", "laplacian", "visible", "infrared")
"""The rows every table needs: by some metrics they beat every network. The last two are the sources themselves."""

Saved = Callable[[Tensor], Tensor]
"""(B,1,H,W) in [0,1] as a network gives it -> as a file holds it."""


def levels(y: Tensor) -> Tensor:
    """To the nearest of 256 levels, halves up: what an 8-bit file keeps of values in [0,1].

    >>> (levels(torch.tensor([0.1, 126.5 / 255])) * 255).tolist()
    [26.0, 127.0]
    """
    return (y * 255 + 0.5 + 1e-4).floor().clamp(0, 255) / 255  # 1e-4: float32 has no exact halves of 255ths


class Method(ABC):
    """Something that has, or makes, a fused image for a pair.

    Attributes:
        name: in tables.
        baseline: it has nothing learned and is shown apart.
    """

    name: str
    baseline: bool = False

    def has(self, image: str) -> bool:
        """True if there is, or can be, a fused image of that name."""
        return True

    @abstractmethod
    def identity(self, image: str) -> str:
        """With the sources, what decides the fused image: changes when that may have changed."""

    @abstractmethod
    def luminance(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Tensor:
        """Its fused luminance of a pair that was read, (1,H,W) in [0,1].

        Raises:
            ValueError, OSError: a sentence on why there is none that can be compared with the sources.
        """

    def picture(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Array:
        """The fused image to look at, uint8 (H,W) or (H,W,3); in the visible's colours."""
        return to_array(self.luminance(pair, visible, infrared), visible.chroma)


class Folder(Method):
    """A folder (or quoted pattern) of fused images, named like the pairs they belong to.

    Raises:
        FileNotFoundError: it is missing or holds no images.
    """

    def __init__(self, name: str, where: str) -> None:
        self.name, self.where = name, where
        self.found = by_name(find_images(where))

    def has(self, image: str) -> bool:
        return image in self.found

    def identity(self, image: str) -> str:
        return " ".join(map(file_identity, self.found[image]))

    def luminance(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Tensor:
        return levels(self.read(pair.name, visible).y)

    def picture(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Array:
        fused = self.read(pair.name, visible)
        return to_array(fused.y, fused.chroma)

    def read(self, image: str, visible: Picture) -> Picture:
        files = self.found[image]
        if len(files) > 1:
            raise ValueError(f"one fused image per pair must be in {self.where}, got {', '.join(map(str, files))}")
        fused = read_image(files[0], value_range="full")
        size, expected = fused.y.shape[1:], visible.y.shape[1:]
        if size != expected:
            raise ValueError(
                f"a fused image must have the size of its sources, {px(expected)}, got {px(size)} in {files[0]}; "
                "score it against sources of its own size"
            )
        if fused.bits != 8 and float(fused.y.max()) * (2**fused.bits - 1) < 256:
            raise ValueError(
                f"{files[0]} holds {fused.bits} bits a pixel but no value above 255; write it as an 8-bit image"
            )
        return fused


class Made(Method):
    """Images made here from the sources, by a fuser.

    Args:
        name: in tables.
        make: (visible, infrared) -> luminance (1,H,W) in [0,1].
        settings: JSON types; what decides the result.
        saved: what becomes of the luminance in a file.
        store: a folder to keep the images in, for fusers that take their time.
        alone: only one thread may be in `make`.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Picture, Picture], Tensor],
        *,
        settings: Mapping[str, Any],
        baseline: bool,
        saved: Saved = levels,
        store: Path | None = None,
        alone: bool = False,
    ) -> None:
        self.name, self.baseline, self.make, self.saved, self.store = name, baseline, make, saved, store
        self.settings = {**settings, "baseline": baseline}
        self.lock = threading.Lock() if alone else None

    def identity(self, image: str) -> str:
        return json.dumps(self.settings, sort_keys=True)

    def luminance(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Tensor:
        file = None if self.store is None else self.folder(pair) / f"{pair.name}.png"
        if file is not None and file.exists() and file.stat().st_mtime_ns > newest(pair):
            return read_image(file, value_range="full").y
        with self.lock or nullcontext():
            made = self.make(visible, infrared)
        y: Tensor = self.saved(made[None])[0].float()
        if file is not None:
            self.note(file.parent)
            write_image(file, to_array(y))
        return y

    def folder(self, pair: PairFiles) -> Path:
        """Where its images of this pair's folders are kept: other settings and other sources lie elsewhere."""
        assert self.store is not None
        parts = [json.dumps(self.settings, sort_keys=True), *(str(x.parent.resolve()) for x in sources(pair))]
        return self.store / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    def note(self, folder: Path) -> None:
        """Say beside the images what made them."""
        if not (folder / "tectum.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.settings, indent=2) + "\n"
            write_whole(folder / "tectum.json", lambda file: file.write_text(text, encoding="utf-8"))


def system(
    name: str,
    which: "str | nn.Module",
    *,
    saved: tuple[str, Saved],
    ranges: Mapping[str, str],
    device: str = "auto",
    store: Path | None = None,
) -> Made:
    """A system to be scored.

    Args:
        name: in tables.
        which: a name of SYSTEMS or `package.module:Class`, with `@WEIGHTS` behind it for a packaged set or a file; or a
            fuser.
        saved: the name of a convention and what it does to an image that is made here.
        ranges: `visible_range` and `infrared_range` that the sources are read with.
        device: as in `tectum fuse`.
        store: keeps the fused images. Not those of a fuser that is given as such: nothing tells whether it changed.

    Raises:
        ValueError, KeyError, FileNotFoundError: unknown system or weights.
    """
    if isinstance(which, nn.Module):
        pipeline = FusePipeline(FuseOptions(device=device), fuser=which.eval())
        settings: dict[str, Any] = {"fuser": f"{type(which).__name__} {uuid.uuid4().hex}"}
        store = None
    else:
        known, _, file = which.partition("@")
        pipeline = FusePipeline(FuseOptions(system=known, weights=file or None, device=device))
        settings = pipeline.settings()
        if ":" in known:
            settings["code"] = file_identity(Path(inspect.getfile(type(pipeline.fuser))))
    return Made(
        name,
        lambda visible, infrared: pipeline(visible, infrared).y,
        settings={**settings, **ranges, "saved": saved[0]},
        baseline=False,
        saved=saved[1],
        store=None if store is None else store / name,
        alone=torch.device(pipeline.device).type != "cpu",
    )


def baseline(name: str) -> Made:
    """One of `BASELINES`, rounded to 8 bits and never stretched."""
    if name in ("visible", "infrared"):
        return Made(
            name,
            lambda visible, infrared: (visible if name == "visible" else infrared).y,
            settings={"source": name},
            baseline=True,
        )
    fuser = weights.load(name)
    return Made(
        name,
        lambda visible, infrared: fuser(visible.y[None], infrared.y[None])[0],
        settings={"system": name},
        baseline=True,
    )


def read_pair(pair: PairFiles, *, visible_range: str = "auto", infrared_range: str = "auto") -> tuple[Picture, Picture]:
    """The sources of a pair as a metric may see them.

    Raises:
        ValueError, OSError: they cannot be read or compared, in one sentence.
    """
    visible = read_image(pair.visible, value_range=visible_range)
    infrared = read_image(pair.infrared, role="infrared", value_range=infrared_range)
    size, other = visible.y.shape[1:], infrared.y.shape[1:]
    if size != other:
        raise ValueError(
            f"visible and infrared must share one size, got {px(size)} and {px(other)}; score against the resized or "
            "registered sources that were fused"
        )
    for role, picture, value_range, file in (
        ("visible", visible, visible_range, pair.visible),
        ("infrared", infrared, infrared_range, pair.infrared),
    ):
        if picture.bits != 8 and value_range == "auto":
            raise ValueError(
                f"metrics compare 8-bit levels, but {file} has {picture.bits} bits a pixel; say which of its values "
                f"became black and white with --{role}-range LOW,HIGH (or full)"
            )
    if is_coloured(infrared):
        raise ValueError(
            f"an infrared image must be grey, {pair.infrared} is in colour (false colours, or the two folders are "
            "exchanged?); export it in grey, or exchange --visible and --infrared"
        )
    return visible, infrared


def sources(pair: PairFiles) -> tuple[Path, Path]:
    return pair.visible, pair.infrared


def newest(pair: PairFiles) -> int:
    return max(path.stat().st_mtime_ns for path in sources(pair))


def file_identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"
