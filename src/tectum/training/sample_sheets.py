"""Pictures of a run in progress: what went in, what came out, what the loss asks for and what the task sees."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.io.files import write_whole

PALETTE = torch.tensor(
    [
        [0, 0, 0],
        [64, 128, 255],
        [255, 160, 0],
        [0, 200, 120],
        [200, 80, 220],
        [255, 255, 80],
        [120, 80, 40],
        [255, 80, 80],
        [160, 220, 255],
        [140, 140, 140],
    ],
    dtype=torch.uint8,
)
"""Colours of classes 0, 1, ..; further classes begin again at 1."""


def sheet(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Write rows of pictures, each (H,W) in [0,1] or (3,H,W) uint8, as one PNG; shorter rows are padded with black."""
    from PIL import Image

    drawn = [torch.cat([colour(picture) for picture in row], dim=2) for row in rows]
    width = max(row.shape[2] for row in drawn)
    whole = torch.cat([F.pad(row, (0, width - row.shape[2])) for row in drawn], dim=1)
    image = Image.fromarray(whole.permute(1, 2, 0).numpy())
    write_whole(path, lambda file: image.save(file, format="PNG"))


def colour(picture: Tensor) -> Tensor:
    """(3,H,W) uint8 of a grey picture in [0,1]; a coloured one stays."""
    picture = picture.detach().cpu()
    if picture.dtype == torch.uint8:
        return picture
    return (picture.float() * 255 + 0.5).clamp(0, 255).byte().expand(3, *picture.shape)


def signed(picture: Tensor) -> Tensor:
    """Around grey: brighter where positive; the largest size is at the end of the range."""
    return 0.5 + 0.5 * picture / picture.abs().max().clamp_min(1e-30)


def painted(target: Any, under: Tensor) -> Tensor:
    """A mask (h,w) in its colours, or boxes as frames on the picture `under` (H,W): (3,H,W) uint8."""
    height, width = under.shape
    if isinstance(target, Tensor):
        mask = F.interpolate(target[None, None].float(), size=(height, width), mode="nearest")[0, 0].long().cpu()
        ignored = mask == 255
        mask = torch.where(mask > 0, (mask - 1) % (len(PALETTE) - 1) + 1, mask)
        return PALETTE[mask.masked_fill(ignored, 0)].permute(2, 0, 1)
    canvas = colour(under).clone()
    scores = target.get("scores")
    for index, (box, label) in enumerate(zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)):
        if scores is not None and float(scores[index]) < 0.3:
            continue
        left, right = (min(width - 1, max(0, round(x * (width - 1)))) for x in (box[0], box[2]))
        top, bottom = (min(height - 1, max(0, round(y * (height - 1)))) for y in (box[1], box[3]))
        ink = PALETTE[label % (len(PALETTE) - 1) + 1][:, None]
        canvas[:, [top, bottom], left : right + 1] = ink[:, :, None]
        canvas[:, top : bottom + 1, [left, right]] = ink[:, :, None]
    return canvas
