"""Stages: a fuser cut where all pixels of an image meet, run on the whole image, in stripes of rows, or on tiles.

A fuser whose attention looks at all pixels cannot be run on tiles one by one: each tile would be normalised by its own
content, and seams would show. But what its pixels share are sums over pixels, the *statistics* of a stage. So:

    for every stage:   for every window:   state, terms <- stage(state, statistics)   sums += terms
                       statistics <- sums

*Whole image*: with gradients, in an exported graph, under `torch.func`, and on other devices than a CPU.

*Stripes*: on a CPU without gradients a stage goes through its state a few rows at a time. The temporaries of many
channels then stay in the processor's cache, and no large block of memory is asked from the operating system and given
back at every operation, which is where such a network otherwise spends most of its time. The state between two stages
is kept whole: about 512 bytes a pixel for TDFusion.

*Tiles* (`--tile N`) keep the two sources, the result, and what a stage marked `whole` gives back. Everything between is
computed anew for every stage that has statistics and for the last one of a chain, tile by tile, with a halo as wide as
the chain so far. Memory is that of a tile and a few planes of the image; TDFusion takes about three and a half times
as long.

All three give the same image up to the order of float32 sums (about 1e-6).
"""

import ctypes
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from tectum.color import check_luminances
from tectum.errors import UserError
from tectum.nn.filters import Padding

State = tuple[Tensor, ...]
Window = tuple[slice, slice]
"""Rows and columns of an image."""
WHOLE: Window = (slice(None), slice(None))
STRIPE_PX = 25_000
"""Pixels in a stripe: from 15,000 to 80,000 are about equally fast at 640x480; fewer take less memory."""
_SMALLEST_TILE_PX = 32
_last_size: torch.Size | None = None  # of the image before, of any fuser
DARKEST = 1 / 255
"""Darkest gray above black of an 8-bit image."""


@dataclass(frozen=True)
class Stage:
    """Piece of a fuser between two places where all pixels of an image meet.

    Args:
        run: (state, statistics, window) -> (state, statistics). The statistics given are those that the previous stage
            returned, summed over the whole image; those returned are summed over the window. The first stage is given
            the state (a, b) and no statistics, the last returns the state (fused,) and none. A tensor of the state may
            have a whole fraction of the image's resolution.
        halo: how many pixels around a window must be given for the result to be right inside it.
        align: what it is given begins and ends at whole multiples of this many pixels of the image. It is a multiple of
            the step of every low resolution in the state before and after the stage.
        stripe_px: pixels in a stripe.
        whole: the stage needs the whole image at once, and its result is kept for the whole image; so it should have
            few channels, or a low resolution.
    """

    run: Callable[[State, State, Window], tuple[State, State]]
    halo: int = 0
    align: int = 1
    stripe_px: int = STRIPE_PX
    whole: bool = False


