"""Statistical metrics: SD, SF, AG of the fused image alone; MSE, RMSE, PSNR, CC, SCD against the sources.

On the scale 0..255, F fused, S one of the sources A and B, all sums over pixels:

    SD  = sqrt( mean (F - mean F)^2 )                        SF   = sqrt( mean (d_x F)^2 + mean (d_y F)^2 )
    AG  = mean sqrt( (g_x^2 + g_y^2) / 2 )                   MSE  = mean (F - S)^2
    CC  = corr(F, S)                                         PSNR = 10 log10( peak^2 / mean MSE )
    RMSE = sqrt( mean (F - S)^2 )
    SCD = corr(A, F - B) + corr(B, F - A)

d are differences of neighbours, g central differences. A correlation of a constant image is 0/0, NaN here.

Reference:
    Image quality measures and their performance. Eskicioglu and Fisher, IEEE Transactions on Communications 43(12),
    1995. https://doi.org/10.1109/26.477498 (SF)
    Detail preserved fusion of visible and infrared images using regional saliency extraction and multi-scale image
    decomposition. Cui, Feng, Xu, Li and Chen, Optics Communications 341, 2015.
    https://doi.org/10.1016/j.optcom.2014.12.032 (AG)
    A new image quality metric for image fusion: the sum of the correlations of differences. Aslantas and Bendes, AEU
    69(12), 2015. https://doi.org/10.1016/j.aeue.2015.09.004 (SCD)
    Infrared and visible image fusion methods and applications: a survey. Ma, Ma and Li, Information Fusion 45, 2019.
    https://doi.org/10.1016/j.inffus.2018.02.004 (SD, CC, MSE, PSNR as the field uses them)
"""

from typing import Literal

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric, Reduction, SourceMetric
from tectum.metrics.windows import nans, root, split_axis, stripe_height, sum_pixels, zeros

_Divisor = Literal["pixels", "differences"]

_FLAT = 1e-12
"""A variance so small beside those it is a difference of is rounding: the image is constant."""


class SD(Metric):
    """Standard deviation of the fused image: contrast. Population form (divided by N).

    Range [0, 127.5] grey levels of 0..255; higher is read as better. It says nothing of the sources: stretching an
    image raises it.

    >>> float(SD()(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), *[torch.zeros(1, 1, 1, 2)] * 2))
    127.5
    """

    symbol, title, unit = "SD", "standard deviation", "levels"
    bounds = (0.0, 127.5)
    source = "Rao, In-fibre Bragg grating sensors, Measurement Science and Technology, 1997 (as fusion papers cite it)"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return root(_covariances(fused)[:, 0, 0])


class SF(Metric):
    """Spatial frequency: root of the mean squared first differences along both axes.

    Range [0, 361] grey levels of 0..255; higher is read as better. It says nothing of the sources: noise raises it. NaN
    for a single row or column.

    Equals the evaluators of the CDDFuse line to the last digit; VIFB's divides by the number of pixels.

    Args:
        divide_by: "differences" takes each mean over its own array, H x (W-1) and (H-1) x W; "pixels" divides both sums
            by H W.
    """

    symbol, title, unit = "SF", "spatial frequency", "levels"
    bounds = (0.0, 255 * 2**0.5)
    source = "Eskicioglu and Fisher, Image quality measures and their performance, IEEE Trans. Communications, 1995"

    def __init__(self, *, divide_by: _Divisor = "differences") -> None:
        _check_divisor(divide_by)
        super().__init__()
        self.divide_by = divide_by

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        height, width = fused.shape[2:]
        if min(height, width) < 2:
            return nans(len(fused), like=fused)
        along = sum_pixels(lambda f: (f[..., 1:] - f[..., :-1]).square(), fused)
        down = sum_pixels(lambda f: (f[:, 1:] - f[:, :-1]).square(), fused, size=2)
        lost = self.divide_by == "differences"
        return root(along / (height * (width - lost)) + down / ((height - lost) * width))


