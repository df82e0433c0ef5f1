"""Run a fuser over an image in stripes or tiles, with exactly the result of the whole image.

A fuser whose attention looks at all pixels cannot be run on tiles one by one: each tile would be normalised by its own
content, and seams would show. But what its pixels tell each other are sums over pixels (`tectum.protocols.Stage`). So:

    for every stage:   for every window:   state, terms <- stage(state, moments)   sums += terms
                       moments <- sums

*Stripes.* On a CPU a stage goes through its state a few rows at a time: the many-channel temporaries then stay in the
processor's cache, and no large block of memory is asked from the operating system and given back at every operation -
which is where a network of this kind otherwise spends most of its time. The state before and after a stage is kept
whole: about 512 bytes a pixel for TDFusion.

*Tiles* (`tile=N`) keep nothing but the two sources and the result: for every stage that returns moments, and for the
last, each tile is computed anew from the sources, with a halo as wide as all stages so far. Memory does not depend on
the size of the image, and it takes about three and a half times as long for TDFusion, where only the last has none.

Both equal the whole image's result up to the order of float32 sums (about 1e-6).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.errors import UserError
from tectum.protocols import WHOLE, Stage, State, Window

STRIPE_PX = 25_000
"""Pixels in a stripe: from 15,000 to 80,000 are about equally fast at 640x480; fewer take less memory."""


@torch.inference_mode()
def fuse_tensors(fuser: nn.Module, a: Tensor, b: Tensor, *, tile: int | None = None) -> Tensor:
    """Fuse (B,1,H,W) and (B,1,H,W), in [0,1] -> (B,1,H,W) in [0,1], float32.

    Args:
        fuser: a fuser; it runs on its own device and in its own dtype.
        tile: side of the tiles in pixels for images that do not fit in memory; None takes the whole image at once.

    Raises:
        ValueError: a and b differ in shape, tile is too small, or the fuser cannot be tiled exactly.
    """
    if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 1:
        raise UserError(
            f"a and b must share one shape (B,1,H,W), got {tuple(a.shape)} and {tuple(b.shape)}; "
            "register or resize them first (--resize, --align)"
        )
    check_tile(tile, fuser)
    # GPUs since Ampere round the factors of float32 convolutions to 10 bits unless they are told not to.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.cat([fuse_one(fuser, x, y, tile) for x, y in zip(a.split(1), b.split(1), strict=True)])


def check_tile(tile: int | None, fuser: nn.Module | None = None) -> None:
    """Refuse tiles that are too small, and tiles for a fuser (where there is one yet) that cannot be tiled exactly."""
    if tile is not None and tile < 32:
        raise UserError(f"tile must be at least 32 pixels, got {tile}")
    if tile is not None and fuser is not None and not hasattr(fuser, "stages"):
        raise UserError(f"{type(fuser).__name__} has no stages and cannot be tiled exactly; leave out --tile")


def fuse_one(fuser: nn.Module, a: Tensor, b: Tensor, tile: int | None) -> Tensor:
    """One pair, (1,1,H,W) each, on the fuser's device and back."""
    parameter = next(fuser.parameters(), a)
    like: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
    stages: Callable[[], list[Stage]] | None = getattr(fuser, "stages", None)
    if stages is None:
        fused: Tensor = fuser(a.to(**like), b.to(**like))
    else:
        pieces, (height, width) = stages(), a.shape[2:]
        x, y = (extended(z, common(pieces)) for z in (a, b))
        fused = run_whole(pieces, (x.to(**like), y.to(**like))) if tile is None else run_tiles(pieces, x, y, tile, like)
        fused = fused[:, :, :height, :width]
    if fused.shape != a.shape:
        raise UserError(
            f"a fuser must return the shape of its inputs, {tuple(a.shape)}, but {type(fuser).__name__} returned "
            f"{tuple(fused.shape)}; correct it"
        )
    return fused.to(a.device, torch.float32).clamp(0, 1)


