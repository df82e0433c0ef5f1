"""One pair to one picture: read, bring to one size, fuse the luminance, restore the colour.

    y      = F(y_visible, y_infrared)                       the fuser, luminance only
    chroma = choose(chroma_visible, chroma_infrared)        `tectum.color`: grey gives way to colour
    y      = v y + (1 - v) y_visible                        v = where the infrared has something to show
    alpha  = the visible picture's, if it has one

v is below 1 outside the view of a warped infrared picture (`align`, `rig`) and where the infrared has an alpha channel
of its own. `FusePipeline` does this for pictures; the Python call `fuse`, single files and folders all go through it.

Of another kind of pair (`tectum.kinds`) the first picture is in the visible's place and the second in the infrared's;
two exposures or foci mix their chroma, and more than two are folded (`tectum.fusion.fold`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tectum.color import choose_chroma, ycbcr_to_rgb
from tectum.errors import UserError
from tectum.fusion.checks import check_num, notes_on, out_of_memory, refuse_sizes, strange_weights
from tectum.fusion.fold import fold
from tectum.fusion.options import FuseOptions as FuseOptions
from tectum.fusion.options import one_of, settings
from tectum.io.image import Picture, picture_from_array, px, read_image, to_array
from tectum.nn.stages import check_tile, fuse_tensors
from tectum.weights.loading import find_device

Array = np.ndarray[Any, np.dtype[Any]]
Source = str | Path | Array | Tensor | Image.Image
Output = Literal["colour", "grey"]

FEATHER = 0.02
"""Over this part of the width the fused image gives way to the visible at the border of the infrared's view."""


@dataclass(frozen=True)
class Fused:
    """A fused pair.

    Attributes:
        y: luminance (1, H, W) in [0,1].
        chroma: (2, H, W) centred on 0, or None when both sources are grey.
        alpha: (1, H, W) in [0,1], or None.
        visible, infrared: the sources as they were fused; the infrared resized or warped. Of more than two, the first
            two given.
        notes: sentences on what looks wrong with the sources.
    """

    y: Tensor
    chroma: Tensor | None
    alpha: Tensor | None
    visible: Picture
    infrared: Picture
    notes: tuple[str, ...] = ()

    def array(self, output: str = "colour", *, bits: int = 8) -> Array:
        """Pixels: (H, W, 3) in colour, (H, W) grey or when no source has colour, (H, W, 4) with alpha."""
        one_of("output", output, ("colour", "grey"))
        return to_array(self.y, self.chroma if output == "colour" else None, self.alpha, bits=bits)

    def tensor(self, output: str = "colour") -> Tensor:
        """The same as float32 (C, H, W) in [0,1], not rounded."""
        one_of("output", output, ("colour", "grey"))
        image = ycbcr_to_rgb(self.y, self.chroma) if output == "colour" and self.chroma is not None else self.y
        if self.alpha is None:
            return image.clone()
        return torch.cat((image.expand(3, -1, -1), self.alpha))


