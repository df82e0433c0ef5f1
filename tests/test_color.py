"""Colour: exact round trips, exact greys, the gamut rule and the chroma rule."""

import pytest
import torch
from torch import Tensor

from tectum.color import choose_chroma, rgb_to_ycbcr, to_levels, ycbcr_to_rgb


def codes(x: Tensor) -> Tensor:
    return torch.floor(x * 255 + 0.5).to(torch.uint8)


def close(x: Tensor, y: Tensor, tolerance: float = 1e-6) -> bool:
    """As torch.testing.assert_close, whose first call imports for a second."""
    return x.shape == y.shape and torch.allclose(x, y, rtol=0, atol=tolerance)


def every_fourth_colour() -> Tensor:
    """64^3 colours, both ends of the range among them: (3, 512, 512) of uint8."""
    levels = torch.linspace(0, 255, 64).round().to(torch.uint8)
    return torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).reshape(3, 512, 512)


def random_case(seed: int, *, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """A luminance and a chroma that do not belong together, as after fusion."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(1, 64, 64, generator=generator)
    return y, (torch.rand(2, 64, 64, generator=generator) - 0.5) * spread


@pytest.mark.parametrize("keep_luminance", [True, False])
def test_8_bit_colours_survive_the_round_trip(keep_luminance: bool) -> None:
    rgb = every_fourth_colour()
    y, chroma = rgb_to_ycbcr(rgb.float() / 255)
    assert torch.equal(codes(ycbcr_to_rgb(y, chroma, keep_luminance=keep_luminance)), rgb)


def test_faces_of_the_colour_cube_survive_the_round_trip() -> None:
    """The colours on the border of the gamut, all 6 x 65,536: where the gamut rule could go wrong by rounding."""
    levels = torch.arange(256, dtype=torch.uint8)
    u, v = torch.meshgrid(levels, levels, indexing="ij")
    for channel in range(3):
        for end in (0, 255):
            planes = [u, v]
            planes.insert(channel, torch.full_like(u, end))
            rgb = torch.stack(planes)
            assert torch.equal(codes(ycbcr_to_rgb(*rgb_to_ycbcr(rgb.float() / 255))), rgb)


@pytest.mark.parametrize("top", [255, 65535])
def test_grey_has_no_chroma_and_its_own_luminance_to_the_last_bit(top: int) -> None:
    grey = torch.arange(top + 1).float().div(top).reshape(1, 16, -1)
    y, chroma = rgb_to_ycbcr(grey.expand(3, -1, -1))
    assert torch.equal(y, grey)
    assert torch.count_nonzero(chroma) == 0
    assert torch.equal(ycbcr_to_rgb(y, chroma), grey.expand(3, -1, -1))


def test_agrees_with_the_matrix_of_the_standard() -> None:
    """T.871: the three rows below; code 128 of the stored chroma is our 0."""
    rgb = every_fourth_colour().double() / 255
    rows = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=torch.float64
    )
    expected = torch.einsum("ij,jhw->ihw", rows, rgb)
    y, chroma = rgb_to_ycbcr(rgb)
    assert close(torch.cat((y, chroma)), expected)
    assert chroma.abs().max() <= 0.5


def test_agrees_with_pillow() -> None:
    """An independent implementation, which rounds to 8 bits: within one code."""
    import numpy as np
    from PIL import Image

    rgb = every_fourth_colour()
    stored = torch.from_numpy(np.array(Image.fromarray(rgb.permute(1, 2, 0).numpy()).convert("YCbCr"))).permute(2, 0, 1)
    y, chroma = rgb_to_ycbcr(rgb.float() / 255)
    assert (y * 255 - stored[:1]).abs().max() < 1.01
    assert (chroma * 255 + 128 - stored[1:]).abs().max() < 1.01


def test_batch_axes_are_free() -> None:
    rgb = torch.rand(2, 5, 3, 4, 6)
    y, chroma = rgb_to_ycbcr(rgb)
    assert y.shape == (2, 5, 1, 4, 6) and chroma.shape == (2, 5, 2, 4, 6)
    one = rgb_to_ycbcr(rgb[1, 3])
    assert torch.equal(y[1, 3], one[0]) and torch.equal(chroma[1, 3], one[1])
    assert close(ycbcr_to_rgb(y, chroma), rgb)


@pytest.mark.parametrize("seed", range(3))
def test_gamut_rule_keeps_luminance_and_hue(seed: int) -> None:
    y, chroma = random_case(seed)
    rgb = ycbcr_to_rgb(y, chroma)
    assert rgb.min() >= 0 and rgb.max() <= 1
    y_after, chroma_after = rgb_to_ycbcr(rgb)
    assert (y_after - y).abs().max() < 1e-6
    scale = (chroma_after * chroma).sum(0) / chroma.square().sum(0).clamp_min(1e-9)
    assert scale.min() > -1e-5 and scale.max() < 1 + 1e-4
    assert close(chroma_after, chroma * scale, 1e-5)  # shrunk, not turned


def test_gamut_rule_gives_up_no_more_saturation_than_needed() -> None:
    y, chroma = random_case(5)
    rgb = ycbcr_to_rgb(y, chroma)
    chroma_after = rgb_to_ycbcr(rgb)[1]
    shrunk = (chroma_after - chroma).abs().amax(0) > 1e-4
    at_the_border = (rgb.amax(0) > 1 - 1e-5) | (rgb.amin(0) < 1e-5)
    assert 0.1 < shrunk.float().mean() < 0.9
    assert bool(at_the_border[shrunk].all())


def test_clamping_shifts_the_luminance_that_the_default_keeps() -> None:
    y, chroma = random_case(1)
    errors = [
        (rgb_to_ycbcr(ycbcr_to_rgb(y, chroma, keep_luminance=keep))[0] - y).abs().mean().item()
        for keep in (True, False)
    ]
    assert errors[0] < 1e-6 < 1e-2 < errors[1]


def test_both_gamut_rules_agree_inside_the_gamut() -> None:
    y, chroma = random_case(2, spread=0.1)
    y = 0.4 + 0.2 * y
    assert close(ycbcr_to_rgb(y, chroma), ycbcr_to_rgb(y, chroma, keep_luminance=False))


def test_black_and_white_have_no_colour_whatever_the_chroma() -> None:
    _, chroma = random_case(3)
    for level in (0.0, 1.0, -0.5, 1.5):
        y = torch.full((1, 64, 64), level)
        assert torch.equal(ycbcr_to_rgb(y, chroma), y.clamp(0, 1).expand(3, -1, -1))


def test_chroma_rule_is_symmetric_to_the_last_bit() -> None:
    _, a = random_case(6)
    _, b = random_case(7)
    assert torch.equal(choose_chroma(a, b, mix=True), choose_chroma(b, a, mix=True))


def test_chroma_rule_lets_grey_give_way() -> None:
    _, colour = random_case(8)
    assert choose_chroma(colour, None) is colour
    assert choose_chroma(None, colour) is colour
    assert choose_chroma(None, None) is None
    rounding_noise = torch.full_like(colour, 0.4 / 255)
    assert choose_chroma(colour, rounding_noise) is colour
    assert choose_chroma(rounding_noise, torch.zeros_like(colour)) is None


def test_the_colour_bearing_source_keeps_its_chroma() -> None:
    _, a = random_case(9)
    _, b = random_case(10)
    assert choose_chroma(a, b) is a


def test_chroma_rule_is_the_saturation_weighted_mean() -> None:
    _, a = random_case(9)
    _, b = random_case(10)
    mixed = choose_chroma(a, b, mix=True)
    assert mixed is not None
    for row, column, channel in ((0, 0, 0), (3, 60, 1), (63, 63, 0)):
        u, v = a[channel, row, column].item(), b[channel, row, column].item()
        assert mixed[channel, row, column].item() == pytest.approx((u * abs(u) + v * abs(v)) / (abs(u) + abs(v)))
    assert torch.all(mixed <= torch.maximum(a, b) + 1e-6) and torch.all(mixed >= torch.minimum(a, b) - 1e-6)
    twice = choose_chroma(a, a, mix=True)
    assert twice is not None and close(twice, a)


def test_chroma_rule_where_both_are_zero_at_a_pixel() -> None:
    a, b = torch.zeros(2, 1, 2), torch.zeros(2, 1, 2)
    a[:, :, 1], b[:, :, 1] = 0.3, -0.2
    mixed = choose_chroma(a, b, mix=True)
    assert mixed is not None and torch.equal(mixed[:, :, 0], torch.zeros(2, 1)) and bool(mixed.isfinite().all())


def test_gradients_flow_through_colour() -> None:
    rgb = torch.rand(3, 4, 4, requires_grad=True)
    y, chroma = rgb_to_ycbcr(rgb)
    ycbcr_to_rgb(y * 0.9, chroma).sum().backward()
    assert rgb.grad is not None and bool(rgb.grad.isfinite().all()) and bool((rgb.grad != 0).any())


@pytest.mark.parametrize(
    "call",
    [
        lambda: rgb_to_ycbcr(torch.zeros(1, 4, 4)),
        lambda: ycbcr_to_rgb(torch.zeros(1, 4, 4), torch.zeros(2, 4, 5)),
        lambda: ycbcr_to_rgb(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4)),
        lambda: choose_chroma(torch.ones(2, 4, 4), torch.ones(2, 4, 5)),
    ],
)
def test_wrong_shapes_are_named(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"got \(.*4, 4\)"):
        call()


# ---- levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_stay_and_halves_go_up(dtype: torch.dtype) -> None:
    level = torch.arange(256, dtype=dtype)
    y = level / 255
    before = y.clone()
    assert torch.equal(to_levels(y), level / 255) and torch.equal(y, before)
    i, j = torch.meshgrid(level, level, indexing="ij")
    for mean in ((i / 255 + j / 255) / 2, torch.lerp(i / 255, j / 255, 0.5)):  # by lerp, float32 is often a hair below
        assert torch.equal(to_levels(mean), (i + j + 1).div(2).floor() / 255)
    assert torch.equal(to_levels((level[:255] + 0.499) / 255), y[:255])


def test_levels_end_at_black_and_white() -> None:
    assert to_levels(torch.tensor([-0.5, -0.001, 1.001, 3.0])).tolist() == [0, 0, 1, 1]
