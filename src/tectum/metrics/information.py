"""Information metrics from histograms: entropy (EN), mutual information (MI) and its normalised form (NMI).

Of values rounded to 8 bits, p from the histogram of one image or of two at once:

    H(F)   = - sum p log2 p                                   EN, bits
    I(F,S) = H(F) + H(S) - H(F,S)                             MI, nats by default
    NMI    = 2 [ I(F,A) / (H(F) + H(A)) + I(F,B) / (H(F) + H(B)) ]

    CE    = 1/2 sum over S of sum p_S log2(p_S / p_F)         CE, bits, over the levels that both have
    Qncie = 1 + sum_i (l_i / 3) log256(l_i / 3)               l_i eigenvalues of R, R_xy = H(X) + H(Y) - H(X,Y) to base
                                                              256, R_xx = 1, of A, B and F
    I_q   = (1 - sum p_xy^q / (p_x p_y)^(q-1)) / (1 - q)      Tsallis information;   H_q = (1 - sum p^q) / (q - 1)
    TE    = (I_q(A,F) + I_q(B,F)) / (H_q(A) + H_q(B) - I_q(A,B)), q = 0.43137 (Nava); the numerator, q = 1.85 (Cvejic)

MI depends on the number of levels that occur: an image stretched, resampled or saved by JPEG has another. Histograms
count, so these metrics have no gradient.

Reference:
    Assessment of image fusion procedures using entropy, image quality, and multispectral classification. Roberts, van
    Aardt and Ahmed, Journal of Applied Remote Sensing 2, 2008. https://doi.org/10.1117/1.2945910
    Information measure for performance of image fusion. Qu, Zhang and Yan, Electronics Letters 38(7), 2002.
    https://doi.org/10.1049/el:20020212
    Comments on "Information measure for performance of image fusion". Hossny, Nahavandi and Creighton, Electronics
    Letters 44(18), 2008. https://doi.org/10.1049/el:20081754
    Performance evaluation of image fusion techniques. Wang, Shen and Jin, in Image Fusion: Algorithms and Applications,
    2008 (Qncie)
    Image fusion metric based on mutual information and Tsallis entropy. Cvejic, Canagarajah and Bull, Electronics
    Letters 42(11), 2006. https://doi.org/10.1049/el:20060693
    Mutual information improves image fusion quality assessments. Nava, Cristobal and Escalante-Ramirez, SPIE News, 2007
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from tectum.color import to_levels
from tectum.errors import UserError
from tectum.metrics.metric import Metric, Reduction, SourceMetric
from tectum.metrics.windows import split_axis, stretch_levels

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


class CE(Metric):
    """Cross entropy: how many bits the grey levels of the fused image differ from those of each source, on average.

    Range [0, infinity) in theory and often below 0, for levels that only one image has are left out as VIFB does; lower
    is read as better. Not differentiable.

    Equals VIFB's `metricsCross_entropy` to 1e-14.

    >>> x = torch.arange(256.0).view(1, 1, 16, 16) / 255
    >>> float(CE()(x, x, x))
    0.0
    """

    symbol, title, unit = "CE", "cross entropy", "bits"
    higher_is_better, is_differentiable = False, False
    bounds = (-math.inf, math.inf)
    source = "Zhang, Ye and Xiao, VIFB: a visible and infrared image fusion benchmark, CVPR workshops, 2020"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        values = []
        for f, *sources in _iterate_scenes(fused, a, b):
            p_f = _probabilities(_histogram(f))
            total = torch.zeros((), dtype=torch.float64, device=f.device)
            for x in sources:
                p = _probabilities(_histogram(x))
                both = (p > 0) & (p_f > 0)
                total = total + (p[both] * (p[both] / p_f[both]).log2()).sum()
            values.append(total / 2)
        return torch.stack(values)


class Qncie(Metric):
    """Nonlinear correlation information entropy of the two sources and the fused image.

    Range [0.8, 1] in practice; higher is better. It also rises with what the sources share with each other.
    Not differentiable.

    Equals `metricWang` of the collection of Zheng Liu, and MEFB's `metricsQncie`, to 1e-15.

    >>> x = torch.arange(256.0).view(1, 1, 16, 16) / 255
    >>> float(Qncie()(x, x, x))
    1.0
    """

    symbol, title = "Qncie", "nonlinear correlation"
    is_differentiable = False
    bounds = (0.0, 1.0)
    source = "Wang, Shen and Jin, Performance evaluation of image fusion techniques, 2008"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        values = []
        for f, x, y in _iterate_scenes(fused, a, b):
            images = (x, y, f)
            correlation = torch.eye(3, dtype=torch.float64, device=f.device)
            for row, column in ((0, 1), (0, 2), (1, 2)):
                joint = _histogram(images[row], images[column])
                shared = _entropy(joint.sum(0)) + _entropy(joint.sum(1)) - _entropy(joint.flatten())
                correlation[row, column] = correlation[column, row] = shared / math.log(_LEVELS)
            part = torch.linalg.eigvalsh(correlation.cpu()).clamp_min(0) / 3
            values.append(1 + torch.special.xlogy(part, part).sum() / math.log(_LEVELS))
        return torch.stack(values).to(fused.device)


class TE(Metric):
    """Tsallis information that the fused image shares with its sources, by the joint histograms of grey levels.

    Range [0, infinity); higher is better; NaN where both sources are constant ("nava"). Not differentiable.

    Repaired: the evaluators multiply the marginals the wrong way round, p_xy by p_y(x) p_x(y), of images stretched to
    0..255, leave out what is 0 there, and normalise Nava's form by H(A)^q + H(B)^q + I_q(A,B) with H in bits.
    `released=True` computes that: equal to `metricMI` (sw = 2, 3) of the collection of Zheng Liu, and to MEFB's
    `metricsTE` ("cvejic"), to 1e-14. Its values of Cvejic's form go into the thousands.

    Args:
        form: "nava", q = 0.43137, normalised by the sources; or "cvejic", q = 1.85, a sum.
        released: as the evaluators compute it.
    """

    symbol, title = "TE", "Tsallis information"
    is_differentiable = False
    bounds = (-math.inf, math.inf)
    source = "Nava et al., Mutual information improves image fusion quality assessments, 2007; Cvejic et al., 2006"

    def __init__(self, *, form: Literal["nava", "cvejic"] = "nava", released: bool = False) -> None:
        if form not in ("nava", "cvejic"):
            raise UserError(f"form must be 'nava' or 'cvejic', got {form!r}")
        super().__init__()
        self.form, self.released = form, released

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        order = 0.43137 if self.form == "nava" else 1.85
        values = []
        for f, x, y in _iterate_scenes(fused, a, b):
            if self.released:
                f, x, y = (stretch_levels(to_levels(z)) / (_LEVELS - 1) for z in (f, x, y))
            value = self._information(x, f, order) + self._information(y, f, order)
            if self.form == "nava":
                entropies = [self._entropy(_histogram(z), order) for z in (x, y)]
                between = self._information(x, y, order)
                value = value / (entropies[0] + entropies[1] + (between if self.released else -between))
            values.append(value)
        stacked = torch.stack(values)
        return torch.where(stacked.isfinite(), stacked, math.nan)

    def _information(self, x: Tensor, y: Tensor, order: float) -> Tensor:
        joint = _probabilities(_histogram(x, y))
        p_x, p_y = joint.sum(1), joint.sum(0)
        product = torch.outer(p_y, p_x) if self.released else torch.outer(p_x, p_y)
        both = (joint > 0) & (product > 0)
        total = (joint[both] ** order / product[both] ** (order - 1)).sum()
        return (1 - total) / (1 - order)

    def _entropy(self, histogram: Tensor, order: float) -> Tensor:
        if self.released:
            return (_entropy(histogram) / math.log(2)) ** order
        p = _probabilities(histogram)
        return (1 - (p[p > 0] ** order).sum()) / (order - 1)


def _iterate_scenes(fused: Tensor, a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each fused image with its sources, (H,W) each."""
    yield from zip(fused[:, 0], *(x.expand(len(fused), -1, -1, -1)[:, 0] for x in (a, b)), strict=True)


def _entropies_and_information(fused: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Entropies of fused, a, b, (3,B), and the information fused shares with a and with b, (2,B), in nats."""
    entropies, information = [], []
    for f, *sources in _iterate_scenes(fused, a, b):
        joint = [_histogram(f, x) for x in sources]
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


def _probabilities(histogram: Tensor) -> Tensor:
    """The parts of counts, float64."""
    return histogram.double() / histogram.sum()
