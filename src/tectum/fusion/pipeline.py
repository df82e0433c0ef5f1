"""Fusion of the pictures of one scene: bring them to one size, fuse the luminance, restore the colour.

    y      = F(y_visible, y_infrared)                       the fuser, luminance only
    chroma = choose(chroma_visible, chroma_infrared)        `tectum.color`: grey gives way to colour
    y      = v y + (1 - v) y_visible                        v = where the infrared has something to show
    alpha  = the visible picture's, if it has one

v is below 1 outside the view of a warped infrared picture (`align`, `rig`) and where the infrared has an alpha channel
of its own. `FusePipeline` does this for pictures; the Python call `fuse`, single files and folders all go through it.
Of another kind of pair (`tectum.kinds`) the first picture is in the visible's place and the second in the infrared's.

Three or more exposures or foci are first merged into two pictures, all at once (`tectum.fusion.stack`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tectum.color import choose_chroma, ycbcr_to_rgb
from tectum.errors import UserError
from tectum.fusion.options import FuseOptions as FuseOptions
from tectum.io.files import describe_same_file, file_sha256
from tectum.io.image import (
    NarrowRangeError,
    Picture,
    mark_invalid,
    parse_nodata,
    picture_from_array,
    px,
    read_image,
    to_array,
)
from tectum.kinds import KINDS, Kind
from tectum.nn.modes import evaluation_mode
from tectum.nn.stages import StagedFuser, check_tile, find_device, fuse_tensors
from tectum.pretrained.loading import Selection, cards, select

Array = np.ndarray[Any, np.dtype[Any]]
Source = str | Path | Array | Tensor | Image.Image
Output = Literal["colour", "grey"]

_FEATHER = 0.02
"""Over this part of the width the fused image gives way to the visible at the border of the infrared's view."""


@dataclass(frozen=True)
class Fused:
    """A fused scene.

    Attributes:
        y: luminance (1, H, W) in [0,1].
        chroma: (2, H, W) centred on 0, or None when both sources are grey.
        alpha: (1, H, W) in [0,1], or None.
        visible, infrared: the sources as they were fused; the infrared resized or warped. Of more than two, the first
            two given.
        warnings: sentences on what looks wrong with the sources.
    """

    y: Tensor
    chroma: Tensor | None
    alpha: Tensor | None
    visible: Picture
    infrared: Picture
    warnings: tuple[str, ...] = ()

    def array(self, output: str = "colour", *, bits: int = 8) -> Array:
        """Returns pixels: (H, W, 3) in colour, (H, W) grey or when no source has colour, (H, W, 4) with alpha."""
        check_choice("output", output, ("colour", "grey"))
        return to_array(self.y, self.chroma if output == "colour" else None, self.alpha, bits=bits)

    def tensor(self, output: str = "colour") -> Tensor:
        """Returns the image as float32 (C, H, W) in [0,1], not rounded."""
        check_choice("output", output, ("colour", "grey"))
        image = ycbcr_to_rgb(self.y, self.chroma) if output == "colour" and self.chroma is not None else self.y
        if self.alpha is None:
            return image.clone()
        return torch.cat((image.expand(3, -1, -1), self.alpha))


