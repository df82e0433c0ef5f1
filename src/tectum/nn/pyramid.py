"""The Laplacian pyramid, and two images blended in it.

    g_0 = x,  g_(l+1) = REDUCE g_l,  d_l = g_l - EXPAND g_(l+1)   for l < L;    back: f_l = d_l + EXPAND f_(l+1)

Weights s of two images are blended scale by scale: d_l of the result is s_l d_l(a) + (1 - s_l) d_l(b), where s_l is s
reduced l times, and g_L likewise. A weight that jumps then makes neither a seam nor a halo.

References: The Laplacian Pyramid as a Compact Image Code, Burt and Adelson, IEEE Transactions on Communications 1983,
https://doi.org/10.1109/TCOM.1983.1095851; Exposure Fusion, Mertens, Kautz and Van Reeth, Pacific Graphics 2007
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def blend(a: Tensor, b: Tensor, share: Tensor, *, levels: int = 5) -> Tensor:
    """share of a and 1 - share of b, blended in a pyramid: all (B,1,H,W) in [0,1].

    >>> a, b = torch.rand(2, 1, 1, 5, 7)
    >>> bool((blend(a, b, torch.full_like(a, 0.25)) - (a + 3 * b) / 4).abs().max() < 1e-6)
    True
    """
    down, right = (fill(size, 2**levels) for size in a.shape[2:])
    a, b, share = (F.pad(x, (0, right, 0, down), mode="replicate") for x in (a, b, share))
    details = []
    for _ in range(levels):
        coarse_a, coarse_b = reduce(a), reduce(b)
        detail_a, detail_b = a - expand(coarse_a), b - expand(coarse_b)
        details.append(detail_b + share * (detail_a - detail_b))
        a, b, share = coarse_a, coarse_b, reduce(share)
    fused = b + share * (a - b)
    for detail in reversed(details):
        fused = detail + expand(fused)
    return F.pad(fused, (0, -right, 0, -down)).clamp(0, 1)


def fill(size: int, step: int) -> int:
    """How many pixels from a size to the whole number of steps that is at least one step more.

    >>> [fill(size, 4) for size in (1, 4, 5)]
    [7, 4, 7]
    """
    return step * ((size + step - 1) // step + 1) - size


def reduce(x: Tensor) -> Tensor:
    """REDUCE: every second pixel of x smoothed by [1 4 6 4 1] / 16 along each axis, (B,1,2H,2W) -> (B,1,H,W)."""
    w = binomial(x)
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(x, w.view(1, 1, 5, 1), stride=(2, 1)), w.view(1, 1, 1, 5), stride=(1, 2))


def expand(x: Tensor) -> Tensor:
    """EXPAND: zeros put between the pixels of x, smoothed by twice the same weights, (B,1,H,W) -> (B,1,2H,2W).

    Along an axis: pixel 2i is (x_{i-1} + 6 x_i + x_{i+1}) / 8, pixel 2i + 1 is (x_i + x_{i+1}) / 2.
    """
    w = 2 * binomial(x)
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = F.conv_transpose2d(x, w.view(1, 1, 5, 1), stride=(2, 1), padding=(4, 0), output_padding=(1, 0))
    return F.conv_transpose2d(x, w.view(1, 1, 1, 5), stride=(1, 2), padding=(0, 4), output_padding=(0, 1))


def binomial(like: Tensor) -> Tensor:
    return torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=like.dtype, device=like.device) / 16
