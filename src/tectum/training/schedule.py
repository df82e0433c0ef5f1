"""The schedule of a training run: steps, learning rates, batches, and how a learned objective is updated."""

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from tectum.errors import UserError

Method = Literal["forward", "reverse", "finite"]


@dataclass(frozen=True)
class Schedule:
    """Settings of a training run. An epoch is `validate_every` fit steps, after `meta_steps` meta steps.

    Every field is a flag of `tectum train`, and its text the help of the flag.
    """

    steps: int = 4000
    """Fit steps in all: optimiser steps of the fuser."""
    validate_every: int = 200
    """Fit steps in an epoch; each epoch ends with a validation, a sheet of samples and a checkpoint."""
    batch: int = 8
    """Crops per step, over all processes."""
    crop_px: int = 128
    """Side of a training crop."""
    swap: bool = False
    """Each batch also with its two images exchanged, as published: the fuser learns to be symmetric."""
    dihedral: bool = False
    """Crops are flipped and turned by quarters, all eight ways of a square; without it some are mirrored only."""
    lr: float = 1e-3
    """Highest learning rate of the fuser (Adam), after `warmup` steps."""
    lr_end: float = 1e-5
    """Learning rate of the fuser at the end of a cosine."""
    decay: Literal["cosine", "step", "constant"] = "cosine"
    """How all rates fall: along a cosine, to a tenth every ten epochs (released code), not at all (paper)."""
    warmup: int = 100
    """Steps over which the fuser's rate rises from zero."""
    clip: float = 1.0
    """Largest norm of the fuser's gradient; larger gradients are scaled down. 0: no limit."""
    ema: float = 0.0
    """Decay of an exponential moving average of the fuser's weights, which is validated and saved: an average over
    about 1 / (1 - ema) steps, e.g. 0.999. 0: the weights themselves."""
    seed: int = 0
    """Seed of the initial weights, crops and dropout."""

    meta_steps: int = 0
    """Meta steps at the start of each epoch: steps of the learned objective. 0: the objective is fixed."""
    warm_epochs: int = 0
    """Epochs before the first meta step: the gradient of an untrained task is noise."""
    interleaved: bool = False
    """One meta step before each fit step, on the same crops, instead of two phases (ablation IV of the paper)."""
    method: Method = "forward"
    """How the hypergradient is computed: forward mode, double backward (reverse), finite differences."""
    inner: Literal["adam", "sgd"] = "adam"
    """Look-ahead of a meta step: the step that Adam will take, clipped as there, or a plain step (published)."""
    inner_lr: float = 0.0
    """Learning rate of the look-ahead; 0: the current rate of the fuser."""
    outer: Literal["max", "adam", "sgd"] = "max"
    """Step of the objective on its gradient g: meta_lr g / max|g| (published), Adam on g / max|g|, or meta_lr g."""
    meta_lr: float = 1e-4
    """Learning rate of the objective."""

    task_px: tuple[int, int] = (240, 320)
    """Height and width to which whole images are resized for the task."""
    small_masks: bool = False
    """Masks are resized with the images; without it the task's answer is enlarged to the masks (published)."""
    task_batch: int = 1
    """Whole images per step of the task, over all processes."""
    task_lr: float = 1e-4
    """Learning rate of the task (Adam)."""
    task_mix: float = 0.0
    """Part of the task's batches that are random mixtures of the sources instead of fused images. A task that has
    only seen fused images takes any change of them for the worse. 0 as published."""
    task_first: int = 0
    """Steps of the task alone before anything else, on images of the untrained fuser; 0 as published."""
    task_first_batch: int = 4
    """Images in each step of the task alone, over all processes."""
    task_first_lr: float = 1e-3
    """Learning rate at the start of the task's steps alone; it falls along a cosine to a twentieth."""
    task_weight: float = 0.0
    """Weight of the task's loss in the loss of the fuser; 0 as published (1 is ablation III of the paper)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "task_px", tuple(self.task_px))  # JSON has lists
        for name in _POSITIVE + _NOT_NEGATIVE:
            value, least = getattr(self, name), "greater than 0" if name in _POSITIVE else "0 or greater"
            if not (math.isfinite(value) and (value > 0 or (value == 0 and name in _NOT_NEGATIVE))):
                raise UserError(f"{name} must be {least} and finite, got {value}")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema must be 0 (off) or a decay below 1 such as 0.999, got {self.ema}")
        if len(self.task_px) != 2 or min(self.task_px) < 32:
            raise UserError(f"task_px must be a height and a width of at least 32 pixels, got {self.task_px}")
        for name, hint in get_type_hints(Schedule).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise UserError(f"{name} must be one of {', '.join(get_args(hint))}, got {getattr(self, name)!r}")

    def fade(self, step: int) -> float:
        """Returns the factor in (0,1] by which `decay` has lowered all rates at a fit step, counted from 0."""
        if self.decay == "constant":
            return 1.0
        if self.decay == "step":
            return float(0.1 ** (step // self.validate_every // 10))
        progress = min(1.0, max(0, step - self.warmup) / max(1, self.steps - self.warmup))
        floor = min(1.0, self.lr_end / self.lr)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    def rate(self, step: int) -> float:
        """Returns the fuser's learning rate at a fit step."""
        return self.lr * self.fade(step) * min(1.0, (step + 1) / max(1, self.warmup))

    def task_rate(self, step: int, first: int) -> float:
        """Returns the task's learning rate at a fit step, after `first` steps of the task alone."""
        if first >= self.task_first:
            return self.task_lr * self.fade(step)
        cosine = (1 + math.cos(math.pi * first / self.task_first)) / 2
        return self.task_first_lr * (0.05 + 0.95 * cosine) * min(1.0, (first + 1) / 30)

    def meta_due(self, step: int) -> int:
        """Returns how many meta steps come before a fit step, over all epochs."""
        if self.interleaved:
            return max(0, step + 1 - self.warm_epochs * self.validate_every) if self.meta_steps else 0
        return max(0, step // self.validate_every + 1 - self.warm_epochs) * self.meta_steps


_POSITIVE = (
    *("steps", "validate_every", "batch", "crop_px", "lr", "meta_lr"),
    *("task_batch", "task_lr", "task_first_batch", "task_first_lr"),
)
_NOT_NEGATIVE = (
    *("lr_end", "warmup", "clip", "meta_steps", "warm_epochs", "inner_lr"),
    *("task_mix", "task_first", "task_weight"),
)
