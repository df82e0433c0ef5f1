"""Restormer blocks: attention between channels instead of pixels, and a gated feed-forward of convolutions.

With n = LayerNorm(x) over the channels of each pixel, and [q; k; v] = depthwise3x3(W n),

    A   = softmax_j( tau <q_i, k_j> / (|q_i| |k_j|) )      within each head; sums and norms run over all pixels
    x  <- x + P A v                                        multi-head transposed attention
    x  <- x + O( GELU(g) * e ),  [g; e] = depthwise3x3(V LayerNorm(x))

The pixels of an image meet only in the *statistics*, the products <q_i, k_j>, <q_i, q_i> and <k_j, k_j>, which are sums
over pixels. Two things follow and are used here: A v is one matrix per image applied to every pixel, so that P A is a
single 1x1 convolution; and an image may be processed in stripes or tiles, exactly, by summing the statistics first
(`tectum.nn.stages`). So every block comes in two halves, and its forward pass is one after the other:

    v, statistics = block.accumulate(x)               everything up to the sums
    x             = block.apply_attention(x, v, statistics)

All convolutions are without bias. Beyond the border of the image they see zeros, as published, or its last row and
column repeated ("replicate"): a flat image then gives a flat result. Tensors are (B,C,H,W) in channels-last memory: a
LayerNorm over channels is then a LayerNorm over the last axis, without a copy.

Reference: Restormer: Efficient Transformer for High-Resolution Image Restoration, Zamir et al., CVPR 2022,
https://arxiv.org/abs/2111.09881
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.nn.filters import Padding
from tectum.nn.stages import WHOLE, Window, extend


class RestormerBlock(nn.Module):
    """Channel attention, then a gated feed-forward, each on a normalised copy and added back.

    Args:
        channels: C, a multiple of `heads`.
        heads: groups of channels that attend to each other.
        expansion: width of the feed-forward over C.
        padding: what convolutions see beyond the border of the image.

    >>> RestormerBlock(16)(torch.zeros(2, 16, 5, 7)).shape
    torch.Size([2, 16, 5, 7])
    """

    def __init__(self, channels: int, *, heads: int = 8, expansion: int = 2, padding: Padding = "zeros") -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attn = ChannelAttention(channels, heads, padding=padding)
        self.norm2 = ChannelNorm(channels)
        self.ffn = GatedFeedForward(channels, expansion, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_attention(x, *self.accumulate(x))

    def accumulate(self, x: Tensor, window: Window = WHOLE) -> tuple[Tensor, Tensor]:
        """Returns v (B,C,H,W) and the statistics of q and k (B,C+2,C), summed over a window of x."""
        return self.attn.accumulate(self.norm1(x), window)

    def apply_attention(self, x: Tensor, v: Tensor, statistics: Tensor) -> Tensor:
        """Returns the block's result (B,C,H,W), from the statistics of the whole image."""
        x = x + self.attn.apply_attention(v, statistics)
        return x + self.ffn(self.norm2(x))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, biased variance, with scale and shift (C each)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-5).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Multi-head attention between the channels of one image."""

    def __init__(self, channels: int, heads: int = 8, *, padding: Padding = "zeros") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = conv1x1(channels, 3 * channels)
        self.qkv_dwconv = depthwise3x3(3 * channels)
        self.project_out = conv1x1(channels, channels)

    def accumulate(self, n: Tensor, window: Window = WHOLE) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv_dwconv(self.qkv(extend(n, self.padding))).chunk(3, dim=1)
        return v, products(q[:, :, *window], k[:, :, *window])

    def apply_attention(self, v: Tensor, statistics: Tensor) -> Tensor:
        return mix(v, attention_matrix(statistics, self.temperature, self.project_out.weight))


class GatedFeedForward(nn.Module):
    """1x1 up, 3x3 depthwise, one half gates the other through a GELU, 1x1 down."""

    def __init__(self, channels: int, expansion: int = 2, *, padding: Padding = "zeros") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.project_in = conv1x1(channels, 2 * expansion * channels)
        self.dwconv = depthwise3x3(2 * expansion * channels)
        self.project_out = conv1x1(expansion * channels, channels)

    def forward(self, n: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(extend(n, self.padding))).chunk(2, dim=1)
        out: Tensor = self.project_out(F.gelu(gate) * value)
        return out


def products(q: Tensor, k: Tensor) -> Tensor:
    """Sums of products of two images (B,C,H,W) over all their pixels, in float32 or better: (B,C+2,C).

    Rows 0..C-1 are <q_i, k_j>, row C is <q_i, q_i>, row C+1 is <k_j, k_j>.
    """
    q, k = (x.permute(0, 2, 3, 1).flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k))
    return torch.cat([q.transpose(1, 2) @ k, q.square().sum(1, keepdim=True), k.square().sum(1, keepdim=True)], dim=1)


def attention_matrix(statistics: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
    """P A (B,D,C), from the statistics (B,C+2,C), a temperature per head and the 1x1 projection P (D,C,1,1)."""
    heads = len(temperature)
    norm_q, norm_k = statistics[:, -2:].clamp_min(1e-24).sqrt().unbind(1)
    cosine = statistics[:, :-2] / (norm_q[:, :, None] * norm_k[:, None, :])
    blocks = cosine.unflatten(2, (heads, -1)).unflatten(1, (heads, -1)).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    attention = (blocks * temperature).softmax(-1).to(project.dtype)
    columns = project[:, :, 0, 0].unflatten(1, (heads, -1))
    return torch.einsum("dhi,bhij->bdhj", columns, attention).flatten(2)


def mix(v: Tensor, matrix: Tensor) -> Tensor:
    """One 1x1 convolution per image: (B,C,H,W), (B,D,C) -> (B,D,H,W)."""
    height, width = v.shape[2:]
    out = v.permute(0, 2, 3, 1).flatten(1, 2) @ matrix.transpose(1, 2)
    return out.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def conv1x1(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, bias=False)


def conv3x3(channels_in: int, channels_out: int, *, padding: Padding = "zeros") -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode=padding, bias=False)


def depthwise3x3(channels: int) -> nn.Conv2d:
    """A convolution of each channel by itself, of an image extended by a pixel on every side."""
    return nn.Conv2d(channels, channels, 3, groups=channels, bias=False)
