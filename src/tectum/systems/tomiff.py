"""TOMIFF."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.nn.filters import sobel
from tectum.nn.gabor import GaborBank, inverse_softplus
from tectum.protocols import Stage, State, Window
from tectum.systems.tdfusion import TDFusionLoss
from tectum.systems.tomiff_published import (
    WINDOW_PX,
    PublishedBase,
    PublishedDetail,
    PublishedGate,
    PublishedMerge,
    PublishedOutput,
    one_sided,
    windows,
)

Variant = Literal["repaired", "published"]
LEVELS = 5
WINDOWS = 16
"""Windows whose attention is computed at once where nothing is learned: their scores, 1 MB, stay in the cache."""


class TOMIFF(nn.Module):
    """The fusion network F."""

    def __init__(self, variant: Variant = "repaired") -> None:
        super().__init__()
        self.variant = checked(variant)
        published = variant == "published"
        self.base = PublishedBase() if published else BaseExtractor()
        self.gate = PublishedGate() if published else CorrelationGate()
        self.detail = PublishedDetail() if published else DetailTransformer()
        self.merge = PublishedMerge() if published else Merge()
        self.output = PublishedOutput() if published else Output()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        published = self.variant == "published"
        down, right = (0 if published else missing(size) for size in a.shape[2:])
        visible, infrared = (F.pad(x, (0, right, 0, down), mode="replicate") for x in (a, b))
        base = self.gate(self.base(visible), self.base(infrared))
        detail = (one_sided if published else stronger)(self.detail(visible), self.detail(infrared))
        fused: Tensor = self.output(visible, infrared, self.merge(base, detail))
        return F.pad(fused, (0, -right, 0, -down))

    @property
    def stages(self) -> Callable[[], list[Stage]]:
        """The same network cut into pieces, for the exact schedules of `tectum.inference.tiling`; not as published."""
        if self.variant == "published":
            raise AttributeError("what the published network stretches by is known when all of the image is")
        return self.pieces

    def pieces(self) -> list[Stage]:
        """Between the pieces low resolutions travel in the form of the image: 16 x 8 channels as 4x4 pixels of 8."""
        base: Any = self.base
        detail: Any = self.detail

        def coarse(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state, *(F.pixel_shuffle(base.coarse(x), 4) for x in state)), ()

        def fine(state: State, _: State, __: Window) -> tuple[State, State]:
            found = (base.fine(x, F.pixel_unshuffle(c, 4)) for x, c in zip(state[:2], state[2:], strict=True))
            return (*state[:2], *(x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in found)), ()

        def gate(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state[:2], self.gate(*(x[:, :, ::2, ::2] for x in state[2:]))), ()

        def orient(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state, *detail.bank(state[0]), *detail.bank(state[1])), ()

        def attend(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state[:3], stronger(*(detail.attend(*x, at_once=WINDOWS) for x in (state[3:5], state[5:])))), ()

        def output(state: State, _: State, __: Window) -> tuple[State, State]:
            return (self.output(*state[:2], self.merge(*state[2:])),), ()

        return [
            Stage(coarse, halo=16, align=2**LEVELS, stride=4),
            Stage(fine, halo=4, align=4, stride=2),
            Stage(gate, halo=12, align=2, stride=2),
            Stage(orient, halo=2),
            Stage(attend, halo=0, align=WINDOW_PX),
            Stage(output, halo=6),
        ]


class BaseExtractor(nn.Module):
    """What is left of an image at scales of 2 to 32 pixels, seen together: (B,1,H,W) -> (B,1,H/2,W/2)."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.process = nn.ModuleList(
            nn.Sequential(conv(1, channels, 1), nn.ReLU(), conv(channels, channels, 1), nn.ReLU())
            for _ in range(LEVELS)
        )
        self.blend = conv(LEVELS * channels, 2 * channels, 1)
        self.narrow, self.smooth = conv(2 * channels, channels, 1), conv(channels, channels // 2, 3)
        self.out = nn.Conv2d(channels // 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x, self.coarse(x))

    def blended(self, level: int, low: Tensor) -> Tensor:
        """A level's share of the blend, (B,1,h,w) -> (B,2C,h,w)."""
        weight = self.blend.weight.chunk(LEVELS, dim=1)[level]
        first, _, second, _ = self.process[level]  # type: ignore[misc]
        low = pointwise(relu(pointwise(low, first.weight, first.bias)), second.weight, second.bias)
        return pointwise(relu(low), weight, self.blend.bias if level == 1 else None)

    def coarse(self, x: Tensor) -> Tensor:
        """The share of levels 2 to 5, at a quarter of the resolution."""
        height, width = (size // 4 for size in x.shape[2:])
        low = F.pad(F.avg_pool2d(x, 2), (0, 16, 0, 16), mode="replicate")  # so that no level is a single pixel
        total = None
        for level in range(1, LEVELS):
            low = F.avg_pool2d(low, 2)
            share = self.blended(level, low)
            total = share if total is None else total.add_(enlarge(share, 2 ** (level - 1)))
        assert total is not None
        return total[:, :, :height, :width]

    def fine(self, x: Tensor, coarse: Tensor) -> Tensor:
        low = F.avg_pool2d(x, 2)
        y = self.blended(0, low).add_(enlarge(channels_last(coarse), 2))
        y = relu(self.smooth(relu(pointwise(relu(y), self.narrow.weight, self.narrow.bias))))
        return low + pointwise(y, self.out.weight, self.out.bias)


class CorrelationGate(nn.Module):
    """Mixes two base maps by what they share around each pixel: (B,1,h,w) twice -> (B,1,2h,2w)."""

    def __init__(self, hidden: int = 8, *, radius: int = 5) -> None:
        super().__init__()
        self.radius = radius
        self.hidden, self.out = nn.Conv2d(5, hidden, 1), nn.Conv2d(hidden, 1, 1)
        with torch.no_grad():  # infrared where the sources disagree or where it varies more
            self.hidden.weight[:4] = torch.tensor(
                [[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0], [0, 0, 0, 4.0, -4.0], [0, 0, 0, -4.0, 4.0]]
            )[..., None, None]
            self.hidden.bias[:4] = 0
            self.out.weight[0, :4, 0, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
            self.out.bias.zero_()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        g = self.share(visible, infrared)
        return enlarge(g * infrared + (1 - g) * visible, 2)

    def share(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """g, how much of the infrared base is kept, (B,1,h,w) in [0,1]."""
        maps = torch.cat([visible, infrared, visible * visible, infrared * infrared, visible * infrared], dim=1)
        mean_v, mean_i, vv, ii, vi = box_mean(maps, self.radius).split(1, dim=1)
        var_v, var_i = ((x - m * m).clamp_min(0) + 1e-4 for x, m in ((vv, mean_v), (ii, mean_i)))
        rho = (vi - mean_v * mean_i) * (var_v * var_i).rsqrt()
        numbers = torch.cat([rho, mean_v, mean_i, var_v.sqrt(), var_i.sqrt()], dim=1)
        return torch.sigmoid(self.out(F.relu(self.hidden(numbers))))


class DetailTransformer(nn.Module):
    """Gabor-guided attention within windows: (B,1,H,W) -> (B,1,H,W), H and W whole multiples of 8."""

    def __init__(self, channels: int = 32, *, heads: int = 4, orientations: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.bank, self.mixture = GaborBank(orientations), nn.Parameter(torch.zeros(orientations))
        self.embed_query, self.embed_key = nn.Linear(orientations, channels), nn.Linear(orientations, channels)
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels, bias=False)
        self.value, self.project = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.expand, self.reduce = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.out = nn.Linear(channels, 1)
        he(self.expand)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(*self.bank(x))

    def attend(self, even: Tensor, odd: Tensor, *, at_once: int | None = None) -> Tensor:
        """Even responses are asked by odd ones; (B,O,H,W) twice -> (B,1,H,W), so many windows at once or all."""
        batch, _, height, width = odd.shape
        folded = self.folded()
        asked, keys = windows(odd), windows(even)
        if at_once is None:
            details = self.answers(asked, keys, *folded)
        else:
            pieces = zip(asked.split(at_once), keys.split(at_once), strict=True)
            details = torch.cat([self.answers(*piece, *folded) for piece in pieces])
        return images(details, batch, height, width)

    def answers(self, asked: Tensor, keys: Tensor, *folded: Tensor) -> Tensor:
        """One detail for every token, (N,64,O) twice -> (N,64,1)."""
        to_query, query_bias, to_hidden, hidden_bias, to_out, from_mixed, out_bias, mixture = folded
        query = (asked @ to_query + query_bias).unflatten(2, (self.heads, -1)).flatten(1, 2)
        keys = keys.transpose(1, 2).contiguous()
        mixed = keys @ (query @ keys).softmax(-1).transpose(1, 2)  # (N,O,64*heads), the faster order
        mixed = mixed.transpose(1, 2).unflatten(1, (-1, self.heads)).flatten(2)
        hidden = F.relu(mixed @ to_hidden + hidden_bias)
        return hidden @ to_out + mixed @ from_mixed + out_bias + asked @ mixture

    def folded(self) -> tuple[Tensor, ...]:
        """The layers between tokens and scores, and between mixtures and details, multiplied out."""
        (to_query, query_bias), (to_mixed, mixed_bias) = self.scores(), self.values()
        return (
            to_query,
            query_bias,
            (self.expand.weight @ to_mixed).T,
            F.linear(mixed_bias, *own(self.expand)),
            (self.out.weight @ self.reduce.weight).T,
            (self.out.weight @ to_mixed).T,
            F.linear(mixed_bias + self.reduce.bias, *own(self.out)),
            self.mixture.softmax(0)[:, None],
        )

    def scores(self) -> tuple[Tensor, Tensor]:
        """M (O,heads*O) and m with (o M + m) e = <query(o), key(e)> / sqrt(d), but for what the softmax forgets."""
        embed, bias = (F.linear(x, self.query.weight) for x in (self.embed_query.weight.T, self.embed_query.bias))
        query = torch.cat([embed, (bias + self.query.bias)[None]]).unflatten(1, (self.heads, -1))
        key = (self.key.weight @ self.embed_key.weight).unflatten(0, (self.heads, -1))
        folded = torch.einsum("ihd,hdo->iho", query, key).flatten(1) / math.sqrt(key.shape[1])
        return folded[:-1], folded[-1]

    def values(self) -> tuple[Tensor, Tensor]:
        """P (C,heads*O) and p with P r + p = the attention's result, r the mean key maps that each head found."""
        value = (self.value.weight @ self.embed_key.weight).unflatten(0, (self.heads, -1))
        project = self.project.weight.unflatten(1, (self.heads, -1))
        constant = F.linear(F.linear(self.embed_key.bias, *own(self.value)), *own(self.project))
        return torch.einsum("chd,hdo->cho", project, value).flatten(1), constant


def images(x: Tensor, batch: int, height: int, width: int) -> Tensor:
    """(B*H/8*W/8,64,1) -> (B,1,H,W)."""
    x = x.reshape(batch, height // WINDOW_PX, width // WINDOW_PX, WINDOW_PX, WINDOW_PX)
    return x.transpose(2, 3).reshape(batch, 1, height, width)


def stronger(visible: Tensor, infrared: Tensor) -> Tensor:
    """Each detail weighed by its share of both magnitudes, 1/2 where there is none."""
    of_visible, of_infrared = visible.abs() + 1e-3, infrared.abs() + 1e-3
    return (of_visible * visible + of_infrared * infrared) / (of_visible + of_infrared)


class Merge(nn.Module):
    """Base and detail to a first picture, (B,1,H,W) each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_base, self.embed_detail = conv(1, 4, 3), conv(1, 4, 3)
        self.hidden, self.out = conv(8, 16, 3), nn.Conv2d(16, 1, 1)

    def forward(self, base: Tensor, detail: Tensor) -> Tensor:
        x = channels_last(torch.cat([self.embed_base(base), self.embed_detail(detail)], dim=1))
        return pointwise(relu(self.hidden(relu(x))), self.out.weight, self.out.bias)


class Output(nn.Module):
    """Visible, infrared and the first picture, each with a local attention, to the fused image."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 3 * channels, 3, padding=1, groups=3)
        self.look = nn.Conv2d(3, 3 * channels, 3, padding=1, groups=3)
        self.attention = nn.Conv2d(3 * channels, 3, 1, groups=3)
        self.hidden1, self.hidden2 = conv(3 * channels, 2 * channels, 3), conv(2 * channels, channels, 3)
        self.out = nn.Conv2d(channels, 1, 1)
        he(self.look)

    def forward(self, visible: Tensor, infrared: Tensor, first: Tensor) -> Tensor:
        """Each step is done for all three at once, by kernels that are zero between them."""
        x = channels_last(torch.cat([infrared, visible, first], dim=1))
        mean = [z.unflatten(0, (3, -1)).mean(1) for z in (self.embed.weight, self.embed.bias)]
        look = F.conv2d(F.conv2d(x, mean[0], mean[1], padding=1, groups=3), apart(self.look), self.look.bias, padding=1)
        attention = pointwise(relu(look), apart(self.attention), self.attention.bias).sigmoid_()
        x = F.conv2d(x, apart(self.embed), self.embed.bias, padding=1)
        x, attention = x.permute(0, 2, 3, 1).unflatten(3, (3, -1)), attention.permute(0, 2, 3, 1)
        x = (x * attention[..., None]).flatten(3).permute(0, 3, 1, 2)
        x = relu(self.hidden2(relu(self.hidden1(x))))
        x = pointwise(x, self.out.weight, self.out.bias)
        middle = 0.01 + 0.49 * (visible + infrared)
        return torch.sigmoid(x + torch.log(middle / (1 - middle)))


# ---- the loss --------------------------------------------------------------------------------------------------------


class FourScalars(nn.Module):
    """The loss network G."""

    def __init__(self, variant: Variant = "repaired") -> None:
        super().__init__()
        self.variant = checked(variant)
        inits = {"alpha": 1.0, "beta": 1e-4, "gamma": 0.0, "eta": 0.5}
        if variant == "repaired":
            inits = {k: inverse_softplus(v) for k, v in (inits | {"beta": 1e-2}).items() if k != "gamma"}
        self.alpha, self.beta = nn.Parameter(torch.tensor(inits["alpha"])), nn.Parameter(torch.tensor(inits["beta"]))
        self.gamma, self.eta = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(inits["eta"]))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if self.variant == "published":
            return published_weights(a, b, self.beta, self.eta)
        alpha, beta, eta = (F.softplus(raw) for raw in (self.alpha, self.beta, self.eta))
        of_a, of_b = activity(a), activity(b)
        w = torch.sigmoid(alpha * (of_a - of_b) / (of_a + of_b + 1e-3) + self.gamma)
        reference = torch.maximum(a, b)
        ahead = (reference - a).square() - (reference - b).square() + beta * total_variation_gradient(w)
        return shares((w - eta * ahead).clamp(1e-3, 1 - 1e-3))


def published_weights(a: Tensor, b: Tensor, beta: Tensor, eta: Tensor) -> Tensor:
    """The same as released: the published w is that of the infrared image."""
    reference = (a + b) / 2
    of_a, of_b = (reference - a).square(), (reference - b).square()
    w = of_a / (of_b + of_a + 1e-6)
    ahead = (of_b - of_a) + beta * published_variation_gradient(w)
    return shares(1 - (w - eta * ahead).clamp(1e-3, 1 - 1e-3))


def shares(w: Tensor) -> Tensor:
    """w and 1 - w with 1e-6 added, summing to 1: (B,1,H,W) -> (B,2,H,W)."""
    return (torch.cat([w, 1 - w], dim=1) + 1e-6) / (1 + 2e-6)


def activity(x: Tensor) -> Tensor:
    """How much happens around a pixel: the mean length of the Sobel gradient over 7x7."""
    return box_mean((sobel(x).square().sum(1, keepdim=True) + 1e-6).sqrt(), 3)


def total_variation_gradient(w: Tensor) -> Tensor:
    """The gradient of sum sqrt(dx^2 + 1e-6) + sqrt(dy^2 + 1e-6)."""
    total = torch.zeros_like(w)
    for axis in (2, 3):
        step = w.diff(dim=axis)
        slope = step * (step.square() + 1e-6).rsqrt()
        before, after = ((0, 0, 1, 0), (0, 0, 0, 1)) if axis == 2 else ((1, 0), (0, 1))
        total = total + F.pad(slope, before) - F.pad(slope, after)
    return total


def published_variation_gradient(w: Tensor) -> Tensor:
    """As released, with the wrong sign: a step against it makes the map rougher."""
    total = torch.zeros_like(w)
    for axis in (2, 3):
        step = w.diff(dim=axis)
        slope = step / (step.abs() + 1e-6)
        before, after = ((0, 0, 1, 0), (0, 0, 0, 1)) if axis == 2 else ((1, 0), (0, 1))
        total = total - F.pad(slope, before) + F.pad(slope, after)
    return total


class TOMIFFLoss(TDFusionLoss):
    """The objective with four scalars."""

    def __init__(self, *, alpha: float = 1.0, beta: float = 1.0, variant: Variant = "repaired") -> None:
        super().__init__(FourScalars(variant), alpha=alpha, beta=beta, variant=variant)


# ---- shared ----------------------------------------------------------------------------------------------------------


def conv(channels_in: int, channels_out: int, size: int) -> nn.Conv2d:
    """A convolution that a ReLU follows, of unit variance at the start."""
    layer = nn.Conv2d(channels_in, channels_out, size, padding=size // 2)
    he(layer)
    return layer


def he(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def own(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def enlarge(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the pixels at most `radius` away along each axis, those outside the image left out."""
    for size, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        x = F.avg_pool2d(x, size, 1, padding, count_include_pad=False)
    return x


def apart(layer: nn.Conv2d) -> Tensor:
    """The weight of a convolution in groups, written as that of one without: (D,C/G,k,k) -> (D,C,k,k)."""
    groups = layer.groups
    eye = torch.eye(groups, dtype=layer.weight.dtype, device=layer.weight.device)
    weight = layer.weight.unflatten(0, (groups, -1))[:, :, None] * eye[:, None, :, None, None, None]
    return weight.flatten(2, 3).flatten(0, 1)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution as a matrix product over channels-last pixels."""
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


def relu(x: Tensor) -> Tensor:
    """In place: nobody else needs what a convolution returned."""
    return F.relu(x, inplace=True)


def missing(size: int) -> int:
    """How many pixels a side lacks of a whole number of 32.

    >>> [missing(size) for size in (1, 32, 33)]
    [31, 0, 31]
    """
    return 2**LEVELS * ((size + 2**LEVELS - 1) // 2**LEVELS) - size


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def checked(variant: Variant) -> Variant:
    if variant not in ("repaired", "published"):
        raise ValueError(f"variant must be 'repaired' or 'published', got {variant!r}")
    return variant
