"""AdaSFFuse: wavelets that adapt to the image, whose bands are fused with the context of the whole image from scans.

Each source k goes through a siamese encoder and a wavelet whose tilts p depend on it, block by block; the bands of the
sources are mixed by gates from the local activity and from the context c:

    [L_k; H_k] = rotate(E(k), p_k),   p_k = W mean E(k)                                at half the resolution
    u   = W [mean L_a; mean L_b; mean |H_a|; mean |H_b|],   c = S^2(u)                  at a quarter
    g   = sigmoid(G [|H_a|; |H_b|; L_a; L_b] + up(c)),   X = g X_a + (1 - g) X_b        X = L, H, p
    w, r = conv[ rotate^-1(L, H, p); E(a); E(b) ] + up(c)
    f   = sigmoid( logit( sigmoid(w) a + (1 - sigmoid(w)) b ) + r )

so that a weight for every pixel chooses between the sources at full resolution, and r corrects what no choice can. A
block S filters tokens frequency by frequency, and scans their whole row and column, both ways:

    [z; v; dt; B; C] = W_in LN(x),    v <- SiLU(depthwise(v)) + sum_n g_n (1 + m_n) band_n(v)
    x <- x + W_out( LN(sum of four scans(v, dt, B, C)) SiLU(z) ),    x <- x + MLP(LN(x))

band_n are octaves of the spectrum that add up to v, g_n a number per channel, m_n one per token.

The fused image of any H and W; memory and time are linear in the pixels; without gradients all but the tokens is worked
in stripes. Inputs and output (B,1,H,W) in [0,1]; a is the visible image, the over-exposed one, the
CT, PET or SPECT image, or the first of two foci.

Reference: Task-Generalized Adaptive Cross-Domain Learning for Multimodal Image Fusion, Wang et al., 2025,
https://arxiv.org/abs/2508.15505

Differs from the release (`adasffuse-published`, `tectum.models.adasffuse_published`) where that breaks a promise:
    - wavelet weights depend on the input, and always invert; the release has eight numbers for everything
    - the filter tells frequencies apart; there, every frequency gets the same complex number
    - scans run both ways along rows and columns, not once through the raster; the gate z has an activation
    - each source has a bias of its own, so that f(a, b) is not f(b, a); bands are mixed, not summed
    - what is global is worked at a quarter of the resolution: a training step takes less than a tenth of the time
    - the result is a choice between the sources and a correction, near their average before training
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.errors import UserError
from tectum.kinds import KINDS
from tectum.losses import gradient_loss, ssim_map
from tectum.nn.filters import box_mean, sobel
from tectum.nn.pyramid import blend
from tectum.nn.scan import scan
from tectum.nn.stages import Stage, StagedFuser, State, Window, channels_last, extend, without_gradients
from tectum.nn.wavelet import Bands, polyphase, rotate, rotate_back

_CHUNK = 16
"""Tokens of a line scanned at once; an exported graph takes the line, and memory as its length."""
_TOKEN_PX = 4
"""A token stands for 4x4 pixels."""
_STRIPE_PX = 40_000
_LARGE_TOKENS = 2**17
"""Tokens of an image, 2 megapixels, from which temporaries of the scans are not made for all of it at once."""
_HALO_PX = 8
"""Halo of a stripe, in whole tokens: two convolutions on the bands of tokens a pixel away."""


class AdaSFFuse(StagedFuser):
    """Fusion network of AdaSFFuse: (B,1,H,W), (B,1,H,W) -> (B,1,H,W), all in [0,1].

    >>> AdaSFFuse()(torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 5, 7)).shape
    torch.Size([1, 1, 5, 7])
    """

    extra_px = _TOKEN_PX  # two tokens a side or more
    trains_whole = False

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.context, self.output = _Encoder(), _Context(), _Output()

    def stages(self) -> list[Stage]:
        """Tokens are embedded, scanned over the whole image, and their context guides the fusion."""

        def embed(state: State, _: State, __: Window) -> tuple[State, State]:
            (_, bands_a, _), (_, bands_b, _) = self.encoder(*state)
            return (*state, self.context.embed(_halve(_local_features(bands_a, bands_b)))), ()

        def scan_tokens(state: State, _: State, __: Window) -> tuple[State, State]:
            a, b, tokens = state
            return (a, b, self.context(tokens)), ()

        def fuse(state: State, _: State, __: Window) -> tuple[State, State]:
            a, b, context = state
            return (self.output(a, b, *self.encoder(a, b), context),), ()

        return [
            Stage(embed, _HALO_PX, _TOKEN_PX, _STRIPE_PX),
            Stage(scan_tokens, whole=True),
            Stage(fuse, _HALO_PX, _TOKEN_PX, _STRIPE_PX),
        ]


_Analysis = tuple[Tensor, Bands, tuple[Tensor, Tensor]]
"""Of a source: its features (B,C,H,W), their bands (B,C,H/2,W/2), and the tilts that made them."""


class _Encoder(nn.Module):
    """Features, wavelet bands and tilts of both sources, by the same layers but for a bias that tells them apart."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, channels, 3, padding=1)
        self.role = nn.Parameter(torch.linspace(-0.1, 0.1, 2)[:, None].repeat(1, channels))
        self.tilts = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, a: Tensor, b: Tensor) -> tuple[_Analysis, _Analysis]:
        return self._analyse(a, 0), self._analyse(b, 1)

    def _analyse(self, k: Tensor, index: int) -> _Analysis:
        assert self.embed.bias is not None
        x = F.conv2d(extend(channels_last(k), "replicate"), self.embed.weight, self.embed.bias + self.role[index])
        x = F.leaky_relu(x, 0.2)
        rows, columns = self.tilts(_halve(x)).chunk(2, dim=1)
        return x, rotate(x, rows, columns), (rows, columns)


