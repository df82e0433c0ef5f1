"""SFOFusion as it was released, with its defects: the fusion network, layer by layer, and the loss generator.

78,047 parameters. With |X_k| and phi_k the amplitude and angle of the (unnormalised) half spectrum of source k:

    a_k  = LFSM(|X_k|; k) in (0,1)          stands for the amplitude from here on
    A_k  = a_k gain(band)                   six bands, by FGA
    A, phi from A_k and phi_k               convolutions of amplitudes and of angles
    x    = F^-1(A e^{i phi}),  gated by y x with y from four cosine coefficients
    D_k  = |k - x|, gates c_k, c = max;  S = c E([e_infrared; e_visible], c)
    f    = min-max over the batch of sigmoid(conv(W [x; S]))

Defects, all kept (`tests/test_sfofusion.py` asserts each):
    - a_k in (0,1) replaces amplitudes up to 1e5 and meets the inverse of an unnormalised transform: x is nearly 0
    - the mask m = sigmoid((a - tau) s) splits a into high and low, which are only added again: tau and s have no effect
    - the bands are centred on the middle of an array that is not shifted: the mean of the image is in the last band
    - the cosine transform is transposed and has the wrong row scaled: a constant has no zero coefficient
    - the gate multiplies by x twice
    - angles are subtracted and mixed like lengths, without regard to 2 pi
    - the result is stretched to [0,1] over the whole batch: an image depends on its batch mates
    - `unused` (1,473 parameters) is never called

The loss generator measures its energies from the midpoint of the sources, so that both are equal and lambda and sigma
have no effect; the variation of the weights rises, and the task's gradient is added as it comes.

Reference: SFOFusion: A Task-Oriented Meta-Learning Framework for Spatial-Frequency Fusion of Infrared and Visible
Images; only the abstract and a part of the code are published.
Differs from the release: returns the image alone; written from a description of its layers, not from the code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.models.sfofusion import LossGenerator, SFOFusionLoss, conv, energy
from tectum.models.tdfusion import PublishedTDFusionLoss
from tectum.nn.filters import variation_gradient
from tectum.nn.stages import channels_last


class PublishedSFOFusion(nn.Module):
    """Released fusion network: (B,1,H,W), (B,1,H,W) -> (B,1,H,W) in [0,1], stretched over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.separation, self.gains = _Separation(), _Gains()
        self.align = nn.Sequential(conv(1, 16), _relu(), conv(16, 16), _relu(), conv(16, 1))
        self.query, self.key, self.value, self.phase = _point(1, 32), _point(1, 32), _point(1, 32), _point(32, 1)
        self.clues = nn.Sequential(conv(1, 16), _relu(), conv(16, 8), _relu(), _point(8, 4))
        self.amplitude = nn.Sequential(conv(6, 16), _relu(), conv(16, 8), _relu(), _point(8, 1), nn.Sigmoid())
        self.unused = nn.Sequential(conv(2, 16), _relu(), conv(16, 8), _relu(), _point(8, 1))
        self.gate, self.gate_share = nn.Sequential(_point(1, 1, False), _relu(), _point(1, 1, False)), _scalar(0.3)
        self.analyse_visible, self.analyse_infrared = _Analyser(), _Analyser()
        self.strength_visible, self.strength_infrared = _Strength(), _Strength()
        self.edges = _Edges()
        self.extract1 = nn.Sequential(*_block(2, 16), *_block(16, 32), *_block(32, 8))
        self.extract2 = nn.Sequential(*_block(9, 16), *_block(16, 8))
        self.align_frequency = nn.Sequential(_point(1, 1, False), nn.BatchNorm2d(1))
        self.align_space = nn.Sequential(_point(8, 8, False), nn.BatchNorm2d(8))
        self.squeeze = _channel_gate(8, 4)
        self.interact = nn.Sequential(
            nn.Conv2d(9, 9, 3, padding=1, groups=9, bias=False),
            *(_point(9, 32, False), nn.BatchNorm2d(32), _relu()),
            *(_point(32, 16, False), nn.BatchNorm2d(16), _relu()),
            _point(16, 9),
        )
        self.output = nn.Sequential(conv(9, 32), _relu(), conv(32, 16), _relu(), conv(16, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        visible, infrared = a, b
        x = self.mixture(visible, infrared)
        s = self.compensation(visible, infrared, x)
        s = self.align_space(s)
        both = torch.cat([self.align_frequency(x), s * self.squeeze(s)], 1)
        both = channels_last(both * (0.2 + 0.6 * torch.sigmoid(self.interact(both))))
        out = torch.sigmoid(self.output(both))
        return (out - out.min()) / (out.max() - out.min() + 1e-6)

    def mixture(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """x, from the frequencies."""
        dtype, exact = visible.dtype, torch.promote_types(visible.dtype, torch.float32)  # no spectra in bfloat16
        spectra = torch.fft.rfft2(visible.to(exact)), torch.fft.rfft2(infrared.to(exact))
        a_visible, a_infrared = (
            self.gains(*self.separation((z.abs() + 1e-7).to(dtype), k))
            for z, k in zip(spectra, (visible, infrared), strict=True)
        )
        phi_visible, phi_infrared = (z.angle().to(dtype) for z in spectra)
        delta = phi_infrared - phi_visible
        phi_infrared = phi_infrared - torch.tanh(self.align(delta)) * delta
        q, k, v = self.query(phi_visible), self.key(phi_infrared), self.value(phi_infrared)
        phi = self.phase(q + torch.sigmoid((q * k).sum(1, keepdim=True)) * v)
        phi = torch.remainder(phi + torch.pi, 2 * torch.pi) - torch.pi
        alpha = self.amplitude(torch.cat([a_visible, a_infrared, self.clues(delta.abs())], 1))
        a = alpha * a_visible + (1 - alpha) * a_infrared
        x = torch.fft.irfft2(torch.polar(a.to(exact), phi.to(exact)), s=visible.shape[2:]).to(dtype)
        y = torch.sigmoid(self.gate(cosines(x)[:, :, :2, :2]).mean((2, 3), keepdim=True))
        share = torch.sigmoid(self.gate_share)
        return (1 - share) * x + share * (x * y) * x

    def compensation(self, visible: Tensor, infrared: Tensor, x: Tensor) -> Tensor:
        """S, 8 channels, from the differences."""
        c_visible = self.strength_visible(self.analyse_visible((visible - x).abs()), x)
        c_infrared = self.strength_infrared(self.analyse_infrared((infrared - x).abs()), x)
        c = torch.maximum(c_visible, c_infrared)
        z = self.extract1(channels_last(torch.cat([self.edges(infrared), self.edges(visible)], 1)))
        out: Tensor = self.extract2(channels_last(torch.cat([z, c], 1))) * c
        return out


class PublishedLossGenerator(LossGenerator):
    """Released loss generator: (B,1,H,W), (B,1,H,W) -> (B,2,H,W), with BatchNorm and unbounded scalars."""

    @staticmethod
    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    @staticmethod
    def starts() -> tuple[float, ...]:
        return 1e-4, 0.4, 0.5, 1.0

    def forward(self, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> Tensor:
        logit = self.logit(a, b)
        logit = logit - self.eta * self.slope(logit, a, b, task_grad)
        w = torch.sigmoid(logit - logit.mean((2, 3), keepdim=True) if self.centred else logit)
        w = torch.cat([w, 1 - w], 1) + 1e-6
        return w / w.sum(1, keepdim=True)

    def slope(self, logit: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None) -> Tensor:
        """Derivative against the midpoint, where both energies are equal; the sign of the variation is wrong."""
        sigma, reference = self.sigma.clamp(0.1, 10), (a + b) / 2
        slope = energy(reference - a, self.lam, sigma) - energy(reference - b, self.lam, sigma)
        slope = slope - self.beta * variation_gradient(torch.sigmoid(logit), smooth=False)
        return slope if task_grad is None else slope + task_grad


class PublishedSFOFusionLoss(SFOFusionLoss, PublishedTDFusionLoss):
    """Released learned objective of SFOFusion; arguments are those of `tectum.models.sfofusion.SFOFusionLoss`."""

    generator_class = PublishedLossGenerator


class _Separation(nn.Module):
    """LFSM: |X| and the image -> its high and its low part, which add up to a number in (0,1); 27,301 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.analyse, self.describe = nn.Sequential(*_block(1, 16), *_block(16, 32)), _point(32, 16)
        self.kernels = nn.Sequential(nn.Linear(16, 32), _relu(), nn.Linear(32, 64), _relu(), nn.Linear(64, 272))
        self.sizes = nn.Sequential(nn.Linear(16, 32), _relu(), nn.Linear(32, 2))
        self.enhance = nn.Sequential(*_point_block(8, 16), _point(16, 8), nn.Sigmoid())
        self.squeeze = _channel_gate(8, 16)
        self.adapt = nn.Sequential(*_point_block(8, 16), *_point_block(16, 8), _point(8, 1), nn.Sigmoid())
        self.tau, self.steepness = _scalar(0.5), _scalar(5.0)

    def forward(self, magnitude: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        scene = self.describe(self.analyse(k).mean((2, 3), keepdim=True)).flatten(1)
        small, large = self.kernels(scene).split((72, 200), 1)
        w3, w5 = self.sizes(scene).softmax(1)[..., None, None, None, None].unbind(1)
        # both sizes in one kernel, all images of the batch in one convolution
        kernels = w3 * F.pad(small.reshape(-1, 8, 1, 3, 3), (1, 1, 1, 1)) + w5 * large.reshape(-1, 8, 1, 5, 5)
        images = len(magnitude)
        z = F.conv2d(magnitude.transpose(0, 1), kernels.flatten(0, 1), padding=2, groups=images)
        z = self.enhance(z.reshape(images, 8, *z.shape[2:]))
        a = self.adapt(z * self.squeeze(z))
        m = torch.sigmoid((a - self.tau) * self.steepness)
        return (a * m).clamp(0, 5), (a * (1 - m)).clamp(0, 5)


class _Gains(nn.Module):
    """FGA: a gain for each of six bands, 1 to 1.69 at the start; 51 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(6, 3), nn.GELU(), nn.Linear(3, 6))
        self.strength = nn.Parameter(torch.zeros(6))

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        a = high + low
        bands = F.one_hot(published_bands(a.shape[2], a.shape[3], a), 6).to(a.dtype).flatten(0, 1)
        energy = torch.log1p(a).flatten(1) @ bands / len(bands)
        gains = 1 + F.softplus(self.strength) * torch.sigmoid(self.weigh(energy))
        louder = a * (gains @ bands.T).reshape(a.shape)
        ratio = high / (a + 1e-6)
        return louder * ratio + louder * (1 - ratio)


class _Analyser(nn.Module):
    """A difference -> how significant it is, in (0,1); 10,641 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.gate = nn.Sequential(*_block(1, 16), *_block(16, 32)), _channel_gate(32, 16)
        self.score = nn.Sequential(*_block(32, 16), _point(16, 1), nn.Sigmoid())

    def forward(self, difference: Tensor) -> Tensor:
        z = self.features(channels_last(difference))
        out: Tensor = self.score(z * self.gate(z))
        return out


class _Strength(nn.Module):
    """Significance and mixture -> how much to compensate; 1,522 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(*_block(2, 16), *_block(16, 8), _point(8, 1), nn.Sigmoid())
        self.scale = _scalar(0.5)

    def forward(self, significance: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.score(channels_last(torch.cat([significance, x], 1))) * torch.sigmoid(self.scale)
        return out


class _Edges(nn.Module):
    """A source with its edges raised; 68 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.join, self.share = nn.Sequential(_point(4, 8), _relu(), _point(8, 1)), _scalar(0.4)
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        line = torch.exp(-0.5 * torch.arange(-2.0, 3.0).square())
        with torch.no_grad():
            self.gradient.weight.copy_(torch.stack([sobel, sobel.T])[:, None])
        self.blur: Tensor
        self.register_buffer("blur", torch.outer(line, line)[None, None] / line.sum() ** 2, persistent=False)

    def forward(self, k: Tensor) -> Tensor:
        g = self.gradient(k)
        steepness = (g.square().sum(1, keepdim=True) + 1e-6).sqrt()
        sharp = k + torch.sigmoid(self.share) * (k - F.conv2d(k, self.blur.to(k.dtype), padding=2))
        out: Tensor = k + self.join(torch.cat([steepness, g, sharp], 1))
        return out


def published_bands(height: int, width: int, like: Tensor) -> Tensor:
    """Numbers 0..5 (height, width) of the bands, around the middle of an array whose origin is in its corner."""
    y = torch.arange(height, dtype=like.dtype, device=like.device) - height // 2
    x = torch.arange(width, dtype=like.dtype, device=like.device) - width // 2
    r = (y[:, None].square() + x.square()).sqrt() / max(1, min(height // 2, width // 2))
    return (5 * torch.log1p(r * (torch.e - 1))).floor().clamp(0, 5).long()


def cosines(x: Tensor) -> Tensor:
    """The released DCT-II, by full matrices: rows and columns of the matrix are exchanged."""
    rows, columns = (_cosine_matrix(n, x) for n in x.shape[2:])
    return rows @ x @ columns.T


def _cosine_matrix(n: int, like: Tensor) -> Tensor:
    k = torch.arange(n, dtype=like.dtype, device=like.device)
    matrix = torch.cos(torch.pi * (2 * k[:, None] + 1) * k / (2 * n)) * (2 / n) ** 0.5
    return torch.cat([matrix[:1] / 2**0.5, matrix[1:]])


def _channel_gate(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), _point(channels, hidden), _relu(), _point(hidden, channels), nn.Sigmoid()
    )


def _point(channels_in: int, channels_out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, bias=bias)


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return conv(channels_in, channels_out), nn.BatchNorm2d(channels_out), _relu()


def _point_block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return _point(channels_in, channels_out), nn.BatchNorm2d(channels_out), _relu()


def _relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def _scalar(value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((1,), value))
