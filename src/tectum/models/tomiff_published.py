"""TOMIFF as it was released, with its defects: a fusion network of 124,083 parameters, and its loss weights.

    B_k = E(low(k)), low = one Haar step, five times the same          base, (H/2 + 1, W/2 + 1)
    D_k = T(k)                                                         attention between six Gabor filters' mixtures
    B   = g B_infrared + (1 - g) B_visible                             g one number per image
    D   = s D_infrared + (1 - s) D_visible,  s = |D_infrared| / max(|D_infrared|, |D_visible|)
    f   = stretch(sigmoid(conv(visible, infrared, M(B, D))))           by the batch's smallest and largest value

What is wrong with them is kept and named: the five levels J of the wavelet are all the first and the high-pass filters
lead nowhere; four of six orientations are one (theta = pi tanh(t) with t up to 5), and no kernel is normalised; tokens
come from one channel, so that all of a window lie on a line; the gate hardly reacts; and the stretch over the batch
lets every image depend on its batch mates. One thing is mended: sides that are no multiple of 8 do not crash.

The loss weights come from a reference that is the midpoint of the sources, as far from one as from the other: they are
1/2 wherever the sources differ, two of the four scalars do nothing, and the total variation has the wrong sign.

Reference: TOMIFF: Task-Oriented Meta-Learning Framework for Multimodal Image Fusion with Adaptive Loss (its abstract,
its figure and the sizes of the released network; no paper is public)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.models.tdfusion import PublishedTDFusionLoss
from tectum.models.tomiff import shares
from tectum.nn.filters import variation_gradient
from tectum.nn.gabor import WINDOW_PX, windows


class PublishedTOMIFF(nn.Module):
    """Released fusion network: (B,1,H,W), (B,1,H,W) -> (B,1,H,W) in [0,1], stretched over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.gate, self.detail = _Base(), _Gate(), _Detail()
        self.merge, self.output = _Merge(), _Output()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        visible, infrared = a, b
        base = self.gate(self.base(visible), self.base(infrared))
        detail = one_sided(self.detail(visible), self.detail(infrared))
        fused: Tensor = self.output(visible, infrared, self.merge(base, detail))
        return fused


