"""The budget that all cells of a downstream comparison share: one dataclass for the command line and for Python."""

import math
from dataclasses import dataclass
from typing import Annotated

from tectum.console import option, parse_size
from tectum.errors import UserError


def _parse_size(text: str) -> tuple[int, int]:
    width, height = parse_size(text, "--size")
    return height, width


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Settings that every cell is trained with; they decide its scores together with the task, the input and the seed.

    Raises:
        UserError: a value is out of its range.
    """

    epochs: int = 30
    """How often each training image is seen."""

    size: Annotated[tuple[int, int], option("WIDTHxHEIGHT", parse=_parse_size, to_text=_size_text)] = (128, 160)
    """Size of the images that the network sees. Masks are scored at their own size."""

    batch: int = 4
    """Images a step."""

    lr: float = 1e-3
    """Highest learning rate of AdamW, after the warm-up; it falls along a cosine to zero."""

    warmup: float = 0.05
    """Part of the steps over which the rate rises from zero."""

    weight_decay: float = 0.01
    """Of matrices and kernels, not of biases and norms."""

    clip: float = 1.0
    """Largest norm of a gradient; larger ones are scaled down."""

    zoom: float = 1.25
    """Largest random zoom, in and out; 1 leaves the images whole."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be greater than 0 and finite, got {value}")
        if min(self.size) < 32:
            raise UserError(f"task images must be at least 32 pixels high and wide, got {_size_text(self.size)}")
        if not 1 <= self.zoom <= 4:
            raise UserError(f"zoom must be between 1 and 4, got {self.zoom}")

    def num_steps(self, num_images: int) -> int:
        """Returns the number of training steps for so many training images."""
        return max(1, round(self.epochs * num_images / self.batch))

    def rate(self, step: int, num_steps: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        rising = max(1.0, self.warmup * num_steps)
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        return self.lr * (1 + math.cos(math.pi * (step - rising) / max(1.0, num_steps - rising))) / 2
