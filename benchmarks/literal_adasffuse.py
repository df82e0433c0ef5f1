"""AdaSFFuse's network written literally from its published description: the reference for speed and exactness.

Nothing is shared between steps, nothing folded: the wavelet by strided convolutions, the filter by the transform of all
channels, the scan as its recurrence (`sequential`) or in chunks, all at once. `PublishedAdaSFFuse()` must
equal it (parameter names are the same) and both systems are timed against it. The output is linear, odd sizes come back
even.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 64


class Wavelet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Parameter(torch.tensor([0.5, 0.5]).sqrt()), nn.Parameter(torch.tensor([0.5, -0.5]))
        self.low_back = nn.Parameter(torch.tensor([0.5, 0.5]).sqrt())
        self.high_back = nn.Parameter(torch.tensor([0.5, -0.5]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        low, high = self.low, self.high
        bands = [(low, low), (high, low), (low, high), (high, high)]
        found = [F.conv2d(x, torch.outer(*k).expand(channels, 1, 2, 2), stride=2, groups=channels) for k in bands]
        return torch.cat(found[1:], 1), found[0]

    def inverse(self, high: Tensor, low: Tensor) -> Tensor:
        channels, lo, hi = low.shape[1], self.low_back, self.high_back
        kernels = torch.stack([torch.outer(*k) for k in ((lo, lo), (hi, lo), (lo, hi), (hi, hi))])
        interleaved = torch.stack([low, *high.chunk(3, 1)], 2).flatten(1, 2)
        kernels = kernels.repeat(channels, 1, 1)[:, None]
        return F.conv_transpose2d(interleaved, kernels, stride=2, groups=channels)


def recurrence(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    state, found = x.new_zeros(*x.shape[:1], *x.shape[2:], b.shape[2]), []
    for t in range(x.shape[1]):
        xt = x[:, t] * dt[:, t, :, None]
        state = torch.exp(dt[:, t] * a)[..., None, None] * state + xt[..., None] * b[:, t, None, None, :]
        found.append((state * c[:, t, None, None, :]).sum(-1) + d[:, None] * x[:, t])
    return torch.stack(found, 1)


def in_chunks(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    batch, length, heads, width = x.shape
    pad, q = -length % CHUNK, CHUNK
    X = F.pad(x * dt[..., None], (0, 0, 0, 0, 0, pad)).reshape(batch, -1, q, heads, width).permute(0, 3, 1, 2, 4)
    s = F.pad(dt * a, (0, 0, 0, pad)).reshape(batch, -1, q, heads).permute(0, 3, 1, 2).cumsum(-1)
    B, C = (F.pad(z, (0, 0, 0, pad)).reshape(batch, 1, -1, q, z.shape[2]) for z in (b, c))
    decay = s[..., :, None] - s[..., None, :]
    decay = decay.masked_fill(torch.ones(q, q, dtype=torch.bool).triu(1), -torch.inf).exp()
    y = (decay * (C @ B.transpose(-1, -2))) @ X
    kept = (X * (s[..., -1:] - s).exp()[..., None]).transpose(-1, -2) @ B
    state, before = torch.zeros_like(kept[:, :, 0]), []
    for log, new in zip(s[..., -1].unbind(2), kept.unbind(2), strict=True):
        before.append(state)
        state = log.exp()[..., None, None] * state + new
    y = y + s.exp()[..., None] * (C @ torch.stack(before, 2).transpose(-1, -2))
    return y.permute(0, 2, 3, 1, 4).reshape(batch, -1, heads, width)[:, :length] + d[:, None] * x


class Mixer(nn.Module):
    def __init__(self, width: int, sequential: bool) -> None:
        super().__init__()
        self.inner, self.heads, self.sequential = 2 * width, 2 * width // 64, sequential
        seen = self.inner + 128
        self.project_in = nn.Linear(width, self.inner + seen + self.heads, bias=False)
        self.local = nn.Conv2d(seen, seen, 3, padding=1, groups=seen)
        self.gain = nn.Parameter(0.02 * torch.randn(seen, 2))
        self.dt_bias, self.a_log = nn.Parameter(torch.zeros(self.heads)), nn.Parameter(torch.zeros(self.heads))
        self.past = nn.Parameter(torch.ones(self.heads))
        self.norm, self.project_out = nn.LayerNorm(self.inner), nn.Linear(self.inner, width, bias=False)

    def filter(self, v: Tensor) -> Tensor:
        """(B,L,C): the transform, one complex number a channel, and back."""
        z = torch.fft.rfft(v, dim=1, norm="ortho") * torch.view_as_complex(self.gain)
        return torch.fft.irfft(z, n=v.shape[1], dim=1, norm="ortho")

    def forward(self, u: Tensor, height: int, width: int) -> Tensor:
        z, v, dt = self.project_in(u).split([self.inner, self.inner + 128, self.heads], -1)
        dt = F.softplus(dt + self.dt_bias)
        grid = v.transpose(1, 2).unflatten(2, (height, width))
        v = F.silu(self.local(grid)).flatten(2).transpose(1, 2) + self.filter(v)
        x, b, c = v.split([self.inner, 64, 64], -1)
        run = recurrence if self.sequential else in_chunks
        y = run(x.unflatten(2, (self.heads, 64)), dt, -torch.exp(self.a_log), b, c, self.past)
        return self.project_out(self.norm(y.flatten(2)) * z)


class Block(nn.Module):
    def __init__(self, width: int, sequential: bool) -> None:
        super().__init__()
        self.norm1, self.mixer, self.norm2 = nn.LayerNorm(width), Mixer(width, sequential), nn.LayerNorm(width)
        self.fc1, self.fc2, self.dropout = nn.Linear(width, 4 * width), nn.Linear(2 * width, width), nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = x + self.mixer(self.norm1(x), height, width)
        gate, y = self.fc1(self.norm2(x)).chunk(2, -1)
        x = x + self.fc2(self.dropout(F.silu(gate) * y))
        return x.transpose(1, 2).unflatten(2, (height, width))


class LiteralAdaSFFuse(nn.Module):
    def __init__(self, *, sequential: bool = False) -> None:
        super().__init__()
        self.embed, self.wavelet = nn.Conv2d(1, 64, 3, padding=1), Wavelet()
        self.enhance_high = nn.Conv2d(192, 192, 3, padding=1, groups=64)
        self.enhance_low = nn.Conv2d(64, 64, 3, padding=3, dilation=3, groups=64)
        self.high = nn.Sequential(*(Block(192, sequential) for _ in range(2)))
        self.low = nn.Sequential(*(Block(64, sequential) for _ in range(2)))
        self.whole = nn.Sequential(*(Block(64, sequential) for _ in range(4)))
        self.output1, self.output2 = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.output3, self.unused = nn.Conv2d(16, 1, 3, padding=1), nn.LayerNorm(64)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        highs, lows = [], []
        for k in (a, b):
            high, low = self.wavelet(F.leaky_relu(self.embed(k), 0.2))
            highs.append(F.gelu(self.enhance_high(high)))
            lows.append(F.gelu(self.enhance_low(low)))
        high, low = self.high(highs[0] + highs[1]), self.low(lows[0] + lows[1])
        x = self.whole(self.wavelet.inverse(high, low))
        return self.output3(F.leaky_relu(self.output2(F.leaky_relu(self.output1(x), 0.2)), 0.2))