class StagedFuser(nn.Module):
    """Base class of a fuser made of stages: `forward` runs them, and `--tile` runs the same ones on tiles.

    Images are extended by their last row and column to whole multiples of all stages, and the result is cut back.

    Attributes:
        extra_px: added to every side besides; a whole multiple of all stages.
        lowest: darker pixels of the sources are raised to this, for networks that divide by what a source has.
        trains_whole: while the parameters are trained, images without gradients are not worked in stripes either, so
            that validation and tasks see the same bits as the gradient steps.
    """

    extra_px: ClassVar[int] = 0
    lowest: ClassVar[float] = 0.0
    trains_whole: ClassVar[bool] = True

    def stages(self) -> list[Stage]:
        """The stages in their order."""
        raise NotImplementedError

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        stages = self.stages()
        state = self.prepare(stages, a), self.prepare(stages, b)
        if self._works_in_stripes(*state):
            with torch.no_grad():
                fused = _run(stages, state, stripes=True)
        else:
            fused = _run(stages, state, stripes=False)
        if not self._extends(stages):
            return fused
        down, right = self._missing_px(stages, a)
        return F.pad(fused, (0, -right, 0, -down))  # a slice would be a condition on the size in an exported graph

    def prepare(self, stages: list[Stage], x: Tensor) -> Tensor:
        """Raise x to `lowest`, and repeat its last row and column up to a size that all stages can work on."""
        x = x.clamp_min(self.lowest) if self.lowest else x
        if not self._extends(stages):
            return x
        down, right = self._missing_px(stages, x)
        return F.pad(x, (0, right, 0, down), mode="replicate")

    def _extends(self, stages: list[Stage]) -> bool:
        return _common(stages) > 1 or self.extra_px > 0

    def _missing_px(self, stages: list[Stage], x: Tensor) -> list[int]:
        return [_round_up(size, _common(stages)) + self.extra_px - size for size in x.shape[2:]]

    def _works_in_stripes(self, *sources: Tensor) -> bool:
        if sources[0].device.type != "cpu" or _is_transformed():
            return False
        frozen = not self.training and not any(x.requires_grad for x in (*sources, *self.parameters()))
        return frozen or torch.is_inference_mode_enabled() or not (self.trains_whole or torch.is_grad_enabled())


def without_gradients(x: Tensor) -> bool:
    """True on a CPU where no derivative of any sort is computed: there work in small pieces pays."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not _is_transformed()


def _is_transformed() -> bool:
    """In an exported or compiled graph, under `torch.func`, or with dual numbers."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


@torch.inference_mode()
def fuse_tensors(fuser: nn.Module, a: Tensor, b: Tensor, *, tile: int | None = None) -> Tensor:
    """Fuse (B,1,H,W) and (B,1,H,W), in [0,1] -> (B,1,H,W) in [0,1], float32, image by image.

    Args:
        fuser: any fuser; it runs on its own device and in its own dtype.
        a, b: the pairs, on any device; the result lies where `a` does.
        tile: side of the tiles in pixels, for images that do not fit in memory; None takes the whole image at once.

    Raises:
        UserError: a and b differ in shape, tile is too small, or the fuser has no stages.
    """
    check_luminances(a, b)
    check_tile(tile, fuser)
    _release_memory_of_another_size(a)
    parameter = next(fuser.parameters(), a)
    place: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}

    def fuse(x: Tensor, y: Tensor) -> Tensor:
        if tile is not None:
            assert isinstance(fuser, StagedFuser)
            fused = _run_tiles(fuser, x, y, tile, place)
        else:
            fused = fuser(x.to(**place), y.to(**place))
        if fused.shape != x.shape:
            raise UserError(
                f"a fuser must return the shape of its inputs, {tuple(x.shape)}, but {type(fuser).__name__} returned "
                f"{tuple(fused.shape)}; correct it"
            )
        return fused.to(a.device, torch.float32).clamp(0, 1)

    # GPUs since Ampere round the factors of float32 convolutions to 10 bits unless they are told not to.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.cat([fuse(x, y) for x, y in zip(a.split(1), b.split(1), strict=True)])


def _release_memory_of_another_size(a: Tensor) -> None:
    """Give back what the temporaries of the last image leave, where this one needs others; one size keeps its own.

    Between them are holes that glibc keeps: 80 sizes held 1043 MiB, of which 348 MiB were in use.
    """
    global _last_size
    if a.shape[2:] == _last_size:
        return
    _last_size = a.shape[2:]
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def check_tile(tile: int | None, fuser: nn.Module | None = None) -> None:
    """Refuse tiles that are too small, and tiles for a fuser (where there is one yet) that has no stages."""
    if tile is not None and tile < _SMALLEST_TILE_PX:
        raise UserError(f"tile must be at least {_SMALLEST_TILE_PX} pixels, got {tile}")
    if tile is not None and fuser is not None and not isinstance(fuser, StagedFuser):
        raise UserError(f"{type(fuser).__name__} has no stages and cannot be tiled exactly; leave out --tile")


