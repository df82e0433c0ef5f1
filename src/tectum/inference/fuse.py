"""One pair to one picture: read, bring to one size, fuse the luminance, restore the colour.

    y      = F(y_visible, y_infrared)                       the fuser, luminance only
    chroma = choose(chroma_visible, chroma_infrared)        `tectum.color`: grey gives way to colour
    y      = v y + (1 - v) y_visible                        v = where the infrared has something to show
    alpha  = the visible picture's, if it has one

v is below 1 outside the view of a warped infrared picture (`align`, `rig`) and where the infrared has an alpha channel
of its own. `FusePipeline` does this for pictures; the Python call `fuse`, single files and folders all go through it.
"""

import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tectum import weights
from tectum.color import choose_chroma, ycbcr_to_rgb
from tectum.inference.image import Picture, picture_from_array, px, read_image, to_array
from tectum.inference.tiling import check_tile, fuse_tensors
from tectum.weights import find_device

Array = np.ndarray[Any, np.dtype[Any]]
Source = str | Path | Array | Tensor | Image.Image
Output = Literal["colour", "grey"]

FEATHER = 0.02
"""Over this part of the width the fused image gives way to the visible at the border of the infrared's view."""

COLOURED = 2 / 255
"""Mean |chroma| above which a picture counts as a colour picture: JPEG leaves less in a grey one."""


@dataclass(frozen=True)
class FuseOptions:
    """How pairs are fused; `tectum fuse --help` and `fuse` explain each field.

    Raises:
        ValueError: a value that no pair could be fused with.
    """

    system: str = "tdfusion"
    weights: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    tile: int | None = None
    stretch: str = "none"
    resize: bool = False
    align: bool = False
    rig: str | Path | None = None
    visible_range: str = "auto"
    infrared_range: str = "auto"

    def __post_init__(self) -> None:
        _one_of("stretch", self.stretch, ("none", "minmax"))
        _one_of("dtype", self.dtype, ("float32", "bfloat16"))
        check_tile(self.tile)
        if self.resize + self.align + (self.rig is not None) > 1:
            raise ValueError("resize, align and rig each bring the infrared to the visible's size; give one of them")


