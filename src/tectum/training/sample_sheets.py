"""Sample sheets of a run: rows of pictures (sources, fused image, weight maps, answer, label) as one PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.io.files import write_whole
from tectum.report.painting import paint


def write_sheet(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Write rows of pictures, each (H,W) in [0,1] or (3,H,W) uint8, as one PNG; shorter rows are padded with black."""
    from PIL import Image

    strips = [torch.cat([_rgb(picture) for picture in row], dim=2) for row in rows]
    width = max(strip.shape[2] for strip in strips)
    sheet = torch.cat([F.pad(strip, (0, width - strip.shape[2])) for strip in strips], dim=1)
    image = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    write_whole(path, lambda file: image.save(file, format="PNG"))


def centre_on_grey(picture: Tensor) -> Tensor:
    """Returns a signed picture in [0,1]: brighter than 1/2 where positive, scaled to its largest absolute value."""
    return 0.5 + 0.5 * picture / picture.abs().max().clamp_min(1e-30)


def paint_target(target: Any, fused: Tensor) -> Tensor:
    """Returns a mask (h,w) on black, or boxes on the fused image (H,W) in [0,1], as (3,H,W) uint8."""
    picture = torch.zeros_like(fused) if isinstance(target, Tensor) else fused
    return torch.from_numpy(paint(_rgb(picture).permute(1, 2, 0).numpy(), target, opacity=1.0)).permute(2, 0, 1)


def _rgb(picture: Tensor) -> Tensor:
    """(3,H,W) uint8 of a grey picture in [0,1]; a coloured one stays."""
    picture = picture.detach().cpu()
    if picture.dtype == torch.uint8:
        return picture
    return (picture.float() * 255 + 0.5).clamp(0, 255).byte().expand(3, *picture.shape)
