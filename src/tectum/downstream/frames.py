"""Labelled images in memory, small, and the augmented batches that all networks of a comparison share.

The batch of step t of a seed is decided by (seed, t) alone: the same images in the same order, mirrored or not, through
the same window. A window is the image zoomed by z, log-uniform in [1/zoom, zoom], at a random place where it overlaps
the image as far as it can:

    p = c + z (m q_x, q_y),   m = -1 or 1,   |c| <= |1 - z|         q in the batch, p in the image, both in [-1,1]^2

Outside the image the batch is black, and its mask is to be ignored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tectum.data.transforms import IGNORE_INDEX, box_area, resize_mask
from tectum.pair import Boxes

_MIN_FREQUENCY = 1e-4
"""Lower bound of the class frequency."""
_MIN_VISIBLE = 0.2
"""A box of which less than this part of its area is in the window is left out."""


@dataclass(frozen=True)
class Frames:
    """Images of one input, all of one size, with their targets.

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

    @property
    def has_masks(self) -> bool:
        """True if the targets are masks, False if they are boxes."""
        return isinstance(self.targets[0], Tensor)

    def shrink_masks(self) -> "Frames":
        """Returns the frames with masks of the images' size, for a cheap loss; boxes stay."""
        if not self.has_masks:
            return self
        height, width = self.images.shape[1:]
        return replace(self, targets=tuple(resize_mask(mask, (height, width)) for mask in self.targets))


def class_weights(frames: Frames, num_classes: int, power: float) -> list[float]:
    """Returns the loss weight of each class's pixels: 1 / frequency ** power, of mean 1 over the pixels that count.

    >>> mask = torch.tensor([[0, 0, 0, 1, 255]], dtype=torch.uint8)
    >>> class_weights(Frames(("a",), torch.zeros(1, 1, 5), (mask,)), 2, 1.0)
    [0.6667, 2.0]
    """
    masks = [torch.bincount(mask.flatten().long(), minlength=256) for mask in frames.targets]
    counts = torch.stack(masks).sum(0)[:num_classes]
    share = (counts / counts.sum()).clamp(min=_MIN_FREQUENCY)
    weights = share**-power
    return [round(x, 4) for x in (weights / (weights * share).sum()).tolist()]


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns a luminance (1,H,W) in [0,1] as uint8 (h,w); each pixel is the mean of the pixels that it covers."""
    resized = functional.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)
    return (resized[0, 0] * 255).round().clamp(0, 255).to(torch.uint8)


def draw_batch(frames: Frames, batch: int, zoom: float, seed: int, step: int) -> tuple[Tensor, Any]:
    """Returns the batch of a step: images (B,1,h,w) in [0,1] and their target as a task takes it."""
    indices = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(position, len(frames))
        order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed * 7_919 + epoch))
        indices.append(int(order[index]))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    scale = torch.exp((2 * torch.rand(batch, generator=generator) - 1) * math.log(zoom))
    mirror = 1.0 - 2 * torch.randint(2, (batch,), generator=generator)
    centre = (2 * torch.rand(batch, 2, generator=generator) - 1) * (1 - scale).abs()[:, None]
    return view_windows(frames, indices, scale, mirror, centre)


def view_windows(
    frames: Frames, indices: Sequence[int], scale: Tensor, mirror: Tensor, centre: Tensor
) -> tuple[Tensor, Any]:
    """Returns images and targets as they lie in windows.

    Args:
        frames: the images.
        indices: B of them.
        scale: (B,), sides of the window as parts of the image's.
        mirror: (B,) of -1 and 1.
        centre: (B,2), x and y in [-1,1].
    """
    theta = torch.zeros(len(indices), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = mirror * scale, scale, centre
    images = frames.images[list(indices)][:, None].float() / 255
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    targets = [frames.targets[i] for i in indices]
    if isinstance(targets[0], Tensor):
        masks = torch.stack(targets)[:, None].float() - IGNORE_INDEX  # so that the zeros around are the ignored class
        masks = functional.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return images, masks[:, 0].round().long() + IGNORE_INDEX
    return images, [
        _view_boxes(boxes, float(s), float(m), c) for boxes, s, m, c in zip(targets, scale, mirror, centre, strict=True)
    ]


def _view_boxes(boxes: Boxes, scale: float, mirror: float, centre: Tensor) -> Boxes:
    """Boxes of an image as they lie in its window."""
    x, y = ((2 * boxes["boxes"][:, i::2] - 1 - centre[i]) / scale for i in (0, 1))
    whole = torch.cat([(mirror * x).sort(1).values, y], 1)[:, [0, 2, 1, 3]] / 2 + 0.5
    clipped = whole.clamp(0, 1)
    inside = box_area(clipped) / box_area(whole).clamp(min=1e-12) >= _MIN_VISIBLE
    return {"boxes": clipped[inside], "labels": boxes["labels"][inside]}