@dataclass(frozen=True)
class Fused:
    """A fused pair.

    Attributes:
        y: luminance (1, H, W) in [0,1].
        chroma: (2, H, W) centred on 0, or None when both sources are grey.
        alpha: (1, H, W) in [0,1], or None.
        visible, infrared: the sources as they were fused; the infrared resized or warped.
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
        _one_of("output", output, ("colour", "grey"))
        return to_array(self.y, self.chroma if output == "colour" else None, self.alpha, bits=bits)

    def tensor(self, output: str = "colour") -> Tensor:
        """The same as float32 (C, H, W) in [0,1], not rounded."""
        _one_of("output", output, ("colour", "grey"))
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
            from tectum.inference.rig import Rig

            self.rig = Rig.load(options.rig)
        if fuser is None:
            fuser = weights.load(options.system, options.weights, device=self.device, dtype=options.dtype)
        check_tile(options.tile, fuser)
        self.fuser = fuser

    def read(self, visible: Source, infrared: Source) -> tuple[Picture, Picture]:
        """Both pictures with the ranges of the options; the rig's infrared range where none was asked for."""
        infrared_range = self.options.infrared_range
        if self.rig is not None and infrared_range == "auto" and self.rig.infrared_range is not None:
            infrared_range = "{},{}".format(*self.rig.infrared_range)
        return (
            _picture(visible, "visible", self.options.visible_range),
            _picture(infrared, "infrared", infrared_range),
        )

    def __call__(self, visible: Picture, infrared: Picture) -> Fused:
        """Fuse one pair.

        Raises:
            ValueError: sizes differ and no option says what to do, the registration failed, or memory ran out.
        """
        notes = _notes(visible, infrared, resize=self.options.resize)
        infrared, view = self.register(visible, infrared)
        y = self._fuse(visible.y, infrared.y)
        if view is not None:
            y = visible.y + view * (y - visible.y)
        if self.options.stretch == "minmax":
            low, high = y.aminmax()
            y = (y - low) / (high - low) if high > low else y
        chroma = choose_chroma(visible.chroma, infrared.chroma)
        return Fused(y, chroma, visible.alpha, visible, infrared, notes)

    def register(self, visible: Picture, infrared: Picture) -> tuple[Picture, Tensor | None]:
        """The infrared in the visible's frame, and how much it has to show: (1, H, W) in [0,1], None for everything."""
        if self.rig is not None or self.options.align:
            return self._warp(visible, infrared)
        size, other = visible.y.shape[-2:], infrared.y.shape[-2:]
        if size == other:
            return infrared, infrared.alpha
        if not self.options.resize:
            raise ValueError(
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
        from tectum.inference import align
        from tectum.inference.rig import Rig

        size = (visible.y.shape[1], visible.y.shape[2])
        if self.rig is None:
            found: align.Registration | Rig = align.register(visible.y[0].numpy(), infrared.y[0].numpy())
        elif self.rig.visible_size == size:
            found = self.rig
        else:
            raise ValueError(
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
            if not _out_of_memory(error):
                raise
            raise ValueError(f"{px(a.shape[-2:])} pixels do not fit in memory; add --tile 512, or less") from error

    def settings(self) -> dict[str, Any]:
        """What decides the pixels of a result, to tell results of different settings apart. JSON types only."""
        options = self.options
        return {
            "system": options.system,
            "weights": _weights_identity(options),
            "dtype": options.dtype,
            "stretch": options.stretch,
            "resize": options.resize,
            "align": options.align,
            "rig": None if options.rig is None else _digest(options.rig),
            "visible_range": options.visible_range,
            "infrared_range": options.infrared_range,
        }


def fuse(
    visible: Source,
    infrared: Source,
    *,
    system: str = "tdfusion",
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
        system: a name of `tectum.systems.SYSTEMS`, or `package.module:Class`.
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
        visible_range, infrared_range: raw values that become black and white: "auto", "full", "LOW,HIGH" or
            percentiles "pLOW,pHIGH"; see `tectum.inference.image`.

    Returns:
        An array of uint8 or uint16: (H,W,3) RGB, (H,W) where the result is grey, (H,W,4) where the visible has alpha.
        If the visible is a tensor: a float32 tensor in [0,1] of that layout with channels first, on its device.

    Raises:
        ValueError, KeyError, FileNotFoundError: one sentence on what is wrong with the pair or the options.

    Outside the infrared's view the visible is kept. A UserWarning says when the two look swapped.

    >>> night, heat = np.full((4, 6, 3), (60, 20, 20), np.uint8), np.full((4, 6), 128, np.uint8)
    >>> fuse(night, heat, system="average").shape
    (4, 6, 3)
    """
    _one_of("output", output, ("colour", "grey"))
    _one_of("bits", bits, (8, 16))
    options = FuseOptions(
        system, weights, device, dtype, tile, stretch, resize, align, rig, visible_range, infrared_range
    )
    pipeline = FusePipeline(options)
    if isinstance(visible, Tensor) and isinstance(infrared, Tensor) and visible.ndim == infrared.ndim == 4:
        if len(visible) != len(infrared):
            raise ValueError(f"visible and infrared must hold one batch, got {len(visible)} and {len(infrared)} images")
        if len(visible) == 0:
            raise ValueError("visible and infrared must hold at least one image, got empty batches")
        pairs = zip(visible, infrared, strict=True)
        fused = [torch.as_tensor(_fuse_one(pipeline, a, b, output, bits)) for a, b in pairs]
        channels = max(len(x) for x in fused)  # one grey picture among coloured ones has 1 instead of 3
        return torch.stack([x if len(x) == channels else x.expand(channels, -1, -1) for x in fused])
    return _fuse_one(pipeline, visible, infrared, output, bits)


def _fuse_one(pipeline: FusePipeline, visible: Source, infrared: Source, output: str, bits: int) -> Array | Tensor:
    fused = pipeline(*pipeline.read(visible, infrared))
    for note in fused.notes:
        warnings.warn(note, UserWarning, stacklevel=3)
    if isinstance(visible, Tensor):
        return fused.tensor(output).to(visible.device)
    return fused.array(output, bits=bits)


def _picture(source: Source, role: Literal["visible", "infrared"], value_range: str) -> Picture:
    try:
        if isinstance(source, str | Path):
            return read_image(source, role=role, value_range=value_range)
        return picture_from_array(source, role=role, value_range=value_range)
    except MemoryError as error:
        raise ValueError(f"the {role} image does not fit in memory; shrink or cut it first") from error


def _notes(visible: Picture, infrared: Picture, *, resize: bool) -> tuple[str, ...]:
    """What looks wrong with a pair but need not be."""
    notes = []
    if not is_coloured(visible) and is_coloured(infrared):
        notes.append("the infrared image has colour and the visible one has none; are they swapped?")
    elif is_coloured(infrared):
        notes.append(
            "the infrared image is in colour and only its brightness is used, which in a palette of false colours need "
            "not follow the temperature; export it in grey (white hot) if you can"
        )
    (height, width), (other_height, other_width) = visible.y.shape[-2:], infrared.y.shape[-2:]
    if resize and abs(width * other_height / (height * other_width) - 1) > 0.03:
        notes.append("visible and infrared differ in proportions, so --resize distorts; is --align or --rig meant?")
    return tuple(notes)


def is_coloured(picture: Picture) -> bool:
    return picture.chroma is not None and float(picture.chroma.abs().mean()) > COLOURED


def _resize(x: Tensor, size: torch.Size, low: float = 0.0) -> Tensor:
    """(C, H, W) to another size, bicubic and anti-aliased, clamped to low..low + 1."""
    resized = nn.functional.interpolate(x[None], size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(low, low + 1)


def _out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "not enough memory" in str(error).lower()
        or ("can't allocate memory" in str(error).lower())
    )


def _one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")


def _weights_identity(options: FuseOptions) -> str | None:
    """Name and start of the SHA-256 of the weights that `options` lead to; None for a system without."""
    name = options.weights or (options.system if options.system in weights.cards() else None)
    if name is None and ":" not in options.system:
        name = weights.default_weights(options.system)
    return None if name is None else f"{Path(name).name} {_digest(weights.find(name)[0])}"


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
