"""Fixed objectives by name, which any system can be trained on: `tectum train RECIPE --objective natural`.

The natural objective asks for a picture that a person prefers, without labels and without a task:

    20 mean|f - max(a, b)|                                          bright things of both: lamps, sky, snow, warm bodies
    20 sum over axes mean|S f - T|,  T the stronger of S a, S b     edges of both, with their sign (S: Sobel)
    10 mean(1 - v_a SSIM(f, a) - v_b SSIM(f, b))                    structure, from the source that has it here
     2 mean(2 - r(f - b, a) - r(f - a, b))                          what f adds to one source is the other

v_a = s_a / (s_a + s_b), with s the local variance: where one source is flat, SSIM to it only asks for flatness, and to
weigh both alike, as most published objectives do, fades the other's contrast. r is the correlation over the image, so
the last term is twice 2 minus the metric SCD. The first three alone follow the brighter source in large areas (a bright
sky hides the cold infrared one, and what is warm or cold below it is lost); the last keeps what both say about large
areas, and costs the others next to nothing (docs/log.md has the numbers).

Sources: the first three terms with v = 1/2 are AdaSFFuse's objective for infrared pairs; SCD is of Aslantas and Bendes,
AEU International Journal of Electronics and Communications 2015, https://doi.org/10.1016/j.aeue.2015.09.004; the local
weights and the balance of the four were chosen here, on validation pairs.
"""

from collections.abc import Callable

from torch import Tensor, nn

from tectum.losses import contrast_ssim_loss, difference_correlation_loss, gradient_loss


class NaturalLoss(nn.Module):
    """Objective for pictures that people look at: brightness, edges, structure and large areas of both sources.

    Args:
        intensity, gradient, structure, difference: weights of the four terms, 0 or greater.

    >>> import torch
    >>> x = torch.rand(1, 1, 16, 16)
    >>> sorted(NaturalLoss()(x, x, x / 2))
    ['difference', 'gradient', 'intensity', 'structure']
    """

    def __init__(
        self, intensity: float = 20.0, gradient: float = 20.0, structure: float = 10.0, difference: float = 2.0
    ) -> None:
        super().__init__()
        self.intensity, self.gradient = intensity, gradient
        self.structure, self.difference = structure, difference

    def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {
            "intensity": self.intensity * (fused - a.maximum(b)).abs().mean(),
            "gradient": self.gradient * gradient_loss(fused, a, b),
            "structure": self.structure * contrast_ssim_loss(fused, a, b),
            "difference": self.difference * difference_correlation_loss(fused, a, b),
        }


OBJECTIVES: dict[str, Callable[..., nn.Module]] = {"natural": NaturalLoss}
"""The objectives by name."""