def find_device(device: str | torch.device) -> str:
    """Returns the name of the device to use: "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: the device asked for is not there.

    >>> find_device("cpu"), find_device(torch.device("cpu"))
    ('cpu', 'cpu')
    """
    name = str(device)
    family, _, index = name.partition(":")
    known = ("auto", "cpu", "cuda", "mps")
    if family not in known:
        raise UserError(f"device must be one of {', '.join(known)}, got {name!r}")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(name for name, is_there in available.items() if is_there)
    if index and not (index.isdigit() and (family != "cuda" or int(index) < torch.cuda.device_count())):
        raise UserError(f"device {name} must be one of {torch.cuda.device_count()} CUDA devices, counted from 0")
    if not available[family]:
        raise UserError(
            f"device {name} was asked for, and torch {torch.__version__} finds none; leave out --device (auto takes "
            f"what there is), or install a torch build and a driver for {family.upper()}"
        )
    return name


def channels_last(x: Tensor) -> Tensor:
    """x with the channels of a pixel side by side in memory, as stages keep their state."""
    return x.contiguous(memory_format=torch.channels_last)


def extend(x: Tensor, padding: Padding, px: int = 1) -> Tensor:
    """x (B,C,H,W) with `px` rows and columns more on every side, for a convolution without padding.

    Taken before a layer of single pixels rather than after it, "replicate" costs the fewest copies.

    >>> extend(torch.tensor([[[[1.0, 2.0]]]]), "replicate")[0, 0, 0]
    tensor([1., 1., 2., 2.])
    """
    return F.pad(x, (px,) * 4, mode="replicate" if padding == "replicate" else "constant")


def _run(stages: list[Stage], state: State, *, stripes: bool) -> Tensor:
    statistics: State = ()
    for stage in stages:
        state, statistics = _run_stage(stage, state, statistics, stripes=stripes)
    return state[0]


