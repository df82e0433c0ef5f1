"""An image in stripes of a few rows, so that what is computed of them stays in the processor's cache.

A sum over all pixels is the sum over stripes, added up in float64; a filter of `size` rows needs size - 1 rows more
than it returns. Memory does not grow with the image: a 20-megapixel pair needs little more than its own pixels.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

STRIPE_PX = 50_000
"""Pixels of a stripe, all images of it together."""


class Scratch:
    """Memory that is used again for every stripe, by name.

    The C library gives large blocks back to the operating system as soon as they are free; fetching them again for the
    next stripe takes several times as long as what is computed in them.
    """

    def __init__(self, like: Tensor, dtype: torch.dtype = torch.float64) -> None:
        self.like, self.dtype = like, dtype
        self.memory: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int]) -> Tensor:
        """An uninitialised tensor; overwrites the last one of this name."""
        num = torch.Size(shape).numel()
        if name not in self.memory or self.memory[name].numel() < num:
            self.memory[name] = torch.empty(num, dtype=self.dtype, device=self.like.device)
        return self.memory[name][:num].view(*shape)


def blocks(length: int, size: int, block: int, step: int = 1) -> Iterator[tuple[slice, slice]]:
    """Runs of results along an axis, and what each needs of it: windows of `size` inside, every `step`-th of them.

    >>> [(out.start, out.stop, given.start, given.stop) for out, given in blocks(10, 3, 5)]
    [(0, 5, 0, 7), (5, 8, 5, 10)]
    """
    num = (length - size) // step + 1
    for start in range(0, num, block):
        stop = min(start + block, num)
        yield slice(start, stop), slice(start * step, (stop - 1) * step + size)


def rows_of(*images: Tensor, size: int = 1) -> int:
    """How many rows of results make a stripe of these images; so many that overlaps cost a quarter at most."""
    return max(8, 4 * (size - 1), STRIPE_PX // max(1, sum(x.shape[0] for x in images) * images[0].shape[-1]))


def stripes(*images: Tensor, size: int = 1, step: int = 1) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of every image (..,H,W) in float64, such that each window of `size` rows lies in one stripe.

    Of the windows every `step`-th counts; the first of a stripe is one of them. An image lower than a window has none.

    >>> [len(x[0]) for (x,) in stripes(torch.rand(1, 480, 640), size=17)]
    [109, 109, 109, 109, 108]
    >>> list(stripes(torch.rand(1, 9, 640), size=17)), list(stripes(torch.rand(1, 16, 640), size=17))
    ([], [])
    """
    num = (images[0].shape[-2] - size) // step + 1
    parts = max(1, num // max(1, rows_of(max(images, key=len), size=size) // step))  # alike, none of few rows
    for _, given in blocks(images[0].shape[-2], size, max(1, -(-num // parts)), step):
        yield tuple(x[..., given, :].double() for x in images)


def total(terms: Callable[..., Tensor], *images: Tensor, size: int = 1) -> Tensor:
    """Sum over all pixels: of terms(*stripes) -> (..., B, rows, columns), float64 (..., B).

    Args:
        terms: takes the same rows of every image, (B,rows,W) on the scale 0..255, and returns `size` - 1 rows fewer.
        images: (B,1,H,W) in [0,1].
    """
    sums = torch.zeros((), dtype=torch.float64, device=images[0].device)
    for _, given in blocks(images[0].shape[2], size, rows_of(*images)):
        sums = sums + terms(*(x[:, 0, given] * 255 for x in images)).sum((-2, -1)).double()
    return sums


def undefined(*shape: int, like: Tensor) -> Tensor:
    """NaN for every value, in float64."""
    return torch.full(shape, float("nan"), dtype=torch.float64, device=like.device)
