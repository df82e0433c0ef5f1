"""The Laplacian pyramid, and images blended in it: two, or any number by weights.

    g_0 = x,  g_(l+1) = REDUCE g_l,  d_l = g_l - EXPAND g_(l+1)   for l < L;    back: f_l = d_l + EXPAND f_(l+1)

Two images are blended scale by scale: of the details d_l each source has the part that it has in their energy squared
around a pixel, of what is left, g_L, a share that is given, reduced as often. Neither makes a seam or a halo.

References: The Laplacian Pyramid as a Compact Image Code, Burt and Adelson, IEEE Transactions on Communications 1983,
https://doi.org/10.1109/TCOM.1983.1095851; Exposure Fusion, Mertens, Kautz and Van Reeth, Pacific Graphics 2007
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.nn.filters import box_mean


def blend(a: Tensor, b: Tensor, share: Tensor, *, levels: int = 6, clamp: bool = True) -> Tensor:
    """Blend two images in their pyramids; `share` of the coarsest level is a's: all (B,1,H,W) in [0,1].

    With clamp=False the result may leave [0,1].

    >>> a, b = torch.full((1, 1, 5, 7), 0.25), torch.full((1, 1, 5, 7), 0.75)
    >>> round(float(blend(a, b, torch.full_like(a, 0.25)).mean()), 6)
    0.625
    """
    (*details_a, coarse_a), (*details_b, coarse_b) = build_pyramid(a, levels), build_pyramid(b, levels)
    details = []
    for of_a, of_b in zip(details_a, details_b, strict=True):
        energy_a, energy_b = (box_mean(x.square(), 2) + 1e-7 for x in (of_a, of_b))
        details.append(of_b + energy_a**2 / (energy_a**2 + energy_b**2) * (of_a - of_b))
    coarse = _extend(share, levels)
    for _ in range(levels):
        coarse = _reduce(coarse)
    parts = [*details, coarse_b + coarse * (coarse_a - coarse_b)]
    return collapse_pyramid(parts, a.shape[2:], clamp=clamp)


def merge(images: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Merge images by weights, scale by scale: sum_k G_l{w_k} L_l{x_k}, the Laplacian pyramid of the result.

    Args:
        images: n of (B,1,H,W) in [0,1].
        weights: (n,1,H,W), at each pixel with sum 1; all B images of one x_k have the same.

    Returns:
        (B,1,H,W) in [0,1].

    >>> a, b = torch.full((2, 1, 5, 7), 0.25), torch.full((2, 1, 5, 7), 0.75)
    >>> weights = torch.tensor([0.75, 0.25]).view(2, 1, 1, 1).expand(2, 1, 5, 7)
    >>> round(float(merge([a, b], weights).mean()), 6)
    0.375
    """
    size = images[0].shape[2:]
    levels = max(1, min(size).bit_length() - 3)
    merged: list[Tensor] = []
    for image, weight in zip(images, weights.split(1), strict=True):
        shares = [_extend(weight, levels)]
        for _ in range(levels):
            shares.append(_reduce(shares[-1]))
        parts = [share * part for share, part in zip(shares, build_pyramid(image, levels), strict=True)]
        merged = [x + y for x, y in zip(merged, parts, strict=True)] if merged else parts
    return collapse_pyramid(merged, size)


def build_pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """Laplacian pyramid of an image (B,1,H,W): d_0 .. d_(L-1) and g_L; extended so that every size has all levels."""
    x, details = _extend(x, levels), []
    for _ in range(levels):
        coarse = _reduce(x)
        details.append(x - _expand(coarse))
        x = coarse
    return [*details, x]


def collapse_pyramid(parts: Sequence[Tensor], size: Sequence[int], *, clamp: bool = True) -> Tensor:
    """Image of a pyramid, cut to `size`, and to [0,1] unless told otherwise."""
    *details, x = parts
    for detail in reversed(details):
        x = detail + _expand(x)
    down, right = (_missing_px(side, 2 ** len(details)) for side in size)
    x = F.pad(x, (0, -right, 0, -down))
    return x.clamp(0, 1) if clamp else x


def _extend(x: Tensor, levels: int) -> Tensor:
    """x with its last row and column repeated, up to the multiple of 2^L that is at least 2^L more."""
    down, right = (_missing_px(size, 2**levels) for size in x.shape[2:])
    return F.pad(x, (0, right, 0, down), mode="replicate")


def _missing_px(size: int, step: int) -> int:
    """Pixels from a size to the multiple of `step` that is at least one step more.

    >>> [_missing_px(size, 4) for size in (1, 4, 5)]
    [7, 4, 7]
    """
    return step * ((size + step - 1) // step + 1) - size


def _reduce(x: Tensor) -> Tensor:
    """REDUCE: every second pixel of x smoothed by [1 4 6 4 1] / 16 along each axis, (B,1,2H,2W) -> (B,1,H,W)."""
    w = _binomial(x)
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(x, w.view(1, 1, 5, 1), stride=(2, 1)), w.view(1, 1, 1, 5), stride=(1, 2))


def _expand(x: Tensor) -> Tensor:
    """EXPAND: zeros put between the pixels of x, smoothed by twice the same weights, (B,1,H,W) -> (B,1,2H,2W).

    Along an axis: pixel 2i is (x_{i-1} + 6 x_i + x_{i+1}) / 8, pixel 2i + 1 is (x_i + x_{i+1}) / 2.
    """
    w = 2 * _binomial(x)
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = F.conv_transpose2d(x, w.view(1, 1, 5, 1), stride=(2, 1), padding=(4, 0), output_padding=(1, 0))
    return F.conv_transpose2d(x, w.view(1, 1, 1, 5), stride=(1, 2), padding=(0, 4), output_padding=(0, 1))


def _binomial(like: Tensor) -> Tensor:
    return torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=like.dtype, device=like.device) / 16
