"""The three fusers without parameters: the average and the maximum of the sources, and the Laplacian pyramid.

    average: f = (a + b) / 2          maximum: f = max(a, b)

    pyramid: d_l of larger magnitude, mean of the g_L (`tectum.nn.pyramid`)

They are the rows every table needs beside a network: by some standard metrics the maximum beats every learned
method, which says more about the metrics than about the picture.

Reference: The Laplacian Pyramid as a Compact Image Code, Burt and Adelson, IEEE Transactions on Communications 1983,
https://doi.org/10.1109/TCOM.1983.1095851
"""

import torch
from torch import Tensor, nn

from tectum.errors import UserError
from tectum.nn.pyramid import build_pyramid, collapse_pyramid


class Average(nn.Module):
    """Mean of both sources, (B,1,H,W) in [0,1].

    >>> float(Average()(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))
    0.5
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / 2


class Maximum(nn.Module):
    """Brighter source at each pixel, (B,1,H,W) in [0,1].

    >>> float(Maximum()(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))
    1.0
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b)


class LaplacianPyramid(nn.Module):
    """Laplacian pyramid fusion: the stronger detail at every scale over the mean of the coarsest, (B,1,H,W) in [0,1].

    Each side n is first extended to the multiple of 2^L that is at least n + 2^L, by repeating the last pixel:
    so every size has all L levels, a single pixel included, and one exported program serves all sizes.

    Args:
        levels: L, levels of detail.

    >>> x = torch.rand(1, 1, 5, 7)
    >>> bool((LaplacianPyramid()(x, x) - x).abs().max() < 1e-6)
    True
    """

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if levels < 0:
            raise UserError(f"levels must be 0 or more, got {levels}; 0 is the average")
        self.levels = levels

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        (*details_a, coarse_a), (*details_b, coarse_b) = build_pyramid(a, self.levels), build_pyramid(b, self.levels)
        details = [
            torch.where(of_a.abs() > of_b.abs(), of_a, of_b) for of_a, of_b in zip(details_a, details_b, strict=True)
        ]
        return collapse_pyramid([*details, (coarse_a + coarse_b) / 2], a.shape[2:])