class PublishedTOMIFFLoss(PublishedTDFusionLoss):
    """Released learned objective of TOMIFF; arguments are those of `tectum.models.tomiff.TOMIFFLoss`."""

    def __init__(self, *, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(_PublishedFourScalars(), alpha=alpha, beta=beta)


class _PublishedFourScalars(nn.Module):
    """Loss network G as released: (B,1,H,W), (B,1,H,W) -> (B,2,H,W); alpha and gamma have no effect."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma, self.eta = (
            nn.Parameter(torch.tensor(value)) for value in (1.0, 1e-4, 0.0, 0.5)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return shares(published_weight(a, b, self.beta, self.eta))


class _Base(nn.Module):
    """Enhanced base extraction, 90,389 parameters: (B,1,H,W) -> (B,1,H//2+1,W//2+1)."""

    def __init__(self, branches: int = 5, channels: int = 64) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_Branch(channels) for _ in range(branches))
        self.blend = normalised(branches * channels, 2 * channels, 1)
        self.narrow, self.smooth = normalised(2 * channels, channels, 1), normalised(channels, channels // 2, 3)
        self.out = nn.Conv2d(channels // 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([branch(x) for branch in self.branches], dim=1)
        out: Tensor = self.out(self.smooth(self.narrow(self.blend(x))))
        return out


class _Branch(nn.Module):
    """A Haar step with filters of its own, zeros around the image, and two layers; `high` leads nowhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.tensor([0.7071, 0.7071]))
        self.high = nn.Parameter(torch.tensor([0.7071, -0.7071]))
        self.process = nn.Sequential(
            normalised(1, channels, 1, bias=False), normalised(channels, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        low = F.conv2d(x, torch.outer(self.low, self.low)[None, None], stride=2, padding=1)
        out: Tensor = self.process(low)
        return out


class _Gate(nn.Module):
    """One number per image from the correlation of its bases, 4 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        g = self.share(visible, infrared)
        return g * infrared + (1 - g) * visible

    def share(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Share g of the infrared base, (B,1,1,1) in [0,1]."""
        over, free = (1, 2, 3), int(visible[0].numel() > 1)
        centred = [x - x.mean(over, keepdim=True) for x in (visible, infrared)]
        spread = [x.std(over, correction=free, keepdim=True) for x in (visible, infrared)]
        rho = (centred[0] * centred[1]).mean(over, keepdim=True) / (spread[0] * spread[1] + 1e-6)
        return torch.sigmoid(self.out(F.relu(self.hidden(rho))))


class _Bank(nn.Module):
    """Six Gabor pairs on a grid from -1 to 1, mixed by a softmax, 36 parameters: (B,1,H,W) -> (B,1,H,W) twice."""

    def __init__(self, orientations: int = 6) -> None:
        super().__init__()
        self.sigma, self.wavelength, self.aspect, self.phase = (
            nn.Parameter(torch.full((orientations,), raw)) for raw in (2.0, 5.0, 1.2, 0.0)
        )
        self.angle = nn.Parameter(torch.linspace(0, 2 * math.pi, orientations + 1)[:-1].clone())
        self.mixture = nn.Parameter(torch.full((orientations,), 1 / orientations))

    def angles(self) -> Tensor:
        """Orientations theta in radians, (O,); theta + pi is the same line."""
        return math.pi * torch.tanh(self.angle)

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Even and odd, (O,1,5,5) each."""
        grid = torch.linspace(-1, 1, 5, dtype=self.sigma.dtype, device=self.sigma.device)
        v, u = torch.meshgrid(grid, grid, indexing="ij")
        sigma, wavelength, aspect = (
            (F.softplus(raw) + 0.1)[:, None, None] for raw in (self.sigma, self.wavelength, self.aspect)
        )
        cos, sin = (function(self.angles())[:, None, None] for function in (torch.cos, torch.sin))
        x, y = u * cos + v * sin, v * cos - u * sin
        envelope = torch.exp(-(x**2 + aspect**2 * y**2) / (2 * sigma**2))
        wave = 2 * math.pi * x / wavelength + (math.pi * torch.tanh(self.phase))[:, None, None]
        return (envelope * wave.cos())[:, None], (envelope * wave.sin())[:, None]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        share = self.mixture.softmax(0)[None, :, None, None]
        even, odd = ((F.conv2d(x, k, padding=2) * share).sum(1, keepdim=True) for k in self.kernels())
        return even, odd


class _Detail(nn.Module):
    """Gabor-guided attention in windows of 8x8, 4 heads, 12,773 parameters: (B,1,H,W) -> (B,1,H,W)."""

    def __init__(self, channels: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.bank = heads, _Bank()
        self.embed_query, self.embed_key = nn.Conv2d(1, channels, 1), nn.Conv2d(1, channels, 1)
        self.query, self.key, self.value, self.project = (nn.Linear(channels, channels) for _ in range(4))
        self.expand, self.reduce = nn.Conv2d(channels, 4 * channels, 1), nn.Conv2d(4 * channels, channels, 1)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        for axis, size in ((2, height), (3, width)):
            missing = -size % WINDOW_PX
            pad = (0, missing, 0, 0) if axis == 3 else (0, 0, 0, missing)
            x = F.pad(x, pad, mode="reflect" if missing < size else "replicate")
        even, odd = self.bank(x)
        attended = self.attend(self.embed_query(odd), self.embed_key(even))
        z = attended + self.reduce(F.relu(self.expand(attended)))
        return (self.out(z) + odd)[:, :, :height, :width]

    def attend(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Attention of queries to keys within windows, (B,C,H,W) each -> (B,C,H,W)."""
        batch, channels, height, width = queries.shape
        queries, keys = (windows(x) for x in (queries, keys))
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        heads = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(-1) @ v
        x = self.project(heads.transpose(1, 2).flatten(2))
        x = x.reshape(batch, height // WINDOW_PX, width // WINDOW_PX, WINDOW_PX, WINDOW_PX, channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)


def one_sided(visible: Tensor, infrared: Tensor) -> Tensor:
    """All of the infrared detail where it is the stronger, else its share of the visible one's magnitude."""
    share = infrared.abs() / (torch.maximum(infrared.abs(), visible.abs()) + 1e-6)
    return share * infrared + (1 - share) * visible


class _Merge(nn.Module):
    """Base, enlarged to the size of the detail, and detail to a first picture (B,1,H,W), 1,313 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_base, self.embed_detail = normalised(1, 4, 3), normalised(1, 4, 3)
        self.hidden, self.out = normalised(8, 16, 3), nn.Conv2d(16, 1, 1)

    def forward(self, base: Tensor, detail: Tensor) -> Tensor:
        base = F.interpolate(base, detail.shape[2:], mode="bilinear", align_corners=False)
        out: Tensor = self.out(self.hidden(torch.cat([self.embed_base(base), self.embed_detail(detail)], dim=1)))
        return out


class _Output(nn.Module):
    """Infrared, visible and the first picture to the fused image, 19,604 parameters."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Conv2d(1, channels, 3, padding=1) for _ in range(3))
        self.look = nn.ModuleList(
            nn.Sequential(normalised(1, channels, 3), nn.Conv2d(channels, 1, 1), nn.Sigmoid()) for _ in range(3)
        )
        self.hidden1 = nn.Conv2d(3 * channels, 2 * channels, 3, padding=1)
        self.hidden2 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, visible: Tensor, infrared: Tensor, first: Tensor) -> Tensor:
        features = [embed(x) for embed, x in zip(self.embed, (infrared, visible, first), strict=True)]
        features = [x * look(x.mean(1, keepdim=True)) for look, x in zip(self.look, features, strict=True)]
        x = F.relu(self.hidden2(F.relu(self.hidden1(torch.cat(features, dim=1)))))
        x = torch.sigmoid(self.out(x))
        return ((x - x.min()) / (x.max() - x.min() + 1e-6)).clamp(0, 1)


def published_weight(visible: Tensor, infrared: Tensor, beta: Tensor, eta: Tensor) -> Tensor:
    """Weight of the visible image in the loss before it is normalised, (B,1,H,W); alpha and gamma have no part in it.

    The reference is the midpoint, so that both errors are equal: 1/2, but for images that are (then the infrared weight
    is the smallest there is), and for a step along the total variation's gradient, which makes the map rougher.
    """
    reference = (infrared + visible) / 2
    of_infrared, of_visible = (reference - infrared).square(), (reference - visible).square()
    w = of_visible / (of_infrared + of_visible + 1e-6)
    w = w - eta * ((of_infrared - of_visible) - beta * variation_gradient(w, smooth=False))
    return 1 - w.clamp(1e-3, 1 - 1e-3)


def normalised(channels_in: int, channels_out: int, size: int, *, bias: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    layer = nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=bias)
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out), nn.ReLU())
