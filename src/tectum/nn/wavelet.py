"""Learned wavelet transforms of two taps and their inverses, with taps for all images or for every block of pixels.

One level of the transform splits blocks of 2x2 pixels into four bands, by outer products of two filters, l (low) and
h (high); the synthesis joins them again by l' and h':

    LL = l l^T,  LH = h l^T,  HL = l h^T,  HH = h h^T  of a block (rows first),    x' = l' l'^T LL + h' l'^T LH + ...

Blocks do not overlap. So the whole is undone exactly when the 2x2 matrix of the taps is, A = [l; h], S = [l'; h']:

    x' = x  for every x   <=>   S^T A = I

`LearnedWavelet` has free taps, the same everywhere, and starts as Haar. `rotate` has a rotation for every block and
axis, A = S = [cos t, sin t; sin t, -cos t], where t = pi/4 - atan p, from a tilt p that a network may choose for each
place: orthonormal, and inverted exactly whatever it is.
p = 0 is Haar, p = 1 and -1 are a choice of pixels. cos t and sin t are (1 + p) and (1 - p) over sqrt(2 + 2 p^2).

Sides that are odd get their last row or column twice; the inverse of a size cuts it off again.

Reference: the approximate wavelet transform (AdaWAT) of Task-Generalized Adaptive Cross-Domain Learning for Multimodal
Image Fusion, Wang et al., 2025, https://arxiv.org/abs/2508.15505
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Bands = tuple[Tensor, Tensor, Tensor, Tensor]
"""LL, LH (an edge between rows), HL (between columns) and HH."""


class LearnedWavelet(nn.Module):
    """Four learned filters of two taps, for all channels: analysis (B,C,H,W) -> four bands (B,C,ceil(H/2),ceil(W/2)).

    >>> wavelet, x = LearnedWavelet(), torch.rand(1, 2, 5, 7)
    >>> bands = wavelet(x)
    >>> bands[0].shape, torch.allclose(wavelet.inverse(bands, (5, 7)), x, atol=1e-6)
    (torch.Size([1, 2, 3, 4]), True)
    """

    def __init__(self) -> None:
        super().__init__()
        low, high = torch.tensor([0.5, 0.5]).sqrt(), torch.tensor([0.5, 0.5]).sqrt() * torch.tensor([1.0, -1.0])
        self.low, self.high = nn.Parameter(low.clone()), nn.Parameter(high.clone())
        self.low_back, self.high_back = nn.Parameter(low.clone()), nn.Parameter(high.clone())

    def forward(self, x: Tensor) -> Bands:
        ee, eo, oe, oo = polyphase(pad_to_even(x))
        low_e, low_o = _tap(self.low, ee, oe), _tap(self.low, eo, oo)
        high_e, high_o = _tap(self.high, ee, oe), _tap(self.high, eo, oo)
        return (
            _tap(self.low, low_e, low_o),
            _tap(self.low, high_e, high_o),
            _tap(self.high, low_e, low_o),
            _tap(self.high, high_e, high_o),
        )

    def inverse(self, bands: Bands, size: tuple[int, int] | None = None) -> Tensor:
        """The synthesis, cut to `size` (None: twice the bands')."""
        ll, lh, hl, hh = bands
        back = torch.stack([self.low_back, self.high_back], dim=1)  # back[i] = (l'_i, h'_i)
        low_e, low_o = _tap(back[0], ll, hl), _tap(back[1], ll, hl)
        high_e, high_o = _tap(back[0], lh, hh), _tap(back[1], lh, hh)
        ee, oe = _tap(back[0], low_e, high_e), _tap(back[1], low_e, high_e)
        eo, oo = _tap(back[0], low_o, high_o), _tap(back[1], low_o, high_o)
        return _crop(_from_polyphase((ee, eo, oe, oo)), size)


def rotate(x: Tensor, rows: Tensor, columns: Tensor) -> Bands:
    """The bands of x (B,C,H,W), sides even, with tilts (B,C or 1,H/2,W/2) by block: down the rows, then along columns.

    >>> bands = rotate(torch.ones(1, 1, 2, 2), *[torch.zeros(1, 1, 1, 1)] * 2)
    >>> [round(float(band), 6) for band in bands]
    [2.0, 0.0, 0.0, 0.0]
    """
    ee, eo, oe, oo = polyphase(x)
    cos, sin = _taps(rows)
    l_e, h_e = cos * ee + sin * oe, sin * ee - cos * oe
    l_o, h_o = cos * eo + sin * oo, sin * eo - cos * oo
    cos, sin = _taps(columns)
    return cos * l_e + sin * l_o, cos * h_e + sin * h_o, sin * l_e - cos * l_o, sin * h_e - cos * h_o


def rotate_back(bands: Bands, rows: Tensor, columns: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Inverse of `rotate`: the image of these bands, cut to `size` (None: twice the bands')."""
    ll, lh, hl, hh = bands
    cos, sin = _taps(columns)
    l_e, l_o = cos * ll + sin * hl, sin * ll - cos * hl
    h_e, h_o = cos * lh + sin * hh, sin * lh - cos * hh
    cos, sin = _taps(rows)
    phases = cos * l_e + sin * h_e, cos * l_o + sin * h_o, sin * l_e - cos * h_e, sin * l_o - cos * h_o
    return _crop(_from_polyphase(phases), size)


def _taps(tilt: Tensor) -> tuple[Tensor, Tensor]:
    """cos t and sin t.

    >>> [round(float(x), 4) for x in _taps(torch.tensor(0.0))], [float(x) for x in _taps(torch.tensor(1.0))]
    ([0.7071, 0.7071], [1.0, 0.0])
    """
    scale = (2 + 2 * tilt.square()).rsqrt()
    along = tilt * scale
    return scale + along, scale - along


def pad_to_even(x: Tensor) -> Tensor:
    """x with its last row and column repeated where a side is odd."""
    down, right = x.shape[2] % 2, x.shape[3] % 2
    return F.pad(x, (0, right, 0, down), mode="replicate")


def _crop(x: Tensor, size: tuple[int, int] | None) -> Tensor:
    return x if size is None else x[:, :, : size[0], : size[1]]


def polyphase(x: Tensor) -> Bands:
    """Four pixels of each 2x2 block, row by row: (B,C,2h,2w) -> (B,C,h,w) four times."""
    # ends at -1, so that the symbolic lengths of an exported graph are the same for both
    return x[:, :, :-1:2, :-1:2], x[:, :, :-1:2, 1::2], x[:, :, 1::2, :-1:2], x[:, :, 1::2, 1::2]


def _from_polyphase(phases: Bands) -> Tensor:
    """Inverse of `polyphase`: (B,C,h,w) four times -> (B,C,2h,2w)."""
    return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)


def _tap(weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Filter of two taps on two pixels or bands."""
    return torch.addcmul(first * weights[0], second, weights[1])
