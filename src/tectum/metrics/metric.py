"""Base classes of the fusion metrics: one value per image, reduction over two sources, gradients, a running summary.

    metric(fused, a, b) -> (B,)        a, b (B,1,H,W), or (1,1,H,W): one pair under several fused images
    SourceMetric: v_a = v(fused, a), v_b = v(fused, b), then (v_a + v_b) / 2 or v_a + v_b

Averaging or adding the two sources is the commonest reason why two published tables differ by a factor of two, so every
metric that is taken source by source has the same switch, and `per_source` gives both halves. A value that is not
defined (a constant image has no correlation) is NaN, and a summary counts it instead of dropping it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from tectum.errors import UserError

if TYPE_CHECKING:
    import torchmetrics

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Score:
    """A metric over many images: mean and standard deviation of those where it is defined, and how many there were."""

    mean: float
    std: float
    num: int
    num_undefined: int


class Metric(nn.Module, ABC):
    """One number per image of how a fused image relates to its sources; with gradients also a loss.

    Subclasses describe themselves in the class attributes and compute in `score`.

    Attributes:
        symbol: the name in tables ("EN").
        title: in words ("entropy").
        unit: of the value, "" when it has none.
        higher_is_better: the direction in which papers read it.
        is_differentiable: images that require a gradient get one, almost everywhere. False for what counts levels.
        full_state_update: False, as torchmetrics means it: a batch is scored without the batches before it.
        bounds: of the value per image, of the mean where there are two sources; infinite where there is none.
        symmetric: exchanging a and b does not change the value.
        source: the paper that defines it.

    >>> from tectum.metrics import METRICS
    >>> fused = torch.rand(1, 1, 16, 16, requires_grad=True)
    >>> loss = 1 - METRICS["SSIM"]()(fused, *torch.rand(2, 1, 1, 16, 16)).mean()
    >>> loss.backward()
    >>> fused.grad.shape
    torch.Size([1, 1, 16, 16])
    """

    symbol: ClassVar[str]
    title: ClassVar[str]
    unit: str = ""
    higher_is_better: ClassVar[bool] = True
    is_differentiable: bool = True
    full_state_update: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    symmetric: ClassVar[bool] = True
    source: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """One value per fused image, (B,) float64 (float32 on devices without float64), NaN where undefined.

        The values carry a gradient where an image requires one and the metric is differentiable.

        Args:
            fused: luminance (B,1,H,W) in [0,1].
            a, b: the sources, (B,1,H,W), or (1,1,H,W) when all fused images are of one pair.

        Raises:
            ValueError: shapes that do not fit, or values outside [0,1].
        """
        images, on_mps = (fused, a, b), fused.device.type == "mps"  # which has no float64
        _check_images(*images)
        gradients = self.is_differentiable and torch.is_grad_enabled() and any(x.requires_grad for x in images)
        with torch.inference_mode(not gradients), _one_thread():
            if not gradients:
                images = fused.detach(), a.detach(), b.detach()
            values = self.score(*(x.cpu() for x in images)) if on_mps else self.score(*images)
        values = values if gradients else values.clone()  # a tensor of inference mode could not stand in a loss
        return values.float().to(fused.device) if on_mps else values

    @abstractmethod
    def score(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The value per image, (B,) float64, of checked tensors."""

    def update(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Adds images to the summary, and returns their values, (B,)."""
        values: Tensor = self(fused, a, b)
        self._values.append(values.detach().cpu().double())
        return values

    def compute(self) -> Score:
        """The summary of all images since the last `reset`; NaN where no image has a value."""
        values = torch.cat(self._values) if self._values else torch.empty(0, dtype=torch.float64)
        defined = values[~values.isnan()]
        num = len(defined)
        return Score(
            mean=float(defined.mean()) if num else float("nan"),
            std=float(defined.std(correction=0)) if num else float("nan"),
            num=num,
            num_undefined=len(values) - num,
        )

    def reset(self) -> None:
        """Forgets the images added."""
        self._values: list[Tensor] = []

    def to_torchmetrics(self) -> "torchmetrics.Metric":
        """This metric as a `torchmetrics.Metric`, for a `MetricCollection`: `tectum.metrics.adapter` says how.

        Raises:
            ValueError: torchmetrics is not installed.
        """
        from tectum.metrics.adapter import make_adapter

        return make_adapter(self)


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
def _one_thread() -> Iterator[None]:
    """Runs on one processor thread, and leaves the setting as it was.

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


@torch.no_grad()
def _check_images(fused: Tensor, a: Tensor, b: Tensor) -> None:
    """Refuses what no metric can score: by its shape, type or range."""
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
