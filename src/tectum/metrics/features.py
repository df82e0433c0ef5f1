"""Feature mutual information (FMI) of a feature of the fused image and of each source, over 3 x 3 windows.

    FMI(f, x) = mean over windows of  2 I(f; x) / (H(f) + H(x))                   per source x

A window is read as a distribution: its nine feature values y, column by column, rescaled as (y - min) / (max - min) and
divided by their sum, are the probabilities of the nine places; a flat window has nine equal ones. The joint
distribution of two windows is not observed, and is put together from the two and the correlation rho of their
probabilities, between independence and the strongest dependence that the two distributions allow:

    p_fx = phi p^ + (1 - phi) p_f p_x         phi = rho / rho^

with p^ the Frechet bound of cumulative distribution min(F, X) (places in the same order) where rho > 0, or
max(F + X - 1, 0) (in opposite order) where rho < 0, and rho^ the correlation of places under it.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Reduction, SourceMetric
from tectum.metrics.windows import Workspace, divide, nans, root, split_axis, stripe_height, to_grey_levels, zeros

Feature = Literal["edge", "gradient", "pixel", "dct"]

_SIDE = 3
_PLACES = _SIDE**2
_CHUNK = 1 << 11
"""Windows at a time: their joint distributions, 81 numbers each, should stay in the cache."""


class FMI(SourceMetric):
    """Feature mutual information, normalised, over 3 x 3 windows: the regional ("fast") form of 2014.

    Range [0,1] for the mean over the sources, [0,2] for the sum; higher is better; 1 where f = a = b. Undefined (NaN)
    below 3 pixels a side.

    Equals `fmi` of its author, and so the copies in MEFB, MFIFB and the DenseFuse line, to 1e-13, for every feature:

        "edge"       edges of the Sobel filter, thinned, above twice the root mean square: that program's default, what
                     papers print as FMI_pixel and MEFB as FMI. Not differentiable. How edges are thinned was not
                     compared with MATLAB itself (another thinning moves the value by about 1 %)
        "gradient"   horizontal derivative, with its sign, one-sided at the border: FMI_gradient
        "pixel"      the levels themselves ("none" there)
        "dct"        two-dimensional cosine transform of the whole image, orthonormal: FMI_dct

    A wavelet ("FMI_w") is not offered. Where rho exceeds what the distributions allow (phi > 1) some p_fx are negative;
    -p log |p| is taken of them, which is what a complex logarithm leaves there, and the value of one window may leave
    [0,1]. Two flat windows have 1, so that an image without edges scores well where the sources have few ("edge"). Of
    two windows with a single place each both entropies are 0: the value is then 1 for a if the windows are equal, and
    for b if its window is the rescaled one of the fused image, else 0, as in that program; exchanging a and b changes
    the value there.

    Repaired: up to version 0.1 windows were not rescaled, the gradient was the length of central differences, phi was
    kept below 1, and there were no edges: up to 57 % less than what tables print.

    Args:
        feature: "edge", "gradient", "pixel" or "dct".
        reduction: "mean" or "sum" over the two sources.

    Reference: A non-reference image fusion metric based on mutual information of image features; M. Haghighat,
    A. Aghagolzadeh, H. Seyedarabi; Computers and Electrical Engineering 37(5), 2011;
    https://doi.org/10.1016/j.compeleceng.2011.07.012. Fast-FMI: non-reference image fusion metric; M. Haghighat,
    M. A. Razian; 8th IEEE International Conference on Application of Information and Communication Technologies, 2014

    >>> x = torch.rand(1, 1, 16, 16)
    >>> f"{float(FMI()(x, x, x)):.6f}"
    '1.000000'
    """

    symbol = "FMI"
    title = "feature mutual information"
    bounds = (0.0, 1.0)
    source = "Haghighat, Aghagolzadeh, Seyedarabi: A non-reference image fusion metric, 2011; Fast-FMI, 2014"

    def __init__(self, *, feature: Feature = "edge", reduction: Reduction = "mean") -> None:
        if feature not in ("edge", "gradient", "pixel", "dct"):
            raise UserError(f"feature must be 'edge', 'gradient', 'pixel' or 'dct', got {feature!r}")
        super().__init__(reduction=reduction)
        self.feature = feature
        self.is_differentiable = feature != "edge"

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[-2:]) < _SIDE or not len(fused):
            return nans(2, len(fused), like=fused)
        measure = _average_of_patterns if self.feature == "edge" else _average_of_windows
        sources: list[Tensor] = []
        values = []
        for i, image in enumerate(fused[:, 0]):
            if i < len(a):
                sources = [_extract(x[i, 0], self.feature) for x in (a, b)]
            values.append(measure(_extract(image, self.feature), *sources))
        return torch.stack(values, 1)


# ---- features --------------------------------------------------------------------------------------------------------


def _extract(image: Tensor, feature: Feature) -> Tensor:
    """The feature of an image (H,W) in [0,1] at each pixel, of its levels 0..255: (H,W), float64, bool for edges."""
    x = to_grey_levels(image)
    if feature == "pixel":
        return x
    if feature == "gradient":
        inner = (x[:, 2:] - x[:, :-2]) / 2
        return torch.cat([x[:, 1:2] - x[:, :1], inner, x[:, -1:] - x[:, -2:-1]], 1)
    if feature == "dct":
        return _cosine_transform(_cosine_transform(x).mT).mT
    return _find_edges(x)


def _cosine_transform(x: Tensor) -> Tensor:
    """Orthonormal cosine transform (DCT-II) along the last axis, by a Fourier transform of the image and its mirror."""
    num = x.shape[-1]
    spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], -1))[..., :num]
    k = torch.arange(num, dtype=x.dtype, device=x.device)
    turned = spectrum * torch.polar(torch.ones_like(k), -torch.pi * k / (2 * num))
    scale = torch.full_like(k, (2 * num) ** -0.5)
    scale[0] /= 2**0.5
    return turned.real * scale


def _find_edges(x: Tensor) -> Tensor:
    """Thinned edges: maxima, along the stronger direction, of Sobel gradients above twice their root mean square."""
    height = len(x)
    x = F.pad(x[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    stripes = [rows for _, rows in split_axis(height, 1, stripe_height(x[None]))]
    total = sum(_sobel_gradient(x[rows.start : rows.stop + 2])[2].sum() for rows in stripes)
    threshold = 4 * total / (height * (x.shape[1] - 2))
    edges = []
    for rows in stripes:
        top, bottom = max(0, rows.start - 1), min(height, rows.stop + 1)
        along, down, squares = _sobel_gradient(x[top : bottom + 2])
        around = F.pad(squares, (1, 1, int(top == rows.start), int(bottom == rows.stop)))
        along, down, squares = (y[rows.start - top :][: rows.stop - rows.start] for y in (along, down, squares))
        over, under, left, right = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
        upright = (along.abs() >= down.abs()) & (left <= squares) & (squares > right)
        level = (down.abs() >= along.abs()) & (over <= squares) & (squares > under)
        edges.append((squares > threshold) & (upright | level))
    return torch.cat(edges)


def _sobel_gradient(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Along rows, down columns, and the squared length, at the inner pixels of (H,W)."""
    columns, rows = x[:-2] + 2 * x[1:-1] + x[2:], x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    along, down = (columns[:, 2:] - columns[:, :-2]) / 8, (rows[2:] - rows[:-2]) / 8
    return along, down, along.square() + down.square()


