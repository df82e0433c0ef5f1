"""Half spectra of real images: amplitudes, phasors, radial bands, and the four lowest cosines.

The orthonormal transform of a real image x (B,C,H,W) is X (B,C,H,W//2+1), complex, with |X|^2 summing to |x|^2:

    X = A p,    A = sqrt(|X|^2 + eps^2),    p = X / A                a phasor instead of an angle

A phase is never an angle here: an angle jumps at +-pi, a phasor does not; multiples of 2 pi cannot be told apart, and
its derivative is finite where the amplitude is zero. The product A p is X exactly.
"""

import torch
from torch import Tensor, nn

_EPS = 1e-4
"""Amplitudes below this count as none: a fortieth of one gray level of 256."""


def spectrum(x: Tensor) -> Tensor:
    """(B,C,H,W) -> complex (B,C,H,W//2+1), orthonormal, in float32 or better.

    >>> x = torch.rand(1, 1, 5, 7)
    >>> torch.allclose(image(spectrum(x), 5, 7), x, atol=1e-6)
    True
    """
    return torch.fft.rfft2(x.to(torch.promote_types(x.dtype, torch.float32)), norm="ortho")


def image(z: Tensor, height: int, width: int) -> Tensor:
    """Real image (B,C,height,width) of a half spectrum, which need not be the spectrum of a real image.

    Columns that are their own mirror hold every frequency twice. Where the two disagree their mean counts: so do the
    transforms of a CPU; those of a GPU do not say.
    """
    rows = -torch.arange(height, device=z.device) % height
    mirrored = z.index_select(2, rows).conj()
    own = 2 * torch.arange(z.shape[3], device=z.device) % width == 0
    return torch.fft.irfft2(torch.where(own, (z + mirrored) / 2, z), s=(height, width), norm="ortho")


def amplitude(z: Tensor) -> Tensor:
    """sqrt(|z|^2 + eps^2), with a derivative everywhere."""
    return (z.real.square() + z.imag.square() + _EPS**2).sqrt()


def phasor(z: Tensor) -> Tensor:
    """z over its amplitude: of length 1, and 0 at 0.

    >>> phasor(torch.tensor([3j, 0j])).imag
    tensor([1., 0.])
    """
    return z / amplitude(z)


def rotate_phasor(p: Tensor, q: Tensor, share: Tensor) -> Tensor:
    """Phasor p rotated towards phasor q the shorter way round: the phasor of (1 - share) p + share q."""
    return phasor(p + share * (q - p))


def radial_bands(num_bands: int, height: int, width: int, like: Tensor) -> Tensor:
    """Shares (num_bands, height, width//2+1) of the frequencies in bands an octave apart; they sum to 1.

    The last band is centred on the corner of the spectrum, sqrt(1/2) cycles a pixel; the first holds all that is below
    its centre, with the mean of the image at index (0, 0). Between two centres the share falls linearly with log r: a
    gain with steps would ring in the image.

    >>> radial_bands(6, 8, 8, torch.zeros(1))[:, 0, 0]
    tensor([1., 0., 0., 0., 0., 0.])
    """
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    columns = torch.arange(width // 2 + 1, dtype=like.dtype, device=like.device)
    fy, fx = torch.minimum(rows, height - rows) / height, columns / width
    lowest = 0.5**0.5 * 0.5 ** (num_bands - 1)
    r = (fy[:, None].square() + fx.square()).clamp_min(lowest**2)
    octave = 0.5 * torch.log2(r / lowest**2)
    centres = torch.arange(num_bands, dtype=like.dtype, device=like.device)[:, None, None]
    return (1 - (octave - centres).abs()).clamp_min(0)


def low_cosines(x: Tensor) -> Tensor:
    """The orthonormal DCT-II coefficients (0,0), (0,1), (1,0) and (1,1) over sqrt(HW): (B,1,H,W) -> (B,4).

    Four inner products, no transform. The first is the mean of the image.

    >>> low_cosines(torch.full((1, 1, 6, 9), 0.5)).abs().round(decimals=6)
    tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
    """
    return (_first_cosines(x.shape[2], x) @ x[:, 0] @ _first_cosines(x.shape[3], x).T).flatten(1)


def _first_cosines(length: int, like: Tensor) -> Tensor:
    """Rows k = 0, 1 of the DCT-II over sqrt(length): (2, length)."""
    n = torch.arange(length, dtype=like.dtype, device=like.device)
    cosine = (2**0.5) * torch.cos(torch.pi * (n + 0.5) / length)
    return torch.stack([torch.ones_like(n), cosine]) / length


class SpectralConv(nn.Conv2d):
    """Convolution over a half spectrum: the rows are a circle, beyond the columns there is nothing."""

    def __init__(self, channels_in: int, channels_out: int, size: int = 3) -> None:
        super().__init__(channels_in, channels_out, size, padding=(0, size // 2))
        self.reach = size // 2

    def forward(self, z: Tensor) -> Tensor:
        rows = torch.arange(-self.reach, z.shape[2] + self.reach, device=z.device) % z.shape[2]
        return super().forward(z.index_select(2, rows))
