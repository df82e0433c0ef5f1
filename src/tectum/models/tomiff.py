"""TOMIFF: a base from wavelets, details from Gabor-guided attention, and a loss whose weights hang on four scalars.

The fuser F takes each source k apart, joins the parts and looks at both sources again (123,172 parameters):

    B_k = LL_1 k + E(LL_1 k, .., LL_5 k)                           base: means over 2x2 to 32x32 pixels, at half size
    B   = g B_infrared + (1 - g) B_visible                         g from the correlation, means, deviations in 11x11
    D_k = T(k) + sum_o m_o odd_o(k)                                detail: six odd Gabor responses ask six even ones,
                                                                   softmax(Q K^T / sqrt 8) V in windows of 8x8
    D   = sum_k |D_k| D_k / sum_k |D_k|
    f   = sigmoid(logit((a + b) / 2) + C(visible, infrared, M(B, D)))

The loss network G has the four scalars alpha, beta, gamma, eta. With s_k the mean length of k's gradient over 7x7,

    w_0 = sigmoid(alpha (s_a - s_b) / (s_a + s_b) + gamma),   e_k = (max(a, b) - k)^2
    w_a = clip(w_0 - eta [e_a - e_b + beta grad TV(w_0)]),    w_b = 1 - w_a
    L(f) = mean[ w_a (f - a)^2 + w_b (f - b)^2 ] + mean|grad f - grad*|          as TDFusion's

Much of F is linear after linear: the layers between Gabor responses and scores, and from what a head finds to the next
ReLU, are multiplied out; 1x1 layers run before an enlargement instead of behind it. Any H and W: sides are filled up to
whole multiples of 32 by the last row and column. Inputs and output (B,1,H,W) in [0,1].

Reference: TOMIFF: Task-Oriented Meta-Learning Framework for Multimodal Image Fusion with Adaptive Loss; known by its
abstract, its figure and the sizes of the released network, no paper is public.

Differs from the release (`tomiff-published`, `tectum.models.tomiff_published`) where that breaks a promise of its
abstract:
    - five levels of the wavelet where one is taken five times; they correct LL_1 instead of replacing it
    - orientations at i pi / 6, normalised kernels on a grid of pixels, all six responses in the tokens, not a mixture
    - a gate for every pixel that reacts, where one number per image hardly does; details weigh alike in both sources
    - no BatchNorm and no stretch by the batch: an image does not depend on its batch mates
    - the network corrects the average of the sources (a residual before the sigmoid)
    - loss weights that know where something is to be seen, the right sign of the total variation, all scalars alive;
      w, not its square, weighs the intensity
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.models.tdfusion import TDFusionLoss
from tectum.nn.filters import box_mean, inverse_softplus, sobel, variation_gradient
from tectum.nn.gabor import WINDOW_PX, GaborAttention
from tectum.nn.stages import STRIPE_PX, Stage, StagedFuser, State, Window, channels_last, extend, without_gradients

_LEVELS = 5
_WINDOWS = 16
"""Windows whose attention a CPU computes at once without gradients: their scores, 1 MB, stay in the cache."""


class TOMIFF(StagedFuser):
    """Fusion network F of TOMIFF: (B,1,H,W), (B,1,H,W) -> (B,1,H,W), all in [0,1].

    >>> TOMIFF()(torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """

    def __init__(self) -> None:
        super().__init__()
        self.base, self.gate, self.detail = _BaseExtractor(), _CorrelationGate(), GaborAttention()
        self.merge, self.output = _Merge(), _Output()

    def stages(self) -> list[Stage]:
        """Nothing is summed over the image; what is coarse travels at a quarter and a half of its resolution."""

        def coarse(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state, *(self.base.coarse(x) for x in state)), ()

        def fine(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state[:2], *(self.base.fine(x, c) for x, c in zip(state[:2], state[2:], strict=True))), ()

        def gate(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state[:2], self.gate(*state[2:])), ()

        def orient(state: State, _: State, __: Window) -> tuple[State, State]:
            return (*state, *(self.detail.bank.respond(x) for x in state[:2])), ()

        def attend(state: State, _: State, __: Window) -> tuple[State, State]:
            at_once = _WINDOWS if without_gradients(state[0]) else None
            quick = self._works_in_stripes(state[0])  # else validation would not see the bits of the gradient steps
            pairs = (responses.chunk(2, dim=1) for responses in state[3:])
            visible, infrared = (self.detail.attend(*pair, at_once=at_once, quick=quick) for pair in pairs)
            return (*state[:3], stronger(visible, infrared)), ()

        def output(state: State, _: State, __: Window) -> tuple[State, State]:
            return (self.output(*state[:2], self.merge(*state[2:])),), ()

        return [
            Stage(coarse, halo=16, align=2**_LEVELS, stripe_px=16 * STRIPE_PX),
            Stage(fine, halo=4, align=4, stripe_px=2 * STRIPE_PX),
            Stage(gate, halo=12, align=2, stripe_px=4 * STRIPE_PX),
            Stage(orient, halo=2),
            Stage(attend, align=WINDOW_PX),
            Stage(output, halo=6),
        ]


class _BaseExtractor(nn.Module):
    """Base of an image, from its means at scales of 2 to 32 pixels: (B,1,H,W) -> (B,1,H/2,W/2)."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.process = nn.ModuleList(
            nn.Sequential(_conv(1, channels, 1), nn.ReLU(), _conv(channels, channels, 1), nn.ReLU())
            for _ in range(_LEVELS)
        )
        self.blend = _conv(_LEVELS * channels, 2 * channels, 1)
        self.narrow, self.smooth = _conv(2 * channels, channels, 1), _conv(channels, channels // 2, 3)
        self.out = nn.Conv2d(channels // 2, 1, 1)

    def _blend(self, level: int, low: Tensor) -> Tensor:
        """Share of one level in the blend, (B,1,h,w) -> (B,2C,h,w)."""
        weight = self.blend.weight.chunk(_LEVELS, dim=1)[level]
        process: Any = self.process[level]
        first, second = process[0], process[2]
        low = _pointwise(_relu(_pointwise(low, first.weight, first.bias)), second.weight, second.bias)
        return _pointwise(_relu(low), weight, self.blend.bias if level == 1 else None)

    def coarse(self, x: Tensor) -> Tensor:
        """Share of levels 2 to 5 in the blend, (B,1,H,W) -> (B,2C,H/4,W/4)."""
        height, width = (size // 4 for size in x.shape[2:])
        half = F.pad(F.avg_pool2d(x, 2), (0, 16, 0, 16), mode="replicate")  # so that no level is a single pixel
        finest, *others = low_passes(half, _LEVELS - 1)
        total = self._blend(1, finest)
        for level, low in enumerate(others, start=2):
            total = total.add_(_enlarge(self._blend(level, low), 2 ** (level - 1)))
        return total[:, :, :height, :width]

    def fine(self, x: Tensor, coarse: Tensor) -> Tensor:
        """The base, from the image and the share of its coarser levels."""
        low = F.avg_pool2d(x, 2)
        y = self._blend(0, low).add_(_enlarge(channels_last(coarse), 2))
        y = _relu(self.smooth(_relu(_pointwise(_relu(y), self.narrow.weight, self.narrow.bias))))
        return low + _pointwise(y, self.out.weight, self.out.bias)


def low_passes(x: Tensor, levels: int = _LEVELS) -> list[Tensor]:
    """LL_1 to LL_J of the Haar wavelet, divided by 2^J: means over blocks of 2^J x 2^J pixels.

    >>> [tuple(low.shape) for low in low_passes(torch.zeros(1, 1, 32, 64), 3)]
    [(1, 1, 16, 32), (1, 1, 8, 16), (1, 1, 4, 8)]
    """
    lows = []
    for _ in range(levels):
        x = F.avg_pool2d(x, 2)
        lows.append(x)
    return lows


class _CorrelationGate(nn.Module):
    """Mixes two base maps by what they share around each pixel: (B,1,h,w) twice -> (B,1,2h,2w)."""

    def __init__(self, hidden: int = 8, *, radius: int = 5) -> None:
        super().__init__()
        self.radius = radius
        self.hidden, self.out = nn.Conv2d(5, hidden, 1), nn.Conv2d(hidden, 1, 1)
        assert self.hidden.bias is not None and self.out.bias is not None
        with torch.no_grad():  # infrared where the sources disagree or where it varies more
            self.hidden.weight[:4] = torch.tensor(
                [[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0], [0, 0, 0, 4.0, -4.0], [0, 0, 0, -4.0, 4.0]]
            )[..., None, None]
            self.hidden.bias[:4] = 0
            self.out.weight[0, :4, 0, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
            self.out.bias.zero_()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        g = self.share(visible, infrared)
        return _enlarge(g * infrared + (1 - g) * visible, 2)

    def share(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """g, how much of the infrared base is kept, (B,1,h,w) in [0,1]."""
        maps = torch.cat([visible, infrared, visible * visible, infrared * infrared, visible * infrared], dim=1)
        mean_v, mean_i, vv, ii, vi = box_mean(maps, self.radius).split(1, dim=1)
        var_v, var_i = ((x - m * m).clamp_min(0) + 1e-4 for x, m in ((vv, mean_v), (ii, mean_i)))
        rho = (vi - mean_v * mean_i) * (var_v * var_i).rsqrt()
        numbers = torch.cat([rho, mean_v, mean_i, var_v.sqrt(), var_i.sqrt()], dim=1)
        return torch.sigmoid(self.out(F.relu(self.hidden(numbers))))


def stronger(visible: Tensor, infrared: Tensor) -> Tensor:
    """Each detail weighed by its share of both magnitudes, 1/2 where there is none."""
    of_visible, of_infrared = visible.abs() + 1e-3, infrared.abs() + 1e-3
    return (of_visible * visible + of_infrared * infrared) / (of_visible + of_infrared)


class _Merge(nn.Module):
    """Base and detail to a first picture, (B,1,H,W) each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_base, self.embed_detail = _conv(1, 4, 3), _conv(1, 4, 3)
        self.hidden, self.out = _conv(8, 16, 3), nn.Conv2d(16, 1, 1)

    def forward(self, base: Tensor, detail: Tensor) -> Tensor:
        x = channels_last(torch.cat([self.embed_base(base), self.embed_detail(detail)], dim=1))
        return _pointwise(_relu(self.hidden(_relu(x))), self.out.weight, self.out.bias)


class _Output(nn.Module):
    """Visible, infrared and the first picture, each with a local attention, to the fused image."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.embed, self.look = (nn.Conv2d(3, 3 * channels, 3, groups=3) for _ in range(2))
        self.attention = nn.Conv2d(3 * channels, 3, 1, groups=3)
        self.hidden1, self.hidden2 = _conv(3 * channels, 2 * channels, 3), _conv(2 * channels, channels, 3)
        self.out = nn.Conv2d(channels, 1, 1)
        _he(self.look)

    def forward(self, visible: Tensor, infrared: Tensor, first: Tensor) -> Tensor:
        """Each step is done for all three at once, by kernels that are zero between them."""
        x = channels_last(torch.cat([infrared, visible, first], dim=1))
        assert self.embed.bias is not None
        mean = [z.unflatten(0, (3, -1)).mean(1) for z in (self.embed.weight, self.embed.bias)]
        around = extend(x, "replicate")
        look = extend(F.conv2d(around, mean[0], mean[1], groups=3), "replicate")
        look = F.conv2d(look, _dense(self.look), self.look.bias)
        attention = _pointwise(_relu(look), _dense(self.attention), self.attention.bias).sigmoid_()
        x = F.conv2d(around, _dense(self.embed), self.embed.bias)
        x, attention = x.permute(0, 2, 3, 1).unflatten(3, (3, -1)), attention.permute(0, 2, 3, 1)
        x = (x * attention[..., None]).flatten(3).permute(0, 3, 1, 2)
        x = _relu(self.hidden2(_relu(self.hidden1(x))))
        x = _pointwise(x, self.out.weight, self.out.bias)
        middle = 0.01 + 0.49 * (visible + infrared)
        return torch.sigmoid(x + torch.log(middle / (1 - middle)))


# ---- the loss --------------------------------------------------------------------------------------------------------


class FourScalars(nn.Module):
    """Loss network G of TOMIFF: (B,1,H,W), (B,1,H,W) -> (B,2,H,W), weights of a and b that sum to 1 per pixel.

    alpha (1 at first) weighs what is sharp, gamma (0) favours a everywhere, eta (0.5) is the length of the step towards
    the brighter source, beta (0.01) smooths it. All but gamma are kept positive as softplus of the parameter.

    >>> FourScalars()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).unique().tolist()
    [0.5]
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(inverse_softplus(1.0)))
        self.beta = nn.Parameter(torch.tensor(inverse_softplus(1e-2)))
        self.gamma = nn.Parameter(torch.tensor(0.0))
        self.eta = nn.Parameter(torch.tensor(inverse_softplus(0.5)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        alpha, beta, eta = (F.softplus(raw) for raw in (self.alpha, self.beta, self.eta))
        of_a, of_b = _activity(a), _activity(b)
        w = torch.sigmoid(alpha * (of_a - of_b) / (of_a + of_b + 1e-3) + self.gamma)
        reference = torch.maximum(a, b)
        slope = (reference - a).square() - (reference - b).square() + beta * variation_gradient(w)
        return shares((w - eta * slope).clamp(1e-3, 1 - 1e-3))


def shares(w: Tensor) -> Tensor:
    """w and 1 - w with 1e-6 added, summing to 1: (B,1,H,W) -> (B,2,H,W)."""
    return (torch.cat([w, 1 - w], dim=1) + 1e-6) / (1 + 2e-6)


def _activity(x: Tensor) -> Tensor:
    """Mean length of the Sobel gradient over 7x7 pixels, (B,1,H,W) -> (B,1,H,W)."""
    return box_mean((sobel(x).square().sum(1, keepdim=True) + 1e-6).sqrt(), 3)


class TOMIFFLoss(TDFusionLoss):
    """Learned objective of TOMIFF: TDFusion's two terms with the weights of `FourScalars`.

    Args:
        alpha: weight of the gradient term (a number; not the scalar of that name).
        beta: weight of the intensity term.

    >>> x = torch.rand(2, 1, 8, 8)
    >>> {name: float(value.detach()) for name, value in TOMIFFLoss()(x, x, x).items()}
    {'intensity': 0.0, 'gradient': 0.0}
    """

    def __init__(self, *, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(FourScalars(), alpha=alpha, beta=beta)


# ---- shared ----------------------------------------------------------------------------------------------------------


def _conv(channels_in: int, channels_out: int, size: int) -> nn.Conv2d:
    """A convolution that a ReLU follows, of unit variance at the start; the border is repeated."""
    layer = nn.Conv2d(channels_in, channels_out, size, padding=size // 2, padding_mode="replicate")
    _he(layer)
    return layer


def _he(layer: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def _dense(layer: nn.Conv2d) -> Tensor:
    """Weight of a convolution in groups as that of one without groups: (D,C/G,k,k) -> (D,C,k,k)."""
    groups = layer.groups
    eye = torch.eye(groups, dtype=layer.weight.dtype, device=layer.weight.device)
    weight = layer.weight.unflatten(0, (groups, -1))[:, :, None] * eye[:, None, :, None, None, None]
    return weight.flatten(2, 3).flatten(0, 1)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution, as a matrix product over channels-last pixels."""
    if torch.compiler.is_compiling():  # an exported graph is the simpler for it, and made in three quarters of the time
        return F.conv2d(x, weight, bias)
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


def _relu(x: Tensor) -> Tensor:
    """ReLU in place: nothing else needs what a convolution returned."""
    return F.relu(x, inplace=True)
