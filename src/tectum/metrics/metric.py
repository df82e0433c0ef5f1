"""What all fusion metrics share: one value per image, how two sources are reduced, and a running summary.

    metric(fused, a, b) -> (B,)        a, b (B,1,H,W), or (1,1,H,W): one pair under several fused images
    SourceMetric: v_a = v(fused, a), v_b = v(fused, b), then (v_a + v_b) / 2 or v_a + v_b

Whether the two sources are averaged or added is the commonest reason why two published tables differ by a factor of
two, so every metric that is taken source by source has the same switch, and `per_source` gives both halves. A value
that is not defined (a constant image has no correlation) is NaN, and a summary counts it instead of dropping it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tectum.errors import UserError

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Score:
    """A metric over many images: mean and standard deviation of those where it is defined, and how many there were."""

    mean: float
    std: float
    num: int
    num_undefined: int


class Metric(ABC):
    """One number per image of how a fused image relates to its sources.

    Subclasses say what they are in the class attributes and compute in `score`.

    Attributes:
        symbol: the name in tables ("EN").
        title: in words ("entropy").
        unit: of the value, "" when it has none.
        higher_is_better: the direction in which papers read it.
        bounds: of the value per image, of the mean where there are two sources; infinite where there is none.
        symmetric: exchanging a and b does not change the value.
        source: the paper that defines it.
    """

    symbol: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    symmetric: ClassVar[bool] = True
    source: ClassVar[str]

    def __init__(self) -> None:
        self.reset()

    def __call__(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """One value per fused image, (B,) float64 (float32 on devices without float64), NaN where undefined.

        Args:
            fused: luminance (B,1,H,W) in [0,1].
            a, b: the sources, (B,1,H,W), or (1,1,H,W) when all fused images are of one pair.

        Raises:
            ValueError: shapes that do not fit, or values outside [0,1].
        """
        device = fused.device
        with torch.inference_mode(), one_thread():
            check(fused, a, b)
            if device.type == "mps":  # has no float64
                return self.score(fused.cpu(), a.cpu(), b.cpu()).float().to(device)
            return self.score(fused, a, b)

    @abstractmethod
    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The value per image, (B,) float64, of checked tensors."""

    def update(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Take more images into the summary; returns their values."""
        values = self(fused, a, b)
        self.values.append(values.cpu().double())
        return values

    def compute(self) -> Score:
        """The summary of all images since the last `reset`; NaN where no image has a value."""
        values = torch.cat(self.values) if self.values else torch.empty(0, dtype=torch.float64)
        defined = values[~values.isnan()]
        num = len(defined)
        return Score(
            mean=float(defined.mean()) if num else float("nan"),
            std=float(defined.std(correction=0)) if num else float("nan"),
            num=num,
            num_undefined=len(values) - num,
        )

    def reset(self) -> None:
        """Forget the images seen."""
        self.values: list[Tensor] = []


class SourceMetric(Metric):
    """A metric taken against each source by itself.

    Args:
        reduction: "mean" or "sum" of the two values.
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise UserError(f"reduction must be 'mean' or 'sum' over the two sources, got {reduction!r}")
        super().__init__()
        self.reduction = reduction

    @abstractmethod
    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The values against a and against b, (2,B) float64."""

    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        values = self.per_source(fused, a, b)
        return values.mean(0) if self.reduction == "mean" else values.sum(0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one processor thread, and leave the setting as it was.

    The pieces an image is taken in fit the cache and are too small to share: with two threads on a quiet machine a
    metric is at best 1.5 times faster, on a busy one the threads wait for each other and it is tens of times slower.
    Take many images at once in as many processes or threads instead.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check(fused: Tensor, a: Tensor, b: Tensor) -> None:
    """Refuse what no metric can score.

    Raises:
        ValueError: a sentence on the shapes, the type or the range.
    """
    shapes = f"fused {tuple(fused.shape)}, a {tuple(a.shape)}, b {tuple(b.shape)}"
    if any(x.ndim != 4 or x.shape[1] != 1 for x in (fused, a, b)):
        raise UserError(f"fused, a and b must be luminances (B,1,H,W), got {shapes}; convert colour images first")
    if not fused.shape[2:] == a.shape[2:] == b.shape[2:] or a.shape[0] != b.shape[0]:
        raise UserError(f"fused, a and b must share one size, got {shapes}; resize or register them first")
    if a.shape[0] not in (1, fused.shape[0]):
        raise UserError(f"there must be one pair, or one for each fused image, got {shapes}")
    for name, x in (("fused", fused), ("a", a), ("b", b)):
        if not x.is_floating_point():
            raise UserError(f"{name} must be floating point in [0,1], got {x.dtype}; divide by 255")
        low, high = (float(v) for v in x.aminmax()) if x.numel() else (0.0, 0.0)
        if not -1e-6 <= low <= high <= 1 + 1e-6:  # false for NaN too
            raise UserError(f"{name} must lie in [0,1] and be finite, got {low:g} to {high:g}; scale it first")