class FusePipeline:
    """A loaded fuser with its options: `pipeline(visible, infrared)` for pictures, any number of times.

    Args:
        options: how to fuse.
        fuser: used in place of the one that `options.system` and `options.weights` name.

    Raises:
        ValueError, KeyError, FileNotFoundError: unknown system or weights, a missing device, a damaged rig file.

    >>> pipeline = FusePipeline(FuseOptions(system="average"))
    >>> dark, bright = (picture_from_array(np.full((4, 6), v, np.uint8)) for v in (40, 80))
    >>> int(pipeline(dark, bright).array()[0, 0])
    60
    """

    def __init__(self, options: FuseOptions | None = None, *, fuser: nn.Module | None = None) -> None:
        self.options = options = options or FuseOptions()
        self.device = find_device(options.device)
        self.rig = None
        if options.rig is not None:
            from tectum.registration.camera_rig import Rig

            self.rig = Rig.load(options.rig)
        self.notes: tuple[str, ...] = ()
        if fuser is None:
            fuser = options.selection.load(self.device, options.dtype)
            self.notes = strange_weights(options)
        check_tile(options.tile, fuser)
        self.fuser = fuser

    def read(self, *sources: Source) -> tuple[Picture, ...]:
        """The pictures of one scene with the ranges of the options; the rig's infrared range where none was asked for.

        Raises:
            ValueError, OSError: one cannot be read, or the kind takes two and there are others.
        """
        kind, infrared_range = self.options.role, self.options.infrared_range
        check_num(kind, len(sources))
        if self.rig is not None and infrared_range == "auto" and self.rig.infrared_range is not None:
            infrared_range = "{},{}".format(*self.rig.infrared_range)
        called = kind.words if len(sources) == 2 else kind.named(len(sources))
        return tuple(
            _picture(
                source,
                "infrared" if kind.thermal[min(i, 1)] else "visible",
                infrared_range if i else self.options.visible_range,
                (called[i], "--infrared-range" if i else "--visible-range"),
            )
            for i, source in enumerate(sources)
        )

    def __call__(self, *pictures: Picture) -> Fused:
        """Fuse the pictures of one scene: a pair, or more exposures or foci.

        Raises:
            ValueError: sizes differ and no option says what to do, the registration failed, or memory ran out.
        """
        kind = self.options.role
        check_num(kind, len(pictures))
        sizes = [picture.y.shape[-2:] for picture in pictures]
        if len(sizes) > 2 and len(set(sizes)) > 1:
            refuse_sizes(kind, *sizes)
        fused, notes = fold(pictures, self.pair, kind.order)
        y = fused.y
        if self.options.stretch == "minmax":
            low, high = y.aminmax()
            y = (y - low) / (high - low) if high > low else y
        fused = replace(fused, y=y, notes=self.notes + notes)
        return fused if len(pictures) == 2 else replace(fused, visible=pictures[0], infrared=pictures[1])

    def pair(self, visible: Picture, infrared: Picture) -> Fused:
        """Fuse two pictures, without the stretch at the end."""
        kind = self.options.role
        notes = notes_on(visible, infrared, kind, resize=self.options.resize)
        infrared, view = self.register(visible, infrared)
        y = self._fuse(visible.y, infrared.y)
        if view is not None:
            y = visible.y + view * (y - visible.y)
        chroma = choose_chroma(visible.chroma, infrared.chroma, mix=kind.mixes)
        return Fused(y, chroma, visible.alpha, visible, infrared, notes)

    def register(self, visible: Picture, infrared: Picture) -> tuple[Picture, Tensor | None]:
        """The infrared in the visible's frame, and how much it has to show: (1, H, W) in [0,1], None for everything."""
        if self.rig is not None or self.options.align:
            return self._warp(visible, infrared)
        size, other = visible.y.shape[-2:], infrared.y.shape[-2:]
        if size == other:
            return infrared, infrared.alpha
        if not self.options.resize:
            refuse_sizes(self.options.role, size, other)
            raise UserError(
                f"visible and infrared must share one size, got {px(size)} and {px(other)}; resize or register them: "
                "--resize (one view, two resolutions), --align (views slightly apart), --rig (a fixed pair of cameras)"
            )
        infrared = replace(
            infrared,
            y=_resize(infrared.y, size),
            chroma=None if infrared.chroma is None else _resize(infrared.chroma, size, -0.5),
            alpha=None if infrared.alpha is None else _resize(infrared.alpha, size),
        )
        return infrared, infrared.alpha

    def _warp(self, visible: Picture, infrared: Picture) -> tuple[Picture, Tensor | None]:
        from tectum.registration import align
        from tectum.registration.camera_rig import Rig

        size = (visible.y.shape[1], visible.y.shape[2])
        if self.rig is None:
            found: align.Registration | Rig = align.register(visible.y[0].numpy(), infrared.y[0].numpy())
        elif self.rig.visible_size == size:
            found = self.rig
        else:
            raise UserError(
                f"the visible image must have the size of the rig, {px(self.rig.visible_size)}, got {px(size)}; fit "
                "a rig to these cameras with `tectum align`"
            )

        def moved(x: Tensor) -> Tensor:
            return torch.from_numpy(align.warp(found, x.permute(1, 2, 0).numpy())).permute(2, 0, 1).contiguous()

        alpha = None if infrared.alpha is None else moved(infrared.alpha)
        view = torch.from_numpy(align.valid_mask(found, feather_px=FEATHER * size[1]))[None]
        warped = replace(
            infrared,
            y=moved(infrared.y),
            chroma=None if infrared.chroma is None else moved(infrared.chroma),
            alpha=alpha,
        )
        return warped, view if alpha is None else view * alpha

    def _fuse(self, visible: Tensor, infrared: Tensor) -> Tensor:
        a, b = visible[None].to(self.device), infrared[None].to(self.device)
        try:
            return fuse_tensors(self.fuser, a, b, tile=self.options.tile)[0].cpu().clone()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            way = "add --tile 512, or less" if hasattr(self.fuser, "stages") else "shrink the images"
            raise UserError(f"{px(a.shape[-2:])} pixels do not fit in memory; {way}") from error

    def settings(self) -> dict[str, Any]:
        """What decides the pixels of a result, to tell results of different settings apart. JSON types only."""
        return settings(self.options)


