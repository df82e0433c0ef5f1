"""Fixed image filters, written so that forward-mode differentiation and export go through them."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = Literal["replicate", "zeros"]


def sobel(x: Tensor, *, padding: Padding = "replicate") -> Tensor:
    """Sobel derivatives along x and y, not normalised: (B,1,H,W) -> (B,2,H,W).

    The kernels are [-1 0 1; -2 0 2; -1 0 1] and its transpose: a ramp of 1 per pixel gives 8. With "zeros" the border
    of the image is an edge as high as the image is bright there, as in the released code of most fusion methods.

    >>> sobel(torch.arange(3.0).repeat(3, 1)[None, None])[0, :, 1, 1]
    tensor([8., 0.])
    """
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=x.dtype, device=x.device)
    padded = F.pad(x, (1, 1, 1, 1), mode="constant" if padding == "zeros" else "replicate")
    return F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the pixels at most `radius` away along each axis, those outside the image left out."""
    for size, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        x = F.avg_pool2d(x, size, 1, padding, count_include_pad=False)
    return x
