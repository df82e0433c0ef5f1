"""A bank of small Gabor filters that learn: one pair, even and odd, per orientation.

On a grid of pixels u (right) and v (down), with x' = u cos t + v sin t and y' = -u sin t + v cos t,

    even = exp(-(x'^2 + gamma^2 y'^2) / (2 sigma^2)) cos(2 pi x' / lambda + psi)         odd: sin in place of cos

sigma, lambda and gamma are softplus(raw) + 0.1. The mean is taken out of the odd kernel, so that a flat image gives
nothing, and both are divided by the sum of their magnitudes: an image in [0,1] gives responses in [-1,1].

Reference: Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
two-dimensional visual cortical filters, Daugman, JOSA A 1985, https://doi.org/10.1364/JOSAA.2.001160
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GaborBank(nn.Module):
    """Even and odd responses of `orientations` Gabor pairs, turned by pi / orientations each, 5 numbers per pair.

    Args:
        orientations: number of pairs.
        radius: r of kernels with 2r + 1 pixels a side; the image is continued by its border pixels.

    >>> even, odd = GaborBank()(torch.ones(1, 1, 7, 7))
    >>> even.shape, float(odd.detach().abs().max()) < 1e-6
    (torch.Size([1, 6, 7, 7]), True)
    """

    def __init__(self, orientations: int = 6, *, radius: int = 2) -> None:
        super().__init__()
        self.radius = radius
        self.sigma = nn.Parameter(torch.full((orientations,), inverse_softplus(2.0 - 0.1)))
        self.wavelength = nn.Parameter(torch.full((orientations,), inverse_softplus(4.0 - 0.1)))
        self.aspect = nn.Parameter(torch.full((orientations,), inverse_softplus(1.0 - 0.1)))
        self.phase = nn.Parameter(torch.zeros(orientations))
        self.angle = nn.Parameter(torch.arange(orientations) * (math.pi / orientations))

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Even and odd kernels, (O,1,K,K) each."""
        grid = torch.arange(-self.radius, self.radius + 1, dtype=self.sigma.dtype, device=self.sigma.device)
        sigma, wavelength, aspect = (
            (F.softplus(raw) + 0.1)[:, None, None] for raw in (self.sigma, self.wavelength, self.aspect)
        )
        cos, sin = self.angle.cos()[:, None, None], self.angle.sin()[:, None, None]
        u, v = grid[None, None, :], grid[None, :, None]
        x, y = u * cos + v * sin, v * cos - u * sin
        envelope = (-(x.square() + (aspect * y).square()) / (2 * sigma.square())).exp()
        angle = 2 * math.pi * x / wavelength + self.phase[:, None, None]
        even, odd = envelope * angle.cos(), envelope * angle.sin()
        odd = odd - odd.mean((1, 2), keepdim=True)
        return tuple((k / (k.abs().sum((1, 2), keepdim=True) + 1e-6))[:, None] for k in (even, odd))  # type: ignore

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        even, odd = F.conv2d(F.pad(x, (self.radius,) * 4, mode="replicate"), torch.cat(self.kernels())).chunk(2, 1)
        return even, odd


def inverse_softplus(value: float) -> float:
    """Where softplus is `value` (positive).

    >>> round(float(F.softplus(torch.tensor(inverse_softplus(0.5)))), 6)
    0.5
    """
    return math.log(math.expm1(value))
