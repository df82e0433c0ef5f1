"""Feature mutual information (FMI) of the gradients of the fused image and of each source.

    FMI(f, x) = mean over windows of  2 I(f; x) / (H(f) + H(x))                   per source x

A window is read as a distribution: its nine feature values, divided by their sum, are the probabilities of the nine
places. The joint distribution of two windows is not observed, and is put together from the two and their
correlation rho, between independence and the strongest dependence that the two distributions allow:

    p_fx = phi p^ + (1 - phi) p_f p_x         phi = rho / rho^

with p^ the Frechet bound of cumulative distribution min(F, X) (places in the same order) where rho > 0, or
max(F + X - 1, 0) (in opposite order) where rho < 0, and rho^ the correlation of places under it.

No reference values from outside; the oracle is our own float64 loop in the tests.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Reduction, SourceMetric
from tectum.metrics.windows import divide, iterate_stripes, nans, root, vector_length, zeros

Feature = Literal["gradient", "pixel"]

_SIDE = 3
_PLACES = _SIDE**2
_CHUNK = 1 << 10
"""Windows at a time: their joint distributions, 81 numbers each, should stay in the cache."""


class FMI(SourceMetric):
    """Feature mutual information, normalised, over 3 x 3 windows: the regional ("fast") form of 2014.

    The feature is the length of the gradient (central differences, inner pixels only) or the pixel itself. The
    nine places of a window are numbered row by row. The value is a ratio, whatever the base of the logarithms.

    Range [0,1] for the mean over the sources, [0,2] for the sum; higher is better; 1 where f = a = b. Undefined (NaN)
    where a source has no window that counts: below 5 pixels a side (3 for "pixel"), or constant.

    Decided here: a window of a source counts if its feature varies (variance above 1e-12 of the squared range, or there
    is no correlation) and one of the two entropies is positive; where the feature of the fused image does not vary,
    nothing is transmitted (0). phi is kept in [0,1], because rho is a sample's and may exceed what the distributions
    allow. The first form, of 2011, has one distribution for the whole image; its values, and those found with edges, a
    wavelet or a cosine transform as the feature, do not compare with these.

    Args:
        feature: "gradient" or "pixel".
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

    def __init__(self, *, feature: Feature = "gradient", reduction: Reduction = "mean") -> None:
        if feature not in ("gradient", "pixel"):
            raise UserError(f"feature must be 'gradient' or 'pixel', got {feature!r}")
        super().__init__(reduction=reduction)
        self.feature = feature

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        size = _SIDE + 2 * (self.feature == "gradient")
        if min(fused.shape[-2:]) < size:
            return nans(2, len(fused), like=fused)
        sums = zeros(2, 2, len(fused), like=fused)  # information and number of windows, source, image
        for f, *sources in iterate_stripes(fused, a, b, size=size):
            of_sources = [[_describe_windows(image, self.feature) for image in x] for x in sources]
            for i, image in enumerate(f):
                of_fused = _describe_windows(image, self.feature)
                for k, of_source in enumerate(of_sources):
                    sums[:, k, i] += torch.stack(_sum_information(of_fused, of_source[i % len(of_source)]))
        return sums[0] / sums[1]


class _Windows(NamedTuple):
    """N windows of one image, each as a distribution over its places.

    Attributes:
        p: probabilities (9,N).
        cumulative: probabilities before each place, and 1, (10,N).
        feature: centred and of length 1, (9,N); 0 where it does not vary.
        varies: True where it does, (N,).
        entropy: of p in nats, (N,).
        mean, deviation: of the place under p, (N,).
    """

    p: Tensor
    cumulative: Tensor
    feature: Tensor
    varies: Tensor
    entropy: Tensor
    mean: Tensor
    deviation: Tensor


def _describe_windows(image: Tensor, feature: Feature) -> _Windows:
    """All windows inside an image (1,H,W)."""
    x = image[0] if feature == "pixel" else _gradient_magnitude(image[0])
    height, width = x.shape[0] - _SIDE + 1, x.shape[1] - _SIDE + 1
    x = torch.stack([x[i : i + height, j : j + width].flatten() for i in range(_SIDE) for j in range(_SIDE)])
    total = x.sum(0)
    p = torch.where(total > 0, divide(x, total), 1 / _PLACES)
    centred = x - total / _PLACES
    squares = centred.square().sum(0)
    varies = squares > 1e-12 * _PLACES
    positions = torch.arange(_PLACES, dtype=p.dtype, device=p.device)
    mean = positions @ p
    return _Windows(
        p=p,
        cumulative=torch.cat([torch.zeros_like(p[:1]), p.cumsum(0)]),
        feature=torch.where(varies, divide(centred, root(squares)), 0),
        varies=varies,
        entropy=_entropy(p),
        mean=mean,
        deviation=root((positions.square() @ p - mean.square()).clamp_min(0)),
    )


def _gradient_magnitude(x: Tensor) -> Tensor:
    """Length of the gradient by central differences, at the inner pixels of (H,W)."""
    return vector_length(x[1:-1, 2:] - x[1:-1, :-2], x[2:, 1:-1] - x[:-2, 1:-1]) / 2


def _sum_information(f: _Windows, x: _Windows) -> tuple[Tensor, Tensor]:
    """The sum of 2 I / (H + H) over the windows that count, and their number."""
    entropies = f.entropy + x.entropy
    counts = x.varies & (entropies > 0)
    parts = [slice(start, start + _CHUNK) for start in range(0, len(entropies), _CHUNK)]
    information = torch.cat(
        [_information(*(_Windows(*(value[..., part] for value in windows)) for windows in (f, x))) for part in parts]
    )
    return torch.where(counts, divide(2 * information, entropies), 0).sum(), counts.sum()


def _information(f: _Windows, x: _Windows) -> Tensor:
    """I(f; x) of each window in nats, (N,)."""
    rho = (f.feature * x.feature).sum(0)
    # under a negative correlation p^ is that of the places of x counted from the end
    opposite = rho < 0
    p_x = torch.where(opposite, x.p.flip(0), x.p)
    cumulative = torch.where(opposite, 1 - x.cumulative.flip(0), x.cumulative)
    mean = torch.where(opposite, _PLACES - 1 - x.mean, x.mean)
    # p^: overlap of the steps of both cumulative distributions
    bound = torch.minimum(f.cumulative[1:, None], cumulative[1:])
    bound = (bound - torch.maximum(f.cumulative[:-1, None], cumulative[:-1])).clamp_min_(0).flatten(0, 1)
    # phi = rho / rho^
    positions = torch.arange(_PLACES, dtype=rho.dtype, device=rho.device)
    covariance = torch.outer(positions, positions).flatten() @ bound - f.mean * mean
    phi = divide(rho.abs() * f.deviation * x.deviation, covariance).clamp_max(1)
    # the joint distribution, and I = H + H - H(joint)
    joint = (f.p[:, None] * (p_x * (1 - phi))).flatten(0, 1).add(bound * phi)
    return f.entropy + x.entropy - _entropy(joint)


def _entropy(p: Tensor) -> Tensor:
    """Of distributions along the first axis, in nats."""
    return -p.clamp_min(1e-300).log_().mul_(p).sum(0)  # not xlogy: the logarithm of 0 is slow