# ---- windows ---------------------------------------------------------------------------------------------------------


def _cut_windows(x: Tensor) -> Tensor:
    """All windows inside (H,W), column by column: (9,N)."""
    height, width = x.shape[0] - _SIDE + 1, x.shape[1] - _SIDE + 1
    return torch.stack([x[i : i + height, j : j + width] for j in range(_SIDE) for i in range(_SIDE)]).flatten(1)


def _average_of_windows(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The means of 2 I / (H + H) over the windows of feature maps (H,W), against a and against b, (2,)."""
    total, num, workspace = zeros(2, like=fused), 0, Workspace(fused, a, b)
    for _, rows in split_axis(len(fused), _SIDE, max(1, 8 * _CHUNK // fused.shape[1])):
        f, *sources = (_describe(_cut_windows(x[rows])) for x in (fused, a, b))
        total = total + torch.stack([_share(f, x, workspace, second=k == 1).sum() for k, x in enumerate(sources)])
        num += f.y.shape[1]
    return total / num


def _average_of_patterns(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The same for maps of edges: there are 512 windows, and each pair of them that occurs is taken once."""
    f, *sources = (_number_windows(x) for x in (fused, a, b))
    averages, workspace = [], Workspace(fused)
    for k, x in enumerate(sources):
        counts = torch.zeros(1 << 2 * _PLACES, dtype=torch.int64, device=f.device)
        for _, rows in split_axis(len(f), 1, stripe_height(f[None])):
            counts += torch.bincount((f[rows] << _PLACES).add_(x[rows]).flatten(), minlength=len(counts))
        pairs = counts.nonzero().squeeze(1)
        bits = (2 ** torch.arange(_PLACES, device=f.device))[:, None]
        of_f, of_x = (_describe((number & bits > 0).double()) for number in (pairs >> _PLACES, pairs))
        values, weights = _share(of_f, of_x, workspace, second=k == 1), counts[pairs].double()
        averages.append((values * weights).sum() / weights.sum())
    return torch.stack(averages)


def _number_windows(x: Tensor) -> Tensor:
    """Windows of a map of edges (H,W), read as binary numbers of nine digits: (H-2,W-2) int32."""
    height, width = x.shape[0] - _SIDE + 1, x.shape[1] - _SIDE + 1
    x, number = x.int(), torch.zeros(height, width, dtype=torch.int32, device=x.device)
    for place in range(_PLACES):
        j, i = divmod(place, _SIDE)  # column by column
        number.add_(x[i : i + height, j : j + width], alpha=1 << place)
    return number


class _Windows(NamedTuple):
    """N windows of one image, each as a distribution over its places.

    Attributes:
        y: the values (9,N).
        p: probabilities (9,N).
        cumulative: probabilities of the places up to each (9,N).
        centred: p less its mean, of length 1; 0 where flat, (9,N).
        flat: True where the feature does not vary, (N,).
        entropy: of p in nats, (N,).
        mean, deviation: of the place under p, (N,).
    """

    y: Tensor
    p: Tensor
    cumulative: Tensor
    centred: Tensor
    flat: Tensor
    entropy: Tensor
    mean: Tensor
    deviation: Tensor


def _describe(y: Tensor) -> _Windows:
    """Windows (9,N) of feature values, rescaled, as distributions."""
    low, high = y.amin(0), y.amax(0)
    flat = high <= low
    p = y - low + flat
    p = p / _sum_rows(p)
    centred = p - 1 / _PLACES
    length = root(_sum_rows(centred.square())).masked_fill(flat, math.inf)
    places = torch.arange(_PLACES, dtype=y.dtype, device=y.device)
    mean = places @ p
    variance = places.square() @ p - mean.square()
    return _Windows(
        y=y,
        p=p,
        cumulative=p.cumsum(0),
        centred=centred / length,
        flat=flat,
        entropy=_entropy(p),
        mean=mean,
        deviation=root(variance.clamp_min(0)),
    )


def _share(f: _Windows, x: _Windows, workspace: Workspace, *, second: bool) -> Tensor:
    """2 I / (H + H) of each pair of windows of the fused image and of a source, (N,) float64."""
    entropies = f.entropy + x.entropy
    certain = entropies <= 1e-12
    share = 2 * (entropies - _joint_entropies(f, x, workspace)) / entropies.masked_fill(certain, 1.0)
    if bool(certain.any()):  # single places: 0/0
        equal = ((f.p if second else f.y) == x.y).all(0)
        share = torch.where(certain, equal.to(share.dtype), share)
    return torch.where(f.flat & x.flat, 1.0, share)


def _joint_entropies(f: _Windows, x: _Windows, workspace: Workspace) -> Tensor:
    """Entropy of the joint distribution of each pair of windows in nats, (N,) float64."""
    rho = _sum_rows(f.centred * x.centred)
    # under a negative correlation p^ is that of the places of x counted from the end
    opposite = rho < 0
    p_x = torch.where(opposite, x.p.flip(0), x.p)
    x_cdf = torch.where(opposite, p_x.cumsum(0), x.cumulative)
    means = f.mean * torch.where(opposite, _PLACES - 1 - x.mean, x.mean)
    covariance = rho.abs() * f.deviation * x.deviation
    before_f, before_x = (F.pad(cdf[:-1], (0, 0, 1, 0)) for cdf in (f.cumulative, x_cdf))
    places = torch.arange(_PLACES, dtype=rho.dtype, device=rho.device)
    places = torch.outer(places, places).flatten()
    ones = torch.ones_like(places)
    entropies = []
    for arrays in zip(
        *(y.split(_CHUNK, -1) for y in (f.p, p_x, f.cumulative, x_cdf, before_f, before_x, means, covariance)),
        strict=True,
    ):
        p_f, p_x, f_cdf, x_cdf, before_f, before_x, means, covariance = arrays
        shape = (_PLACES, *p_x.shape)
        # p^: overlap of the steps of both cumulative distributions
        bound = torch.minimum(f_cdf[:, None], x_cdf, out=workspace("bound", shape))
        bound = bound.sub_(torch.maximum(before_f[:, None], before_x, out=workspace("joint", shape))).clamp_min_(0)
        # phi = rho / rho^
        phi = divide(covariance, places @ bound.flatten(0, 1) - means)
        joint = torch.mul(p_f[:, None], p_x * (1 - phi), out=workspace("joint", shape)).addcmul_(bound, phi)
        terms = torch.abs(joint, out=workspace("bound", shape)).clamp_min_(1e-300).log_().mul_(joint)
        entropies.append(ones @ terms.flatten(0, 1))
    return -torch.cat(entropies)


def _sum_rows(x: Tensor) -> Tensor:
    """The sum over the first axis of (K,N): a product with ones is several times as fast."""
    return torch.ones(len(x), dtype=x.dtype, device=x.device) @ x


def _entropy(p: Tensor) -> Tensor:
    """Of distributions along the first axis, in nats."""
    return -_sum_rows(p.clamp_min(1e-300).log_().mul_(p))  # not xlogy: the logarithm of 0 is slow
