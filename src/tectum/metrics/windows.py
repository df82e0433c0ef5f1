"""Sliding-window filters, and images in stripes of a few rows, so that intermediate results stay in the CPU's cache.

    sum_windows(x)_ij = sum_{k,l < n} x_{i+k, j+l}              every n x n window that lies inside the image
    smooth(x)_ij      = sum_{k,l} g_k g_l x_{i+k, j+l}          the same windows, weighted by a separable kernel

A sum over all pixels is the sum over stripes, added up in float64; a filter of `size` rows needs size - 1 rows more
than it returns. Memory does not grow with the image: a 20-megapixel pair needs little more than its own pixels.

Gradients. Only what carries no gradient is overwritten (`reuse`, `Workspace`). `root`, `power`, `vector_length` and
`divide` have the gradient 0 where their formula's is infinite or 0/0: a flat region, or a fused pixel equal to its
source, must not turn the gradient of a whole image into NaN.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STRIPE_PX = 50_000
"""Pixels of a stripe, all images of it together."""


# ---- stripes ---------------------------------------------------------------------------------------------------------


def split_axis(length: int, size: int, block: int, step: int = 1) -> Iterator[tuple[slice, slice]]:
    """Cuts the results along an axis into blocks: (results, inputs that they need) for windows of `size`.

    Args:
        length: of the axis.
        size: of a window; all windows lie inside.
        block: number of results in a block.
        step: distance between windows.

    >>> [(out.start, out.stop, rows.start, rows.stop) for out, rows in split_axis(10, 3, 5)]
    [(0, 5, 0, 7), (5, 8, 5, 10)]
    """
    num = (length - size) // step + 1
    for start in range(0, num, block):
        stop = min(start + block, num)
        yield slice(start, stop), slice(start * step, (stop - 1) * step + size)


def stripe_height(*images: Tensor, size: int = 1) -> int:
    """Number of result rows in a stripe of these images; large enough that overlaps cost a quarter at most."""
    return max(8, 4 * (size - 1), STRIPE_PX // max(1, sum(x.shape[0] for x in images) * images[0].shape[-1]))


def iterate_stripes(*images: Tensor, size: int = 1, step: int = 1) -> Iterator[tuple[Tensor, ...]]:
    """Stripes of images (...,H,W) in float64, such that each window of `size` rows lies in exactly one stripe.

    Every `step`-th window counts; the first one of a stripe is one of them. An image lower than a window has no stripe.

    >>> [len(x[0]) for (x,) in iterate_stripes(torch.rand(1, 480, 640), size=17)]
    [109, 109, 109, 109, 108]
    >>> list(iterate_stripes(torch.rand(1, 9, 640), size=17)), list(iterate_stripes(torch.rand(1, 16, 640), size=17))
    ([], [])
    """
    height = images[0].shape[-2]
    num = (height - size) // step + 1
    num_stripes = max(1, num // max(1, stripe_height(max(images, key=len), size=size) // step))  # alike in height
    for _, rows in split_axis(height, size, max(1, -(-num // num_stripes)), step):
        yield tuple(x[..., rows, :].double() for x in images)


def sum_pixels(terms: Callable[..., Tensor], *images: Tensor, size: int = 1) -> Tensor:
    """Sum of terms(*stripes) -> (..., B, rows, columns) over all pixels, float64 (..., B).

    Args:
        terms: takes the same rows of every image, (B,rows,W) on the scale 0..255, and returns `size` - 1 rows fewer.
        images: (B,1,H,W) in [0,1].
    """
    sums = torch.zeros((), dtype=torch.float64, device=images[0].device)
    for _, rows in split_axis(images[0].shape[2], size, stripe_height(*images)):
        sums = sums + terms(*(x[:, 0, rows] * 255 for x in images)).sum((-2, -1)).double()
    return sums


def to_grey_levels(x: Tensor) -> Tensor:
    """Values 0..255 in float64 of an image in [0,1]; exactly the whole levels if it is an 8-bit image, float32 or not.

    Evaluators read whole levels. k / 255 * 255 is not quite k, and a decision that two windows are alike, flat or above
    a threshold would then hang on rounding.

    >>> to_grey_levels(torch.tensor([7 / 255, 49 / 255])).tolist()
    [7.0, 49.0]
    """
    levels = x.double() * 255
    rounding = levels.detach().round() - levels.detach()
    on_levels = bool((rounding.abs() < 1e-4).all())
    return levels + rounding if on_levels else levels


def zeros(*shape: int, like: Tensor) -> Tensor:
    """Float64 zeros on the device of `like`, to add stripes to."""
    return torch.zeros(shape, dtype=torch.float64, device=like.device)


def nans(*shape: int, like: Tensor) -> Tensor:
    """Float64 NaN, the value of a metric that is not defined."""
    return torch.full(shape, math.nan, dtype=torch.float64, device=like.device)


# ---- memory ----------------------------------------------------------------------------------------------------------


class Workspace:
    """Float64 buffers by name, used again for every stripe.

    The C library gives large blocks back to the operating system as soon as they are free; fetching them again for the
    next stripe takes several times as long as the arithmetic in them. Autograd needs results to stay, so that there
    are no buffers where an image requires a gradient.

    Args:
        images: decide the device, and whether there are buffers.
    """

    def __init__(self, *images: Tensor) -> None:
        self._device = images[0].device
        self.reuses = not any(x.requires_grad for x in images)
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """An `out=` argument: an uninitialised tensor that overwrites the last one of this name, or None."""
        return self.empty(name, shape) if self.reuses else None

    def empty(self, name: str, shape: Sequence[int]) -> Tensor:
        """An uninitialised tensor; overwrites the last one of this name."""
        num = torch.Size(shape).numel()
        if name not in self._buffers or self._buffers[name].numel() < num:
            self._buffers[name] = torch.empty(num, dtype=torch.float64, device=self._device)
        return self._buffers[name][:num].view(*shape)


def reuse(x: Tensor) -> Tensor | None:
    """An `out=` argument: the memory of x, which is not needed any more, or None where x carries a gradient."""
    return None if x.requires_grad else x


# ---- filters ---------------------------------------------------------------------------------------------------------


def gaussian_weights(size: int, sigma: float) -> list[float]:
    """`size` samples of a Gaussian around the middle one, with sum 1.

    >>> gaussian_weights(3, 1.0)[1] > gaussian_weights(3, 2.0)[1] > 1 / 3
    True
    """
    weights = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [weight / sum(weights) for weight in weights]


def smooth(x: Tensor, kernel: Sequence[float]) -> Tensor:
    """Weighted sums over the windows inside (...,H,W), by one symmetric kernel of odd length along columns and rows.

    Sums of shifted images, several times faster than a float64 convolution. Pixels of one weight are added first: less
    is then left by rounding where a variance is the difference of two large numbers.
    """
    middle = len(kernel) // 2
    for axis in (-2, -1):
        size = x.shape[axis] - 2 * middle
        total = x.narrow(axis, middle, size) * kernel[middle]
        for offset, weight in enumerate(kernel[:middle]):
            pair = x.narrow(axis, offset, size) + x.narrow(axis, 2 * middle - offset, size)
            total.add_(pair, alpha=weight)
        x = total
    return x


def sum_windows(
    x: Tensor, size: int, *, axes: tuple[int, int] = (-2, -1), workspace: Workspace | None = None
) -> Tensor:
    """Sums over the size x size windows inside, by sums of neighbours (7 = 1 + 2 + 4): nothing cancels.

    Args:
        x: (...,H,W), or the two axes elsewhere.
        size: of the windows.
        axes: the two axes.
        workspace: memory to work in; the next call with it overwrites the result.

    >>> sum_windows(torch.ones(1, 1, 4, 5), 3)[0, 0].tolist()
    [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]
    """

    def add(name: str, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y, out=None if workspace is None else workspace(name, x.shape))

    for i, axis in enumerate(axes):
        length, total = x.shape[axis] - size + 1, None
        for num in (1 << bit for bit in range(size.bit_length())):  # x becomes the sums over 1, 2, 4, .. neighbours
            if num > 1:
                inner = x.shape[axis] - num // 2
                x = add(f"sum {i} {num}", x.narrow(axis, 0, inner), x.narrow(axis, num // 2, inner))
            if size & num:
                part = x.narrow(axis, size & (num - 1), length)
                total = part if total is None else add(f"sum {i}", total, part)
        assert total is not None
        x = total
    return x


def halve(image: Tensor, *, levels: bool = False) -> Tensor:
    """Means over 2 x 2 pixels, (B,1,H,W) -> (B,1,ceil(H/2),ceil(W/2)) float64; an odd last row or column stands twice.

    Args:
        image: any range.
        levels: take an image in [0,1] to 0..255 first, as `to_grey_levels`.

    >>> halve(torch.tensor([[[[1.0, 2.0, 4.0]]]]))
    tensor([[[[1.5000, 4.0000]]]], dtype=torch.float64)
    """
    if image.shape[-2] % 2 or image.shape[-1] % 2:
        image = F.pad(image, (0, image.shape[-1] % 2, 0, image.shape[-2] % 2), mode="replicate")
    stripes = (to_grey_levels(x) if levels else x for (x,) in iterate_stripes(image, size=2, step=2))
    return torch.cat([sum_windows(x, 2)[..., ::2, ::2] / 4 for x in stripes], -2)


def sobel_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel gradient along rows and down columns at the inner pixels of (...,H,W), not normalised."""
    columns = x[..., 1:-1, :] * 2 + x[..., :-2, :] + x[..., 2:, :]
    rows = x[..., 1:-1] * 2 + x[..., :-2] + x[..., 2:]
    return columns[..., 2:] - columns[..., :-2], rows[..., 2:, :] - rows[..., :-2, :]


