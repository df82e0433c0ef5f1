"""Adapter to torchmetrics: a fusion metric inside a `torchmetrics.MetricCollection`.

    collection = MetricCollection([METRICS[name]().to_torchmetrics() for name in ("EN", "SSIM", "VIF")])
    collection.update(fused, a, b)       returns nothing
    collection.compute()                 {"EN": scalar, ..}: the mean over the images that have a value
    collection(fused, a, b)              the means of this batch, with a gradient where the metric is differentiable

A collection takes instances of `torchmetrics.Metric` only. Our own class is not one: torchmetrics is not needed for a
metric, and a base class that depends on what is installed would make two different types of one. So the adapter is a
class of its own, made when asked for, and named by the metric's symbol, as the collection names its results. Its state
is a sum and two counts, float64 on its device, which torchmetrics adds up over processes.
"""

import itertools
import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.metric import Metric

if TYPE_CHECKING:
    import torchmetrics

_numbers = itertools.count()


def make_adapter(metric: Metric) -> "torchmetrics.Metric":
    """Makes a `torchmetrics.Metric` whose result is the mean of a fusion metric over all images where it is defined.

    Args:
        metric: with its options; its own summary is not used.

    Raises:
        ValueError: torchmetrics is not installed.
    """
    low, high = (bound if math.isfinite(bound) else None for bound in metric.bounds)
    attributes = {
        "__doc__": type(metric).__doc__,
        "is_differentiable": metric.is_differentiable,
        "higher_is_better": metric.higher_is_better,
        "full_state_update": metric.full_state_update,
        "plot_lower_bound": low,
        "plot_upper_bound": high,
    }
    adapter: torchmetrics.Metric = type(metric.symbol, (_adapter_class(),), attributes)(metric)
    return adapter


@cache
def _adapter_class() -> Any:
    """The base class of the adapters; torchmetrics is imported here only."""
    try:
        import torchmetrics
    except ImportError as error:
        raise UserError("a metric for a MetricCollection needs torchmetrics: pip install torchmetrics") from error

    class Adapter(torchmetrics.Metric):
        def __init__(self, metric: Metric) -> None:
            super().__init__()
            self.metric = metric
            # A collection computes metrics once whose states have the same names and, after the first batch, values.
            number = next(_numbers)
            self.states = tuple(f"{name}_{number}" for name in ("total", "num", "num_undefined"))
            for state in self.states:
                self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

        def update(self, fused: Tensor, a: Tensor, b: Tensor) -> None:
            values = self.metric(fused, a, b)
            undefined = values.isnan()
            sums = values.masked_fill(undefined, 0).sum(), (~undefined).sum(), undefined.sum()
            for state, part in zip(self.states, sums, strict=True):
                setattr(self, state, getattr(self, state) + part)

        def compute(self) -> Tensor:
            total, num, _ = (getattr(self, state) for state in self.states)
            return total / num  # 0/0 is NaN

        @property
        def num_undefined(self) -> int:
            """Number of images without a value."""
            return int(getattr(self, self.states[2]))

        def __reduce__(self) -> tuple[Any, ...]:  # its class has no name that pickle or copy could import
            return make_adapter, (self.metric,), self.__getstate__()

    return Adapter
