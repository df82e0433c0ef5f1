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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tectum.color import choose_chroma, to_levels
from tectum.errors import UserError
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.codecs import read_pixels
from tectum.io.files import write_whole
from tectum.io.folders import PairFiles, find_images, group_by_name, group_by_star
from tectum.io.image import Array, Picture, picture_from_array, px, read_image, to_array, write_image
from tectum.kinds import KINDS, Kind
from tectum.systems import SYSTEMS
from tectum.weights import loading as weights

BASELINES = ("average", "maximum", "laplacian", "visible", "infrared")
"""The rows every table needs: by some metrics they beat every network. The last two are the sources themselves."""


def baselines_of(kind: Kind) -> tuple[str, ...]:
    """The same with the sources under the names of a kind.

    >>> baselines_of(KINDS["exposure"])
    ('average', 'maximum', 'laplacian', 'over', 'under')
    """
    return (*BASELINES[:3], *kind.roles)


Saved = Callable[[Tensor], Tensor]
"""(B,1,H,W) in [0,1] as a network gives it -> as a file holds it."""


class Method(ABC):
    """Something that has, or makes, a fused image for a pair.

    Attributes:
        name: in tables.
        baseline: it has nothing learned and is shown apart.
        system: what `tectum bench` calls it; None for images that are files.
        mixes: it is shown in the mixed colours of its sources, else in the first one's.
        since: images kept from before this time (nanoseconds) are made again.
    """

    name: str
    baseline: bool = False
    system: str | None = None
    mixes: bool = False
    since: int = 0

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
        """The fused image to look at, uint8 (H,W) or (H,W,3); in the visible's colours, or those of both."""
        chroma = choose_chroma(visible.chroma, infrared.chroma, mix=True) if self.mixes else visible.chroma
        return to_array(self.luminance(pair, visible, infrared), chroma)