class FusePipeline:
    """A loaded fuser with its options: `pipeline(visible, infrared)` for pictures, any number of times.

    Args:
        options: how to fuse.
        fuser: a module used in place of the one that the options name, on its own device and in its own dtype; it is
            called in evaluation mode.

    Raises:
        UserError: an option that no pair could be fused with, an unknown name, a missing device, a damaged rig file.
        FileNotFoundError: no such file.

    >>> pipeline = FusePipeline(FuseOptions(system="average"))
    >>> dark, bright = (picture_from_array(np.full((4, 6), v, np.uint8)) for v in (40, 80))
    >>> int(pipeline(dark, bright).array()[0, 0])
    60
    """

    def __init__(self, options: FuseOptions | None = None, *, fuser: nn.Module | None = None) -> None:
        self.options = options = options or FuseOptions()
        self.kind = KINDS[options.kind]
        _check_options(options, self.kind)
        self.rig = None
        if options.rig is not None:
            from tectum.registration.camera_rig import Rig

            self.rig = Rig.load(options.rig)
        self.system: str | None = None
        self._selection: Selection | None = None
        if fuser is None:
            self.device = find_device(options.device)
            self._selection = select(options.system, options.weights, kind=self.kind.name, variant=options.variant)
            self.system = self._selection.system
            self.fuser = self._selection.load(self.device, options.dtype)
        else:
            if options.weights is not None or options.variant is not None:
                raise UserError("a network of your own takes no weights and no variant; leave them out")
            self.device = str(next(fuser.parameters(), torch.empty(0)).device)
            self.fuser = fuser
        check_tile(options.tile, self.fuser)

    def read(self, *sources: Source) -> tuple[Picture, ...]:
        """Read the pictures of one scene, with the ranges of the options, or the rig's infrared range.

        Args:
            sources: each a file, a PIL image, a numpy array (H,W[,C]) or a torch tensor (C,H,W).

        Raises:
            UserError, OSError: one cannot be read, or the kind takes another number of images.
        """
        kind, infrared_range = self.kind, self.options.infrared_range
        check_number(kind, len(sources))
        if self.rig is not None and infrared_range == "auto" and self.rig.infrared_range is not None:
            infrared_range = "{},{}".format(*self.rig.infrared_range)
        if fault := describe_same_file([Path(source) for source in sources if isinstance(source, str | Path)]):
            raise UserError(fault)
        names = kind.words if len(sources) == 2 else kind.image_names(len(sources))
        nodata = parse_nodata(self.options.nodata, guess=kind.name == "infrared")

        def read(i: int, value_range: str) -> Picture:
            return _read_picture(
                sources[i],
                names[i],
                modality="infrared" if kind.thermal[min(i, 1)] else "visible",
                value_range=value_range,
                flag="--infrared-range" if i else "--visible-range",
                nodata=nodata[min(i, 1)],
            )

        pictures: list[Picture | NarrowRangeError] = []
        for i in range(len(sources)):
            try:
                pictures.append(read(i, infrared_range if i else self.options.visible_range))
            except NarrowRangeError as error:
                pictures.append(error)
        uses_all_bits = any(isinstance(p, Picture) and p.bits == 16 and bool(p.y.any()) for p in pictures)
        for i, picture in enumerate(pictures):
            if isinstance(picture, NarrowRangeError):
                if not (kind.mixes and uses_all_bits):
                    raise picture
                pictures[i] = read(i, "full")  # a dark exposure of a camera whose bright ones use all bits
        return tuple(picture for picture in pictures if isinstance(picture, Picture))

    def __call__(self, *pictures: Picture) -> Fused:
        """Fuse the pictures of one scene: a pair, or more exposures or foci.

        Raises:
            UserError: sizes differ and no option says what to do, the registration failed, or memory ran out.
        """
        check_number(self.kind, len(pictures))
        sizes = [picture.y.shape[-2:] for picture in pictures]
        aligns = self.options.align and self.kind.mixes
        if (len(sizes) > 2 or aligns) and len(set(sizes)) > 1:
            raise _different_sizes(self.kind, sizes)
        if aligns:
            from tectum.registration.stack import align_stack

            pictures = tuple(align_stack(pictures, by_brightness=self.kind.order == "brightness"))
        pair = pictures
        if len(pictures) > 2:
            from tectum.fusion.stack import merge_to_two

            pair = merge_to_two(pictures, self.kind)
        fused = self._fuse_pair(*pair)
        of_sources = (warning for picture in pictures for warning in picture.warnings)
        warnings = [*self._weights_warnings(), *of_sources, *fused.warnings]
        y = fused.y
        if self.options.stretch == "minmax":
            low, high = y.aminmax()
            y = (y - low) / (high - low) if high > low else y
        fused = replace(fused, y=y, warnings=tuple(dict.fromkeys(warnings)))
        return replace(fused, visible=pictures[0], infrared=pictures[1]) if len(pictures) > 2 else fused

    def settings(self) -> dict[str, Any]:
        """Returns what decides the pixels of a result, to tell results of different settings apart. JSON types only."""
        options, selection = self.options, self._selection
        kind = {} if self.kind.name == "infrared" else {"kind": self.kind.name}  # as in folders of older versions
        system = type(self.fuser).__name__ if selection is None else selection.system
        return (
            kind
            | {
                "system": options.system if options.system in cards() else system,
                "weights": None if selection is None else selection.identity(),
                "dtype": str(options.dtype).removeprefix("torch."),
                "stretch": options.stretch,
                "resize": options.resize,
                "align": options.align,
                "rig": None if options.rig is None else file_sha256(options.rig)[:12],
                "visible_range": options.visible_range,
                "infrared_range": options.infrared_range,
            }
            | ({} if options.nodata is None else {"nodata": options.nodata})
        )

    def _weights_warnings(self) -> tuple[str, ...]:
        """A warning where packaged weights were trained on another kind of pairs."""
        card = None if self._selection is None else self._selection.card
        trained_on = self.kind.name if card is None else card.get("kind", "infrared")
        if self._selection is None or trained_on == self.kind.name:
            return ()
        return (f"weights {self._selection.weights} were trained on {trained_on} pairs, not {self.kind.name}",)

    def _fuse_pair(self, visible: Picture, infrared: Picture) -> Fused:
        warnings = _pair_warnings(visible, infrared, self.kind, resize=self.options.resize)
        infrared, view = self._register(visible, infrared)
        y = self._fuse_luminance(visible.y, infrared.y)
        if self.kind.order == "brightness":
            from tectum.fusion.stack import mix_chroma

            chroma = mix_chroma(visible, infrared)
        else:
            chroma = choose_chroma(visible.chroma, infrared.chroma, mix=self.kind.mixes)
        if visible.valid is not None:
            y, chroma = _show_valid(y, chroma, visible, infrared, view)
        elif view is not None:
            y = visible.y + view * (y - visible.y)
        return Fused(y, chroma, visible.alpha, visible, infrared, warnings)

    def _fuse_luminance(self, visible: Tensor, infrared: Tensor) -> Tensor:
        a, b = visible[None].to(self.device), infrared[None].to(self.device)
        try:
            with nullcontext() if self._selection is not None else evaluation_mode(self.fuser):
                return fuse_tensors(self.fuser, a, b, tile=self.options.tile)[0].cpu().clone()
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            advice = "add --tile 512, or less" if isinstance(self.fuser, StagedFuser) else "shrink the images"
            raise UserError(f"{px(a.shape[-2:])} pixels do not fit in memory; {advice}") from error

    def _register(self, visible: Picture, infrared: Picture) -> tuple[Picture, Tensor | None]:
        """The infrared in the visible's frame, and how much it has to show: (1, H, W) in [0,1], None for everything."""
        if self.rig is not None or (self.options.align and not self.kind.mixes):
            return self._warp(visible, infrared)
        size, infrared_size = visible.y.shape[-2:], infrared.y.shape[-2:]
        if size != infrared_size:
            if not self.options.resize:
                raise _different_sizes(self.kind, [size, infrared_size])
            infrared = _map_planes(infrared, lambda x, low: _resize(x, size, low))
        return infrared, _weigh(infrared, size[1])

    def _warp(self, visible: Picture, infrared: Picture) -> tuple[Picture, Tensor | None]:
        from tectum.registration import align

        size = (visible.y.shape[1], visible.y.shape[2])
        if self.rig is not None and self.rig.visible_size != size:
            raise UserError(
                f"the visible image must have the size of the rig, {px(self.rig.visible_size)}, got {px(size)}; fit "
                "a rig to these cameras with `tectum align`"
            )
        transform = self.rig or align.register(mark_invalid(visible), mark_invalid(infrared))
        warped = _map_planes(infrared, lambda x, low: align.warp_planes(transform, x))
        view = torch.from_numpy(align.valid_mask(transform, feather_px=_FEATHER * size[1]))[None]
        weight = _weigh(warped, size[1])
        return warped, view if weight is None else view * weight


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value of an option that is none of its choices."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def check_number(kind: Kind, num: int) -> None:
    """Refuse a number of images that the kind does not fuse: it takes two, or more of exposures and foci."""
    if num < 2 or (num > 2 and not kind.takes_more):
        advice = (
            "give at least two" if kind.takes_more else "give two (more are taken for the kinds exposure and focus)"
        )
        raise UserError(
            f"{kind.name} pairs are made of a {kind.words[0]} and a {kind.words[1]} image, got {num}; {advice}"
        )


