"""SFOFusion: fuses two spectra, finds where the result differs from the sources, and puts back what it lost.

Frequency. With X_k the orthonormal spectrum of source k, A_k its amplitude, p_k = X_k / A_k its phasor:

    m   = sigmoid(s (LFSM(log A_k) - tau)),   A_k <- A_k (1 + g(r) m)          gains g by radius on what is high
    p_i <- p_i rotated towards p_v by a share M of the phase difference        alignment
    p   = phasor of t A_v p_v + (1 - t) A_i p_i                                phase fusion
    A   = alpha A_v + (1 - alpha) A_i                                          guided by the phase difference
    x   = y F^-1(A p)                                                          y: a gate, from four DCT-II coefficients

Space. |k - x| says what x has lost; a compensation S, 8 channels, brings it back from the sources' edges e_k:

    z   = logits of significance, from (|v - x|, |i - x|) and x,   c_k = sigmoid(strength_k) sigmoid(z_k)
    S   = E(e, softmax(z) e, c, x) max_k c_k,   f = sigmoid( conv(W [x; S]) + contrast (x - 1/2) )

23,873 parameters, 12.6 GFLOPs at 640x480 (two a multiplication). The spectra need the whole image; all that is global
in the second half is a gate on channels, given by the first. Any H and W. Inputs and output (B,1,H,W) in [0,1].

The loss generator (LGL, 5,097 parameters) takes a logit l from convolutions of the sources, and then one step of
descent on a hand-written energy of w = w_a, with four scalars of its own:

    R = max(a, b),   d_k = R - k,   E_k = lambda d_k^2 + (1 - lambda)(1 - exp(-d_k^2 / (2 sigma^2)))
    w_a = sigmoid( l - eta (E_a - E_b + beta dTV(w)/dw + task) ),   w_b = 1 - w_a

Reference: SFOFusion: A Task-Oriented Meta-Learning Framework for Spatial-Frequency Fusion of Infrared and Visible
Images; only the abstract, a figure and a part of the code are published, without authors, year or licence.

Differs from the release (`sfofusion-published`, its defects listed in `sfofusion_published.py`):
    - transforms are orthonormal and amplitudes stay amplitudes; the networks see their standardised logarithm
    - the mask decides what the gains act on, so that tau and s have an effect; bands are rings around the mean
    - phasors instead of angles; the phase is that of a weighted sum of both spectra, at rest that of a + b
    - one gate, by a true DCT-II; no stretch over the batch, no BatchNorm: no image knows its batch mates
    - narrower; one analysis of both differences, not two; edges chosen per source by a softmax (the figure's
      multiplexer); channel gates from the descriptor of the scenes; the mixture x is added to the last logit
    - the loss: reference max(a, b) instead of the midpoint, for which E_a = E_b; the variation falls; scalars kept in
      their range by softplus and sigmoid; GroupNorm; the weights not squared; what the task wants made free of scale
"""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.models.tdfusion import TDFusionLoss
from tectum.nn.filters import Padding, inverse_softplus, variation_gradient
from tectum.nn.spectrum import (
    SpectralConv,
    amplitude,
    image,
    low_cosines,
    phasor,
    radial_bands,
    rotate_phasor,
    spectrum,
)
from tectum.nn.stages import DARKEST, Stage, StagedFuser, State, Window, channels_last, without_gradients

_STRIPE_PX = 120_000
"""Pixels in a stripe: its temporaries stay below the size at which the C library gives memory back after each use."""
_SPECTRUM_PX, _SPECTRUM_HALO = 500_000, 4
"""Frequencies in a block of a large spectrum, and rows around it: two times two convolutions."""
_TASK_SHARE = 0.1
"""Mean of what the task's gradient adds to the slope of the energy, over an image."""


