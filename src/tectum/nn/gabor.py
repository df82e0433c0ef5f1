"""A bank of small Gabor filters that learn, one pair, even and odd, per orientation; and attention between the two.

On a grid of pixels u (right) and v (down), with x' = u cos t + v sin t and y' = -u sin t + v cos t,

    even = exp(-(x'^2 + gamma^2 y'^2) / (2 sigma^2)) cos(2 pi x' / lambda + psi)         odd: sin in place of cos

sigma, lambda and gamma are softplus(raw) + 0.1. The mean is taken out of the odd kernel, so that a flat image gives
nothing, and both are divided by the sum of their magnitudes: an image in [0,1] gives responses in [-1,1].

In windows of 8x8 pixels the odd responses o_i give the queries of an attention, the even ones e_j its keys and values.
All come from linear layers one behind the other, and so does what follows: per head only M, m, P and p are left.

    r_i = sum_j softmax_j( (o_i M + m) e_j ) e_j          six numbers per head, those of all heads in a row:
    z_i = P r_i + p,    y_i = w (z_i + W2 ReLU(W1 z_i + b1) + b2) + b + sum_o mixture_o o_i

Reference: Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
two-dimensional visual cortical filters, Daugman, JOSA A 1985, https://doi.org/10.1364/JOSAA.2.001160
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.nn.filters import inverse_softplus

WINDOW_PX = 8
_LARGEST_SCORE = 30.0
"""Of either sign: exp(30) is 1e13."""
_LOG2_E = 1 / math.log(2)


class GaborBank(nn.Module):
    """Even and odd responses of `orientations` Gabor pairs, turned by pi / orientations each, 5 numbers per pair.

    Args:
        orientations: number of pairs.
        radius: r of kernels with 2r + 1 pixels a side; the image is continued by its border pixels.

    >>> even, odd = GaborBank()(torch.ones(1, 1, 7, 7))
    >>> even.shape, float(odd.detach().abs().max()) < 1e-6
    (torch.Size([1, 6, 7, 7]), True)
    """

    def __init__(self, orientations: int = 6, *, radius: int = 2) -> None:
        super().__init__()
        self.radius = radius
        self.sigma = nn.Parameter(torch.full((orientations,), inverse_softplus(2.0 - 0.1)))
        self.wavelength = nn.Parameter(torch.full((orientations,), inverse_softplus(4.0 - 0.1)))
        self.aspect = nn.Parameter(torch.full((orientations,), inverse_softplus(1.0 - 0.1)))
        self.phase = nn.Parameter(torch.zeros(orientations))
        self.angle = nn.Parameter(torch.arange(orientations) * (math.pi / orientations))

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Even and odd kernels, (O,1,K,K) each."""
        grid = torch.arange(-self.radius, self.radius + 1, dtype=self.sigma.dtype, device=self.sigma.device)
        sigma, wavelength, aspect = (
            (F.softplus(raw) + 0.1)[:, None, None] for raw in (self.sigma, self.wavelength, self.aspect)
        )
        cos, sin = self.angle.cos()[:, None, None], self.angle.sin()[:, None, None]
        u, v = grid[None, None, :], grid[None, :, None]
        x, y = u * cos + v * sin, v * cos - u * sin
        envelope = (-(x.square() + (aspect * y).square()) / (2 * sigma.square())).exp()
        angle = 2 * math.pi * x / wavelength + self.phase[:, None, None]
        even, odd = envelope * angle.cos(), envelope * angle.sin()
        odd = odd - odd.mean((1, 2), keepdim=True)
        return tuple((k / (k.abs().sum((1, 2), keepdim=True) + 1e-6))[:, None] for k in (even, odd))  # type: ignore

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        even, odd = self.respond(x).chunk(2, 1)
        return even, odd

    def respond(self, x: Tensor) -> Tensor:
        """Even and odd responses in one tensor, (B,1,H,W) -> (B,2O,H,W)."""
        return F.conv2d(F.pad(x, (self.radius,) * 4, mode="replicate"), torch.cat(self.kernels()))


