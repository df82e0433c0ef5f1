"""Loss terms between a fused image and its sources: (B,1,H,W) images in [0,1] -> scalars."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.nn.filters import Padding, box_mean, sobel


def weighted_intensity_loss(fused: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """mean[ w_a (f - a)^2 + w_b (f - b)^2 ], with w (B,2,H,W); smallest at f = (w_a a + w_b b) / (w_a + w_b).

    >>> a, b = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> float(weighted_intensity_loss((a + b) / 2, a, b, torch.full((1, 2, 2, 2), 0.5)))
    0.25
    """
    return (w[:, :1] * (fused - a).square() + w[:, 1:] * (fused - b).square()).mean()


def gradient_loss(fused: Tensor, a: Tensor, b: Tensor, *, padding: Padding = "replicate") -> Tensor:
    """Mean absolute distance of the Sobel derivatives of f from the stronger of the sources', each axis on its own.

    sum over axes of mean|S f - T|, T = S a where |S a| > |S b|, else S b (a tie goes to the infrared image b). The
    target keeps its sign: an edge may not be replaced by its inverse.

    >>> x = torch.rand(1, 1, 8, 8)
    >>> float(gradient_loss(x, x, torch.zeros_like(x)))
    0.0
    """
    of_a, of_b = sobel(a, padding=padding), sobel(b, padding=padding)
    target = torch.where(of_a.abs() > of_b.abs(), of_a, of_b)
    return 2 * (sobel(fused, padding=padding) - target).abs().mean()


def magnitude_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """mean| S f - max(S a, S b) |, S the sum of the absolute Sobel derivatives, which see zeros beyond the border.

    An edge may be replaced by its inverse; `gradient_loss` does not let it.

    >>> x = torch.rand(1, 1, 8, 8)
    >>> float(magnitude_loss(1 - x, x, x)) < float(gradient_loss(1 - x, x, x))
    True
    """
    of_f, of_a, of_b = (sobel(x, padding="zeros").abs().sum(1) for x in (fused, a, b))
    return (of_f - torch.maximum(of_a, of_b)).abs().mean()


def contrast_ssim_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """mean(1 - v SSIM(f, a) - (1 - v) SSIM(f, b)), v the part of a in the local variance of both, over 11x11 pixels.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> round(float(contrast_ssim_loss(x, x, torch.full_like(x, 0.5))), 2)
    0.0
    """
    variance_a, variance_b = (_local_variance(x) + 1e-4 for x in (a, b))
    v = variance_a / (variance_a + variance_b)
    return (1 - v * ssim_map(fused, a) - (1 - v) * ssim_map(fused, b)).mean()


def difference_correlation_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """mean(2 - r(f - b, a) - r(f - a, b)), r the correlation over an image: in [0,4], 2 minus the metric SCD.

    >>> x, y = torch.rand(2, 1, 1, 16, 16)
    >>> abs(round(float(difference_correlation_loss(x + y, x, y)), 3))
    0.0
    """
    return (2 - _correlation(fused - b, a) - _correlation(fused - a, b)).mean()


def _local_variance(x: Tensor) -> Tensor:
    return (box_mean(x.square(), 5) - box_mean(x, 5).square()).clamp_min(0)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of images (B,1,H,W) -> (B,); 0 where one of them is constant."""
    x, y = (image - image.mean((1, 2, 3), keepdim=True) for image in (x, y))
    covariance, variance_x, variance_y = ((p * q).mean((1, 2, 3)) for p, q in ((x, y), (x, x), (y, y)))
    return covariance / (variance_x * variance_y + 1e-12).sqrt()


def ssim_map(x: Tensor, y: Tensor, *, padding: Padding = "replicate") -> Tensor:
    """Structural similarity around every pixel, at most 1, higher is more alike: (B,1,H,W) twice -> (B,1,H,W).

    Variant: Gaussian windows of 11x11 with sigma 1.5, C1 = 0.01^2, C2 = 0.03^2 (Wang et al., 2004). Beyond the border
    there is the border's pixel again, or, with "zeros", black, as in the released losses of most fusion methods.

    >>> x = torch.rand(1, 1, 8, 8)
    >>> round(float(ssim_map(x, x).mean()), 5)
    1.0
    """
    line = torch.exp(-(torch.arange(-5, 6, dtype=x.dtype, device=x.device) ** 2) / 4.5)
    line = line / line.sum()
    maps = torch.cat([x, y, x * x, y * y, x * y])
    maps = F.pad(maps, (5, 5, 5, 5), mode="constant" if padding == "zeros" else "replicate")
    maps = F.conv2d(F.conv2d(maps, line[None, None, :, None]), line[None, None, None, :])
    mean_x, mean_y, xx, yy, xy = maps.chunk(5)
    both = mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    structure = (2 * (xy - both) + 9e-4) / (xx + yy - squares + 9e-4)
    return structure * (2 * both + 1e-4) / (squares + 1e-4)