class Folder(Method):
    """A folder (or quoted pattern) of fused images, named like the pairs they belong to.

    Raises:
        FileNotFoundError: it is missing or holds no images.
    """

    def __init__(self, name: str, where: str) -> None:
        self.name, self.where = name, where
        files = find_images(where)
        self.found = group_by_star(files, where) or group_by_name(files)  # '*_fused.png': its * is the pairs' names

    def has(self, image: str) -> bool:
        return image in self.found

    def identity(self, image: str) -> str:
        return " ".join(map(file_identity, self.found[image]))

    def luminance(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Tensor:
        return to_levels(self.read(pair.name, visible).y)

    def picture(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Array:
        fused = self.read(pair.name, visible)
        return to_array(fused.y, fused.chroma)

    def read(self, image: str, visible: Picture) -> Picture:
        files = self.found[image]
        if len(files) > 1:
            raise UserError(f"one fused image per pair must be in {self.where}, got {', '.join(map(str, files))}")
        pixels = read_pixels(files[0])
        if pixels.dtype.kind == "f" or pixels.dtype.itemsize > 2:
            raise UserError(f"fused images must have 8 or 16 bits, {files[0]} is {pixels.dtype}; write it as a PNG")
        if pixels.dtype.itemsize == 2 and pixels.max() < 2**14:
            raise UserError(
                f"{files[0]} has 16 bits a pixel but no value above {pixels.max()} of 65535, as if fewer bits were "
                "meant; write it over the whole range, or with 8 bits"
            )
        fused = picture_from_array(pixels, value_range="full")
        size, expected = fused.y.shape[1:], visible.y.shape[1:]
        if size != expected:
            raise UserError(
                f"a fused image must have the size of its sources, {px(expected)}, got {px(size)} in {files[0]}; "
                "score it against sources of its own size"
            )
        return fused


class Made(Method):
    """Images made here from the sources, by a fuser.

    Args:
        name: in tables.
        make: (visible, infrared) -> luminance (1,H,W) in [0,1].
        settings: JSON types; what decides the result.
        system: what `tectum bench` calls it.
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
        system: str | None = None,
        saved: Saved = to_levels,
        store: Path | None = None,
        alone: bool = False,
    ) -> None:
        self.name, self.baseline, self.system = name, baseline, system
        self.make, self.saved, self.store = make, saved, store
        self.settings = {**settings, "baseline": baseline}
        self.lock = threading.Lock() if alone else None

    def identity(self, image: str) -> str:
        return json.dumps(self.settings, sort_keys=True)

    def luminance(self, pair: PairFiles, visible: Picture, infrared: Picture) -> Tensor:
        file = None if self.store is None else self.folder(pair) / f"{pair.name}.png"
        if file is not None and file.exists() and file.stat().st_mtime_ns > max(self.since, newest(pair)):
            return read_image(file, value_range="full").y
        try:
            with self.lock or nullcontext():
                made = self.make(visible, infrared)
        except RuntimeError as error:
            raise UserError(f"{self.name} cannot fuse it: {str(error).strip().splitlines()[0]}") from error
        y: Tensor = self.saved(made[None])[0].float()
        if file is not None:
            self.note(file.parent)
            write_image(file, to_array(y))
        return y

    def folder(self, pair: PairFiles) -> Path:
        """Where its images of this pair's folders are kept: other settings and other sources lie elsewhere."""
        assert self.store is not None
        parts = [self.identity(pair.name), *(str(x.parent.resolve()) for x in sources(pair))]
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
    reading: Mapping[str, Any],
    device: str = "auto",
    store: Path | None = None,
) -> Made:
    """A system to be scored.

    Args:
        name: in tables.
        which: a name of SYSTEMS or `package.module:Class`, with `@WEIGHTS` behind it for a packaged set or a file; or a
            fuser.
        saved: the name of a convention and what it does to an image that is made here.
        reading: options of `read_pair` that the sources are read with.
        device: as in `tectum fuse`; a fuser given as such stays where it is.
        store: keeps the fused images. Not those of a fuser that is given as such: nothing tells whether it changed.

    Raises:
        ValueError, KeyError, FileNotFoundError: unknown system or weights.
    """
    kind = reading.get("kind", "infrared")
    if isinstance(which, nn.Module):
        here = next(which.parameters(), torch.empty(0)).device
        pipeline = FusePipeline(FuseOptions("average", device=str(here), kind=kind), fuser=which)
        settings: dict[str, Any] = {"fuser": f"{type(which).__name__} {uuid.uuid4().hex}"}
        known, store = None, None
    else:
        known, _, file = which.partition("@")
        pipeline = FusePipeline(FuseOptions(system=known, weights=file or None, device=device, kind=kind))
        settings = pipeline.settings()
        if ":" in known:
            settings["code"] = file_identity(Path(inspect.getfile(type(pipeline.fuser))))

    def make(visible: Picture, infrared: Picture) -> Tensor:
        with evaluating(pipeline.fuser):
            return pipeline(visible, infrared).y

    return Made(
        name,
        make,
        settings={**settings, **reading, "saved": saved[0]},
        baseline=False,
        system=known,
        saved=saved[1],
        store=None if store is None else store / name,
        alone=torch.device(pipeline.device).type != "cpu" or known not in SYSTEMS,  # others may keep things in self
    )


def baseline(name: str, kind: Kind = KINDS["infrared"]) -> Made:
    """One of `baselines_of` a kind, rounded to 8 bits and never stretched."""
    if name in kind.roles:
        return Made(
            name,
            lambda visible, infrared: (visible if name == kind.roles[0] else infrared).y,
            settings={"source": name},
            baseline=True,
        )
    fuser = weights.load(name)
    return Made(
        name,
        lambda visible, infrared: fuser(visible.y[None], infrared.y[None])[0],
        settings={"system": name},
        system=name,
        baseline=True,
    )


def read_pair(
    pair: PairFiles,
    *,
    visible_range: str = "auto",
    infrared_range: str = "auto",
    both_colour: bool = False,
    kind: str = "infrared",
) -> tuple[Picture, Picture]:
    """The sources of a pair as a metric may see them.

    Raises:
        ValueError, OSError: they cannot be read or compared, in one sentence.
    """
    of = KINDS[kind]
    visible, infrared = (
        read_image(
            path,
            modality="infrared" if thermal else "visible",
            value_range=value_range,
            noun=noun,
            flag=f"--{side}-range",
        )
        for path, thermal, value_range, noun, side in zip(
            (pair.visible, pair.infrared),
            of.thermal,
            (visible_range, infrared_range),
            of.words,
            ("visible", "infrared"),
            strict=True,
        )
    )
    size, other = visible.y.shape[1:], infrared.y.shape[1:]
    if size != other:
        raise UserError(
            f"{of.words[0]} and {of.words[1]} must share one size, got {px(size)} and {px(other)}; score against "
            "the resized or registered sources that were fused"
        )
    for role, picture, value_range, file in (
        ("visible", visible, visible_range, pair.visible),
        ("infrared", infrared, infrared_range, pair.infrared),
    ):
        if picture.bits != 8 and value_range == "auto":
            raise UserError(
                f"metrics compare 8-bit levels, but {file} has {picture.bits} bits a pixel; say which of its values "
                f"became black and white with --{role}-range LOW,HIGH (or full)"
            )
    if infrared.has_colour and not both_colour:
        raise UserError(
            f"an {of.words[1]} image must be grey, {pair.infrared} is in colour (false colours, or the two folders are "
            "exchanged?); export it in grey, exchange the two"
            + (", or add --both-colour for two exposures or foci" if of.name == "infrared" else "")
        )
    return visible, infrared


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode inside; the user may be in the middle of training it."""
    modes = {part: part.training for part in module.modules()}
    if any(modes.values()):
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def sources(pair: PairFiles) -> tuple[Path, Path]:
    return pair.visible, pair.infrared


def newest(pair: PairFiles) -> int:
    """When the sources last changed, or were put here."""
    return max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in (path.stat() for path in sources(pair)))


def file_identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"