class GaborAttention(nn.Module):
    """Gabor bank and attention between its responses within windows: (B,1,H,W) -> (B,1,H,W), whole multiples of 8.

    Args:
        channels: of queries, keys and values.
        heads: groups of channels with weights of their own.
        orientations: of the bank.

    >>> GaborAttention()(torch.zeros(1, 1, 8, 16)).shape
    torch.Size([1, 1, 8, 16])
    """

    def __init__(self, channels: int = 32, *, heads: int = 4, orientations: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.bank, self.mixture = GaborBank(orientations), nn.Parameter(torch.zeros(orientations))
        self.embed_query, self.embed_key = nn.Linear(orientations, channels), nn.Linear(orientations, channels)
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels, bias=False)
        self.value, self.project = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.expand, self.reduce = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.out = nn.Linear(channels, 1)
        nn.init.kaiming_normal_(self.expand.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(*self.bank(x))

    def attend(self, even: Tensor, odd: Tensor, *, at_once: int | None = None, quick: bool = False) -> Tensor:
        """Attention of odd responses to even ones, (B,O,H,W) each -> (B,1,H,W).

        Args:
            even, odd: responses of the bank.
            at_once: windows worked on at once; None takes all.
            quick: without derivatives, and equal up to rounding, see `_mean_keys_quickly`.
        """
        batch, _, height, width = odd.shape
        folded = self._fold()
        quick = quick and _scores_are_small(even, odd, *folded[:2])
        queries, keys = windows(odd), windows(even)
        if at_once is None:
            details = self._attend_windows(queries, keys, *folded, quick=quick)
        else:
            pieces = zip(queries.split(at_once), keys.split(at_once), strict=True)
            details = torch.cat([self._attend_windows(*piece, *folded, quick=quick) for piece in pieces])
        return images(details, batch, height, width)

    def _attend_windows(self, queries: Tensor, keys: Tensor, *folded: Tensor, quick: bool) -> Tensor:
        """One detail for every token, (N,64,O) twice -> (N,64,1)."""
        to_query, query_bias, to_hidden, hidden_bias, to_out, from_mixed, out_bias, mixture = folded
        query = (queries @ to_query + query_bias).unflatten(2, (self.heads, -1)).flatten(1, 2)
        keys = keys.transpose(1, 2).contiguous()
        mixed = (_mean_keys_quickly if quick else _mean_keys)(query, keys)
        mixed = mixed.transpose(1, 2).unflatten(1, (-1, self.heads)).flatten(2)
        hidden = F.relu(mixed @ to_hidden + hidden_bias)
        return hidden @ to_out + mixed @ from_mixed + out_bias + queries @ mixture

    def _fold(self) -> tuple[Tensor, ...]:
        """Layers between tokens and scores, and between mixtures and details, multiplied out."""
        (to_query, query_bias), (to_mixed, mixed_bias) = self._fold_scores(), self._fold_values()
        return (
            to_query,
            query_bias,
            (self.expand.weight @ to_mixed).T,
            F.linear(mixed_bias, *_parameters(self.expand)),
            (self.out.weight @ self.reduce.weight).T,
            (self.out.weight @ to_mixed).T,
            F.linear(mixed_bias + self.reduce.bias, *_parameters(self.out)),
            self.mixture.softmax(0)[:, None],
        )

    def _fold_scores(self) -> tuple[Tensor, Tensor]:
        """M (O,heads*O) and m with (o M + m) e = <query(o), key(e)> / sqrt(d), but for what the softmax forgets."""
        embed, bias = (F.linear(x, self.query.weight) for x in (self.embed_query.weight.T, self.embed_query.bias))
        query = torch.cat([embed, (bias + self.query.bias)[None]]).unflatten(1, (self.heads, -1))
        key = (self.key.weight @ self.embed_key.weight).unflatten(0, (self.heads, -1))
        folded = torch.einsum("ihd,hdo->iho", query, key).flatten(1) / math.sqrt(key.shape[1])
        return folded[:-1], folded[-1]

    def _fold_values(self) -> tuple[Tensor, Tensor]:
        """P (C,heads*O) and p with P r + p = the attention's result, r the mean key maps of each head."""
        value = (self.value.weight @ self.embed_key.weight).unflatten(0, (self.heads, -1))
        project = self.project.weight.unflatten(1, (self.heads, -1))
        constant = F.linear(F.linear(self.embed_key.bias, *_parameters(self.value)), *_parameters(self.project))
        return torch.einsum("chd,hdo->cho", project, value).flatten(1), constant


def _mean_keys(query: Tensor, keys: Tensor) -> Tensor:
    """Means of keys (N,O,64), weighed by the softmax of their scores, for the queries (N,Q,O): (N,O,Q)."""
    return keys @ (query @ keys).softmax(-1).transpose(1, 2)  # the faster order


def _mean_keys_quickly(query: Tensor, keys: Tensor) -> Tensor:
    """`_mean_keys` where scores are small: powers of two, divided by their sum only after the product."""
    weights = (query * _LOG2_E @ keys).exp2_().transpose(1, 2)
    sums = F.pad(keys, (0, 0, 0, 1), value=1.0) @ weights
    return sums[:, :-1] / sums[:, -1:]


def _scores_are_small(even: Tensor, odd: Tensor, to_query: Tensor, bias: Tensor) -> bool:
    """True if exp cannot overflow: a bound of (o M + m) e over all heads, below 1 in the packaged weights."""
    query = odd.abs().amax() * to_query.abs().sum(0) + bias.abs()
    bound = query.unflatten(0, (-1, even.shape[1])).sum(1).amax() * even.abs().amax()
    return even.dtype == torch.float32 and float(bound.detach()) < _LARGEST_SCORE


def windows(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B*H/8*W/8,64,C), a row of tokens for each window; H and W are whole multiples of 8."""
    x = x.unflatten(2, (-1, WINDOW_PX)).unflatten(4, (-1, WINDOW_PX))
    return x.permute(0, 2, 4, 3, 5, 1).flatten(0, 2).flatten(1, 2)


def images(x: Tensor, batch: int, height: int, width: int) -> Tensor:
    """(B*H/8*W/8,64,1) -> (B,1,H,W)."""
    x = x.reshape(batch, height // WINDOW_PX, width // WINDOW_PX, WINDOW_PX, WINDOW_PX)
    return x.transpose(2, 3).reshape(batch, 1, height, width)


def _parameters(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias
