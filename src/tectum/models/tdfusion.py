"""TDFusion: a small Restormer that fuses, and a second one that writes the loss it is trained with.

The fuser F encodes each source by two Restormer blocks, joins the streams (crossed channel attention, common gates) and
decodes the sum (59,856 parameters):

    x_k = E_k(conv(k))                    k in {visible, infrared}
    x   = M(x_infrared, x_visible)        adaptive fusion module
    f   = sigmoid(conv(LeakyReLU(conv(D(x)))))

The loss generator G looks at the sources alone and returns, for every pixel, how much of each the fused image should
keep (44,529 parameters): w_visible + w_infrared = 1.

    L(f) = mean[ w_a (f - a)^2 + w_b (f - b)^2 ] + alpha * mean|grad f - grad*|

where grad* is, for each axis, the source gradient of larger magnitude. G is trained so that a task likes the image F
makes of it (`tectum.training`); with w = 1/2 everywhere the loss is fixed, the control that the learned one must beat.

Any H and W; nothing is resampled. Inputs and output (B,1,H,W) in [0,1].

The first normalisation divides the features of a pixel by their deviation, which is 0 where a source is exactly 0:
black then looks like nothing the network knows, and it answers with grey. So sources are raised to 1/255 at least, and
borders are repeated: flat sources give a flat result, the same at levels 0 and 1.

Reference: Task-driven Image Fusion with Learnable Fusion Loss, Bai et al., CVPR 2025, https://arxiv.org/abs/2412.03240;
the fuser is that of ReFusion, Bai et al., IJCV 2024, https://arxiv.org/abs/2312.07943

Differs from the release:
    - inputs are (visible, infrared); the released network takes infrared first
    - the loss weights w as the paper does; the release squares them (`PublishedTDFusionLoss`), which moves the
      optimum from w_a a + w_b b to (w_a^2 a + w_b^2 b) / (w_a^2 + w_b^2)
    - no min-max stretch of the result, and no second set of weights for the meta step
    - the fuser sees exact black as 1/255 and repeats the border, where the release divides by almost nothing and sees
      a frame of zeros (`PublishedTDFusion`)
"""

import functools
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.losses import gradient_loss, weighted_intensity_loss
from tectum.nn.attention import RestormerBlock, attention_matrix, conv1x1, conv3x3, depthwise3x3, mix, products
from tectum.nn.filters import Padding
from tectum.nn.stages import DARKEST, WHOLE, Stage, StagedFuser, State, Window, channels_last, extend
from tectum.protocols import System


class TDFusion(StagedFuser):
    """Fusion network F of TDFusion: (B,1,H,W), (B,1,H,W) -> (B,1,H,W), all in [0,1].

    >>> TDFusion()(torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """

    lowest = DARKEST
    padding: ClassVar[Padding] = "replicate"

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        conv = functools.partial(conv3x3, padding=self.padding)
        block = functools.partial(RestormerBlock, padding=self.padding)
        self.embed_infrared, self.embed_visible = conv(1, channels), conv(1, channels)
        self.encoder_infrared = nn.Sequential(block(channels), block(channels))
        self.encoder_visible = nn.Sequential(block(channels), block(channels))
        self.fusion = AdaptiveFusion(channels, padding=self.padding)
        self.decoder = nn.Sequential(block(2 * channels), block(2 * channels))
        self.output_hidden, self.output = conv(2 * channels, channels), conv(channels, 1)

    def stages(self) -> list[Stage]:
        """Each stage applies the attention of the stage before, and sums the statistics of its own."""
        encoder1, encoder2 = zip(self.encoder_infrared, self.encoder_visible, strict=True)
        decoder1, decoder2 = ((block,) for block in self.decoder)

        def embed(state: State, _: State, window: Window) -> tuple[State, State]:
            visible, infrared = state
            x1, x2 = channels_last(self.embed_infrared(infrared)), channels_last(self.embed_visible(visible))
            return _accumulate(encoder1, (x1, x2), window)

        def encode(state: State, statistics: State, window: Window) -> tuple[State, State]:
            return _accumulate(encoder2, _apply_attention(encoder1, state, statistics), window)

        def fuse(state: State, statistics: State, window: Window) -> tuple[State, State]:
            x1, x2 = _apply_attention(encoder2, state, statistics)
            v1, v2, *sums = self.fusion.accumulate(x1, x2, window)
            return (x1, x2, v1, v2), tuple(sums)

        def decode1(state: State, statistics: State, window: Window) -> tuple[State, State]:
            return _accumulate(decoder1, (self.fusion.apply_attention(*state, *statistics),), window)

        def decode2(state: State, statistics: State, window: Window) -> tuple[State, State]:
            return _accumulate(decoder2, _apply_attention(decoder1, state, statistics), window)

        def output(state: State, statistics: State, _: Window) -> tuple[State, State]:
            (x,) = _apply_attention(decoder2, state, statistics)
            return (torch.sigmoid(self.output(F.leaky_relu(self.output_hidden(x), 0.01))),), ()

        halos = {embed: 2, encode: 2, fuse: 2, decode1: 2, decode2: 2, output: 3}
        return [Stage(run, halo) for run, halo in halos.items()]