class SFOFusion(StagedFuser):
    """Fusion network F of SFOFusion: (B,1,H,W), (B,1,H,W) -> (B,1,H,W), all in [0,1].

    >>> SFOFusion()(torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """

    lowest = DARKEST  # the phase of a source that is nothing but 0 is none
    trains_whole = False

    def __init__(self) -> None:
        super().__init__()
        self.frequency, self.space = _FrequencyFusion(), _SpaceCompensation()

    def stages(self) -> list[Stage]:
        """Features of both images are summed, the spectra of whole images are fused, what was lost is put back."""

        def describe(state: State, _: State, window: Window) -> tuple[State, State]:
            return state, (self.frequency.separation.sum_features(torch.cat(state), window),)

        def mix(state: State, statistics: State, _: Window) -> tuple[State, State]:
            x, scene = self.frequency(*state, *statistics)
            return (*state, x), (scene,)

        def compensate(state: State, statistics: State, _: Window) -> tuple[State, State]:
            return (self.space(*state, *statistics),), ()

        return [
            Stage(describe, halo=1, stripe_px=_STRIPE_PX // 2),  # both sources at once
            Stage(mix, whole=True),
            Stage(compensate, _SpaceCompensation.HALO, stripe_px=_STRIPE_PX),
        ]


class LossGenerator(nn.Module):
    """Loss generator LGL: (B,1,H,W), (B,1,H,W) -> (B,2,H,W), weights that sum to 1 per pixel; 5,097 parameters.

    Args:
        centred: take the mean over the pixels out of the logit before the sigmoid, so that the loss can say where it
            wants more of a source but not that it wants one everywhere.

    >>> LossGenerator()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).shape
    torch.Size([1, 2, 4, 4])
    """

    def __init__(self, *, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.embed, self.norm1 = conv(2, 12), self.norm(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.widen, self.norm2 = nn.Conv2d(12, 24, 1), self.norm(24)
        self.narrow, self.dilated = conv(24, 12), nn.Conv2d(12, 12, 3, padding=2, dilation=2)
        self.norm3 = self.norm(12)
        self.attend = nn.Sequential(_ChannelSpaceGate(12), _ChannelSpaceGate(12))
        self.output = nn.Sequential(nn.Conv2d(12, 6, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 1, 1))
        self.beta, self.eta, self.lam, self.sigma = (nn.Parameter(torch.full((1,), x)) for x in self.starts())

    @staticmethod
    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(channels // 4, channels)

    @staticmethod
    def starts() -> tuple[float, ...]:
        """Initial beta, eta, lambda and sigma: lambda through a sigmoid, the others through a softplus."""
        return inverse_softplus(1e-2), inverse_softplus(0.4), 0.0, inverse_softplus(1.0)

    def forward(self, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> Tensor:
        logit = self.logit(a, b)
        logit = logit - F.softplus(self.eta) * self.slope(logit, a, b, task_grad)
        logit = logit - logit.mean((2, 3), keepdim=True) if self.centred else logit
        return torch.sigmoid(torch.cat([logit, -logit], 1))

    def logit(self, a: Tensor, b: Tensor) -> Tensor:
        """Logit of w_a from the convolutions, (B,1,H,W)."""
        x = self.norm1(F.relu(self.embed(torch.cat([a, b], 1))))
        x = self.norm2(F.relu(self.widen(F.relu(self.depthwise(x)))))
        x = self.norm3(F.relu(self.dilated(F.relu(self.narrow(x)))))
        out: Tensor = self.output(self.attend(x))
        return out

    def slope(self, logit: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None) -> Tensor:
        """Derivative of the energy with respect to w_a, (B,1,H,W)."""
        lam, sigma, reference = torch.sigmoid(self.lam), F.softplus(self.sigma), torch.maximum(a, b)
        slope = energy(reference - a, lam, sigma) - energy(reference - b, lam, sigma)
        slope = slope + F.softplus(self.beta) * variation_gradient(torch.sigmoid(logit))
        if task_grad is not None:
            task = (task_grad * (a - b)).detach()
            slope = slope + _TASK_SHARE * task / (task.abs().mean((1, 2, 3), keepdim=True) + 1e-8)
        return slope


class SFOFusionLoss(TDFusionLoss):
    """Learned objective of SFOFusion: TDFusion's two terms with the weights of `LossGenerator`.

    Args:
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

    generator_class: type[LossGenerator] = LossGenerator

    def __init__(self, *, alpha: float = 1.0, beta: float = 1.0, centred: bool = False) -> None:
        super().__init__(self.generator_class(centred=centred), alpha=alpha, beta=beta)

    def weights(self, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> Tensor:
        """Returns w_a and w_b, (B,2,H,W)."""
        assert self.generator is not None
        w: Tensor = self.generator(a, b, task_grad)
        return w

    def forward(self, fused: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> dict[str, Tensor]:
        return self.terms(fused, a, b, self.weights(a, b, task_grad))


class _ChannelSpaceGate(nn.Module):
    """Gate on channels by their mean and maximum, then on pixels by the mean and maximum of their channels."""

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
    """Energy of the distance d from the reference: a parabola, and one that levels off."""
    d2 = d.square()
    return lam * d2 + (1 - lam) * (1 - torch.exp(-d2 / (2 * sigma.square())))


class _FrequencyFusion(nn.Module):
    """Fuses two spectra: (B,1,H,W) twice -> the image x (B,1,H,W) and the descriptors of both scenes (B,32).

    Spectra are float32 or better, what layers see of them is in the dtype of the sources.
    """

    def __init__(self) -> None:
        super().__init__()
        self.separation, self.gains = _FrequencySeparation(), _BandGains()
        self.align = nn.Sequential(SpectralConv(2, 8), nn.ReLU(inplace=True), SpectralConv(8, 1))
        self.fuse_phase = nn.Sequential(nn.Conv2d(4, 16, 1), nn.ReLU(inplace=True), nn.Conv2d(16, 1, 1))
        self.fuse_amplitude = nn.Sequential(SpectralConv(4, 12), nn.ReLU(inplace=True), SpectralConv(12, 1))
        self.gate = _SpectralGate()
        nn.init.constant_(self.align[2].bias, -2.0)  # type: ignore[arg-type]  # the sources are registered

    def forward(self, visible: Tensor, infrared: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """`features` (2B,16) are the sums of `FrequencySeparation.sum_features` over both images."""
        x = spectrum(torch.cat([visible, infrared]))
        size = amplitude(x)
        level = _standardise(torch.log1p(255 * size)).to(visible.dtype)  # in gray levels of 256
        scene, filters = self.separation.choose_filters(features / (visible.shape[2] * visible.shape[3]))
        planes = x, size, level, self.gains(level, visible.shape[3])
        blocks = [
            self._fuse_rows(tuple(z[:, :, rows] for z in planes), filters)[:, :, core] for rows, core in _row_blocks(x)
        ]
        mixed = image(torch.cat(blocks, 2), *visible.shape[2:])
        return self.gate(mixed.to(visible.dtype)), torch.cat(_split(scene), 1)

    def _fuse_rows(self, planes: State, filters: Tensor) -> Tensor:
        """The fused spectrum (B,1,h,W//2+1), of h rows of both, (2B,1,h,W//2+1) each plane."""
        x, size, level, gains = planes
        # Amplitudes: gains on what is detail
        size = size * (1 + gains * self.separation(level, filters))
        p_visible, p_infrared = _split(phasor(x))
        a_visible, a_infrared = _split(size)
        # Phases: alignment, then the phase of a weighted sum of both spectra
        share = torch.sigmoid(self.align(_phase_difference(p_visible, p_infrared).to(level.dtype)))
        p_infrared = rotate_phasor(p_infrared, p_visible, share)
        clues = torch.cat([_phase_difference(p_visible, p_infrared).to(level.dtype), *_split(level)], 1)
        share = torch.sigmoid(self.fuse_phase(clues))
        p = phasor(share * a_visible * p_visible + (1 - share) * a_infrared * p_infrared)
        share = torch.sigmoid(self.fuse_amplitude(clues))
        return (share * a_visible + (1 - share) * a_infrared) * p


class _FrequencySeparation(nn.Module):
    """LFSM: mask of the frequencies that are an image's detail, by filters of the spectrum chosen by the image."""

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

    def sum_features(self, sources: Tensor, window: Window) -> Tensor:
        """Sums over a window of the 16 features of images (B,1,H,W): (B,16)."""
        return self.look(sources).relu_()[:, :, *window].sum((2, 3))

    def choose_filters(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The descriptor of the scene (B,16) and the filters (B,8,8), from the mean features (B,16)."""
        scene = self.describe(features)
        filters = self.choose(scene).unflatten(1, (self.basis.out_channels, -1))
        return scene, filters + torch.eye(self.basis.out_channels, dtype=scene.dtype, device=scene.device)

    def forward(self, level: Tensor, filters: Tensor) -> Tensor:
        """The mask (B,1,H,W//2+1)."""
        z = self.basis(level)
        z = (filters @ z.flatten(2)).unflatten(2, z.shape[2:])
        return torch.sigmoid((torch.sigmoid(self.adapt(z)) - self.tau) * self.steepness)


class _BandGains(nn.Module):
    """FGA: gain minus 1 for each radial band of the detail, from the energies of all bands."""

    def __init__(self, num_bands: int = 6) -> None:
        super().__init__()
        self.squeeze, self.expand = nn.Linear(num_bands, 3), nn.Linear(3, num_bands)
        self.strength = nn.Parameter(torch.full((num_bands,), -2.0))

    def forward(self, level: Tensor, width: int) -> Tensor:
        bands = radial_bands(len(self.strength), level.shape[2], width, level).flatten(1)
        energy = level.flatten(1) @ bands.T / bands.sum(1).clamp_min(1e-3)
        gains = F.softplus(self.strength) * torch.sigmoid(self.expand(F.gelu(self.squeeze(energy))))
        return (gains @ bands).unflatten(1, (1, *level.shape[2:]))


class _SpectralGate(nn.Module):
    """Factor of the whole image, from its four lowest cosines; 1 at rest."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 1))
        self.share = nn.Parameter(torch.full((1,), 0.3))
        nn.init.zeros_(self.judge[2].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = 2 * torch.sigmoid(self.judge(low_cosines(x)))
        return x * (1 + torch.sigmoid(self.share) * (y - 1))[:, :, None, None]


class _SpaceCompensation(nn.Module):
    """Finds what the mixture has lost and puts it back; local but for channel gates that know both scenes."""

    HALO = 11
    """Reach of a pixel of the result: twelve convolutions, of which eleven are in one line."""

    def __init__(self, width: int = 24, scene: int = 32) -> None:
        super().__init__()
        conv3x3 = functools.partial(conv, padding="replicate")  # flat sources give a flat result up to the border
        self.differences1, self.differences2 = conv3x3(2, 16), conv3x3(16, 16)
        self.differences_gate, self.differences3 = nn.Linear(scene, 16), conv3x3(16, 2)
        self.significance1, self.significance2 = conv3x3(3, 8), nn.Conv2d(8, 2, 1)
        self.strength = nn.Parameter(torch.full((2,), 0.5))
        self.edges = _LearnedEdges()
        self.extract1, self.extract2, self.extract3 = conv3x3(7, width), conv3x3(width, width), conv3x3(width, 8)
        self.compensation_gate = nn.Linear(scene, 8)
        self.interact = nn.Sequential(
            nn.Conv2d(9, 9, 3, padding=1, padding_mode="replicate", groups=9, bias=False),
            nn.Conv2d(9, 16, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 9, 1),
        )
        self.merge1, self.merge2, self.merge3 = conv3x3(9, 32), conv3x3(32, 16), conv3x3(16, 1)
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


class _LearnedEdges(nn.Module):
    """Raises the edges of an image: e = k + P(|g|, g_x, g_y, k + q (k - blurred k)), g trained from Sobel's."""

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


def conv(channels_in: int, channels_out: int, *, padding: Padding = "zeros") -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode=padding)


def _row_blocks(x: Tensor) -> Iterator[tuple[Tensor | slice, slice]]:
    """Rows of a half spectrum to work on at once, those around included, and which of them count; all with gradients.

    The rows are a circle. Convolutions of a block close it too early, which spoils SPECTRUM_HALO rows at both ends.
    """
    height = x.shape[2]
    if not without_gradients(x) or (rows := max(64, _SPECTRUM_PX // x.shape[3])) >= height:
        yield slice(None), slice(None)
        return
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        around = torch.arange(top - _SPECTRUM_HALO, bottom + _SPECTRUM_HALO) % height
        yield around, slice(_SPECTRUM_HALO, _SPECTRUM_HALO + bottom - top)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The visible and the infrared half of a batch (2B,..)."""
    visible, infrared = x.unflatten(0, (2, -1)).unbind(0)
    return visible, infrared


def _phase_difference(p: Tensor, q: Tensor) -> Tensor:
    """Cosine and sine of the phase of q minus the phase of p: (B,2,...)."""
    z = q * p.conj()
    return torch.cat([z.real, z.imag], 1)


def _standardise(x: Tensor) -> Tensor:
    """x with mean 0 and deviation 1 per image."""
    x = x - x.mean((2, 3), keepdim=True)
    return x / (x.square().mean((2, 3), keepdim=True) + 1e-4).sqrt()