def _check_options(options: FuseOptions, kind: Kind) -> None:
    check_choice("stretch", options.stretch, ("none", "minmax"))
    check_choice("dtype", str(options.dtype).removeprefix("torch."), ("float32", "bfloat16"))
    check_tile(options.tile)
    if options.resize + options.align + (options.rig is not None) > 1:
        raise UserError("resize, align and rig each bring the infrared to the visible's size; give one of them")
    if kind.name != "infrared" and (options.rig is not None or (options.align and not kind.mixes)):
        raise UserError(
            f"{'--align' if options.align else '--rig'} brings an infrared camera's view to a visible one's, got "
            f"{kind.name} pairs; "
            + ("--align registers them" if kind.mixes else "leave it out, and register the images first")
        )
    if options.resize and kind.mixes:
        raise UserError(
            f"{kind.name} pairs come from one camera and must share one size; leave out --resize (--align "
            "registers images of a camera that moved)"
        )


def _different_sizes(kind: Kind, sizes: Sequence[Sequence[int]]) -> UserError:
    """The refusal of images of different sizes, (height, width) each, in the words of their kind."""
    if kind.name == "infrared":
        return UserError(
            f"visible and infrared must share one size, got {px(sizes[0])} and {px(sizes[1])}; resize or "
            "register them: --resize (one view, two resolutions), --align (views slightly apart), --rig (a fixed pair "
            "of cameras)"
        )
    advice = "crop or register them first" if kind.mixes else "--resize brings the second to the first's size"
    names = kind.words if len(sizes) == 2 else kind.image_names(len(sizes))
    size_texts = [f"{px(size)} ({name})" for size, name in zip(sizes, names, strict=True)]
    whose = f"of a {kind.name} pair" if len(sizes) == 2 else "of one scene"
    return UserError(
        f"the images {whose} must share one size, got {', '.join(size_texts[:-1])} and {size_texts[-1]}; {advice}"
    )