def fuse(
    visible: Source | Sequence[Source],
    infrared: Source | None = None,
    *,
    kind: str = "infrared",
    system: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    output: Output = "colour",
    stretch: str = "none",
    bits: int = 8,
    resize: bool = False,
    align: bool = False,
    rig: str | Path | None = None,
    visible_range: str = "auto",
    infrared_range: str = "auto",
) -> Array | Tensor:
    """Fuse one pair; the same pixels as `tectum fuse`. For many pairs load once: `FusePipeline`.

    Args:
        visible, infrared: each a file, a PIL image, a numpy array (H,W[,C]) or a torch tensor ([B,]C,H,W), RGB or grey.
            Of another kind the first and the second image of the pair; or one list of two or more exposures or foci.
        kind: "infrared", "exposure", "focus" or "medical": who the two are; see `tectum.kinds`.
        system: a name of `tectum.systems.SYSTEMS`, or `package.module:Class`; None takes the kind's own.
        weights: a packaged set or a `.safetensors` file; None takes the system's own.
        device: "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:1", "mps".
        dtype: the network's: "float32", or "bfloat16" for speed on hardware that has it.
        tile: side of tiles in pixels, for images that do not fit in memory; the result is the whole image's.
        output: "colour" keeps the sources' chroma, "grey" is the fused luminance alone.
        stretch: "minmax" spreads the luminance of each image over 0..1; it makes a sequence flicker.
        bits: 8 or 16, of the array returned.
        resize: bring the infrared to the visible's size: for one view in two resolutions.
        align: find and apply the transform from the infrared to the visible; refused when it went badly.
        rig: a file of `tectum align`: one transform and one infrared range for every pair of two fixed cameras.
        visible_range, infrared_range: raw values that become black and white, in the first image and in the others:
            "auto", "full", "LOW,HIGH" or percentiles "pLOW,pHIGH"; see `tectum.io.image`.

    Returns:
        An array of uint8 or uint16: (H,W,3) RGB, (H,W) where the result is grey, (H,W,4) where the visible has alpha.
        If the visible is a tensor: a float32 tensor in [0,1] of that layout with channels first, on its device.

    Raises:
        ValueError, KeyError, FileNotFoundError: one sentence on what is wrong with the pair or the options.

    Outside the infrared's view the visible is kept. A UserWarning says when the two look swapped.

    >>> night, heat = np.full((4, 6, 3), (60, 20, 20), np.uint8), np.full((4, 6), 128, np.uint8)
    >>> fuse(night, heat, system="average").shape
    (4, 6, 3)
    >>> fuse([night, heat, night], kind="exposure", system="average").shape
    (4, 6, 3)
    """
    one_of("output", output, ("colour", "grey"))
    one_of("bits", bits, (8, 16))
    options = FuseOptions(
        system, weights, device, dtype, tile, stretch, resize, align, rig, visible_range, infrared_range, kind
    )
    sources = _sources(visible, infrared)
    check_num(options.role, len(sources))
    pipeline = FusePipeline(options)
    batches = [source for source in sources if isinstance(source, Tensor) and source.ndim == 4]
    if len(batches) == len(sources):
        what = " and ".join(options.role.words) if len(sources) == 2 else "all images"
        lengths = [len(batch) for batch in batches]
        if len(set(lengths)) > 1:
            raise UserError(f"{what} must hold one batch, got {' and '.join(map(str, lengths))} images")
        if lengths[0] == 0:
            raise UserError(f"{what} must hold at least one image, got empty batches")
        fused = [torch.as_tensor(_fuse_one(pipeline, scene, output, bits)) for scene in zip(*batches, strict=True)]
        channels = max(len(x) for x in fused)  # one grey picture among coloured ones has 1 instead of 3
        return torch.stack([x if len(x) == channels else x.expand(channels, -1, -1) for x in fused])
    return _fuse_one(pipeline, sources, output, bits)


def _sources(visible: Source | Sequence[Source], infrared: Source | None) -> tuple[Source, ...]:
    """The images of a scene: two by themselves, or one list."""
    if isinstance(visible, list | tuple):
        if infrared is not None:
            raise UserError("images must be given as two, or as one list, got a list and another image; put all in it")
        return tuple(visible)
    if infrared is None:
        raise UserError("two images must be given, got one; add the other")
    return visible, infrared  # type: ignore[return-value]


def _fuse_one(pipeline: FusePipeline, sources: Sequence[Source], output: str, bits: int) -> Array | Tensor:
    fused = pipeline(*pipeline.read(*sources))
    for note in fused.notes:
        warnings.warn(note, UserWarning, stacklevel=3)
    if isinstance(sources[0], Tensor):
        return fused.tensor(output).to(sources[0].device)
    return fused.array(output, bits=bits)


def _picture(source: Source, role: Literal["visible", "infrared"], value_range: str, told: tuple[str, str]) -> Picture:
    try:
        if isinstance(source, str | Path):
            return read_image(source, role=role, value_range=value_range, told=told)
        return picture_from_array(source, role=role, value_range=value_range, told=told)
    except MemoryError as error:
        raise UserError(f"the {told[0]} image does not fit in memory; shrink or cut it first") from error


def _resize(x: Tensor, size: torch.Size, low: float = 0.0) -> Tensor:
    """(C, H, W) to another size, bicubic and anti-aliased, clamped to low..low + 1."""
    resized = nn.functional.interpolate(x[None], size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(low, low + 1)
