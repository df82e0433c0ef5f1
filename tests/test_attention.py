"""Channel attention against slow float64 loops, and the two properties the rest is built on: sums and safe zeros."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.models.tdfusion import AdaptiveFusion
from tectum.nn.attention import ChannelAttention, ChannelNorm, GatedFeedForward, RestormerBlock, products

Perturb = Callable[..., nn.Module]
Planes = list[list[list[float]]]


def features(channels: int, height: int, width: int, *, batch: int = 1, seed: int = 0) -> Tensor:
    shape = (batch, channels, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv1x1_by_hand(x: Planes, weight: Tensor) -> Planes:
    rows, columns = range(len(x[0])), range(len(x[0][0]))
    w = weight[:, :, 0, 0].tolist()
    return [[[sum(c * p[y][i] for c, p in zip(out, x, strict=True)) for i in columns] for y in rows] for out in w]


def depthwise_by_hand(x: Planes, weight: Tensor) -> Planes:
    height, width = len(x[0]), len(x[0][0])

    def at(plane: list[list[float]], kernel: list[list[float]], y: int, i: int) -> float:
        return sum(
            kernel[dy][dx] * plane[y + dy - 1][i + dx - 1]
            for dy in range(3)
            for dx in range(3)
            if 0 <= y + dy - 1 < height and 0 <= i + dx - 1 < width
        )

    kernels = weight[:, 0].tolist()
    return [[[at(p, k, y, i) for i in range(width)] for y in range(height)] for p, k in zip(x, kernels, strict=True)]


def attend_by_hand(q: Planes, k: Planes, v: Planes, temperature: list[float]) -> Planes:
    """softmax_j( tau <q_i, k_j> / (|q_i| |k_j|) ) v_j within each head."""

    def unit(planes: Planes) -> list[list[float]]:
        flat = [[value for row in plane for value in row] for plane in planes]
        return [[x / max(math.sqrt(sum(y * y for y in row)), 1e-12) for x in row] for row in flat]

    q_unit, k_unit, per_head = unit(q), unit(k), len(q) // len(temperature)
    out = []
    for i in range(len(q)):
        head = i // per_head
        mates = range(head * per_head, (head + 1) * per_head)
        scores = [temperature[head] * sum(x * y for x, y in zip(q_unit[i], k_unit[j], strict=True)) for j in mates]
        total = sum(math.exp(score) for score in scores)
        share = [math.exp(score) / total for score in scores]
        rows, columns = range(len(v[0])), range(len(v[0][0]))
        out.append([[sum(s * v[j][y][x] for s, j in zip(share, mates, strict=True)) for x in columns] for y in rows])
    return out


@pytest.mark.parametrize(("channels", "heads"), [(8, 8), (8, 2), (16, 8), (6, 1)])
def test_attention_is_the_formula_written_out(perturb: Perturb, channels: int, heads: int) -> None:
    attention = perturb(ChannelAttention(channels, heads)).double()
    assert attention.temperature.unique().numel() == heads
    x = features(channels, 4, 3, batch=2)
    results = attention.apply_attention(*attention.accumulate(x))
    for image, result in zip(x, results, strict=True):
        z = depthwise_by_hand(conv1x1_by_hand(image.tolist(), attention.qkv.weight), attention.qkv_dwconv.weight)
        q, k, v = z[:channels], z[channels : 2 * channels], z[2 * channels :]
        mixed = attend_by_hand(q, k, v, attention.temperature.flatten().tolist())
        expected = torch.tensor(conv1x1_by_hand(mixed, attention.project_out.weight), dtype=torch.float64)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_queries_come_from_the_other_stream(perturb: Perturb) -> None:
    """The crossed attention of the fusion module: queries q2 on stream 1, q1 on stream 2."""
    fusion = perturb(AdaptiveFusion(8)).double()
    x1, x2 = features(8, 4, 3), features(8, 4, 3, seed=1)
    streams = ((fusion.infrared, x1), (fusion.visible, x2))
    z1, z2 = (depthwise_by_hand(conv1x1_by_hand(x[0].tolist(), s.qkv.weight), s.qkv_dwconv.weight) for s, x in streams)
    attended = []
    for (stream, x), query, own in zip(streams, (z2, z1), (z1, z2), strict=True):
        mixed = attend_by_hand(query[:8], own[8:16], own[16:], stream.temperature.flatten().tolist())
        attended.append(x + torch.tensor([conv1x1_by_hand(mixed, stream.project_mid.weight)], dtype=torch.float64))
    both = torch.cat(attended, dim=1)
    gates = fusion.gates_dwconv(F.pad(fusion.gates(both), (1, 1, 1, 1))).chunk(2, dim=1)
    expected = both
    for (stream, _), gate, y in zip(streams, gates, attended, strict=True):
        expected = expected + stream.project_out(
            F.gelu(gate) * stream.expand_dwconv(F.pad(stream.expand(y), (1, 1, 1, 1)))
        )
    fused = fusion.apply_attention(x1, x2, *fusion.accumulate(x1, x2))
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-11)


def test_norm_is_over_the_channels_of_each_pixel(perturb: Perturb) -> None:
    norm = perturb(ChannelNorm(5)).double()
    x = features(5, 2, 3)
    for y in range(2):
        for i in range(3):
            pixel = x[0, :, y, i]
            unit = (pixel - pixel.mean()) / ((pixel - pixel.mean()).square().mean() + 1e-5).sqrt()
            torch.testing.assert_close(norm(x)[0, :, y, i], unit * norm.weight + norm.bias, rtol=0, atol=1e-12)


def test_feed_forward_gates_the_second_half_with_the_first(perturb: Perturb) -> None:
    ffn = perturb(GatedFeedForward(2)).double()
    x = features(2, 3, 3)
    z = depthwise_by_hand(conv1x1_by_hand(x[0].tolist(), ffn.project_in.weight), ffn.dwconv.weight)
    gate, value = torch.tensor(z, dtype=torch.float64).chunk(2)
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    expected = conv1x1_by_hand((gelu * value).tolist(), ffn.project_out.weight)
    torch.testing.assert_close(ffn(x)[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_products_add_up() -> None:
    q, k = features(6, 9, 4, batch=2), features(6, 9, 4, batch=2, seed=1)
    whole = products(q, k)
    parts = products(q[:, :, :5], k[:, :, :5]) + products(q[:, :, 5:], k[:, :, 5:])
    torch.testing.assert_close(parts, whole, rtol=1e-13, atol=1e-13)
    for i in range(6):
        expected = [float((q[1, i] * k[1, j]).sum()) for j in range(6)]
        assert whole[1, i].tolist() == pytest.approx(expected, rel=1e-12)
        assert whole[1, 6:, i].tolist() == pytest.approx([float(x[1, i].square().sum()) for x in (q, k)], rel=1e-12)
    assert products(q.bfloat16(), k.bfloat16()).dtype == torch.float32, "many pixels need more than bfloat16's 8 bits"


def test_statistics_of_stripes_add_up(perturb: Perturb) -> None:
    """Each stripe sees one row more on either side, and counts only its own."""
    block = perturb(RestormerBlock(8)).double()
    x = features(8, 10, 5)
    v, whole = block.accumulate(x)
    top_v, top = block.accumulate(x[:, :, :5], (slice(0, 4), slice(None)))
    bottom_v, bottom = block.accumulate(x[:, :, 3:], (slice(1, None), slice(None)))
    torch.testing.assert_close(top + bottom, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([top_v[:, :, :4], bottom_v[:, :, 1:]], dim=2), v, rtol=1e-12, atol=1e-12)
    _, without_halo = block.accumulate(x[:, :, :4])
    assert (without_halo + bottom - whole).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_are_safe(perturb: Perturb, dtype: torch.dtype) -> None:
    """Black images: norms are zero, nothing is divided by them, and no gradient is infinite."""
    attention = perturb(ChannelAttention(16)).to(dtype)
    x = torch.zeros(1, 16, 4, 4, dtype=dtype, requires_grad=True)
    out = attention.apply_attention(*attention.accumulate(x))
    assert out.abs().max() == 0
    for gradient in torch.autograd.grad(out.sum() + out.square().sum(), [x, *attention.parameters()]):
        assert gradient.isfinite().all()


def test_one_dead_channel_is_safe(perturb: Perturb) -> None:
    attention = perturb(ChannelAttention(16))
    with torch.no_grad():
        attention.qkv.weight[3] = 0
    x = features(16, 4, 4).float().requires_grad_()
    out = attention.apply_attention(*attention.accumulate(x))
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), [x, *attention.parameters()]))
