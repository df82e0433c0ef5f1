"""Fixed image filters, written so that forward-mode differentiation and export go through them.

And the inverse of softplus, where a positive scalar starts.
"""

import math
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


def variation_gradient(w: Tensor, *, smooth: bool = True) -> Tensor:
    """d/dw of the total variation, the sum of sqrt(d^2 + 1e-6) over the differences d of neighbours: as w.

    With smooth=False of the sum of |d|, d/|d| written as d / (|d| + 1e-6).

    >>> variation_gradient(torch.tensor([[[[0.0, 1.0, 1.0]]]]), smooth=False).round(decimals=3)
    tensor([[[[-1.,  1.,  0.]]]])
    """

    def sign(d: Tensor) -> Tensor:
        return d / (d.square() + 1e-6).sqrt() if smooth else d / (d.abs() + 1e-6)

    x, y = sign(w.diff(dim=3)), sign(w.diff(dim=2))
    return F.pad(x, (1, 0)) - F.pad(x, (0, 1)) + F.pad(y, (0, 0, 1, 0)) - F.pad(y, (0, 0, 0, 1))


def inverse_softplus(value: float) -> float:
    """Number whose softplus is `value` (positive).

    >>> round(float(F.softplus(torch.tensor(inverse_softplus(0.5)))), 6)
    0.5
    """
    return math.log(math.expm1(value))