def _pair_warnings(visible: Picture, infrared: Picture, kind: Kind, *, resize: bool) -> tuple[str, ...]:
    """Warnings about a pair: swapped images, false colours, different proportions."""
    warnings = []
    a, b = kind.words
    if kind.order == "brightness" and visible.brightness < infrared.brightness:
        warnings.append(f"the {a} image is darker than the {b} one; are they swapped?")
    elif kind.mixes:
        pass  # both may have colour
    elif infrared.has_colour and not visible.has_colour:
        warnings.append(f"the {b} image has colour and the {a} one has none; are they swapped?")
    elif infrared.has_colour:
        palette = ", which in a palette of false colours need not follow the temperature; export it in grey (white hot)"
        why = palette if kind.name == "infrared" else "; export it in grey"
        warnings.append(f"the {b} image is in colour and only its brightness is used{why} if you can")
    (height, width), (other_height, other_width) = visible.y.shape[-2:], infrared.y.shape[-2:]
    if resize and abs(width * other_height / (height * other_width) - 1) > 0.03:
        advice = "is --align or --rig meant?" if kind.name == "infrared" else "crop one of them first"
        warnings.append(f"{a} and {b} differ in proportions, so --resize distorts; {advice}")
    return tuple(warnings)


def _is_out_of_memory(error: BaseException) -> bool:
    message = str(error).lower()
    known = "not enough memory" in message or "can't allocate memory" in message
    return known or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _read_picture(source: Source, noun: str, **options: Any) -> Picture:
    try:
        if isinstance(source, str | Path):
            return read_image(source, **options)
        return picture_from_array(source, noun=noun, **options)
    except MemoryError as error:
        raise UserError(f"the {noun} image does not fit in memory; shrink or cut it first") from error


def _map_planes(picture: Picture, change: Callable[[Tensor, float], Tensor]) -> Picture:
    """The picture with all its planes changed; `change` is told the lowest value of each, 0 or -1/2."""
    chroma = None if picture.chroma is None else change(picture.chroma, -0.5)
    alpha = None if picture.alpha is None else change(picture.alpha, 0.0)
    valid = None if picture.valid is None else change(picture.valid.float(), 0.0) > 0.5
    return replace(picture, y=change(picture.y, 0.0), chroma=chroma, alpha=alpha, valid=valid)


def _weigh(picture: Picture, width: int) -> Tensor | None:
    """Weight of an infrared picture (1, H, W): its alpha, and 0 where it has no data; None for 1 everywhere."""
    if picture.valid is None:
        return picture.alpha
    if picture.alpha is None:
        return _edge_weight(picture.valid, width)
    return picture.alpha * _edge_weight(picture.valid | (picture.alpha == 0), width)  # alpha has its own edges


def _edge_weight(valid: Tensor, width: int) -> Tensor:
    """0 in larger regions without data, rising to 1 beside them."""
    from tectum.io.validity import edge_weight

    return torch.from_numpy(edge_weight(valid[0].numpy(), feather_px=_FEATHER * width))[None]


def _show_valid(
    y: Tensor, chroma: Tensor | None, visible: Picture, infrared: Picture, view: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Luminance and chroma with each source alone where the other has no data, and 0 where neither has."""
    assert visible.valid is not None
    weight = _edge_weight(visible.valid, visible.y.shape[2])
    seen = torch.ones_like(y) if view is None else view
    by_visible = visible.y + seen * (y - visible.y)
    y = weight * by_visible + (1 - weight) * seen * infrared.y
    if chroma is not None:
        other = 0.0 if infrared.chroma is None else infrared.chroma
        chroma = weight * chroma + (1 - weight) * seen * other
    return y, chroma


def _resize(x: Tensor, size: torch.Size, low: float) -> Tensor:
    """(C, H, W) to another size, bicubic and anti-aliased, clamped to low..low + 1."""
    resized = nn.functional.interpolate(x[None], size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(low, low + 1)