class PublishedTDFusion(TDFusion):
    """Fusion network as it was released: exact black is taken as it is, and beyond the border there are zeros."""

    lowest = 0.0
    padding = "zeros"


_Blocks = tuple[Any, ...]  # Restormer blocks; nn.Sequential forgets their type


def _accumulate(blocks: _Blocks, xs: State, window: Window) -> tuple[State, State]:
    """State (x_1, .., x_n, v_1, .., v_n) and the statistics, of blocks side by side."""
    vs, statistics = zip(*(block.accumulate(x, window) for block, x in zip(blocks, xs, strict=True)), strict=True)
    return (*xs, *vs), statistics


def _apply_attention(blocks: _Blocks, state: State, statistics: State) -> State:
    xs, vs = state[: len(blocks)], state[len(blocks) :]
    return tuple(block.apply_attention(x, v, s) for block, x, v, s in zip(blocks, xs, vs, statistics, strict=True))


class AdaptiveFusion(nn.Module):
    """Joins two streams: crossed attention between their channels, then one set of gates for both.

        x_k <- x_k + P_k A_k v_k,   A_1 from queries q_2 and keys k_1, A_2 from q_1 and k_2
        s    = [x_1; x_2],  [g_1; g_2] = depthwise(G s),  e_k = depthwise(V_k x_k)
        out  = s + sum_k O_k( GELU(g_k) * e_k )

    (B,C,H,W) twice -> (B,2C,H,W); stream 1 is the infrared one. In halves like a Restormer block.
    """

    def __init__(self, channels: int, *, heads: int = 8, padding: Padding = "zeros") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.infrared, self.visible = _FusionStream(channels, heads), _FusionStream(channels, heads)
        self.gates, self.gates_dwconv = conv1x1(2 * channels, 8 * channels), depthwise3x3(8 * channels)

    def accumulate(self, x1: Tensor, x2: Tensor, window: Window = WHOLE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """v_1, v_2, and the statistics of (q_2, k_1) and of (q_1, k_2) over a window, (B,C+2,C) each."""
        x1, x2 = extend(x1, self.padding), extend(x2, self.padding)
        q1, k1, v1 = self.infrared.qkv_dwconv(self.infrared.qkv(x1)).chunk(3, dim=1)
        q2, k2, v2 = self.visible.qkv_dwconv(self.visible.qkv(x2)).chunk(3, dim=1)
        q1, k1, q2, k2 = (z[:, :, *window] for z in (q1, k1, q2, k2))
        return v1, v2, products(q2, k1), products(q1, k2)

    def apply_attention(self, x1: Tensor, x2: Tensor, v1: Tensor, v2: Tensor, s1: Tensor, s2: Tensor) -> Tensor:
        """The joined streams, from the statistics s_1 and s_2 of the whole image."""
        x1 = x1 + self.infrared.attend(v1, s1)
        x2 = x2 + self.visible.attend(v2, s2)
        both = torch.cat([x1, x2], dim=1)
        x1, x2 = extend(x1, self.padding), extend(x2, self.padding)
        gate1, gate2 = self.gates_dwconv(self.gates(torch.cat([x1, x2], dim=1))).chunk(2, dim=1)
        return both + self.infrared.gated(gate1, x1) + self.visible.gated(gate2, x2)


class _FusionStream(nn.Module):
    """Layers of the adaptive fusion module for one of its two streams."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.qkv_dwconv = conv1x1(channels, 3 * channels), depthwise3x3(3 * channels)
        self.project_mid = conv1x1(channels, channels)
        self.expand, self.expand_dwconv = conv1x1(channels, 4 * channels), depthwise3x3(4 * channels)
        self.project_out = conv1x1(4 * channels, 2 * channels)

    def attend(self, v: Tensor, statistics: Tensor) -> Tensor:
        return mix(v, attention_matrix(statistics, self.temperature, self.project_mid.weight))

    def gated(self, gate: Tensor, x: Tensor) -> Tensor:
        """x is extended by a pixel on every side."""
        out: Tensor = self.project_out(F.gelu(gate) * self.expand_dwconv(self.expand(x)))
        return out


class LossGenerator(nn.Module):
    """Loss generation module G: (B,1,H,W), (B,1,H,W) -> (B,2,H,W), weights of a and b that sum to 1 per pixel.

    Args:
        channels: of the first stage.
        centred: take the mean over the pixels out of the two maps before the softmax, so that the loss can say where it
            wants more of a source but not that it wants one everywhere. False as published: then a few hundred steps
            drive the maps to one source as a whole (docs/log.md).

    >>> LossGenerator()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).shape
    torch.Size([1, 2, 4, 4])
    """

    def __init__(self, channels: int = 16, *, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.embed_infrared, self.embed_visible = conv3x3(1, channels), conv3x3(1, channels)
        self.encoder_infrared = nn.Sequential(RestormerBlock(channels), RestormerBlock(channels))
        self.encoder_visible = nn.Sequential(RestormerBlock(channels), RestormerBlock(channels))
        self.decoder = nn.Sequential(RestormerBlock(2 * channels), RestormerBlock(2 * channels))
        self.output_hidden, self.output = conv3x3(2 * channels, channels), conv3x3(channels, 2)
        self.activation = nn.PReLU(init=0.25)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        visible, infrared = a, b
        x1 = self.encoder_infrared(channels_last(self.embed_infrared(infrared)))
        x2 = self.encoder_visible(channels_last(self.embed_visible(visible)))
        x = self.decoder(torch.cat([x1, x2], dim=1))
        x = self.output(self.activation(self.output_hidden(x))).flip(1)
        return (x - x.mean((2, 3), keepdim=True) if self.centred else x).softmax(1)


class TDFusionLoss(nn.Module):
    """Objective of TDFusion: intensities weighted per pixel (Eq. 2), and the stronger gradient of the two sources.

    Args:
        generator: a network (a, b) -> (B,2,H,W) of weights, e.g. `LossGenerator()`; None fixes them at 1/2.
        alpha: weight of the gradient term.
        beta: weight of the intensity term.

    >>> x = torch.rand(2, 1, 8, 8)
    >>> {name: float(value) for name, value in TDFusionLoss()(x, x, x).items()}
    {'intensity': 0.0, 'gradient': 0.0}
    """

    def __init__(self, generator: nn.Module | None = None, *, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        self.generator, self.alpha, self.beta = generator, alpha, beta

    def weights(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns w_a and w_b, (B,2,H,W)."""
        if self.generator is None:
            return torch.full_like(torch.cat([a, b], dim=1), 0.5)
        w: Tensor = self.generator(a, b)
        return w

    def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return self.terms(fused, a, b, self.weights(a, b))

    def terms(self, fused: Tensor, a: Tensor, b: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Returns both terms with given weights w (B,2,H,W)."""
        return {
            "intensity": self.beta * weighted_intensity_loss(fused, a, b, w),
            "gradient": self.alpha * gradient_loss(fused, a, b),
        }


class PublishedTDFusionLoss(TDFusionLoss):
    """Objective of the released code: w is squared, and Sobel filters take the border of the image for an edge.

    >>> x = torch.ones(1, 1, 8, 8)
    >>> {name: float(value) for name, value in PublishedTDFusionLoss()(x, x, x).items()}
    {'intensity': 0.0, 'gradient': 0.0}
    """

    def terms(self, fused: Tensor, a: Tensor, b: Tensor, w: Tensor) -> dict[str, Tensor]:
        return {
            "intensity": self.beta * weighted_intensity_loss(fused, a, b, w.square()),
            "gradient": self.alpha * gradient_loss(fused, a, b, padding="zeros"),
        }


def learned_loss(*, centred: bool = False, **options: Any) -> TDFusionLoss:
    """Returns the objective with a new loss generation module; the other options are those of `TDFusionLoss`."""
    return TDFusionLoss(LossGenerator(centred=centred), **options)


def published_learned_loss(*, centred: bool = False, **options: Any) -> PublishedTDFusionLoss:
    """Returns the released objective with a new loss generation module."""
    return PublishedTDFusionLoss(LossGenerator(centred=centred), **options)


class WeightedSum(nn.Module):
    """Fuser of the paper's ablation V: weights of the loss generation module make the image, f = w_a a + w_b b.

    >>> WeightedSum()(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 4, 4])
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = LossGenerator()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.generator(a, b) * torch.cat([a, b], dim=1)).sum(1, keepdim=True)


WEIGHTED_SUM = System(fuser=WeightedSum, objective=TDFusionLoss)
PUBLISHED_WEIGHTED_SUM = System(fuser=WeightedSum, objective=PublishedTDFusionLoss)
