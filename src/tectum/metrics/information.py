"""Information metrics from histograms: entropy (EN), mutual information (MI) and its normalised form (NMI).

Of values rounded to 8 bits, p from the histogram of one image or of two at once:

    H(F)   = - sum p log2 p                                   EN, bits
    I(F,S) = H(F) + H(S) - H(F,S)                             MI, nats by default
    NMI    = 2 [ I(F,A) / (H(F) + H(A)) + I(F,B) / (H(F) + H(B)) ]

MI depends on the number of levels that occur: an image stretched, resampled or saved by JPEG has another. Histograms
count, so these metrics have no gradient.

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
from tectum.metrics.windows import split_axis

_LEVELS = 256
COUNT_PX = 250_000
"""Pixels counted at once."""

_Unit = Literal["nats", "bits"]


class EN(Metric):
    """Entropy of the fused image, of values rounded to 8 bits.

    Range [0, 8] bits, 0 for a constant image, 8 for uniform noise; higher is read as better. It says nothing of the
    sources: noise and stretching raise it. Not differentiable.

    >>> ramp = torch.arange(256.0).view(1, 1, 16, 16) / 255
    >>> float(EN()(ramp, ramp, ramp))
    8.0
    """

    symbol, title, unit = "EN", "entropy", "bits"
    is_differentiable = False
    bounds = (0.0, 8.0)
    source = (
        "Roberts, van Aardt and Ahmed, Assessment of image fusion procedures using entropy, J. Appl. Remote Sens., 2008"
    )

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([_entropy(_histogram(f)) for f in fused[:, 0]]) / math.log(2)


class MI(SourceMetric):
    """Mutual information of the fused image with each source, of values rounded to 8 bits.

    Range [0, 5.55] nats for the mean, twice that for the sum; higher is read as better. 0 when they are independent,
    H(F) when one follows from the other: a copy of a source has nearly the highest there is. Not differentiable.

    Args:
        reduction: "mean" or "sum" over the sources; most published tables are sums.
        unit: "nats" (natural logarithm, as the Python evaluators) or "bits" (as the MATLAB ones, 1.4427 times as many).
    """

    symbol, title, unit = "MI", "mutual information", "nats"
    is_differentiable = False
    bounds = (0.0, 8.0)  # in bits, and more than there can be in nats
    source = "Qu, Zhang and Yan, Information measure for performance of image fusion, Electronics Letters, 2002"

    def __init__(self, *, reduction: Reduction = "mean", unit: _Unit = "nats") -> None:
        if unit not in ("nats", "bits"):
            raise UserError(f"unit must be 'nats' or 'bits', got {unit!r}")
        super().__init__(reduction=reduction)
        self.unit = unit

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        _, shared = _entropies_and_information(fused, a, b)
        return shared / math.log(2) if self.unit == "bits" else shared


class NMI(Metric):
    """Normalised mutual information, Hossny's form: 2 [ I(F,A) / (H(F)+H(A)) + I(F,B) / (H(F)+H(B)) ].

    Range [0, 2]; higher is read as better; of values rounded to 8 bits, a sum by definition. NaN where the fused image
    and a source are both constant (0/0). Not differentiable.
    """

    symbol, title = "NMI", "normalised mutual information"
    is_differentiable = False
    bounds = (0.0, 2.0)
    source = "Hossny, Nahavandi and Creighton, Comments on 'Information measure for performance of image fusion', 2008"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        (h_f, h_a, h_b), (i_a, i_b) = _entropies_and_information(fused, a, b)
        return 2 * (i_a / (h_f + h_a) + i_b / (h_f + h_b))


def _entropies_and_information(fused: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Entropies of fused, a, b, (3,B), and the information fused shares with a and with b, (2,B), in nats."""
    entropies, information = [], []
    for i, f in enumerate(fused[:, 0]):
        joint = [_histogram(f, x[min(i, len(x) - 1), 0]) for x in (a, b)]
        h_f, *h_sources = _entropy(joint[0].sum(1)), _entropy(joint[0].sum(0)), _entropy(joint[1].sum(0))
        entropies.append(torch.stack([h_f, *h_sources]))
        information.append(
            torch.stack([h_f + h - _entropy(j.flatten()) for h, j in zip(h_sources, joint, strict=True)])
        )
    return torch.stack(entropies, 1), torch.stack(information, 1).clamp(min=0)


def _histogram(f: Tensor, x: Tensor | None = None) -> Tensor:
    """The histogram (256,) of an image (H,W) in [0,1], or the joint one (256,256) of two."""
    num = _LEVELS if x is None else _LEVELS**2
    counts = torch.zeros(num, dtype=torch.int64, device=f.device)
    for _, rows in split_axis(len(f), 1, max(1, COUNT_PX // f.shape[1])):
        levels = _to_level_numbers(f[rows])
        if x is not None:
            levels = levels.mul_(_LEVELS).add_(_to_level_numbers(x[rows]))
        counts += torch.bincount(levels.flatten(), minlength=num)
    return counts if x is None else counts.view(_LEVELS, _LEVELS)


def _to_level_numbers(x: Tensor) -> Tensor:
    """The number of the nearest of 256 levels, int32."""
    return to_levels(x).mul_(_LEVELS - 1).round_().to(torch.int32)


def _entropy(histogram: Tensor) -> Tensor:
    """Of counts (N,), in nats."""
    p = histogram[histogram > 0].double()
    p /= p.sum()
    return -(p * p.log()).sum()