def _local_features(bands_a: Bands, bands_b: Bands) -> Tensor:
    """[L_a; L_b; |H_a|; |H_b|], (B,8C,H/2,W/2)."""
    return torch.cat([bands_a[0], bands_b[0], *(band.abs() for band in (*bands_a[1:], *bands_b[1:]))], 1)


class _Context(nn.Module):
    """Global context: tokens (B,64,h,w) -> (B,66,h,w), 64 logits of bands, and one each of w and r."""

    def __init__(self, channels: int = 16, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(8 * channels, width, 1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 4 * channels + 2)
        _near_average(self.out)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.out(self.norm(x))
        return out.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """A spatial-frequency block S: (B,h,w,D) -> (B,h,w,D)."""

    def __init__(self, width: int, *, heads: int = 4, states: int = 8) -> None:
        super().__init__()
        self.heads, self.states, self.width = heads, states, width
        self.norm1, self.norm2, self.norm_scan = (nn.LayerNorm(width) for _ in range(3))
        self.sizes = [width, width, 4 * heads, 4 * states, BANDS]
        self.project_in, self.project_out = nn.Linear(width, sum(self.sizes)), nn.Linear(width, width)
        self.local = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate", groups=width)
        self.gains = nn.Parameter(0.1 * torch.randn(BANDS, width))
        pace = torch.exp(torch.empty(4, heads).uniform_(-4.6, -0.7))  # a token counts 0.01 to 0.5
        self.dt_bias = nn.Parameter(pace + torch.log(-torch.expm1(-pace)))
        self.a_log, self.past = nn.Parameter(torch.rand(heads)), nn.Parameter(torch.ones(width))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        z, v, dt, read, m = self.project_in(self.norm1(x)).split(self.sizes, dim=-1)
        v = v.permute(0, 3, 1, 2)
        v = F.silu(self.local(v)) + self._filter(v, m)
        v = v.permute(0, 2, 3, 1)
        y = self.past * v + self._scan(v, dt, read)
        x = x + self.project_out(self.norm_scan(y) * F.silu(z))
        return x + _run_by_lines(self._mlp, x)

    def _mlp(self, x: Tensor) -> Tensor:
        gate, y = self.fc1(self.norm2(x)).chunk(2, dim=-1)
        out: Tensor = self.fc2(F.silu(gate) * y)
        return out

    def _filter(self, v: Tensor, m: Tensor) -> Tensor:
        """Octaves of v (B,D,h,w), each with a gain per channel and one per token (B,h,w,BANDS)."""
        strength = 1 + torch.tanh(m.permute(0, 3, 1, 2))
        parts = zip(octaves(v), self.gains, strength.split(1, dim=1), strict=True)
        total = torch.zeros_like(v)
        for band, gain, factor in parts:
            total = total + band * gain[:, None, None] * factor
        return total

    def _scan(self, v: Tensor, dt: Tensor, read: Tensor) -> Tensor:
        """Scans along rows and columns, both ways: (B,h,w,D)."""
        dt = F.softplus(dt + self.dt_bias.flatten())
        along = _run_by_lines(self._scan_both_ways, v, *dt[..., : 2 * self.heads].chunk(2, -1), *read.chunk(4, -1)[:2])
        v, dt, read = (z.transpose(1, 2) for z in (v, dt, read))
        down = _run_by_lines(self._scan_both_ways, v, *dt[..., 2 * self.heads :].chunk(2, -1), *read.chunk(4, -1)[2:])
        return along + down.transpose(1, 2)

    def _scan_both_ways(self, v: Tensor, to: Tensor, fro: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Scans along the third axis of (B,lines,length,..), each line by itself, forwards and on the reversed line."""
        batch, lines = v.shape[:2]
        x, to, fro, b, c = (z.flatten(0, 1) for z in (v, to, fro, b, c))
        x, a = x.unflatten(2, (self.heads, -1)), -self.a_log.exp()
        y = scan(x, to, a, b, c, chunk=_CHUNK)
        x, fro, b, c = (z.flip(1) for z in (x, fro, b, c))
        y = y + scan(x, fro, a, b, c, chunk=_CHUNK).flip(1)
        return y.flatten(2).unflatten(0, (batch, lines))


def _run_by_lines(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of (B,lines,length,..) that works line by line; of large images without gradients, a few at a time."""
    _, lines, length = tensors[0].shape[:3]
    if not without_gradients(tensors[0]) or lines * length < _LARGE_TOKENS:
        return function(*tensors)
    parts = zip(*(x.split(max(1, _LARGE_TOKENS // 8 // length), dim=1) for x in tensors), strict=True)
    return torch.cat([function(*part) for part in parts], 1)


BANDS = 4


def octaves(x: Tensor) -> Iterator[Tensor]:
    """Bands that add up to x (B,C,h,w), the finest first and the mean last.

    Each band is what one more binomial filter [1 2 1]/4, its taps 1, 2 and 4 pixels apart, takes away; the border is
    repeated.

    >>> x = torch.rand(1, 2, 5, 3)
    >>> torch.allclose(sum(octaves(x)), x, atol=1e-6)
    True
    """
    line = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
    for step in (2**n for n in range(BANDS - 1)):
        low = F.conv2d(F.pad(x, (step,) * 4, mode="replicate"), kernel, dilation=step, groups=x.shape[1])
        yield x - low
        x = low
    yield x


class _Output(nn.Module):
    """Fuses both sources, their bands and the context to the image (B,1,H,W)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.gates = nn.Conv2d(8 * channels, 4 * channels, 1)
        self.hidden1 = nn.Conv2d(3 * channels, channels, 3, padding=1, padding_mode="replicate")
        self.hidden2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")
        self.out = nn.Conv2d(channels, 2, 1)
        _near_average(self.out)

    def forward(self, a: Tensor, b: Tensor, of_a: _Analysis, of_b: _Analysis, context: Tensor) -> Tensor:
        (x_a, bands_a, tilts_a), (x_b, bands_b, tilts_b) = of_a, of_b
        gates = torch.sigmoid(
            self.gates(_local_features(bands_a, bands_b)) + _enlarge(context[:, :-2], bands_a[0])
        ).chunk(4, dim=1)
        ll, lh, hl, hh = (q + g * (p - q) for g, p, q in zip(gates, bands_a, bands_b, strict=True))
        rows, columns = (q + gates[0] * (p - q) for p, q in zip(tilts_a, tilts_b, strict=True))
        x = torch.cat([rotate_back((ll, lh, hl, hh), rows, columns), x_a, x_b], 1)
        x = F.leaky_relu(self.hidden2(F.leaky_relu(self.hidden1(channels_last(x)), 0.2)), 0.2)
        w, r = (self.out(x) + _enlarge(context[:, -2:], a)).chunk(2, dim=1)
        choice = 0.01 + 0.98 * (b + torch.sigmoid(w) * (a - b))
        return torch.sigmoid(torch.log(choice / (1 - choice)) + r)


def _near_average(layer: nn.Conv2d | nn.Linear) -> None:
    """Scale down the last layer, so that an untrained network is near the average of its sources."""
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.zero_()


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def _halve(x: Tensor) -> Tensor:
    """Mean of each block of 2x2; in an exported graph by `polyphase`, so that the lengths are the same symbols."""
    if torch.compiler.is_compiling():
        return torch.stack(polyphase(x)).mean(0)
    return F.avg_pool2d(x, 2)


# ---- the objective ---------------------------------------------------------------------------------------------------


class AdaSFFuseLoss(nn.Module):
    """Fixed objective of one kind of fusion: 20 |f - T|, 20 |grad f - grad T|, 10 (1 - SSIM); medical 20, 100, 50.

    The target T, and how much the structure of each source counts:

    | kind | published T, and weights of the SSIMs | here |
    |---|---|---|
    | infrared | max(a, b), by mean gradient of the batch | max(a, b), by gradient around each pixel |
    | exposure | (a + b) / 2, halves: a grey veil | both, blended scale by scale |
    | focus | (a + b) / 2, by mean gradient: blurred | the sharper source around each pixel, in all three terms |
    | medical | max(a, b), halves | max(a, b), by gradient around each pixel |

    Derivatives keep their sign, and the border is repeated or left out (`PublishedAdaSFFuseLoss` does otherwise).

    The target for two exposures is after the exposure fusion of Mertens et al.: the stronger details of six scales over
    what is left, which exposedness mixes (`tectum.nn.pyramid`).

    Args:
        kind: "infrared", "exposure", "focus" or "medical".

    >>> x = torch.rand(2, 1, 16, 16)
    >>> [round(float(value), 4) for value in AdaSFFuseLoss("focus")(x, x, x).values()]
    [0.0, 0.0, 0.0]
    """

    def __init__(self, kind: str = "infrared") -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = kind
        self.scales = (20.0, 100.0, 50.0) if kind == "medical" else (20.0, 20.0, 10.0)

    def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        terms = self.terms(fused, a, b)
        return {name: scale * x for scale, (name, x) in zip(self.scales, terms.items(), strict=True)}

    def terms(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Returns the three terms before their scales."""
        share = self.detail_share(a, b)
        target = self.target(a, b, share)
        if self.kind == "focus":
            gradient = 2 * (sobel(fused) - torch.where(share > 0.5, sobel(a), sobel(b))).abs().mean()
        else:
            gradient = gradient_loss(fused, a, b)
        similarity = share * ssim_map(a, fused) + (1 - share) * ssim_map(b, fused)
        return {"intensity": (fused - target).abs().mean(), "gradient": gradient, "ssim": (1 - similarity).mean()}

    def target(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        """Returns T, (B,1,H,W) in [0,1]."""
        if self.kind == "focus":
            return b + share * (a - b)
        if self.kind == "exposure":
            good_a, good_b = _exposedness(a), _exposedness(b)
            return blend(a, b, good_a / (good_a + good_b))
        return torch.maximum(a, b)

    def detail_share(self, a: Tensor, b: Tensor) -> Tensor:
        """Share of a in the detail around a pixel, (B,1,H,W) in [0,1]; of two foci nearly 0 or 1, but for 1/2."""
        power = 4 if self.kind == "focus" else 1
        of_a, of_b = ((box_mean(sobel(k).square().sum(1, keepdim=True), 4) + 1e-5) ** power for k in (a, b))
        return of_a / (of_a + of_b)


def _exposedness(x: Tensor) -> Tensor:
    """Exposedness of brightness x: 1 at 1/2, falling as a Gaussian of deviation 0.2."""
    return torch.exp(-((x - 0.5) ** 2) / (2 * 0.2**2))
