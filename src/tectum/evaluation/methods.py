"""Methods under evaluation: a folder of anyone's fused images, a system run here, a baseline without parameters.

    luminance(name, a, b)    the fused image of the pair of that name, with sources a and b

All give the luminance that an evaluator reads from an image file: BT.601 grey on 8-bit levels, in [0,1]. Images that
tectum makes itself are therefore rounded to 8 bits before they are scored, as `tectum fuse` rounds them in its files,
and treated as the convention says (some published tables stretch each image first). Images that are files already are
taken as they are.
"""

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

from tectum.color import choose_chroma, to_levels
from tectum.errors import UserError
from tectum.evaluation.options import BASELINES
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.files import append_text, fingerprint
from tectum.io.folders import ResultFolder, find_images, group_by_name, group_by_star
from tectum.io.image import Array, Picture, picture_from_array, px, read_image, read_pixels, to_array, write_image
from tectum.kinds import KINDS, Kind
from tectum.metrics.conventions import Convention
from tectum.models import SYSTEMS
from tectum.pretrained import loading as weights


def baselines_of(kind: Kind) -> tuple[str, ...]:
    """Returns the baselines of a kind of pairs, with the names of its sources.

    >>> baselines_of(KINDS["exposure"])
    ('average', 'maximum', 'laplacian', 'over', 'under')
    """
    return (*BASELINES[:3], *kind.roles)


class Method(ABC):
    """A method under evaluation: it has, or makes, the fused image of a pair.

    Attributes:
        name: in tables.
        is_baseline: nothing in it is learned; it is shown apart and not ranked.
        system: its name for `tectum bench`; None for images that are files.
    """

    name: str
    is_baseline: bool = False
    system: str | None = None

    def has(self, name: str) -> bool:
        """True if there is, or can be made, a fused image of the pair of that name."""
        return True

    @abstractmethod
    def identity(self, name: str) -> str:
        """Returns a text that changes when the fused image of unchanged sources may have changed."""

    @abstractmethod
    def luminance(self, name: str, a: Picture, b: Picture) -> Tensor:
        """The fused luminance of a pair.

        Args:
            name: of the pair.
            a, b: its sources, of one size.

        Returns:
            (1,H,W) on 8-bit levels in [0,1].

        Raises:
            UserError, OSError: there is none that can be compared with the sources.
        """

    def picture(self, name: str, a: Picture, b: Picture) -> Array:
        """Returns the fused image to look at, uint8 (H,W) or (H,W,3), in the colours of the first source."""
        return to_array(self.luminance(name, a, b), a.chroma)


class FolderMethod(Method):
    """A folder (or quoted pattern) of fused images, named like the pairs they belong to.

    Attributes:
        path: the folder or pattern.
        files: {name of a pair: its images}.

    Raises:
        FileNotFoundError: it is missing or holds no images.
    """

    def __init__(self, name: str, path: str | Path) -> None:
        self.name, self.path = name, str(path)
        files = find_images(self.path)
        self.files = group_by_star(files, self.path) or group_by_name(files)  # '*_fused.png': its * is the pairs' names

    def has(self, name: str) -> bool:
        return name in self.files

    def identity(self, name: str) -> str:
        return " ".join(map(file_identity, self.files[name]))

    def luminance(self, name: str, a: Picture, b: Picture) -> Tensor:
        return to_levels(self._read(name, a).y)

    def picture(self, name: str, a: Picture, b: Picture) -> Array:
        fused = self._read(name, a)
        return to_array(fused.y, fused.chroma)

    def _read(self, name: str, source: Picture) -> Picture:
        files = self.files[name]
        if len(files) > 1:
            raise UserError(f"one fused image per pair must be in {self.path}, got {', '.join(map(str, files))}")
        pixels = read_pixels(files[0])
        if pixels.dtype.kind == "f" or pixels.dtype.itemsize > 2:
            raise UserError(f"fused images must have 8 or 16 bits, {files[0]} is {pixels.dtype}; write it as a PNG")
        if pixels.dtype.itemsize == 2 and pixels.max() < 2**14:
            raise UserError(
                f"{files[0]} has 16 bits a pixel but no value above {pixels.max()} of 65535, as if fewer bits were "
                "meant; write it over the whole range, or with 8 bits"
            )
        fused = picture_from_array(pixels, value_range="full")
        size, expected = fused.y.shape[1:], source.y.shape[1:]
        if size != expected:
            raise UserError(
                f"a fused image must have the size of its sources, {px(expected)}, got {px(size)} in {files[0]}; "
                "score it against sources of its own size"
            )
        return fused


class FuserMethod(Method):
    """Images made here by a function of the two sources.

    Args:
        name: in tables.
        fuse: (a, b) -> luminance (1,H,W) in [0,1].
        settings: JSON types; what decides the result.
        is_baseline: nothing in it is learned.
        system: its name for `tectum bench`.
        quantize: (1,1,H,W) in [0,1] as a network gives it -> as an image file holds it.
        mix_chroma: shown in the colours of both sources, not of the first one alone.
        one_thread: `fuse` must not run in two threads at a time.
    """

    def __init__(
        self,
        name: str,
        fuse: Callable[[Picture, Picture], Tensor],
        *,
        settings: Mapping[str, Any],
        is_baseline: bool = False,
        system: str | None = None,
        quantize: Callable[[Tensor], Tensor] = to_levels,
        mix_chroma: bool = False,
        one_thread: bool = False,
    ) -> None:
        self.name, self.is_baseline, self.system = name, is_baseline, system
        self.settings = {**settings, "baseline": is_baseline}
        self._fuse, self._quantize, self._mix_chroma = fuse, quantize, mix_chroma
        self._lock = threading.Lock() if one_thread else nullcontext()

    def identity(self, name: str) -> str:
        return json.dumps(self.settings, sort_keys=True)

    def luminance(self, name: str, a: Picture, b: Picture) -> Tensor:
        try:
            with self._lock:
                y = self._fuse(a, b)
        except RuntimeError as error:
            raise UserError(f"{self.name} cannot fuse it: {str(error).strip().splitlines()[0]}") from error
        return self._quantize(y[None])[0].float()

    def picture(self, name: str, a: Picture, b: Picture) -> Array:
        return self.colour(self.luminance(name, a, b), a, b)

    def colour(self, y: Tensor, a: Picture, b: Picture) -> Array:
        """Returns a luminance (1,H,W) in the colours of its sources, uint8 (H,W) or (H,W,3)."""
        return to_array(y, choose_chroma(a.chroma, b.chroma, mix=True) if self._mix_chroma else a.chroma)


