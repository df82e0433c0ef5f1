"""Terms that say how far a fused image is from its sources: (B,1,H,W) images in [0,1] -> scalars."""

import torch
from torch import Tensor

from tectum.nn.filters import Padding, sobel


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
