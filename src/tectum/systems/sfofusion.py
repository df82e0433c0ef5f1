"""SFOFusion: fuse two spectra, look where the result differs from the sources, and put back what it lost.

Frequency. With X_k the orthonormal spectrum of source k, A_k its amplitude, p_k = X_k / A_k its phasor:

    m   = sigmoid(s (LFSM(log A_k) - tau)),   A_k <- A_k (1 + g(r) m)          gains g by radius on what is high
    p_i <- p_i turned towards p_v by a share M of the phase difference         alignment
    p   = phasor of t A_v p_v + (1 - t) A_i p_i                                phase fusion
    A   = alpha A_v + (1 - alpha) A_i                                          guided by the phase difference
    x   = y F^-1(A p)                                                          y: a gate, from four DCT-II coefficients

Space. |k - x| says what x has lost; a compensation S, 8 channels, brings it back from the sources' edges e_k:

    z   = logits of significance, from (|v - x|, |i - x|) and x,   c_k = sigmoid(strength_k) sigmoid(z_k)
    S   = E(e, softmax(z) e, c, x) max_k c_k,   f = sigmoid( conv(W [x; S]) + contrast (x - 1/2) )

23,873 parameters, 12.6 GFLOPs at 640x480 (two a multiplication). All that is global in the second half is a gate on
channels, given by the first: so it is worked in stripes. Any H and W. Inputs and output (B,1,H,W) in [0,1].

The loss generator (LGL, 5,097 parameters) takes a logit l from convolutions of the sources, and then one step of
descent on a hand-written energy of w = w_a, with four scalars of its own:

    R = max(a, b),   d_k = R - k,   E_k = lambda d_k^2 + (1 - lambda)(1 - exp(-d_k^2 / (2 sigma^2)))
    w_a = sigmoid( l - eta (E_a - E_b + beta dTV(w)/dw + task) ),   w_b = 1 - w_a

Reference: SFOFusion: A Task-Oriented Meta-Learning Framework for Spatial-Frequency Fusion of Infrared and Visible
Images; only the abstract, a figure and a part of the code are published, without authors, year or licence.

Differs from the release (which is `variant="published"`, its defects listed in `sfofusion_published.py`):
    - transforms are orthonormal and amplitudes stay amplitudes; the networks see their standardised logarithm
    - the mask decides what the gains act on, so that tau and s have an effect; bands are rings around the mean
    - phasors instead of angles; the phase is that of a weighted sum of both spectra, at rest that of a + b
    - one gate, by a true DCT-II; no stretch over the batch, no BatchNorm: no image knows its batch mates
    - narrower; one analysis of both differences, not two; edges chosen per source by a softmax (the figure's
      multiplexer); channel gates from the descriptor of the scenes; the mixture x is added to the last logit
    - the loss: reference max(a, b) instead of the midpoint, for which E_a = E_b; the variation falls; scalars kept in
      their range by softplus and sigmoid; GroupNorm; the weights not squared; what the task wants made free of scale
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.nn.filters import channels_last, inverse_softplus, variation_gradient
from tectum.nn.spectrum import (
    SpectralConv,
    amplitude,
    image,
    low_cosines,
    phasor,
    radial_bands,
    spectrum,
    turn,
)
from tectum.nn.stripes import row_windows
from tectum.systems.sfofusion_published import PublishedSFOFusion
from tectum.systems.tdfusion import TDFusionLoss, Variant, checked

STRIPE_PX = 120_000
"""Pixels in a stripe: its temporaries stay below the size at which the C library gives memory back after each use."""
TASK_SHARE = 0.1
"""What the task's wish for a pixel adds to the slope of the energy, in the mean over an image."""


