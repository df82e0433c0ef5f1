"""AdaSFFuse as it was released, with its defects: the fusion network, layer by layer, and the objective.

1,351,825 parameters. With E a convolution, W a learned wavelet and S a block of spatial and frequency parts (below):

    [Lo_k; Hi_k] = enhance(W E(k)),   Lo = Lo_a + Lo_b,   Hi = Hi_a + Hi_b             at half the resolution
    f = conv(S^4( W^-1( S^2 Lo, S^2 Hi ) ))

A block S of width D, on the pixels as one sequence, row after row:

    x <- x + M(LN x),   x <- x + MLP(LN x)
    [z; v; dt] = W_in u,   v <- SiLU(depthwise(v)) + g v - g' hilbert(v),   [x; B; C] = v
    M(u) = W_out( LN(scan(x, softplus(dt), B, C)) z )

Defects, all kept (`tests/test_adasffuse.py` asserts each):
    - both sources are treated alike and summed at once: f(a, b) = f(b, a)
    - the wavelet has 8 numbers, the same for every image, and does not invert once they have moved
    - the frequency filter has one complex number per channel: all frequencies get the same, g x - g' hilbert(x)
    - the scan goes one way only, so that a token knows nothing of the rows below; the gate z has no activation
    - three bands are stacked and convolved in groups of three, which takes three channels of one band (and, at two
      borders, of two) where one channel's three bands are meant
    - `unused` (128 parameters) is never called

hilbert is linear in the tokens and the same for all channels, so it is taken of the D channels of u instead of the 4D
of v. Without gradients a block is worked in stripes of rows on a CPU, with the state of the scan carried along.

The objective measures |grad| by the sum of the Sobel derivatives' magnitudes (an edge may turn into its inverse), all
filters see zeros beyond the border, and structure counts by the mean gradient of a batch.

Reference: Task-Generalized Adaptive Cross-Domain Learning for Multimodal Image Fusion, Wang et al., 2025,
https://arxiv.org/abs/2508.15505
Differs from the release: the output, linear there, is cut to [0,1]; odd sizes are cut back to the size given; the scan
needs no GPU. Written from a description of its layers, not from the code.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.losses import magnitude_loss, ssim_map
from tectum.models.adasffuse import AdaSFFuseLoss
from tectum.nn.filters import sobel
from tectum.nn.scan import Workspace, scan, scan_from
from tectum.nn.stages import channels_last, without_gradients
from tectum.nn.wavelet import LearnedWavelet

HEAD, STATES = 64, 64
_STRIPE_NUMBERS = 2**17
"""Tokens times channels in a stripe: its temporaries, a few MB, stay in the cache."""
_CHANNELS = 8
"""Channels transformed at once."""


class PublishedAdaSFFuse(nn.Module):
    """Released fusion network: (B,1,H,W), (B,1,H,W) -> (B,1,H,W) in [0,1]."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.embed, self.wavelet = nn.Conv2d(1, channels, 3, padding=1), LearnedWavelet()
        self.enhance_high = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=channels)
        self.enhance_low = nn.Conv2d(channels, channels, 3, padding=3, dilation=3, groups=channels)
        self.high = nn.ModuleList(_Block(3 * channels) for _ in range(2))
        self.low = nn.ModuleList(_Block(channels) for _ in range(2))
        self.whole = nn.ModuleList(_Block(channels) for _ in range(4))
        self.output1, self.output2 = nn.Conv2d(channels, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.output3 = nn.Conv2d(16, 1, 3, padding=1)
        self.unused = nn.LayerNorm(channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        (high, low), (other_high, other_low) = self.bands(a), self.bands(b)
        high, low = high + other_high, low + other_low
        del other_high, other_low
        high, low = _run_blocks(self.high, high), _run_blocks(self.low, low)
        lh, hl, hh = high.chunk(3, dim=1)
        x = channels_last(self.wavelet.inverse((low, lh, hl, hh)))
        del high, low, lh, hl, hh
        x = _run_blocks(self.whole, x)
        x = F.leaky_relu(self.output2(F.leaky_relu(self.output1(x), 0.2)), 0.2)
        return self.output3(x)[:, :, : a.shape[2], : a.shape[3]].clamp(0, 1)

    def bands(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Hi (B,3C,h,w) and Lo (B,C,h,w) of a source."""
        low, *high = self.wavelet(F.leaky_relu(channels_last(self.embed(k)), 0.2))
        high = F.gelu(self.enhance_high(torch.cat(high, dim=1)))
        return high, F.gelu(self.enhance_low(low))


class PublishedAdaSFFuseLoss(AdaSFFuseLoss):
    """Released objective of one kind of fusion; arguments are those of `tectum.models.adasffuse.AdaSFFuseLoss`."""

    def terms(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        target = torch.maximum(a, b) if self.kind in ("infrared", "medical") else (a + b) / 2
        share: Any = 0.5
        if self.kind in ("infrared", "focus"):
            steep_a, steep_b = (sobel(k, padding="zeros").abs().sum(1).mean() for k in (a, b))
            share = steep_a / (steep_a + steep_b).clamp_min(1e-12)
        similar_a, similar_b = (ssim_map(k, fused, padding="zeros").mean() for k in (a, b))
        return {
            "intensity": (fused - target).abs().mean(),
            "gradient": magnitude_loss(fused, a, b),
            "ssim": 1 - (share * similar_a + (1 - share) * similar_b),
        }


def _run_blocks(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    """Blocks, which take (B,h,w,C), on (B,C,h,w), which is overwritten where stripes are used."""
    x = x.permute(0, 2, 3, 1).contiguous()
    striped, workspace = without_gradients(x) and not blocks.training, Workspace()  # stripes have no dropout
    for block in blocks:
        x = block.run_in_stripes(x, workspace) if striped else block(x)  # type: ignore[operator]
    return x.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """S: (B,h,w,D) -> (B,h,w,D); 61,382 parameters at D = 64, 476,754 at 192."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.mixer, self.norm2 = nn.LayerNorm(width), Mixer(width), nn.LayerNorm(width)
        self.fc1, self.fc2, self.dropout = nn.Linear(width, 4 * width), nn.Linear(2 * width, width), nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        u, mixer = self.norm1(x), self.mixer
        v, z, dt = mixer.project(u)
        filtered = F.linear(hilbert(u), mixer.split()[0]) * mixer.gain[:, 1]
        x = x + mixer.mix(v, filtered, z, dt)
        return x + self.mlp(x)

    def mlp(self, x: Tensor) -> Tensor:
        gate, y = self.fc1(self.norm2(x)).chunk(2, dim=-1)
        out: Tensor = self.fc2(self.dropout(F.silu(gate) * y))
        return out

    def run_in_stripes(self, x: Tensor, workspace: Workspace) -> Tensor:
        """Block S in place, image by image."""
        for image in x:
            self._run_one_in_stripes(image, workspace)
        return x

    def _run_one_in_stripes(self, x: Tensor, workspace: Workspace) -> None:
        """Block S of (h,w,D) in place. The convolution needs a row from above a stripe and one from below."""
        height, width, channels = x.shape
        rows, mixer, state = max(1, _STRIPE_NUMBERS // (width * channels)), self.mixer, None
        u, transformed = self._normalise(x, rows, workspace)
        w_v, w_z, _ = mixer.split()
        gained, taps = (w_v * -mixer.gain[:, 1:]).T, mixer.local.weight.flatten(1).T.contiguous()
        v = workspace("v", x, rows + 2, width, len(w_v))
        v[0] = 0
        torch.mm(u[:width], w_v.T, out=v[1])
        for top in range(0, height, rows):
            end = min(top + rows, height)
            n, below = end - top, min(end + 1, height) - top - 1  # rows of the stripe, and of those below its first
            tokens = slice(top * width, end * width)
            torch.mm(u[tokens.start + width : tokens.stop + width], w_v.T, out=v[2 : below + 2].flatten(0, 1))
            v[below + 2 : n + 2] = 0
            z = torch.mm(u[tokens], w_z.T, out=workspace("z", x, n * width, mixer.inner))
            near = F.silu(_convolve_rows(v[: n + 2], taps, mixer.local.bias, workspace), inplace=True).flatten(0, 1)
            near.addcmul_(mixer.gain[:, 0], v[1 : n + 1].flatten(0, 1))
            near.addmm_(transformed[:, tokens].T.to(x.dtype), gained)
            v[0], v[1] = v[n], v[n + 1]
            y, state = scan_from(
                state, *mixer.scan_inputs(near[None], mixer.token_steps(u[tokens])[None]), workspace=workspace
            )
            stripe = x[top:end].flatten(0, 1)
            stripe.addmm_(mixer.norm(y[0].flatten(1)).mul_(z), mixer.project_out.weight.T)
            h = workspace("h", x, n * width, 4 * channels)
            torch.addmm(self.fc1.bias, self.norm2(stripe), self.fc1.weight.T, out=h)
            gate, y = h.chunk(2, dim=1)
            y = torch.mul(F.silu(gate, inplace=True), y, out=workspace("g", x, n * width, 2 * channels))
            stripe.addmm_(y, self.fc2.weight.T).add_(self.fc2.bias)

    def _normalise(self, x: Tensor, rows: int, workspace: Workspace) -> tuple[Tensor, Tensor]:
        """norm1 of (h,w,D) as (h w,D), and its Hilbert transform as (D,h w)."""
        height, width, channels = x.shape
        wide, step = torch.promote_types(x.dtype, torch.float32), rows * width
        u = workspace("u", x, height * width, channels)
        transformed = workspace("transformed", x, channels, height * width, dtype=wide)
        stripes = zip(u.split(step), x.flatten(0, 1).split(step), transformed.split(step, dim=1), strict=True)
        for normed, stripe, transposed in stripes:
            transposed.copy_(normed.copy_(self.norm1(stripe)).T)
        _hilbert_in_place(transformed)
        return u, transformed


class Mixer(nn.Module):
    """Mixer M of width D, with 2D / 64 heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.heads = 2 * width, 2 * width // HEAD
        self.width_v = self.inner + 2 * STATES
        self.project_in = nn.Linear(width, self.inner + self.width_v + self.heads, bias=False)
        self.local = nn.Conv2d(self.width_v, self.width_v, 3, padding=1, groups=self.width_v)
        self.gain = nn.Parameter(torch.empty(self.width_v, 2))
        self.norm, self.project_out = nn.LayerNorm(self.inner), nn.Linear(self.inner, width, bias=False)
        steps = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-3), math.log(0.1))).clamp_min(1e-4)
        self.dt_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.a_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.past = nn.Parameter(torch.ones(self.heads))
        nn.init.trunc_normal_(self.gain, std=0.02)

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the rows of `project_in` that make v, z and dt."""
        z, v, dt = self.project_in.weight.split([self.inner, self.width_v, self.heads])
        return v, z, dt

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns v, z and dt of tokens (B,h,w,D)."""
        v, z, _ = self.split()
        return F.linear(u, v), F.linear(u, z), self.token_steps(u)

    def token_steps(self, u: Tensor) -> Tensor:
        """Returns dt of tokens (..,D)."""
        return F.softplus(F.linear(u, self.split()[2]) + self.dt_bias)

    def scan_inputs(self, v: Tensor, dt: Tensor) -> tuple[Tensor, ...]:
        """Returns x, dt, a, B, C and d of the scan, of tokens (B,L,..)."""
        x, b, c = v.split([self.inner, STATES, STATES], dim=-1)
        return x.unflatten(2, (self.heads, HEAD)), dt, -self.a_log.exp(), b, c, self.past

    def mix(self, v: Tensor, filtered: Tensor, z: Tensor, dt: Tensor) -> Tensor:
        """Returns M of all rows (B,h,w,..); `filtered` has its gain already."""
        height, width = z.shape[1:3]
        near = F.silu(self.local(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        v = torch.addcmul(near, self.gain[:, 0], v) - filtered
        y = scan(*self.scan_inputs(v.flatten(1, 2), dt.flatten(1, 2))).flatten(2)
        out: Tensor = self.project_out(self.norm(y).unflatten(1, (height, width)) * z)
        return out


def _convolve_rows(v: Tensor, taps: Tensor, bias: Tensor | None, workspace: Workspace) -> Tensor:
    """Depthwise convolution of rows (h+2,w,C), one more above and below, with taps (9,C)."""
    rows, width, channels = v.shape
    out = workspace("local", v, rows - 2, width, channels)
    assert bias is not None
    torch.addcmul(bias, taps[4], v[1:-1], out=out)
    for k in (0, 1, 2, 3, 5, 6, 7, 8):
        y, x = k // 3, k % 3 - 1
        out[:, max(0, -x) : width - max(0, x)].addcmul_(taps[k], v[y : y + rows - 2, max(0, x) : width - max(0, -x)])
    return out


def hilbert(u: Tensor) -> Tensor:
    """Hilbert transform along the raster of every channel of (B,h,w,D): -i on every positive frequency.

    >>> wave = torch.arange(8.0) * torch.pi / 4
    >>> torch.allclose(hilbert(wave.cos().reshape(1, 2, 4, 1)).flatten(), wave.sin(), atol=1e-6)
    True
    """
    x = u.flatten(1, 2).transpose(1, 2)
    z = torch.fft.rfft(x.to(torch.promote_types(x.dtype, torch.float32)))
    inner = _inner_frequencies(x.shape[-1], z.device)
    x = torch.fft.irfft(torch.complex(z.imag * inner, -z.real * inner), n=x.shape[-1])
    return x.transpose(1, 2).to(u.dtype).reshape(u.shape)


def _hilbert_in_place(x: Tensor) -> None:
    """Hilbert transform of (channels, length), a few channels at a time, without derivatives."""
    factor = -1j * _inner_frequencies(x.shape[1], x.device).to(x.dtype)
    for channels in x.split(_CHANNELS):
        torch.fft.irfft(torch.fft.rfft(channels).mul_(factor), n=x.shape[1], out=channels)


def _inner_frequencies(length: int, device: torch.device) -> Tensor:
    """True for frequencies that have a sine: all but the mean and the fastest wave."""
    frequency = torch.arange(length // 2 + 1, device=device)
    return (frequency > 0) & (2 * frequency < length)