class AG(Metric):
    """Average gradient: mean of sqrt((g_x^2 + g_y^2) / 2), g central differences, one-sided at the border.

    Range [0, 255] grey levels of 0..255 (with "pixels"); higher is read as better. It says nothing of the sources:
    noise raises it. NaN for a single row or column.

    Equals the evaluators of the CDDFuse line to 6e-8; with "differences" VIFB's, to 1e-13 on float64 images.

    Args:
        divide_by: "pixels" takes the mean over H W values; "differences" divides their sum by (H-1) (W-1).
    """

    symbol, title, unit = "AG", "average gradient", "levels"
    bounds = (0.0, 255.0)
    source = "Cui, Feng, Xu, Li and Chen, Detail preserved fusion of visible and infrared images, Optics Comm., 2015"

    def __init__(self, *, divide_by: _Divisor = "pixels") -> None:
        _check_divisor(divide_by)
        super().__init__()
        self.divide_by = divide_by

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        height, width = fused.shape[2:]
        if min(height, width) < 2:
            return nans(len(fused), like=fused)
        sums = zeros(len(fused), like=fused)
        for rows, _ in split_axis(height, 1, stripe_height(fused)):
            top, bottom = max(0, rows.start - 1), min(height, rows.stop + 1)
            along, down = _central_differences(fused[:, 0, top:bottom] * 255)
            inner = slice(rows.start - top, rows.stop - top)
            squares = (along[:, inner].square() + down[:, inner].square()).div_(2)
            sums += root(squares, overwrite=True).sum((1, 2)).double()
        lost = self.divide_by == "differences"
        return sums / ((height - lost) * (width - lost))