class SFOFusion(nn.Module):
    """The fusion network: (B,1,H,W), (B,1,H,W) -> (B,1,H,W), all in [0,1].

    Args:
        variant: "repaired", or "published": the released layers with their defects; there an image depends on its batch
            mates.

    >>> SFOFusion()(torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """

    def __init__(self, variant: Variant = "repaired") -> None:
        super().__init__()
        self.variant = checked(variant)
        if variant == "published":
            self.published = PublishedSFOFusion()
        else:
            self.frequency, self.space = FrequencyFusion(), SpaceCompensation()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        visible, infrared = a, b
        if self.variant == "published":
            fused: Tensor = self.published(visible, infrared)
            return fused
        x, scene = self.frequency(visible, infrared)
        windows = stripes(x, SpaceCompensation.HALO)
        parts = [
            self.space(*(k[:, :, rows] for k in (visible, infrared, x)), scene)[:, :, core] for rows, core in windows
        ]
        return torch.cat(parts, 2)


class LossGenerator(nn.Module):
    """LGL: (B,1,H,W), (B,1,H,W) -> (B,2,H,W), weights of a and b that sum to 1 per pixel; 5,097 parameters.

    Args:
        variant: "repaired", or "published": with a midpoint for reference (lambda and sigma have no effect), the
            variation pushed up, `task_grad` added as it comes, and BatchNorm.
        centred: take the mean over the pixels out of the logit before the sigmoid, so that the loss can say where it
            wants more of a source but not that it wants one everywhere.

    >>> LossGenerator()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).shape
    torch.Size([1, 2, 4, 4])
    """

    def __init__(self, variant: Variant = "repaired", *, centred: bool = False) -> None:
        super().__init__()
        self.variant, self.centred = checked(variant), centred

        def norm() -> nn.Module:
            return nn.BatchNorm2d(12) if variant == "published" else nn.GroupNorm(3, 12)

        self.embed, self.norm1 = conv(2, 12), norm()
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.widen = nn.Conv2d(12, 24, 1)
        self.norm2 = nn.BatchNorm2d(24) if variant == "published" else nn.GroupNorm(6, 24)
        self.narrow, self.dilated, self.norm3 = conv(24, 12), nn.Conv2d(12, 12, 3, padding=2, dilation=2), norm()
        self.attend = nn.Sequential(ChannelSpaceGate(12), ChannelSpaceGate(12))
        self.output = nn.Sequential(nn.Conv2d(12, 6, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 1, 1))
        starts = {"beta": 1e-4, "eta": 0.4, "lam": 0.5, "sigma": 1.0}
        if variant == "repaired":  # kept positive by a softplus, lambda between 0 and 1 by a sigmoid
            starts = {"beta": inverse_softplus(1e-2), "eta": inverse_softplus(0.4), "lam": 0.0}
            starts["sigma"] = inverse_softplus(1.0)
        self.beta, self.eta, self.lam, self.sigma = (nn.Parameter(torch.full((1,), x)) for x in starts.values())

    def forward(self, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> Tensor:
        logit = self.logit(a, b)
        if self.variant == "published":
            logit = logit - self.eta * self.published_slope(logit, a, b, task_grad)
            w = torch.sigmoid(logit - logit.mean((2, 3), keepdim=True) if self.centred else logit)
            w = torch.cat([w, 1 - w], 1) + 1e-6
            return w / w.sum(1, keepdim=True)
        logit = logit - F.softplus(self.eta) * self.slope(logit, a, b, task_grad)
        logit = logit - logit.mean((2, 3), keepdim=True) if self.centred else logit
        return torch.sigmoid(torch.cat([logit, -logit], 1))

    def logit(self, a: Tensor, b: Tensor) -> Tensor:
        """What the convolutions say, (B,1,H,W): positive wants more of a."""
        x = self.norm1(F.relu(self.embed(torch.cat([a, b], 1))))
        x = self.norm2(F.relu(self.widen(F.relu(self.depthwise(x)))))
        x = self.norm3(F.relu(self.dilated(F.relu(self.narrow(x)))))
        out: Tensor = self.output(self.attend(x))
        return out

    def slope(self, logit: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None) -> Tensor:
        """The derivative of the energy with respect to w_a."""
        lam, sigma, reference = torch.sigmoid(self.lam), F.softplus(self.sigma), torch.maximum(a, b)
        slope = energy(reference - a, lam, sigma) - energy(reference - b, lam, sigma)
        slope = slope + F.softplus(self.beta) * variation_gradient(torch.sigmoid(logit))
        if task_grad is not None:
            task = (task_grad * (a - b)).detach()
            slope = slope + TASK_SHARE * task / (task.abs().mean((1, 2, 3), keepdim=True) + 1e-8)
        return slope

    def published_slope(self, logit: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None) -> Tensor:
        """The same against the midpoint: both energies are equal. The sign of the variation is wrong."""
        sigma, reference = self.sigma.clamp(0.1, 10), (a + b) / 2
        slope = energy(reference - a, self.lam, sigma) - energy(reference - b, self.lam, sigma)
        slope = slope - self.beta * variation_gradient(torch.sigmoid(logit), smooth=False)
        return slope if task_grad is None else slope + task_grad


class SFOFusionLoss(TDFusionLoss):
    """The learned objective: TDFusion's two terms with the weights of `LossGenerator`, which may hear the task.

    Args:
        variant: "repaired" weights by w, "published" by its square, with the generator of that variant.
        alpha: weight of the gradient term.
        beta: weight of the intensity term.
        centred: take the mean over the pixels out of the generator's logit, see `LossGenerator`.

    A call may bring `task_grad`, d task.loss / d fused (B,1,H,W), raw: with f = w_a a + w_b b, task_grad (a - b) is the
    task's derivative by w_a, and where it is negative w_a rises. It counts with TASK_SHARE in the mean over an image,
    whatever its scale, and nothing is differentiated through it.

    >>> x = torch.rand(2, 1, 8, 8)
    >>> {name: float(value.detach()) for name, value in SFOFusionLoss()(x, x, x).items()}
    {'intensity': 0.0, 'gradient': 0.0}
    """

    def __init__(
        self, variant: Variant = "repaired", *, alpha: float = 1.0, beta: float = 1.0, centred: bool = False
    ) -> None:
        super().__init__(LossGenerator(variant, centred=centred), alpha=alpha, beta=beta, variant=variant)

    def weights(self, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> Tensor:
        """w_a and w_b, (B,2,H,W)."""
        assert self.generator is not None
        w: Tensor = self.generator(a, b, task_grad)
        return w

    def forward(self, fused: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> dict[str, Tensor]:
        return self.terms(fused, a, b, self.weights(a, b, task_grad))


class ChannelSpaceGate(nn.Module):
    """Channels by their mean and maximum, then pixels by the mean and maximum of their channels."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.channels = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1, bias=False),
        )
        self.pixels = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channels(mean) + self.channels(most))
        return x * torch.sigmoid(self.pixels(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


def energy(d: Tensor, lam: Tensor, sigma: Tensor) -> Tensor:
    """How far a source is from the reference: a parabola and one that levels off."""
    d2 = d.square()
    return lam * d2 + (1 - lam) * (1 - torch.exp(-d2 / (2 * sigma.square())))


class FrequencyFusion(nn.Module):
    """The two spectra made one: (B,1,H,W) twice -> the image x (B,1,H,W) and the descriptors of both scenes (B,32).

    Spectra are float32 or better, what layers see of them is in the dtype of the sources.
    """

    def __init__(self) -> None:
        super().__init__()
        self.separation, self.gains = FrequencySeparation(), BandGains()
        self.align = nn.Sequential(SpectralConv(2, 8), nn.ReLU(inplace=True), SpectralConv(8, 1))
        self.fuse_phase = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(inplace=True), nn.Conv2d(16, 1, 1))
        self.fuse_amplitude = nn.Sequential(SpectralConv(4, 12), nn.ReLU(inplace=True), SpectralConv(12, 1))
        self.gate = SpectralGate()
        nn.init.constant_(self.align[2].bias, -2.0)  # type: ignore[arg-type]  # the sources are registered

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        sources = torch.cat([visible, infrared])
        x = spectrum(sources)
        size = amplitude(x)
        level = standardised(torch.log1p(255 * size)).to(visible.dtype)  # in gray levels of 256
        mask, scene = self.separation(level, sources)
        size = size * (1 + self.gains(level, visible.shape[3]) * mask)
        p_visible, p_infrared = halves(phasor(x))
        a_visible, a_infrared = halves(size)
        share = torch.sigmoid(self.align(apart(p_visible, p_infrared).to(visible.dtype)))
        p_infrared = turn(p_infrared, p_visible, share)
        clues = torch.cat([apart(p_visible, p_infrared).to(visible.dtype), *halves(level)], 1)
        share = torch.sigmoid(self.fuse_phase(clues))
        p = phasor(share * a_visible * p_visible + (1 - share) * a_infrared * p_infrared)
        share = torch.sigmoid(self.fuse_amplitude(clues))
        mixed = image((share * a_visible + (1 - share) * a_infrared) * p, *visible.shape[2:])
        return self.gate(mixed.to(visible.dtype)), torch.cat(halves(scene), 1)


class FrequencySeparation(nn.Module):
    """LFSM: which frequencies of an image are its detail, by filters of the spectrum that the image itself chooses."""

    def __init__(self, channels: int = 8, scene: int = 16) -> None:
        super().__init__()
        self.look = conv(1, 16)
        self.describe = nn.Sequential(nn.Linear(16, 32), nn.ReLU(inplace=True), nn.Linear(32, scene))
        self.basis = SpectralConv(1, channels, 5)
        self.choose = nn.Linear(scene, channels * channels)
        self.adapt = nn.Sequential(
            nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, 1, 1)
        )
        self.tau, self.steepness = nn.Parameter(torch.full((1,), 0.5)), nn.Parameter(torch.full((1,), 5.0))

    def forward(self, level: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        energies = [
            self.look(sources[:, :, rows]).relu_()[:, :, core].sum((2, 3)) for rows, core in stripes(sources, 1)
        ]
        scene = self.describe(torch.stack(energies).sum(0) / (sources.shape[2] * sources.shape[3]))
        z = self.basis(level)
        filters = self.choose(scene).unflatten(1, (z.shape[1], -1))
        filters = filters + torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        z = (filters @ z.flatten(2)).unflatten(2, z.shape[2:])
        return torch.sigmoid((torch.sigmoid(self.adapt(z)) - self.tau) * self.steepness), scene


class BandGains(nn.Module):
    """FGA: a gain for each radial band of the detail, from the energies of all bands; what is added to 1."""

    def __init__(self, num_bands: int = 6) -> None:
        super().__init__()
        self.squeeze, self.expand = nn.Linear(num_bands, 3), nn.Linear(3, num_bands)
        self.strength = nn.Parameter(torch.full((num_bands,), -2.0))

    def forward(self, level: Tensor, width: int) -> Tensor:
        bands = radial_bands(len(self.strength), level.shape[2], width, level).flatten(1)
        energy = level.flatten(1) @ bands.T / bands.sum(1).clamp_min(1e-3)
        gains = F.softplus(self.strength) * torch.sigmoid(self.expand(F.gelu(self.squeeze(energy))))
        return (gains @ bands).unflatten(1, (1, *level.shape[2:]))


class SpectralGate(nn.Module):
    """One factor for the image, from its four lowest cosines; 1 at rest."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 1))
        self.share = nn.Parameter(torch.full((1,), 0.3))
        nn.init.zeros_(self.judge[2].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = 2 * torch.sigmoid(self.judge(low_cosines(x)))
        return x * (1 + torch.sigmoid(self.share) * (y - 1))[:, :, None, None]


class SpaceCompensation(nn.Module):
    """What the mixture has lost, found and put back; local but for channel gates that know both scenes."""

    HALO = 11
    """How far a pixel of the result looks: twelve convolutions, of which eleven are in one line."""

    def __init__(self, width: int = 24, scene: int = 32) -> None:
        super().__init__()
        self.differences1, self.differences2 = conv(2, 16), conv(16, 16)
        self.differences_gate, self.differences3 = nn.Linear(scene, 16), conv(16, 2)
        self.significance1, self.significance2 = conv(3, 8), nn.Conv2d(8, 2, 1)
        self.strength = nn.Parameter(torch.full((2,), 0.5))
        self.edges = LearnedEdges()
        self.extract1, self.extract2, self.extract3 = conv(7, width), conv(width, width), conv(width, 8)
        self.compensation_gate = nn.Linear(scene, 8)
        self.interact = nn.Sequential(
            nn.Conv2d(9, 9, 3, padding=1, groups=9, bias=False),
            nn.Conv2d(9, 16, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 9, 1),
        )
        self.merge1, self.merge2, self.merge3 = conv(9, 32), conv(32, 16), conv(16, 1)
        self.contrast = nn.Parameter(torch.full((1,), 4.0))

    def forward(self, visible: Tensor, infrared: Tensor, x: Tensor, scene: Tensor) -> Tensor:
        compensation = self.compensate(visible, infrared, x, scene)
        both = channels_last(torch.cat([x, compensation], 1))
        both = both * (0.2 + 0.6 * torch.sigmoid(self.interact(both)))
        out = self.merge3(self.merge2(self.merge1(both).relu_()).relu_())
        return torch.sigmoid(out + self.contrast * (x - 0.5))

    def compensate(self, visible: Tensor, infrared: Tensor, x: Tensor, scene: Tensor) -> Tensor:
        lost = channels_last(torch.cat([visible - x, infrared - x], 1).abs())
        z = self.differences2(self.differences1(lost).relu_()).relu_()
        z = z * torch.sigmoid(self.differences_gate(scene))[:, :, None, None]
        significance = channels_last(torch.cat([torch.sigmoid(self.differences3(z)), x], 1))
        logits = self.significance2(self.significance1(significance).relu_())
        c = torch.sigmoid(logits) * torch.sigmoid(self.strength)[:, None, None]
        edges = torch.cat([self.edges(visible), self.edges(infrared)], 1)
        z = channels_last(torch.cat([edges, logits.softmax(1) * edges, c, x], 1))
        z = self.extract3(self.extract2(self.extract1(z).relu_()).relu_()).relu_()
        z = z * torch.sigmoid(self.compensation_gate(scene))[:, :, None, None]
        return z * c.amax(1, keepdim=True)


class LearnedEdges(nn.Module):
    """An image with its edges raised: e = k + P(|g|, g_x, g_y, k + q (k - blurred k)), g trained from Sobel's."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient = nn.Parameter(
            torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).repeat(2, 1, 1, 1)
        )
        with torch.no_grad():
            self.gradient[1].copy_(self.gradient[0].transpose(1, 2))
        self.sharpen = nn.Parameter(torch.full((1,), 0.4))
        self.raise1, self.raise2 = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 1, 1)
        line = torch.exp(-0.5 * torch.arange(-2.0, 3.0).square())
        self.blur: Tensor
        self.register_buffer("blur", torch.outer(line, line)[None, None] / line.sum() ** 2, persistent=False)

    def forward(self, k: Tensor) -> Tensor:
        kernels = torch.cat([F.pad(self.gradient, (1, 1, 1, 1)), self.blur.to(k.dtype)])
        g = F.conv2d(F.pad(k, (2, 2, 2, 2), mode="replicate"), kernels)
        steepness = (g[:, :2].square().sum(1, keepdim=True) + 1e-6).sqrt()
        sharp = k + torch.sigmoid(self.sharpen) * (k - g[:, 2:])
        return k + self.raise2(self.raise1(torch.cat([steepness, g[:, :2], sharp], 1)).relu_())


def conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def stripes(x: Tensor, halo: int) -> Iterator[tuple[slice, slice]]:
    """Stripes of about STRIPE_PX pixels of the batch."""
    return row_windows(x, rows=lambda: max(4 * halo, STRIPE_PX // x.shape[3] // len(x)), halo=halo)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """What of a batch belongs to the visible images, and what to the infrared ones."""
    visible, infrared = x.unflatten(0, (2, -1)).unbind(0)
    return visible, infrared


def apart(p: Tensor, q: Tensor) -> Tensor:
    """Cosine and sine of the phase of q minus the phase of p: (B,2,...)."""
    z = q * p.conj()
    return torch.cat([z.real, z.imag], 1)


def standardised(x: Tensor) -> Tensor:
    """Mean 0 and deviation 1 per image."""
    x = x - x.mean((2, 3), keepdim=True)
    return x / (x.square().mean((2, 3), keepdim=True) + 1e-4).sqrt()
