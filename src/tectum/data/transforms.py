"""Crops, flips, quarter turns and resizing of a pair, together with its mask or boxes.

A mask is cut, mirrored and padded with its image, boxes are mapped to what is left of it and clipped; a box of which
less than `min_share` of the area is left is dropped. A mask is a tensor of three or more dimensions, boxes are a list
of `tectum.pair.Boxes`; a target of any other kind stays as it is. All the chance comes from a generator of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.errors import UserError
from tectum.pair import Boxes, Pair

_MIN_SHARE = 0.25
"""Of a box's area: less than that inside a crop is too little to know the thing by."""
IGNORE_INDEX = 255
"""The class of mask pixels that nothing is known about."""


def random_crop(
    pair: Pair, size_px: int, generator: torch.Generator, *, turns: bool = False, min_share: float = _MIN_SHARE
) -> Pair:
    """Random square crop, flipped half of the time: (B,1,H,W) -> (B,1,size,size).

    Args:
        pair: images at least as large as the crop, with what is known about them.
        size_px: side of the crop.
        generator: all the chance.
        turns: also turn it by 0 to 3 quarters: all eight ways a square lies, equally often.
        min_share: of a box's area that must be left for it to be kept.

    Raises:
        ValueError: the image is smaller than the crop, or the mask is of another size than the image.
    """
    height, width = pair.a.shape[2:]
    check_crop(size_px, (height, width), " ".join(pair.name))
    top = int(torch.randint(height - size_px + 1, (1,), generator=generator))
    left = int(torch.randint(width - size_px + 1, (1,), generator=generator))
    flipped = bool(torch.randint(2, (1,), generator=generator))
    window = crop(pair, top, left, size_px, size_px, min_share=min_share)
    window = flip(window) if flipped else window
    return rotate_quarters(window, int(torch.randint(4, (1,), generator=generator))) if turns else window


def check_crop(crop_px: int, size: tuple[int, int], name: str) -> None:
    """Refuse crops that are larger than the image `name` of `size` (height, width)."""
    if min(size) < crop_px:
        raise UserError(
            f"crops of {crop_px} px need images at least as large, {name} is {size[1]}x{size[0]}; use --crop-px with a "
            "smaller number"
        )