def _run_stage(
    stage: Stage, state: State, statistics: State, window: Window = WHOLE, *, stripes: bool
) -> tuple[State, State]:
    """One stage over an image or a tile; the statistics are summed over `window` of it."""
    if not stripes or stage.whole:
        return stage.run(state, statistics, window)
    height, width = state[0].shape[2:]
    rows = _round_down(max(8, 2 * stage.halo, stage.stripe_px // (width * len(state[0]))), stage.align)
    if rows >= height:
        return stage.run(state, statistics, window)
    first, last, _ = window[0].indices(height)
    sums: State = ()
    whole: State = ()
    for core, inner, outer in windows(height, width, rows, width, stage.halo, stage.align):
        given = tuple(_cut(x, outer, height // x.shape[2]) for x in state)
        counted = slice(*(min(max(row, core[0].start), core[0].stop) - outer[0].start for row in (first, last)))
        new, terms = stage.run(given, statistics, (counted, window[1]))
        sums = _add(sums, terms)
        whole = whole or _allocate(new, given, state, (height, width))
        _write(whole, new, given, core, inner)
    return whole, sums


def _run_tiles(fuser: StagedFuser, a: Tensor, b: Tensor, tile: int, place: dict[str, Any]) -> Tensor:
    """All stages, each on tiles computed from what is kept: the sources, or the result of the last whole stage."""
    stages, (height, width) = fuser.stages(), a.shape[2:]
    align = _common(stages)
    kept: State = (fuser.prepare(stages, a), fuser.prepare(stages, b))
    chain: list[Stage] = []
    known: list[State] = [()]  # the statistics that each stage of the chain is given
    for index, stage in enumerate(stages):
        if stage.whole:
            state, statistics = stage.run(tuple(x.to(**place) for x in kept), known[-1], WHOLE)
            kept = tuple(x.to(a.device) for x in state)
            chain, known = [], [statistics]
            continue
        chain.append(stage)
        ends = index + 1 == len(stages) or stages[index + 1].whole
        state, sums = _run_chain(chain, known, kept, _round_down(tile, align), align, place, keep=ends)
        known.append(sums)
        kept = state if ends else kept
    return kept[0][:, :, :height, :width]


def _run_chain(
    chain: list[Stage], known: list[State], kept: State, tile: int, align: int, place: dict[str, Any], *, keep: bool
) -> tuple[State, State]:
    """Consecutive stages tile by tile: their state where it is to be kept, and the statistics of the last of them."""
    height, width = kept[0].shape[2:]
    sums: State = ()
    whole: State = ()
    for core, inner, outer in windows(height, width, tile, tile, _reach(chain), align):
        given = state = tuple(_cut(x, outer, height // x.shape[2]).to(**place) for x in kept)
        for stage, statistics in zip(chain, known, strict=True):
            stripes = state[0].device.type == "cpu"
            state, terms = _run_stage(stage, state, statistics, inner, stripes=stripes)
        sums = _add(sums, terms)
        if keep:
            whole = whole or _allocate(state, given, kept, (height, width))
            _write(whole, state, given, core, inner)
        elif not terms:
            break  # a stage without statistics has nothing to sum over the other tiles
    return whole, sums


def _allocate(new: State, given: State, state: State, size: tuple[int, int]) -> State:
    """Tensors of the whole image for the results of a window; what a stage passes on stays where it is."""
    rows, columns = given[0].shape[2:]

    def allocate(x: Tensor) -> Tensor:
        for passed, whole in zip(given, state, strict=True):
            if x is passed:
                return whole
        height, width = size[0] // (rows // x.shape[2]), size[1] // (columns // x.shape[3])
        shape = (*x.shape[:2], height, width)
        return torch.empty(shape, dtype=x.dtype, device=state[0].device, memory_format=torch.channels_last)

    return tuple(allocate(x) for x in new)


def _write(whole: State, new: State, given: State, core: Window, inner: Window) -> None:
    for x, y in zip(whole, new, strict=True):
        if not any(y is passed for passed in given):
            step = given[0].shape[2] // y.shape[2]
            _cut(x, core, step).copy_(_cut(y, inner, step))


def _add(sums: State, terms: State) -> State:
    return tuple(s + t for s, t in zip(sums, terms, strict=True)) if sums else terms


def _cut(x: Tensor, window: Window, step: int) -> Tensor:
    """A window of the image, out of a tensor with one value for every step x step pixels."""
    rows, columns = (slice(part.start // step, part.stop // step) for part in window)
    return x[:, :, rows, columns]


def _reach(stages: list[Stage]) -> int:
    """Pixels that must be given around a window for all stages, one after the other, to be right inside it."""
    pixels = 0
    for stage in stages:  # what is wrong along the edge of what is given grows by a halo, and spoils whole blocks
        pixels = _round_up(pixels + stage.halo, stage.align)
    return pixels


def _common(stages: list[Stage]) -> int:
    return math.lcm(*(stage.align for stage in stages))


def _round_up(pixels: int, align: int) -> int:
    return align * ((pixels + align - 1) // align)


def _round_down(pixels: int, align: int) -> int:
    return max(align, pixels // align * align)


def windows(
    height: int, width: int, rows: int, columns: int, halo: int, align: int = 1
) -> Iterator[tuple[Window, Window, Window]]:
    """Windows that cover an image: the core in the image, the core in the haloed window, the haloed window.

    Haloed windows begin and end at whole multiples of `align`, or where the image ends.
    """
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            bottom, right = min(top + rows, height), min(left + columns, width)
            y, x = (max(0, start - halo) // align * align for start in (top, left))
            outer = (
                slice(y, min(_round_up(bottom + halo, align), height)),
                slice(x, min(_round_up(right + halo, align), width)),
            )
            core = slice(top, bottom), slice(left, right)
            yield core, (slice(top - y, bottom - y), slice(left - x, right - x)), outer
