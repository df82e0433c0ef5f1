"""The wavelets invert, at any size; what a learned one loses is told, and can be unlearned."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tectum.nn.wavelet import LearnedWavelet, pad_to_even, rotate, rotate_back

Images = Callable[..., tuple[Tensor, ...]]
SIZES = [(1, 1), (2, 2), (5, 7), (16, 9)]


def by_hand(x: Tensor, taps: dict[str, list[float]]) -> dict[str, list[list[float]]]:
    """The four bands of one image of even sides, block by block: the first letter runs along a row, the second down."""
    found: dict[str, list[list[float]]] = {}
    for name, down, along in (("LL", "l", "l"), ("LH", "h", "l"), ("HL", "l", "h"), ("HH", "h", "h")):
        found[name] = [
            [
                sum(taps[down][i] * taps[along][j] * float(x[r + i, c + j]) for i in (0, 1) for j in (0, 1))
                for c in range(0, x.shape[1], 2)
            ]
            for r in range(0, x.shape[0], 2)
        ]
    return found


def test_bands_are_sums_over_blocks(images: Images) -> None:
    (x,) = (z.double() for z in images(6, 4, count=1))
    wavelet = LearnedWavelet().double()
    with torch.no_grad():
        wavelet.low.copy_(torch.tensor([0.3, 0.9]))
        wavelet.high.copy_(torch.tensor([0.8, -0.5]))
    expected = by_hand(x[0, 0], {"l": [0.3, 0.9], "h": [0.8, -0.5]})
    for band, name in zip(wavelet(x), expected, strict=True):
        torch.testing.assert_close(
            band[0, 0].detach(), torch.tensor(expected[name], dtype=torch.float64), rtol=0, atol=1e-7
        )


@pytest.mark.parametrize("size", SIZES)
def test_a_learned_wavelet_inverts_at_the_start(images: Images, size: tuple[int, int]) -> None:
    (x,) = images(*size, batch=2, count=1)
    wavelet = LearnedWavelet()
    bands = wavelet(x)
    assert {band.shape for band in bands} == {(2, 1, -(-size[0] // 2), -(-size[1] // 2))}
    torch.testing.assert_close(wavelet.inverse(bands, size), x, rtol=0, atol=1e-6)
    flat = wavelet(torch.ones(1, 1, 2, 2))
    assert [round(float(band.detach()), 5) for band in flat] == [2, 0, 0, 0], "the gain of LL is 2"


def test_edges_are_found_where_they_are() -> None:
    rows = torch.tensor([[1.0, 1.0], [0.0, 0.0]])[None, None]
    for x, found in ((rows, 1), (rows.transpose(2, 3), 2)):
        bands = [abs(float(band.detach())) > 0.5 for band in LearnedWavelet()(x)]
        assert bands == [True, found == 1, found == 2, False]


def tilts(height: int, width: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = 2, channels, -(-height // 2), -(-width // 2)
    rows, columns = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return rows, columns


@pytest.mark.parametrize("size", SIZES)
def test_rotations_invert_whatever_their_tilts(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    bands = rotate(pad_to_even(x), *tilts(*size))
    torch.testing.assert_close(rotate_back(bands, *tilts(*size), size), x, rtol=0, atol=1e-12)
    if not (size[0] % 2 or size[1] % 2):
        power = sum(band.square().sum() for band in bands)
        torch.testing.assert_close(power, x.square().sum())  # orthonormal


def test_without_a_tilt_it_is_haar(images: Images) -> None:
    (x,) = images(6, 8, count=1)
    haar = torch.zeros(1, 1, 3, 4)
    for mine, theirs in zip(rotate(x, haar, haar), LearnedWavelet()(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_tilts_are_learned_through_both_ways() -> None:
    """With tilts of its own for the way back, the inverse differs, and both ways feel it."""
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    there, back = (nn.Parameter(torch.full((2, 1, 1, 2, 2), t, dtype=torch.float64)) for t in (0.1, 1.0))
    away = (rotate_back(rotate(x, *there), *back) - x).square().mean()
    away.backward()
    assert away > 1e-3 and there.grad is not None and back.grad is not None
    assert there.grad.abs().min() > 0 and back.grad.abs().min() > 0
    assert torch.autograd.gradgradcheck(lambda t: rotate_back(rotate(x, *t), *t.flip(0)), there)
