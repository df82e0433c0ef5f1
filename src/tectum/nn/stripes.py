"""Rows of an image worked one after another, where all that a pixel of the result looks at is near it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def in_stripes(x: Tensor) -> bool:
    """Whether stripes pay: on a CPU, without derivatives, and not in an exported graph."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def row_windows(x: Tensor, *, rows: Callable[[], int], halo: int) -> Iterator[tuple[slice, slice]]:
    """Rows to work at a time, halo included, and which of them count: all, unless on a CPU and without derivatives.

    How many `rows` is asked for only where there are stripes: sizes in an exported graph are not to be reckoned with.

    >>> with torch.no_grad():
    ...     [(i.start, i.stop, j.start, j.stop) for i, j in row_windows(torch.zeros(5, 1), rows=lambda: 3, halo=1)]
    [(0, 4, 0, 3), (2, 5, 1, 3)]
    """
    if not in_stripes(x):
        yield slice(None), slice(None)
        return
    height, step = x.shape[-2], rows()
    for top in range(0, height, step):
        first, bottom = max(0, top - halo), min(top + step, height)
        yield slice(first, min(bottom + halo, height)), slice(top - first, bottom - first)
