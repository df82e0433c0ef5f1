"""Evaluation mode for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts in evaluation mode; afterwards each part is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    if any(modes.values()):
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
