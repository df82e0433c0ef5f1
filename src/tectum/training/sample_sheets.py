"""Pictures of a run in progress: what went in, what came out, what the loss asks for and what the task sees."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.io.files import write_whole
from tectum.report.painting import paint


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
    """A mask (h,w) on black, or boxes on the picture `under` (H,W) in [0,1]: (3,H,W) uint8."""
    picture = torch.zeros_like(under) if isinstance(target, Tensor) else under
    return torch.from_numpy(paint(colour(picture).permute(1, 2, 0).numpy(), target, opacity=1.0)).permute(2, 0, 1)