def run_whole(stages: list[Stage], state: State) -> Tensor:
    """All stages one after the other; the state between them is that of the whole image."""
    moments: State = ()
    for stage in stages:
        state, moments = run_stage(stage, state, moments)
    return state[0]


def run_tiles(stages: list[Stage], a: Tensor, b: Tensor, tile: int, like: dict[str, Any]) -> Tensor:
    """All stages, each on tiles computed from the sources alone."""
    height, width = a.shape[2:]
    fused = torch.empty_like(a, dtype=torch.float32)
    known: list[State] = [()]
    for last in range(len(stages)):
        sums: State = ()
        halo = reach(stages[: last + 1])
        for core, inner, outer in windows(height, width, tile, tile, halo, common(stages)):
            state: State = (a[:, :, *outer].to(**like), b[:, :, *outer].to(**like))
            for stage, moments in zip(stages[: last + 1], known, strict=True):
                state, terms = run_stage(stage, state, moments, inner)
            sums = add(sums, terms)
            if last < len(stages) - 1 and not terms:
                break  # a stage without moments has nothing to sum over the other tiles
            if last == len(stages) - 1:
                fused[:, :, *core] = state[0][:, :, *inner].to(fused)
        known.append(sums)
    return fused


def run_stage(stage: Stage, state: State, moments: State, window: Window = WHOLE) -> tuple[State, State]:
    """One stage over an image or tile, on a CPU in stripes; the moments are summed over `window` of it."""
    height, width = state[0].shape[2:]
    rows = max(8, STRIPE_PX * stage.stride**2 // width) if state[0].device.type == "cpu" else height
    rows -= rows % stage.align if rows >= 2 * stage.align else 0  # then nothing is computed twice for its sake
    first, last, _ = window[0].indices(height)
    whole: State = ()
    sums: State = ()
    for core, inner, outer in windows(height, width, rows, width, stage.halo, stage.align):
        above = outer[0].start
        counted = slice(*(min(max(row, core[0].start), core[0].stop) - above for row in (first, last)))
        new, terms = stage.run(tuple(x[:, :, outer[0]] for x in state), moments, (counted, window[1]))
        sums = add(sums, terms)
        if rows >= height:
            return new, sums
        whole = whole or tuple(empty(x, height, width) for x in new)
        for x, y in zip(whole, new, strict=True):
            x[:, :, core[0]] = y[:, :, inner[0]]
    return whole, sums


def reach(stages: list[Stage]) -> int:
    """How many pixels around a window must be given for all stages one after the other to be right inside it."""
    pixels = 0
    for stage in stages:  # what is wrong along the edge of what is given grows by a halo, and spoils whole blocks
        pixels = up(pixels + stage.halo, stage.align)
    return pixels


def common(stages: list[Stage]) -> int:
    return math.lcm(*(stage.align for stage in stages))


def up(pixels: int, align: int) -> int:
    return -(-pixels // align) * align


def extended(x: Tensor, align: int) -> Tensor:
    """x with its last row and column repeated up to whole multiples of `align`."""
    down, right = (up(size, align) - size for size in x.shape[2:])
    return F.pad(x, (0, right, 0, down), mode="replicate") if down or right else x


def windows(
    height: int, width: int, rows: int, columns: int, halo: int, align: int = 1
) -> Iterator[tuple[Window, Window, Window]]:
    """Windows that cover the image: the core in the image, the core in the haloed window, the haloed window.

    Haloed windows begin and end at whole multiples of `align`, or where the image ends.
    """
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            bottom, right = min(top + rows, height), min(left + columns, width)
            y, x = (max(0, start - halo) // align * align for start in (top, left))
            window = slice(y, min(up(bottom + halo, align), height)), slice(x, min(up(right + halo, align), width))
            yield (
                (slice(top, bottom), slice(left, right)),
                (slice(top - y, bottom - y), slice(left - x, right - x)),
                window,
            )


def add(sums: State, terms: State) -> State:
    return tuple(s + t for s, t in zip(sums, terms, strict=True)) if sums else terms


def empty(like: Tensor, height: int, width: int) -> Tensor:
    shape = (1, like.shape[1], height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