def centre_crop(pair: Pair, size_px: int, *, min_share: float = _MIN_SHARE) -> Pair:
    """Centre crop of at most size x size pixels."""
    height, width = pair.a.shape[2:]
    top, left = max(0, (height - size_px) // 2), max(0, (width - size_px) // 2)
    return crop(pair, top, left, min(size_px, height), min(size_px, width), min_share=min_share)


def crop(pair: Pair, top: int, left: int, height: int, width: int, *, min_share: float = _MIN_SHARE) -> Pair:
    """Crop of height x width pixels whose upper left pixel is (top, left).

    Raises:
        ValueError: the window reaches out of the image, or the mask is of another size than the image.

    >>> box = {"boxes": torch.tensor([[0.5, 0.5, 1.0, 1.0]]), "labels": torch.tensor([1])}
    >>> image = torch.zeros(1, 1, 8, 8)
    >>> crop(Pair(image, image, [box]), 2, 2, 4, 4).target[0]["boxes"].tolist()
    [[0.5, 0.5, 1.0, 1.0]]
    """
    rows, columns = pair.a.shape[2:]
    if top < 0 or left < 0 or height < 1 or width < 1 or top + height > rows or left + width > columns:
        raise UserError(
            f"a window must lie in its image of {columns}x{rows}, got {width}x{height} at row {top}, column {left}; "
            "choose a smaller one"
        )
    if isinstance(pair.target, Tensor) and pair.target.dim() >= 3 and pair.target.shape[-2:] != pair.a.shape[2:]:
        raise UserError(
            f"a mask must have its image's size to be cut with it, {' '.join(pair.name)} has {columns}x{rows} and a "
            f"mask of {pair.target.shape[-1]}x{pair.target.shape[-2]}; crop before resizing, or resize with masks=True"
        )

    def cut(x: Tensor) -> Tensor:
        return x[..., top : top + height, left : left + width]

    scale = torch.tensor([columns, rows, columns, rows]) / torch.tensor([width, height, width, height])
    offset = torch.tensor([left / width, top / height, left / width, top / height])
    return _apply(pair, cut, cut, lambda boxes: boxes * scale.to(boxes) - offset.to(boxes), min_share)


def flip(pair: Pair) -> Pair:
    """Horizontal flip.

    >>> ramp = torch.linspace(0, 1, 3).reshape(1, 1, 1, 3)
    >>> flip(Pair(ramp, ramp)).a.flatten().tolist()
    [1.0, 0.5, 0.0]
    """

    def mirror(x: Tensor) -> Tensor:
        return x.flip(-1)

    def mirror_boxes(boxes: Tensor) -> Tensor:
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([1 - x2, y1, 1 - x1, y2], -1)

    return _apply(pair, mirror, mirror, mirror_boxes)


def rotate_quarters(pair: Pair, quarters: int) -> Pair:
    """Rotation to the left by so many quarter turns.

    >>> ramp = torch.linspace(0, 1, 3).reshape(1, 1, 1, 3)
    >>> rotate_quarters(Pair(ramp, ramp), 1).a.shape, rotate_quarters(Pair(ramp, ramp), 1).a.flatten().tolist()
    (torch.Size([1, 1, 3, 1]), [1.0, 0.5, 0.0])
    """

    def rotate(x: Tensor) -> Tensor:
        return x.rot90(quarters, (-2, -1))

    def rotate_boxes(boxes: Tensor) -> Tensor:
        for _ in range(quarters % 4):
            x1, y1, x2, y2 = boxes.unbind(-1)
            boxes = torch.stack([y1, 1 - x2, y2, 1 - x1], -1)
        return boxes

    return _apply(pair, rotate, rotate, rotate_boxes)


def resize(pair: Pair, size: tuple[int, int], *, antialias: bool = False, masks: bool = False) -> Pair:
    """Resize both images, bilinear with `align_corners=False`, as the published task images are made.

    Boxes are relative and stay. A mask keeps its own size, which is how tasks are scored and trained.

    Args:
        pair: (B,1,H,W) and what is known about it.
        size: (height, width) in pixels.
        antialias: average over all pixels that fall on one, instead of the nearest four.
        masks: bring a mask to `size` too, each pixel taking the nearest one's class.

    Raises:
        ValueError: the size is not positive.
    """
    _check_size(size)

    def scale(x: Tensor) -> Tensor:
        same = tuple(x.shape[-2:]) == tuple(size)
        return x if same else F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=antialias)

    return _apply(pair, scale, (lambda x: resize_mask(x, size)) if masks else None, None)


def _apply(
    pair: Pair,
    images: Callable[[Tensor], Tensor],
    mask: Callable[[Tensor], Tensor] | None,
    boxes: Callable[[Tensor], Tensor] | None,
    min_share: float | None = None,
) -> Pair:
    """Apply `images` to both images, and `mask` or `boxes` (N,4) to a target of that type; None leaves it.

    With `min_share` boxes are clipped to the image, and those of which less of the area is left are dropped.
    """
    target: Any = pair.target
    if isinstance(target, Tensor) and target.dim() >= 3 and mask is not None:
        target = mask(target)
    elif boxes is not None and is_boxes(target):
        target = [entry | {"boxes": boxes(entry["boxes"])} for entry in target]
        if min_share is not None:
            target = [_clip_boxes(entry, min_share) for entry in target]
    return replace(pair, a=images(pair.a), b=images(pair.b), target=target)


def is_boxes(target: Any) -> bool:
    """Returns True if a target is one `Boxes` per image."""
    return isinstance(target, Sequence) and all(isinstance(x, dict) and {"boxes", "labels"} <= x.keys() for x in target)


def _clip_boxes(entry: Boxes, min_share: float) -> Boxes:
    inside = entry["boxes"].clamp(0, 1)
    keep = box_area(inside) > max(min_share - 1e-5, 1e-5) * box_area(entry["boxes"])  # rounding decides nothing
    return {key: x[keep] for key, x in (entry | {"boxes": inside}).items()}


def box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]).clamp_min(0) * (boxes[:, 3] - boxes[:, 1]).clamp_min(0)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a mask (...,h,w): each pixel takes the class of the one nearest to its centre."""
    rows, columns = (
        ((torch.arange(new, device=mask.device) * 2 + 1) * old // (2 * new))
        for new, old in zip(size, mask.shape[-2:], strict=True)
    )
    return mask[..., rows[:, None], columns]


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise UserError(f"a size must be (height, width) of at least 1 pixel each, got {tuple(size)}; ask for more")
