"""Losses against slow float64 loops written from the formulas, and the laws that make them losses for fusion."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tectum.losses import gradient_loss, weighted_intensity_loss
from tectum.nn.filters import Padding, sobel

Images = Callable[..., tuple[Tensor, ...]]
KERNEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
PADDINGS: tuple[Padding, ...] = ("replicate", "zeros")


def sobel_by_hand(image: Tensor, padding: Padding) -> tuple[list[list[float]], list[list[float]]]:
    """Derivatives along x and y of one image (H,W)."""
    height, width = image.shape

    def pixel(y: int, x: int) -> float:
        if padding == "zeros" and not (0 <= y < height and 0 <= x < width):
            return 0.0
        return float(image[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    def derivative(y: int, x: int, *, along_y: bool) -> float:
        return sum(
            (KERNEL[j][i] if along_y is False else KERNEL[i][j]) * pixel(y + j - 1, x + i - 1)
            for j in range(3)
            for i in range(3)
        )

    return tuple(  # type: ignore[return-value]
        [[derivative(y, x, along_y=along_y) for x in range(width)] for y in range(height)] for along_y in (False, True)
    )


def gradient_loss_by_hand(fused: Tensor, a: Tensor, b: Tensor, padding: Padding) -> float:
    total, num_pixels = 0.0, 0
    for f_image, a_image, b_image in zip(fused[:, 0], a[:, 0], b[:, 0], strict=True):
        num_pixels += f_image.numel()
        for of_f, of_a, of_b in zip(*(sobel_by_hand(x, padding) for x in (f_image, a_image, b_image)), strict=True):
            for row_f, row_a, row_b in zip(of_f, of_a, of_b, strict=True):
                for f, visible, infrared in zip(row_f, row_a, row_b, strict=True):
                    total += abs(f - (visible if abs(visible) > abs(infrared) else infrared))
    return total / num_pixels


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(6, 9), (1, 1), (1, 4)])
def test_sobel_is_the_sum_written_out(images: Images, padding: Padding, size: tuple[int, int]) -> None:
    for image in images(*size, batch=2)[0].double():
        expected = torch.tensor(sobel_by_hand(image[0], padding), dtype=torch.float64)
        torch.testing.assert_close(sobel(image[None], padding=padding)[0], expected, rtol=0, atol=1e-12)


def test_sobel_has_its_sign_its_axes_and_its_size() -> None:
    ramp = torch.arange(5.0).repeat(4, 1)[None, None]
    assert sobel(ramp)[0, 0, 1:-1, 1:-1].unique().tolist() == [8]
    assert sobel(ramp)[0, 1].abs().max() == 0
    assert torch.equal(sobel(ramp.mT)[0, 1], sobel(ramp)[0, 0].T)
    assert sobel(torch.ones(1, 1, 4, 4)).abs().max() == 0
    assert sobel(torch.ones(1, 1, 4, 4), padding="zeros")[0, 0, 1].tolist() == [4, 0, 0, -4]


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradient_loss_is_the_sum_written_out(images: Images, padding: Padding) -> None:
    fused, a, b = (x.double() for x in images(7, 5, batch=2, count=3))
    expected = gradient_loss_by_hand(fused, a, b, padding)
    assert expected > 0.5
    assert float(gradient_loss(fused, a, b, padding=padding)) == pytest.approx(expected, rel=1e-12)


def test_intensity_loss_is_the_sum_written_out(images: Images) -> None:
    fused, a, b, w = (x.double() for x in images(7, 5, batch=2, count=4))
    both = torch.cat([w, 0.3 * w.flip(3)], dim=1)
    total = 0.0
    for n in range(2):
        for y in range(7):
            for x in range(5):
                f = float(fused[n, 0, y, x])
                total += float(both[n, 0, y, x]) * (f - float(a[n, 0, y, x])) ** 2
                total += float(both[n, 1, y, x]) * (f - float(b[n, 0, y, x])) ** 2
    assert float(weighted_intensity_loss(fused, a, b, both)) == pytest.approx(total / 70, rel=1e-12)


def test_nothing_is_lost_when_all_images_are_one(images: Images) -> None:
    (x,) = images(8, 8, count=1)
    assert gradient_loss(x, x, x) == 0
    assert weighted_intensity_loss(x, x, x, torch.full((1, 2, 8, 8), 0.5)) == 0
    assert gradient_loss(x.flip(3), x, x) > 0
    assert weighted_intensity_loss(x.flip(3), x, x, torch.full((1, 2, 8, 8), 0.5)) > 0


def test_intensity_is_best_at_the_weighted_mean(images: Images) -> None:
    a, b, w = (x.double() for x in images(6, 6, count=3))
    w = torch.cat([w, 1 - w], dim=1)
    best = (w[:, :1] * a + w[:, 1:] * b).requires_grad_()
    loss = weighted_intensity_loss(best, a, b, w)
    (slope,) = torch.autograd.grad(loss, best)
    assert slope.abs().max() < 1e-15
    for other in (best + 0.01, best - 0.01, a, b, (a + b) / 2):
        assert weighted_intensity_loss(other, a, b, w) > loss


def test_a_weight_counts_for_its_own_source(images: Images) -> None:
    a, b = images(6, 6)
    only_a = torch.cat([torch.ones_like(a), torch.zeros_like(a)], dim=1)
    assert weighted_intensity_loss(a, a, b, only_a) == 0
    assert weighted_intensity_loss(b, a, b, only_a) > 0


def test_the_stronger_edge_wins_at_each_place() -> None:
    a = torch.zeros(1, 1, 8, 16)
    b = torch.zeros(1, 1, 8, 16)
    a[..., 4:8], b[..., 4:8] = 1.0, 0.5  # here the visible has the stronger edges,
    a[..., 12:], b[..., 12:] = 0.25, 0.75  # there the infrared
    both = torch.cat([a[..., :10], b[..., 10:]], dim=3)
    assert gradient_loss(both, a, b) == 0
    assert gradient_loss(a, a, b) > 0 and gradient_loss(b, a, b) > 0


def test_each_axis_chooses_on_its_own() -> None:
    along_x = torch.arange(6.0).repeat(6, 1)[None, None] / 20
    along_y = along_x.mT
    assert gradient_loss(along_x + along_y, along_x, along_y) == pytest.approx(0, abs=1e-6)


def test_an_edge_may_not_become_its_inverse() -> None:
    edge = torch.zeros(1, 1, 6, 6)
    edge[..., 3:] = 1
    flat = torch.zeros_like(edge)
    assert gradient_loss(1 - edge, edge, flat) == 2 * gradient_loss(flat, edge, flat) > 0


def test_a_tie_goes_to_the_infrared() -> None:
    visible = torch.zeros(1, 1, 6, 6)
    visible[..., 3:] = 1
    infrared = 1 - visible
    assert gradient_loss(infrared, visible, infrared) == 0
    assert gradient_loss(visible, visible, infrared) > 0
