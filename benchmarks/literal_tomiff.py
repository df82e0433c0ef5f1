"""TOMIFF's fusion network written literally from its published description: the reference for speed and exactness.

One module per box of the figure, five branches that each take their own wavelet step with both filters, one Gabor
kernel made and applied after the other, tokens cut into windows and back by copies, nothing folded, nothing shared.
`PublishedTOMIFF()` must equal it (parameter names are the same) and `TOMIFF()` is timed against it. Inputs: visible,
infrared.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def step(x: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Correlation with two taps along an axis, a zero on both sides: one sample more."""
    zeros = torch.zeros_like(x.narrow(axis, 0, 1))
    before, after = torch.cat([zeros, x], axis), torch.cat([x, zeros], axis)
    return taps[0] * before + taps[1] * after


class Haar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.tensor([0.7071, 0.7071]))
        self.high = nn.Parameter(torch.tensor([0.7071, -0.7071]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (step(step(x, taps, 3), taps, 2)[:, :, ::2, ::2] for taps in (self.low, self.high))
        return low, high


def conv_bn_relu(i: int, o: int, k: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=bias), nn.BatchNorm2d(o), nn.ReLU())


class Branch(Haar):
    def __init__(self, j: int) -> None:
        super().__init__()
        self.j = j  # not used, as published
        self.process = nn.Sequential(conv_bn_relu(1, 64, 1, False), conv_bn_relu(64, 64, 1, False))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        low, _ = super().forward(x)
        return self.process(low)


class BaseExtraction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([Branch(j) for j in range(1, 6)])
        self.blend, self.narrow = conv_bn_relu(320, 128, 1), conv_bn_relu(128, 64, 1)
        self.smooth, self.out = conv_bn_relu(64, 32, 3), nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            outputs.append(branch(x))
        return self.out(self.smooth(self.narrow(self.blend(torch.cat(outputs, dim=1)))))


class Gabor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sigma, self.wavelength = nn.Parameter(torch.full((6,), 2.0)), nn.Parameter(torch.full((6,), 5.0))
        self.aspect, self.phase = nn.Parameter(torch.full((6,), 1.2)), nn.Parameter(torch.zeros(6))
        self.angle = nn.Parameter(torch.tensor([2 * math.pi * o / 6 for o in range(6)]))
        self.mixture = nn.Parameter(torch.full((6,), 1 / 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shares = torch.softmax(self.mixture, 0)
        base, detail = 0.0, 0.0
        for o in range(6):
            sigma, wavelength = F.softplus(self.sigma[o]) + 0.1, F.softplus(self.wavelength[o]) + 0.1
            aspect, theta = F.softplus(self.aspect[o]) + 0.1, math.pi * torch.tanh(self.angle[o])
            psi = math.pi * torch.tanh(self.phase[o])
            u = torch.linspace(-1, 1, 5).to(x).repeat(5, 1)
            v = u.T
            xr = u * torch.cos(theta) + v * torch.sin(theta)
            yr = -u * torch.sin(theta) + v * torch.cos(theta)
            envelope = torch.exp(-(xr**2 + aspect**2 * yr**2) / (2 * sigma**2))
            even = envelope * torch.cos(2 * math.pi * xr / wavelength + psi)
            odd = envelope * torch.sin(2 * math.pi * xr / wavelength + psi)
            base = base + shares[o] * F.conv2d(x, even[None, None], padding=2)
            detail = detail + shares[o] * F.conv2d(x, odd[None, None], padding=2)
        return base, detail


class GaborAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bank = Gabor()
        self.embed_query, self.embed_key = nn.Conv2d(1, 32, 1), nn.Conv2d(1, 32, 1)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.project = nn.Linear(32, 32)
        self.expand, self.reduce, self.out = nn.Conv2d(32, 128, 1), nn.Conv2d(128, 32, 1), nn.Conv2d(32, 1, 1)

    def tokens(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(b * (h // 8) * (w // 8), 64, c)

    def heads(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 64, 4, 8).permute(0, 2, 1, 3).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="reflect")
        base, detail = self.bank(x)
        b, _, h, w = detail.shape
        q, kv = self.tokens(self.embed_query(detail)), self.tokens(self.embed_key(base))
        q, k, v = self.heads(self.query(q)), self.heads(self.key(kv)), self.heads(self.value(kv))
        attention = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(8), dim=-1)
        a = self.project((attention @ v).permute(0, 2, 1, 3).reshape(-1, 64, 32))
        a = a.reshape(b, h // 8, w // 8, 8, 8, 32).permute(0, 5, 1, 3, 2, 4).reshape(b, 32, h, w)
        z = a + self.reduce(F.relu(self.expand(a)))
        return (self.out(z) + detail)[:, :, :height, :width]


class CorrelationGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        fused = []
        for v, i in zip(visible, infrared, strict=True):
            rho = ((i - i.mean()) * (v - v.mean())).mean() / (i.std() * v.std() + 1e-6)
            g = torch.sigmoid(self.out(F.relu(self.hidden(rho.reshape(1, 1, 1, 1)))))
            fused.append(g[0] * i + (1 - g[0]) * v)
        return torch.stack(fused)


class Merge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_base, self.embed_detail = conv_bn_relu(1, 4, 3), conv_bn_relu(1, 4, 3)
        self.hidden, self.out = conv_bn_relu(8, 16, 3), nn.Conv2d(16, 1, 1)

    def forward(self, base: Tensor, detail: Tensor) -> Tensor:
        base = F.interpolate(base, size=detail.shape[2:], mode="bilinear", align_corners=False)
        return self.out(self.hidden(torch.cat([self.embed_base(base), self.embed_detail(detail)], dim=1)))


class FinalFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleList([nn.Conv2d(1, 16, 3, padding=1) for _ in range(3)])
        self.look = nn.ModuleList(
            [nn.Sequential(conv_bn_relu(1, 16, 3), nn.Conv2d(16, 1, 1), nn.Sigmoid()) for _ in range(3)]
        )
        self.hidden1, self.hidden2 = nn.Conv2d(48, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, visible: Tensor, infrared: Tensor, first: Tensor) -> Tensor:
        found = []
        for embed, look, image in zip(self.embed, self.look, (infrared, visible, first), strict=True):
            x = embed(image)
            found.append(x * look(x.mean(dim=1, keepdim=True)))
        x = F.relu(self.hidden2(F.relu(self.hidden1(torch.cat(found, dim=1)))))
        y = torch.sigmoid(self.out(x))
        return torch.clamp((y - y.min()) / (y.max() - y.min() + 1e-6), 0, 1)


class LiteralTOMIFF(nn.Module):
    """The published network; `forward(visible, infrared)` puts infrared first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.gate, self.detail = BaseExtraction(), CorrelationGate(), GaborAttention()
        self.merge, self.output = Merge(), FinalFusion()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        base = self.gate(self.base(visible), self.base(infrared))
        of_visible, of_infrared = self.detail(visible), self.detail(infrared)
        share = of_infrared.abs() / (torch.maximum(of_infrared.abs(), of_visible.abs()) + 1e-6)
        detail = share * of_infrared + (1 - share) * of_visible
        return self.output(visible, infrared, self.merge(base, detail))