class CachedMethod(Method):
    """A method whose fused images are kept as files; an image whose sources have changed is made again.

    `sources.jsonl` beside the images says of which pixels each was made: a line an image, the last line of a name
    counts.

    Args:
        method: makes the images.
        folder: for the images; nothing is written there before the first one is needed.
    """

    def __init__(self, method: FuserMethod, folder: Path) -> None:
        self.name, self.is_baseline, self.system = method.name, method.is_baseline, method.system
        self._method, self._folder, self._list = method, ResultFolder(folder), folder / "sources.jsonl"
        self._marks: dict[str, str] | None = None
        self._lock = threading.Lock()

    def identity(self, name: str) -> str:
        return self._method.identity(name)

    def luminance(self, name: str, a: Picture, b: Picture) -> Tensor:
        """As that of the method.

        Raises:
            UserError: the folder holds images made with other settings.
        """
        with self._lock:
            if self._marks is None:
                self._marks = self._read_marks()
        file, mark = self._folder.files(name)["colour"], fingerprint(a.y, b.y)
        if file.exists() and self._marks.get(name) == mark:
            return read_image(file, value_range="full").y
        y = self._method.luminance(name, a, b)
        write_image(file, to_array(y))
        with self._lock:
            self._marks[name] = mark
            append_text(self._list, json.dumps({name: mark}) + "\n")
        return y

    def picture(self, name: str, a: Picture, b: Picture) -> Array:
        return self._method.colour(self.luminance(name, a, b), a, b)

    def clear(self) -> None:
        """Forget the images, so that each is made again."""
        self._list.unlink(missing_ok=True)
        self._marks = None

    def _read_marks(self) -> dict[str, str]:
        self._folder.prepare(self._method.settings, ())
        marks: dict[str, str] = {}
        for line in self._list.read_text(encoding="utf-8").splitlines() if self._list.exists() else ():
            try:
                marks |= json.loads(line)
            except ValueError:  # cut short: that image is made again
                continue
        return marks


def make_system(
    name: str,
    system: "str | nn.Module",
    *,
    convention: Convention | None = None,
    reading: Mapping[str, Any] | None = None,
    variant: str | None = None,
    device: str = "auto",
) -> FuserMethod:
    """A system to be scored.

    Args:
        name: in tables.
        system: a name of SYSTEMS or `package.module:Class`, with `@WEIGHTS` behind it for a packaged set or a file; or
            a fuser.
        convention: says how its images are saved; None rounds to 8 bits.
        reading: options of `read_pair` that the sources are read with.
        variant: published takes the system as its authors released it.
        device: as in `tectum fuse`; a fuser given as such stays where it is.

    Raises:
        UserError, FileNotFoundError: unknown system or weights.
    """
    reading = reading or {}
    kind = reading.get("kind", "infrared")
    if isinstance(system, nn.Module):
        here = next(system.parameters(), torch.empty(0)).device
        pipeline = FusePipeline(FuseOptions("average", device=str(here), kind=kind), fuser=system)
        settings: dict[str, Any] = {"fuser": f"{type(system).__name__} {uuid.uuid4().hex}"}  # it may change at any time
    else:
        key, _, file = system.partition("@")
        options = FuseOptions(system=key, weights=file or None, variant=variant, device=device, kind=kind)
        pipeline = FusePipeline(options)
        settings = pipeline.settings()
        if ":" in key:
            settings["code"] = file_identity(Path(inspect.getfile(type(pipeline.fuser))))

    return FuserMethod(
        name,
        lambda a, b: pipeline(a, b).y,
        settings={**settings, **reading, "saved": "levels" if convention is None else convention.name},
        system=pipeline.system,
        quantize=to_levels if convention is None else convention.quantize,
        mix_chroma=KINDS[kind].mixes,
        # others may keep things in self
        one_thread=torch.device(pipeline.device).type != "cpu" or pipeline.system not in SYSTEMS,
    )


def make_baseline(name: str, kind: Kind = KINDS["infrared"]) -> FuserMethod:
    """One of `baselines_of` a kind, rounded to 8 bits and never stretched."""
    if name in kind.roles:
        first = name == kind.roles[0]
        return FuserMethod(
            name,
            lambda a, b: (a if first else b).y,
            settings={"source": name},
            is_baseline=True,
            mix_chroma=kind.mixes,
        )
    fuser = weights.load(name)
    return FuserMethod(
        name,
        lambda a, b: fuser(a.y[None], b.y[None])[0],
        settings={"system": name},
        system=name,
        is_baseline=True,
        mix_chroma=kind.mixes,
    )


def file_identity(path: Path) -> str:
    """Returns name, size and time of a file, which change with its content."""
    stat = path.stat()
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"