def sobel_magnitude(x: Tensor) -> Tensor:
    """Length of the Sobel gradient at the inner pixels of (...,H,W), not normalised: a ramp of 1 per pixel gives 8.

    >>> sobel_magnitude(torch.arange(4.0).repeat(3, 1))
    tensor([[8., 8.]])
    """
    return vector_length(*sobel_gradient(x))


def stretch_levels(x: Tensor) -> Tensor:
    """An image (H,W) from its own smallest and largest value to 0..255, whole levels (halves up) if it is an 8-bit one.

    A constant image keeps its value.
    """
    levels = to_grey_levels(x)
    low, high = levels.min(), levels.max()
    if bool(high == low):
        return levels
    stretched = (levels - low) / (high - low) * 255
    if bool((levels == levels.round()).all()):
        stretched = stretched + ((stretched + 0.5).floor() - stretched).detach()
    return stretched


def pad_border(x: Tensor, margin: int) -> Tensor:
    """(B,1,H,W) with its border pixels repeated `margin` times on each side."""
    return F.pad(x, (margin,) * 4, mode="replicate")


# ---- formulas whose gradient is finite everywhere --------------------------------------------------------------------


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is not positive."""
    positive = denominator > 0
    if not (numerator.requires_grad or denominator.requires_grad):
        return torch.where(positive, numerator / denominator, 0.0)
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)


def power(x: Tensor, exponent: float) -> Tensor:
    """max(x, 0) ** exponent."""
    if not x.requires_grad:
        return x.clamp_min(0) ** exponent
    zero = x <= 0
    return x.masked_fill(zero, 1.0).pow(exponent).masked_fill(zero, 0.0**exponent)


def root(x: Tensor, *, overwrite: bool = False) -> Tensor:
    """Square root, in the memory of x if it may be overwritten."""
    if not x.requires_grad:
        return x.sqrt_() if overwrite else x.sqrt()
    zero = x == 0
    return x.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def vector_length(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x^2 + y^2)."""
    if not (x.requires_grad or y.requires_grad):
        return torch.hypot(x, y)
    zero = (x == 0) & (y == 0)
    return torch.hypot(x.masked_fill(zero, 1.0), y).masked_fill(zero, 0.0)
