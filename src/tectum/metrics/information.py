"""Metrics of information: EN, MI and NMI from histograms.

Of values rounded to 8 bits, p from the histogram of one image or of two at once:

    H(F)   = - sum p log2 p                                   EN, bits
    I(F,S) = H(F) + H(S) - H(F,S)                             MI, nats by default
    NMI    = 2 [ I(F,A) / (H(F) + H(A)) + I(F,B) / (H(F) + H(B)) ]

MI depends on the number of levels that are there: an image stretched, resampled or saved by JPEG has another.

Reference:
    Assessment of image fusion procedures using entropy, image quality, and multispectral classification. Roberts, van
    Aardt and Ahmed, Journal of Applied Remote Sensing 2, 2008. https://doi.org/10.1117/1.2945910
    Information measure for performance of image fusion. Qu, Zhang and Yan, Electronics Letters 38(7), 2002.
    https://doi.org/10.1049/el:20020212
    Comments on "Information measure for performance of image fusion". Hossny, Nahavandi and Creighton, Electronics
    Letters 44(18), 2008. https://doi.org/10.1049/el:20081754
"""

import math
from typing import Literal

import torch
from torch import Tensor

from tectum.color import to_levels
from tectum.errors import UserError
from tectum.metrics.metric import Metric, Reduction, SourceMetric
from tectum.metrics.stripes import blocks

LEVELS = 256
COUNT_PX = 250_000
"""Pixels counted at once."""

Unit = Literal["nats", "bits"]


class EN(Metric):
    """Entropy of the fused image, of values rounded to 8 bits.

    Range [0, 8] bits, 0 for a constant image, 8 for uniform noise; higher is read as better. It says nothing of the
    sources: noise and stretching raise it.

    >>> ramp = torch.arange(256.0).view(1, 1, 16, 16) / 255
    >>> float(EN()(ramp, ramp, ramp))
    8.0
    """

    symbol, title, unit = "EN", "entropy", "bits"
    bounds = (0.0, 8.0)
    source = (
        "Roberts, van Aardt and Ahmed, Assessment of image fusion procedures using entropy, J. Appl. Remote Sens., 2008"
    )

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([entropy(counts(f)) for f in fused[:, 0]]) / math.log(2)


class MI(SourceMetric):
    """Mutual information of the fused image with each source, of values rounded to 8 bits.

    Range [0, 5.55] nats for the mean, twice that for the sum; higher is read as better. 0 when they are independent,
    H(F) when one follows from the other: a copy of a source has nearly the highest there is.

    Args:
        reduction: "mean" or "sum" over the sources; most published tables are sums.
        unit: "nats" (natural logarithm, as the Python evaluators) or "bits" (as the MATLAB ones, 1.4427 times as many).
    """

    symbol, title, unit = "MI", "mutual information", "nats"
    bounds = (0.0, 8.0)  # in bits, and more than there can be in nats
    source = "Qu, Zhang and Yan, Information measure for performance of image fusion, Electronics Letters, 2002"

    def __init__(self, *, reduction: Reduction = "mean", unit: Unit = "nats") -> None:
        if unit not in ("nats", "bits"):
            raise UserError(f"unit must be 'nats' or 'bits', got {unit!r}")
        super().__init__(reduction=reduction)
        self.unit = unit  # type: ignore[misc]

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        _, shared = information(fused, a, b)
        return shared / math.log(2) if self.unit == "bits" else shared


class NMI(Metric):
    """Normalised mutual information, Hossny's form: 2 [ I(F,A) / (H(F)+H(A)) + I(F,B) / (H(F)+H(B)) ].

    Range [0, 2]; higher is read as better; of values rounded to 8 bits, a sum by definition. NaN where the fused image
    and a source are both constant (0/0).
    """

    symbol, title = "NMI", "normalised mutual information"
    bounds = (0.0, 2.0)
    source = "Hossny, Nahavandi and Creighton, Comments on 'Information measure for performance of image fusion', 2008"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        alone, shared = information(fused, a, b)
        return 2 * (shared[0] / (alone[0] + alone[1]) + shared[1] / (alone[0] + alone[2]))


def information(fused: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Entropies of fused, a, b, (3,B), and the information fused shares with a and with b, (2,B), in nats."""
    alone, shared = [], []
    for i, f in enumerate(fused[:, 0]):
        joint = [counts(f, x[min(i, len(x) - 1), 0]) for x in (a, b)]
        h = entropy(joint[0].sum(1)), entropy(joint[0].sum(0)), entropy(joint[1].sum(0))
        alone.append(torch.stack(h))
        shared.append(torch.stack([h[0] + h[k + 1] - entropy(joint[k].flatten()) for k in (0, 1)]))
    return torch.stack(alone, 1), torch.stack(shared, 1).clamp(min=0)


def counts(f: Tensor, x: Tensor | None = None) -> Tensor:
    """The histogram (256,) of an image (H,W) in [0,1], or the joint one (256,256) of two."""
    num = LEVELS if x is None else LEVELS**2
    found = torch.zeros(num, dtype=torch.int64, device=f.device)
    for _, given in blocks(len(f), 1, max(1, COUNT_PX // f.shape[1])):
        code = codes(f[given])
        if x is not None:
            code = code.mul_(LEVELS).add_(codes(x[given]))
        found += torch.bincount(code.flatten(), minlength=num)
    return found if x is None else found.view(LEVELS, LEVELS)


def codes(x: Tensor) -> Tensor:
    """The number of the nearest of 256 levels, int32."""
    return to_levels(x).mul_(LEVELS - 1).round_().to(torch.int32)


def entropy(histogram: Tensor) -> Tensor:
    """In nats, of counts (N,)."""
    p = histogram[histogram > 0].double()
    p /= p.sum()
    return -(p * p.log()).sum()
