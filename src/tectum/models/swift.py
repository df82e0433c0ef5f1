"""Swift: fusion in real time on a processor, by gains that a small network reads at an eighth of the size.

    a_0 = a,  a_(l+1) = mean of 2x2 pixels of a_l,  A_l = a_l - up(a_(l+1))      l = 0, 1, 2; likewise b
    p, q = network(a_3, b_3, mean|A_l|, mean|B_l| over 8x8 pixels of the image)  gains in (0,2), four each
    f_3 = p_3 a_3 + q_3 b_3,  f_l = up(f_(l+1)) + up(p_l) A_l + up(q_l) B_l      up: bilinear

Each source is a Laplacian pyramid: three levels of detail, and an image of an eighth of the size that the network fuses
outright. The details are added with gains of their own rather than mixed with weights of sum 1: where only one source
has an edge it passes whole, where both have one they need not be averaged, and details may be stronger than they were.
All that is nonlinear happens at an eighth of the size, on 1/64 of the pixels, and up and down are the two resizings
that every image library has: `tectum.fusion.frames` runs the same sums in OpenCV for camera frames. A third gain, for
the stronger detail of each pixel, changes next to nothing (docs/log.md).

Without offsets black stays black; every layer repeats the border, so that two constant images give a constant one.

Source: this package; the pyramid is Burt and Adelson's (https://doi.org/10.1109/TCOM.1983.1095851) with another filter.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 3
"""Levels of detail; the network works at 1 / 2^LEVELS of the size."""


class Swift(nn.Module):
    """Fuser of 28,000 parameters: (B,1,H,W), (B,1,H,W) in [0,1] -> (B,1,H,W) in [0,1], any H and W.

    Args:
        channels: of the network.
        dilations: distance of the pixels that each of its 3x3 layers looks at; together they see 21 pixels to each
            side, 168 of the image.

    >>> a, b = torch.rand(2, 1, 1, 30, 41)
    >>> Swift()(a, b).shape
    torch.Size([1, 1, 30, 41])
    """

    def __init__(self, channels: int = 24, dilations: Sequence[int] = (1, 2, 4, 8, 4, 2)) -> None:
        super().__init__()
        num = 2 * (LEVELS + 1)
        widths = [num] + [channels] * len(dilations)
        self.layers = nn.ModuleList(
            nn.Conv2d(width, channels, 3, padding=step, dilation=step, padding_mode="replicate")
            for width, step in zip(widths, dilations, strict=False)
        )
        self.last = nn.Conv2d(channels, num, 1)
        # At the start the details are added (p = q = 1) and the coarse images averaged (p = q = 1/2).
        nn.init.zeros_(self.last.weight)
        start = torch.tensor([1.0] * (num - 2) + [0.5] * 2)
        self.last.bias = nn.Parameter((start / (2 - start)).log())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        height, width = a.shape[2:]
        down, right = missing_px(height), missing_px(width)
        a, b = (F.pad(x, (0, right, 0, down), mode="replicate") for x in (a, b))
        details_a, details_b = split(a), split(b)
        fused = add(details_a, details_b, self.gains(describe(details_a, details_b)))
        return F.pad(fused, (0, -right, 0, -down)).clamp(0, 1)

    def gains(self, features: Tensor) -> Tensor:
        """Gains in (0,2) of what `split` gives of a and b, (B,8,h,w), from what `describe` gives, (B,8,h,w)."""
        first, *others = self.layers
        x = F.relu(first(features), inplace=True)
        for layer in others:
            x = x + F.relu(layer(x), inplace=True)
        gains: Tensor = 2 * torch.sigmoid(self.last(x))
        return gains


def missing_px(size: int) -> int:
    """Pixels from a size to a multiple of 8 that is at least 16, so that one exported graph serves all sizes.

    >>> [missing_px(size) for size in (1, 16, 17)]
    [15, 0, 7]
    """
    step = 2**LEVELS
    px: int = torch.sym_max((size + step - 1) // step, 2) * step - size
    return px


def split(x: Tensor) -> list[Tensor]:
    """Details of an image (B,1,H,W), finest first, and the image at an eighth; H and W are multiples of 8."""
    parts = []
    for _ in range(LEVELS):
        coarse = F.avg_pool2d(x, 2)
        parts.append(x - _enlarge(coarse, 2))
        x = coarse
    return [*parts, x]


def describe(of_a: Sequence[Tensor], of_b: Sequence[Tensor]) -> Tensor:
    """What the network looks at, (B,8,H/8,W/8): strength of the details of a and b by level, and the coarse images."""
    strengths = [
        10 * F.avg_pool2d(part.abs(), 2 ** (LEVELS - level))
        for level, pair in enumerate(zip(of_a[:-1], of_b[:-1], strict=True))
        for part in pair
    ]
    return torch.cat([*strengths, of_a[-1] - 0.5, of_b[-1] - 0.5], 1)


def add(of_a: Sequence[Tensor], of_b: Sequence[Tensor], gains: Tensor) -> Tensor:
    """Image of what `split` gives of a and b, times their gains (B,8,h,w): of a and b by level, finest first."""
    pairs = gains.split(2, 1)
    p, q = pairs[-1].split(1, 1)
    fused = p * of_a[-1] + q * of_b[-1]
    for level in reversed(range(LEVELS)):
        p, q = _enlarge(pairs[level], 2 ** (LEVELS - level)).split(1, 1)
        fused = _enlarge(fused, 2) + p * of_a[level] + q * of_b[level]
    return fused


def _enlarge(x: Tensor, times: int) -> Tensor:
    """x (B,C,h,w) enlarged by bilinear interpolation, pixel areas aligned, as every image library does it."""
    return F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)