class MSE(SourceMetric):
    """Mean squared error against a source; the mean over both by default.

    Range [0, 65025] squared grey levels of 0..255; lower is better. The average of the sources has the smallest of all
    images.

    Args:
        reduction: "mean" or "sum" of the two values.
        unit_range: of images in [0,1], so that the value is 65025 times smaller.
    """

    symbol, title, unit = "MSE", "mean squared error", "levels^2"
    higher_is_better = False
    bounds = (0.0, 255.0**2)
    source = (
        "standard; as in Ma, Ma and Li, Infrared and visible image fusion methods and applications, Inf. Fusion, 2019"
    )

    def __init__(self, *, reduction: Reduction = "mean", unit_range: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.unit = "" if unit_range else "levels^2"
        self._divisor = 255.0**2 if unit_range else 1.0

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        errors = sum_pixels(lambda f, x, y: torch.stack([(f - x).square(), (f - y).square()]), fused, a, b)
        return errors / fused[0].numel() / self._divisor


class RMSE(SourceMetric):
    """Root mean squared error against a source; the mean over both by default.

    Range [0, 255] grey levels of 0..255; lower is better.

    Args:
        reduction: "mean" or "sum" over the sources.
        root_of_sum: sqrt(sum (F - S)^2) / (H W), which VIFB's evaluator prints as RMSE: less by sqrt(H W), so that it
            depends on the size of the image. Equal to that evaluator to 1e-13 on float64 images.
    """

    symbol, title, unit = "RMSE", "root mean squared error", "levels"
    higher_is_better = False
    bounds = (0.0, 255.0)
    source = MSE.source

    def __init__(self, *, reduction: Reduction = "mean", root_of_sum: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.root_of_sum = root_of_sum

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        errors = root(MSE().per_source(fused, a, b))
        return errors / fused[0].numel() ** 0.5 if self.root_of_sum else errors


class PSNR(Metric):
    """Peak signal-to-noise ratio in dB, of the mean of the two MSEs (not the mean of two ratios).

    PSNR = 10 log10( peak^2 / ((MSE_A + MSE_B) / 2) ). Any value; higher is better; infinite where both sources equal
    the fused image; NaN for a black fused image with the default peak. The average of the sources has nearly the
    highest of all images.

    Args:
        peak: None takes the largest level of the fused image, as fusion papers define it and their evaluators do;
            255 is what PSNR means elsewhere, and differs by 20 log10(255 / max F).
        root_of_sum: put `RMSE(root_of_sum=True)` in the place of the MSE, a slip of VIFB's evaluator, whose values of
            54 to 65 dB it equals with `peak=255`.
    """

    symbol, title, unit = "PSNR", "peak signal-to-noise ratio", "dB"
    bounds = (-float("inf"), float("inf"))
    source = MSE.source

    def __init__(self, *, peak: float | None = None, root_of_sum: bool = False) -> None:
        if peak is not None and not peak > 0:
            raise UserError(f"peak must be a positive grey level such as 255, or None for the image's own, got {peak}")
        super().__init__()
        self.peak, self.root_of_sum = peak, root_of_sum

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        error = (RMSE(root_of_sum=True) if self.root_of_sum else MSE()).score(fused, a, b)
        peak = fused.amax((1, 2, 3)).double() * 255 if self.peak is None else torch.full_like(error, self.peak)
        peak[peak == 0] = float("nan")
        return 10 * (peak.square() / error).log10()


class CC(SourceMetric):
    """Correlation coefficient of the fused image with a source, over all pixels; the mean over both by default.

    Range [-1, 1] for the mean, [-2, 2] for the sum; higher is better. NaN where one of the images is constant.
    """

    symbol, title = "CC", "correlation coefficient"
    bounds = (-1.0, 1.0)
    source = "Deshmukh and Bhosale, Image fusion and image quality assessment of fused images, IJIP, 2010"

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        c = _covariances(fused, a, b)
        return torch.stack([_correlation(c[:, 0, i], c[:, 0, 0], c[:, i, i]) for i in (1, 2)])


class SCD(Metric):
    """Sum of the correlations of differences: corr(A, F - B) + corr(B, F - A), a sum by definition.

    What the fused image has that one source has not should be the other source. Range [-2, 2], there is no mean; higher
    is better; the image A + B has 2. NaN where F equals a source but for a constant (0/0), or a source is constant.
    """

    symbol, title = "SCD", "sum of correlations of differences"
    bounds = (-2.0, 2.0)
    source = "Aslantas and Bendes, A new image quality metric for image fusion, AEU Int. J. Electron. Commun., 2015"

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        c = _covariances(fused, a, b)
        values = []
        for i, j in ((1, 2), (2, 1)):  # corr(source i, F - source j)
            var = c[:, 0, 0] - 2 * c[:, 0, j] + c[:, j, j]
            var = var.masked_fill(var <= _FLAT * (c[:, 0, 0] + c[:, j, j]), 0)
            values.append(_correlation(c[:, i, 0] - c[:, i, j], var, c[:, i, i]))
        return values[0] + values[1]


def _check_divisor(divide_by: str) -> None:
    if divide_by not in ("pixels", "differences"):
        raise UserError(f"divide_by must be 'pixels' or 'differences', got {divide_by!r}")


def _correlation(cov: Tensor, var_x: Tensor, var_y: Tensor) -> Tensor:
    """cov / sqrt(var_x var_y), NaN where a variance is 0."""
    return (cov / (var_x.sqrt() * var_y.sqrt())).masked_fill((var_x <= 0) | (var_y <= 0), float("nan")).clamp(-1, 1)


def _covariances(*images: Tensor) -> Tensor:
    """Population covariances between images over all pixels, (B,K,K) float64, grey levels 0..255.

    Each image is first shifted by its first pixel, so that a constant one has exactly 0.
    """
    num, (height, width) = max(len(x) for x in images), images[0].shape[2:]
    anchors = [x[:, 0, :1, :1].double() for x in images]
    sums = zeros(num, len(images), 1, like=images[0])
    products = sums @ sums.mT
    for _, rows in split_axis(height, 1, stripe_height(*images)):
        stripe = [x[:, 0, rows] - anchor for x, anchor in zip(images, anchors, strict=True)]
        x = torch.stack([x.flatten(1).expand(num, -1) for x in stripe], 1)
        sums += x.sum(-1, keepdim=True)
        products += x @ x.mT
    pixels = height * width
    return (products / pixels - (sums / pixels) @ (sums / pixels).mT) * 255**2


def _central_differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Along columns and rows of (B,H,W), one-sided at the border."""
    along, down = torch.empty_like(x), torch.empty_like(x)
    along[..., 1:-1] = (x[..., 2:] - x[..., :-2]) / 2
    along[..., 0], along[..., -1] = x[..., 1] - x[..., 0], x[..., -1] - x[..., -2]
    down[:, 1:-1] = (x[:, 2:] - x[:, :-2]) / 2
    down[:, 0], down[:, -1] = x[:, 1] - x[:, 0], x[:, -1] - x[:, -2]
    return along, down
