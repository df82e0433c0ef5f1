"""Fusers of exposures and of foci by Laplacian pyramids, without parameters: the defaults of these two kinds.

Exposures, after Mertens, Kautz and Van Reeth, but with details by their own strength (`tectum.nn.pyramid.blend`):

    e_k = exp(-(k - 1/2)^2 / (2 0.2^2))                       exposedness of a brightness k
    L_l{f} = the parts of L_l{a} and L_l{b} by their energy around a pixel, squared
    g_L{f} = G_L{e_a / (e_a + e_b)} of a, the rest of b       seven levels, more for larger images

Contrast over large areas makes lamps brighter than white; they are brought below it with their details (`soften`).

Foci: what is sharp at each scale says which source is in focus, and that source is taken:

    g   = the stronger details of three levels over the mean of the rest (`tectum.models.baselines`)
    d_k = mean of (g - k)^2 over 5 x 5 pixels + 0.3 of that over 17 x 17
    f   = a + d_a^4 / (d_a^4 + d_b^4) (b - a)

g alone has the sharp edges of both, but beside them the halos of the unsharp ones; the source that lies nearer to g has
none; the wide window keeps noise from choosing in flat areas. Levels, widths and powers were chosen on training pairs
(docs/log.md), and docs/results.md has the tests.

References: Exposure Fusion, Mertens, Kautz and Van Reeth, Pacific Graphics 2007, https://doi.org/10.1109/PG.2007.17;
The Laplacian Pyramid as a Compact Image Code, Burt and Adelson 1983, https://doi.org/10.1109/TCOM.1983.1095851
"""

import torch
from torch import Tensor, nn

from tectum.models.baselines import LaplacianPyramid
from tectum.nn.filters import box_mean
from tectum.nn.pyramid import blend

_LEVELS, _LARGE_PX = 7, 1024
_TINY = 1e-6
"""Squared distance, a quarter of a level: below it both sources are taken for equally near."""


class ExposurePyramid(nn.Module):
    """Exposure fusion of two luminances in a Laplacian pyramid, (B,1,H,W) in [0,1].

    Images whose shorter side has 1024 pixels or more get a level more for each doubling. Graphs that are exported for
    any size have seven.

    >>> ExposurePyramid()(torch.full((1, 1, 5, 7), 0.25), torch.full((1, 1, 5, 7), 0.75)).mean().item()
    0.5
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        exposed_a, exposed_b = (torch.exp(-((x - 0.5) ** 2) / (2 * 0.2**2)) for x in (a, b))
        side = min(a.shape[2:]) if isinstance(a.shape[2], int) and isinstance(a.shape[3], int) else 0
        levels = _LEVELS + max(0, (side // _LARGE_PX).bit_length())
        return soften(blend(a, b, exposed_a / (exposed_a + exposed_b), levels=levels, clamp=False))


def soften(x: Tensor) -> Tensor:
    """Images (B,1,H,W) with what is above 0.8 compressed so that the brightest pixel of each is 1; cut to [0,1].

    A parabola of slope 1 at 0.8, up to a brightest pixel of 1.2. Where none is above 1 nothing changes.

    >>> soften(torch.tensor([[[[0.5, 0.8, 1.0, 1.2]]], [[[0.5, 0.8, 0.9, 1.0]]]])).mul(100).round().flatten().tolist()
    [50.0, 80.0, 95.0, 100.0, 50.0, 80.0, 90.0, 100.0]
    """
    knee = 0.8
    over = x.amax((1, 2, 3), keepdim=True).clamp(1, 2 - knee) - knee  # where white ends
    slope = over / (1 - knee)
    part = ((x - knee) / over).clamp(0, 1)
    return torch.where(x > knee, knee + (1 - knee) * part * (slope + (1 - slope) * part), x).clamp(0, 1)


class FocusSelection(nn.Module):
    """Selection of the sharper of two luminances around each pixel, (B,1,H,W) in [0,1].

    >>> x = torch.rand(1, 1, 9, 11)
    >>> bool((FocusSelection()(x, x) - x).abs().max() < 1e-6)
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = LaplacianPyramid(levels=3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        exact_a, exact_b = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (a, b))  # rounding would choose
        guide = self.pyramid(exact_a, exact_b)
        squares = [(guide - x).square() for x in (exact_a, exact_b)]
        away_a, away_b = ((box_mean(x, 2) + 0.3 * box_mean(x, 8) + _TINY) ** 4 for x in squares)
        return a + (away_a / (away_a + away_b)).to(a.dtype) * (b - a)
