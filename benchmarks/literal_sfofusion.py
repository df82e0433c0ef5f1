"""SFOFusion's fusion network written literally from a description of the release: the reference for speed, exactness.

One module per box, a Python loop over the batch for the generated kernels, every transform in full, nothing folded,
nothing reordered. `PublishedSFOFusion()` must equal it with the same weights (parameter names are the same), and the
repaired network is timed against it. Inputs: visible, infrared.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3(i: int, o: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1)


def conv1(i: int, o: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(i, o, 1, bias=bias)


def conv_bn_relu(i: int, o: int, size: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(i, o, size, padding=size // 2), nn.BatchNorm2d(o), nn.ReLU()]


class SqueezeExcite(nn.Sequential):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), conv1(channels, hidden), nn.ReLU(), conv1(hidden, channels), nn.Sigmoid()
        )


class FrequencySeparation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.analyse = nn.Sequential(*conv_bn_relu(1, 16), *conv_bn_relu(16, 32))
        self.describe = conv1(32, 16)
        self.kernels = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 272))
        self.sizes = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
        self.enhance = nn.Sequential(*conv_bn_relu(8, 16, 1), conv1(16, 8), nn.Sigmoid())
        self.squeeze = SqueezeExcite(8, 16)
        self.adapt = nn.Sequential(*conv_bn_relu(8, 16, 1), *conv_bn_relu(16, 8, 1), conv1(8, 1), nn.Sigmoid())
        self.tau, self.steepness = nn.Parameter(torch.tensor([0.5])), nn.Parameter(torch.tensor([5.0]))

    def forward(self, magnitude: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        scene = self.describe(F.adaptive_avg_pool2d(self.analyse(image), 1))[:, :, 0, 0]
        kernels, sizes = self.kernels(scene), torch.softmax(self.sizes(scene), 1)
        found = []
        for i in range(len(magnitude)):
            small = kernels[i, :72].reshape(8, 1, 3, 3)
            large = kernels[i, 72:].reshape(8, 1, 5, 5)
            of_small = F.conv2d(magnitude[i : i + 1], small, padding=1)
            of_large = F.conv2d(magnitude[i : i + 1], large, padding=2)
            found.append(sizes[i, 0] * of_small + sizes[i, 1] * of_large)
        z = self.enhance(torch.cat(found))
        z = z * self.squeeze(z)
        a = self.adapt(z)
        mask = torch.sigmoid((a - self.tau) * self.steepness)
        return torch.clamp(a * mask, 0, 5), torch.clamp(a * (1 - mask), 0, 5)


class FrequencyGain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(6, 3), nn.GELU(), nn.Linear(3, 6))
        self.strength = nn.Parameter(torch.zeros(6))

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        a = high + low
        b, _, h, w = a.shape
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        r = torch.sqrt(((y - h // 2) ** 2 + (x - w // 2) ** 2).to(a.dtype)) / max(1, min(h // 2, w // 2))
        band = torch.clamp(torch.floor(5 * torch.log1p(r * (math.e - 1))), 0, 5)
        energies = [(torch.log1p(a) * (band == k)).mean((1, 2, 3)) for k in range(6)]
        alpha = torch.sigmoid(self.weigh(torch.stack(energies, 1)))
        gain = torch.zeros(b, 1, h, w, dtype=a.dtype)
        for k in range(6):
            of_band = 1 + F.softplus(self.strength[k]) * alpha[:, k]
            gain = gain + of_band.reshape(b, 1, 1, 1) * (band == k)
        a_new = a * gain
        ratio = high / (a + 1e-6)
        high_new, low_new = a_new * ratio, a_new * (1 - ratio)
        return high_new + low_new


class DifferenceAnalyser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*conv_bn_relu(1, 16), *conv_bn_relu(16, 32))
        self.gate = SqueezeExcite(32, 16)
        self.score = nn.Sequential(*conv_bn_relu(32, 16), conv1(16, 1), nn.Sigmoid())

    def forward(self, difference: Tensor) -> Tensor:
        z = self.features(difference)
        return self.score(z * self.gate(z))


class CompensationGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(*conv_bn_relu(2, 16), *conv_bn_relu(16, 8), conv1(8, 1), nn.Sigmoid())
        self.scale = nn.Parameter(torch.tensor([0.5]))

    def forward(self, significance: Tensor, x: Tensor) -> Tensor:
        return self.score(torch.cat([significance, x], 1)) * torch.sigmoid(self.scale)


class EdgeLearnable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gradient = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.gradient.weight.data = torch.stack([kernel, kernel.t()])[:, None]
        self.join = nn.Sequential(conv1(4, 8), nn.ReLU(), conv1(8, 1))
        self.share = nn.Parameter(torch.tensor([0.4]))

    def forward(self, x: Tensor) -> Tensor:
        gx, gy = self.gradient(x).chunk(2, 1)
        magnitude = torch.sqrt(gx**2 + gy**2 + 1e-6)
        at = torch.arange(-2, 3).to(x.dtype)
        gauss = torch.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / 2)
        high = x - F.conv2d(x, (gauss / gauss.sum())[None, None], padding=2)
        sharp = x + torch.sigmoid(self.share) * high
        return x + self.join(torch.cat([magnitude, gx, gy, sharp], 1))


def cosine_matrix(n: int, dtype: torch.dtype) -> Tensor:
    """As released: row n, column k, and row 0 scaled where column 0 should be."""
    d = torch.zeros(n, n, dtype=torch.float64)
    for k in range(n):
        d[:, k] = torch.cos(math.pi * (2 * torch.arange(n, dtype=torch.float64) + 1) * k / (2 * n)) * math.sqrt(2 / n)
    d[0] = d[0] / math.sqrt(2)
    return d.to(dtype)


class LiteralSFOFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.separation, self.gains = FrequencySeparation(), FrequencyGain()
        self.align = nn.Sequential(conv3(1, 16), nn.ReLU(), conv3(16, 16), nn.ReLU(), conv3(16, 1))
        self.query, self.key, self.value, self.phase = conv1(1, 32), conv1(1, 32), conv1(1, 32), conv1(32, 1)
        self.clues = nn.Sequential(conv3(1, 16), nn.ReLU(), conv3(16, 8), nn.ReLU(), conv1(8, 4))
        self.amplitude = nn.Sequential(conv3(6, 16), nn.ReLU(), conv3(16, 8), nn.ReLU(), conv1(8, 1), nn.Sigmoid())
        self.unused = nn.Sequential(conv3(2, 16), nn.ReLU(), conv3(16, 8), nn.ReLU(), conv1(8, 1))
        self.gate = nn.Sequential(conv1(1, 1, False), nn.ReLU(), conv1(1, 1, False))
        self.gate_share = nn.Parameter(torch.tensor([0.3]))
        self.analyse_visible, self.analyse_infrared = DifferenceAnalyser(), DifferenceAnalyser()
        self.strength_visible, self.strength_infrared = CompensationGate(), CompensationGate()
        self.edges = EdgeLearnable()
        self.extract1 = nn.Sequential(*conv_bn_relu(2, 16), *conv_bn_relu(16, 32), *conv_bn_relu(32, 8))
        self.extract2 = nn.Sequential(*conv_bn_relu(9, 16), *conv_bn_relu(16, 8))
        self.align_frequency = nn.Sequential(conv1(1, 1, False), nn.BatchNorm2d(1))
        self.align_space = nn.Sequential(conv1(8, 8, False), nn.BatchNorm2d(8))
        self.squeeze = SqueezeExcite(8, 4)
        self.interact = nn.Sequential(
            nn.Conv2d(9, 9, 3, padding=1, groups=9, bias=False),
            conv1(9, 32, False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            conv1(32, 16, False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            conv1(16, 9),
        )
        self.output = nn.Sequential(conv3(9, 32), nn.ReLU(), conv3(32, 16), nn.ReLU(), conv3(16, 1))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        x = self.frequency(visible, infrared)

        significance_visible = self.analyse_visible(torch.abs(visible - x))
        significance_infrared = self.analyse_infrared(torch.abs(infrared - x))
        c_visible = self.strength_visible(significance_visible, x)
        c_infrared = self.strength_infrared(significance_infrared, x)
        c = torch.max(c_visible, c_infrared)
        e_visible, e_infrared = self.edges(visible), self.edges(infrared)
        z = self.extract1(torch.cat([e_infrared, e_visible], 1))
        compensation = self.extract2(torch.cat([z, c], 1)) * c

        of_frequency, of_space = self.align_frequency(x), self.align_space(compensation)
        of_space = of_space * self.squeeze(of_space)
        both = torch.cat([of_frequency, of_space], 1)
        both = both * (0.2 + 0.6 * torch.sigmoid(self.interact(both)))
        out = torch.sigmoid(self.output(both))
        return (out - out.min()) / (out.max() - out.min() + 1e-6)

    def frequency(self, visible: Tensor, infrared: Tensor) -> Tensor:
        spectrum_visible, spectrum_infrared = torch.fft.rfft2(visible), torch.fft.rfft2(infrared)
        a_visible = self.gains(*self.separation(torch.abs(spectrum_visible) + 1e-7, visible))
        a_infrared = self.gains(*self.separation(torch.abs(spectrum_infrared) + 1e-7, infrared))
        phase_visible, phase_infrared = torch.angle(spectrum_visible), torch.angle(spectrum_infrared)

        delta = phase_infrared - phase_visible
        phase_infrared = phase_infrared - torch.tanh(self.align(delta)) * delta
        q, k, v = self.query(phase_visible), self.key(phase_infrared), self.value(phase_infrared)
        attention = torch.sigmoid((q * k).sum(1, keepdim=True))
        phase = self.phase(q + attention * v)
        phase = torch.remainder(phase + math.pi, 2 * math.pi) - math.pi

        alpha = self.amplitude(torch.cat([a_visible, a_infrared, self.clues(torch.abs(delta))], 1))
        amplitude = alpha * a_visible + (1 - alpha) * a_infrared
        spectrum = torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
        x = torch.fft.irfft2(spectrum, s=visible.shape[-2:])

        height, width = x.shape[-2:]
        coefficients = cosine_matrix(height, x.dtype) @ x @ cosine_matrix(width, x.dtype).t()
        of_four = [self.gate(coefficients[:, :, i : i + 1, j : j + 1]) for i in (0, 1) for j in (0, 1)]
        gated = x * torch.sigmoid(torch.cat(of_four, 1).mean(1, keepdim=True))
        share = torch.sigmoid(self.gate_share)
        return (1 - share) * x + share * (gated * x)
