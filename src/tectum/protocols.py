"""The four nouns of tectum, what connects them, and how a name finds its class.

    fuser(a, b)            -> fused          images (B,1,H,W) in [0,1]
    objective(fused, a, b) -> {term: scalar} the loss is the sum of the terms
    task.loss(fused, target) -> scalar       the network that will look at the picture
    metric(fused, a, b)    -> (B,)           a report

`a` is the colour-bearing modality (visible), `b` the other (infrared). A `System` is a fuser with its objective, and,
where the weights of the loss change from epoch to epoch, a `Balance`.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from tectum.errors import UserError, unknown

T = TypeVar("T")


class Fuser(Protocol):
    """Network that turns a registered pair into one image: (B,1,H,W), (B,1,H,W) -> (B,1,H,W), in [0,1], any H and W."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


class Objective(Protocol):
    """Loss of a fused image without labels: scalars by name, lower is better, their sum is the loss.

    An objective with parameters is *learned*; the meta phase of the engine trains it.

    `forward` may have a keyword `task_grad`: then it is also called in fit steps on the whole labelled images with
    d task.loss / d fused (B,1,H,W), raw and without a graph; its scale is the objective's to deal with. Everywhere else
    (crops, meta steps, validation) it is None.
    """

    def __call__(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]: ...


@runtime_checkable
class Task(Protocol):
    """Vision task that the fused image is for: an `nn.Module` around a network, with its loss, prediction and score.

    The fused image is (B,1,H,W) in [0,1]; a target has one entry per image (see `Pair`) and its own resolution: masks
    of another size are met by resizing the logits, boxes are relative.
    """

    def loss(self, fused: Tensor, target: Any) -> Tensor:
        """Returns the loss, a scalar, the mean over the images."""
        ...

    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Any:
        """Predict in evaluation mode, without gradients: the form of a target; masks come in `size`, else (H,W)."""
        ...

    def metric(self) -> "TaskMetric":
        """Returns an empty score."""
        ...


class TaskMetric(Protocol):
    """Score of a task over a data set."""

    def update(self, prediction: Any, target: Any) -> None:
        """Add the images of a batch."""
        ...

    def numbers(self) -> dict[str, float]:
        """Returns scores by name, higher is better; the first one selects the checkpoint."""
        ...


class Balance(Protocol):
    """Weights of the terms in the fuser's loss, new in every epoch: sum_k weight(k) term_k + weight("task") task loss.

    Its state is plain numbers by name, written into the checkpoints of a run.
    """

    @property
    def held_out(self) -> float:
        """Part of the training pairs to hold out from training, to measure on them; 0 for none."""
        ...

    def weight(self, name: str) -> float:
        """Returns the weight of a term, or of "task", in the next epoch; at 0 the fuser gets no task gradient."""
        ...

    def update(self, means: Mapping[str, float], held_out: Mapping[str, float]) -> None:
        """Set the weights of the next epoch from the means of the last one.

        Args:
            means: of each term of the objective before its weight, and of "task", over the epoch's fit steps; where the
                task weighs 0, "task" is its own training loss, mixtures of the sources included.
            held_out: means over the held-out pairs: "fusion", a loss with w = 1/2 that nothing learned can change, and
                "task"; empty if there are none.
        """
        ...

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...


@runtime_checkable
class Metric(Protocol):
    """Metric with one number per image: (B,1,H,W) x 3 -> (B,)."""

    def __call__(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class System:
    """Fuser with its objectives and balance, all as constructors.

    Attributes:
        fuser: the network.
        objective: the fixed objective, or None where there is nothing to train.
        learned: the objective with parameters that a task teaches, or None.
        weights: the packaged set that is the default, or None.
        balance: weights of the loss terms and of the task's loss, epoch by epoch, with `frozen=True` as an option; or
            None.
        variant: "published" for a system as it was released, "repaired" where there is such a one beside it, else None.
        description: one line for lists of systems.
    """

    fuser: Callable[..., nn.Module]
    objective: Callable[..., nn.Module] | None = None
    learned: Callable[..., nn.Module] | None = None
    weights: str | None = None
    balance: Callable[..., Balance] | None = None
    variant: Literal["published", "repaired"] | None = None
    description: str = ""


def resolve(table: Mapping[str, T], name: str, *, noun: str) -> T:
    """Find `name` in a registry, or import it when it reads `package.module:Attr`.

    Args:
        table: the registry, a plain dict.
        name: a key of the table, or `package.module:Attr` from the user's own code.
        noun: what the table holds, for the message ("system", "dataset", ...).

    Raises:
        ValueError: the name is unknown; the message offers the closest one.

    >>> resolve({"tdfusion": 1}, "tdfusion", noun="system")
    1
    """
    if name in table:
        return table[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            value: T = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{noun} '{name}' must be importable as module:attribute, but {error}") from error
        return value
    raise UserError(unknown(name, table, noun=noun))
