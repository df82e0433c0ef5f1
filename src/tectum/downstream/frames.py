"""Labelled images in memory, small, and the batches that every network of a comparison is shown.

What step t of a seed sees is decided by (seed, t) alone: the same images in the same order, mirrored or not, through
the same window. A window is the image zoomed by z, log-uniform in [1/zoom, zoom], at a random place where it overlaps
the image as far as it can:

    p = c + z (m q_x, q_y),   m = -1 or 1,   |c| <= |1 - z|         q in the batch, p in the image, both in [-1,1]^2

Outside the image the batch is black, and its mask is to be ignored.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tectum.data.transforms import IGNORED, area, nearest
from tectum.pair import Boxes

RAREST = 1e-4
"""Part of the pixels that no class counts as rarer than."""
SMALLEST_PART = 0.2
"""A box of which less than this part of its area is in the window is left out."""


@dataclass(frozen=True)
class Frames:
    """Images of one input, all of one size, with what is to be found in them.

    Attributes:
        names: of the images.
        images: (N,h,w) uint8 luminances.
        targets: one an image: a mask (H,W) uint8 of its own resolution, or `Boxes`.
    """

    names: tuple[str, ...]
    images: Tensor
    targets: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.names)

    def learnable(self) -> "Frames":
        """The same with masks of the images' size, which is what a loss is cheap on."""
        if not isinstance(self.targets[0], Tensor):
            return self
        height, width = self.images.shape[1:]
        return replace(self, targets=tuple(nearest(mask, (height, width)) for mask in self.targets))


def balanced(frames: Frames, num_classes: int, power: float) -> list[float]:
    """How much the pixels of each class shall count: 1 / frequency ** power, of mean 1 over the pixels that count.

    >>> mask = torch.tensor([[0, 0, 0, 1, 255]], dtype=torch.uint8)
    >>> balanced(Frames(("a",), torch.zeros(1, 1, 5), (mask,)), 2, 1.0)
    [0.6667, 2.0]
    """
    masks = [torch.bincount(mask.flatten().long(), minlength=256) for mask in frames.targets]
    counts = torch.stack(masks).sum(0)[:num_classes]
    share = (counts / counts.sum()).clamp(min=RAREST)
    weights = share**-power
    return [round(x, 4) for x in (weights / (weights * share).sum()).tolist()]


def small(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A luminance (1,H,W) in [0,1] as uint8 (h,w), every pixel the mean of what it covers."""
    resized = functional.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)
    return (resized[0, 0] * 255).round().clamp(0, 255).to(torch.uint8)


def fingerprint(*parts: Any) -> str:
    """A short text that changes with any pixel, box, label or name."""
    found = hashlib.sha256()
    for part in parts:
        for x in part if isinstance(part, list | tuple) else (part,):
            tensors = [x[key] for key in sorted(x)] if isinstance(x, dict) else [x]
            for y in tensors:
                if isinstance(y, Tensor):
                    found.update(str((y.dtype, tuple(y.shape))).encode() + y.contiguous().numpy().tobytes())
                else:
                    found.update(repr(y).encode())
    return found.hexdigest()[:16]


def draw(frames: Frames, batch: int, zoom: float, seed: int, step: int) -> tuple[Tensor, Any]:
    """The batch of a step: images (B,1,h,w) in [0,1] and their target as a task takes it."""
    places = range(step * batch, (step + 1) * batch)
    indices = []
    for place in places:
        epoch, index = divmod(place, len(frames))
        order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed * 7_919 + epoch))
        indices.append(int(order[index]))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    scale = torch.exp((2 * torch.rand(batch, generator=generator) - 1) * math.log(zoom))
    mirror = 1.0 - 2 * torch.randint(2, (batch,), generator=generator)
    centre = (2 * torch.rand(batch, 2, generator=generator) - 1) * (1 - scale).abs()[:, None]
    return window(frames, indices, scale, mirror, centre)


def window(frames: Frames, indices: Sequence[int], scale: Tensor, mirror: Tensor, centre: Tensor) -> tuple[Tensor, Any]:
    """Images seen through windows; scale (B,), mirror (B,) of -1 and 1, centre (B,2) of x and y."""
    theta = torch.zeros(len(indices), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = mirror * scale, scale, centre
    images = frames.images[list(indices)][:, None].float() / 255
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    targets = [frames.targets[i] for i in indices]
    if isinstance(targets[0], Tensor):
        masks = torch.stack(targets)[:, None].float() - IGNORED  # so that the zeros around are the ignored class
        seen = functional.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return images, seen[:, 0].round().long() + IGNORED
    return images, [
        through(boxes, float(s), float(m), c) for boxes, s, m, c in zip(targets, scale, mirror, centre, strict=True)
    ]


def through(boxes: Boxes, scale: float, mirror: float, centre: Tensor) -> Boxes:
    """Boxes of an image as they lie in its window."""
    x, y = ((2 * boxes["boxes"][:, i::2] - 1 - centre[i]) / scale for i in (0, 1))
    moved = torch.cat([(mirror * x).sort(1).values, y], 1)[:, [0, 2, 1, 3]] / 2 + 0.5
    kept = moved.clamp(0, 1)
    part = area(kept) / area(moved).clamp(min=1e-12)
    there = part >= SMALLEST_PART
    return {"boxes": kept[there], "labels": boxes["labels"][there]}
