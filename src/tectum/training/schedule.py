"""How long, how fast and on what a run trains: one frozen value."""

import math
from dataclasses import dataclass
from typing import Literal

from tectum.errors import UserError
from tectum.training.bilevel import METHODS, Method


@dataclass(frozen=True)
class Schedule:
    """Steps, rates and sizes of a run. An epoch is `validate_every` fit steps, with `meta_steps` meta steps before."""

    steps: int = 4000
    """Fit steps in all: steps of the fuser's optimiser."""
    batch: int = 8
    """Crops per step, over all processes."""
    crop_px: int = 128
    """Side of a training crop."""
    swap: bool = False
    """Each batch also with its two images exchanged, as published: the fuser learns to be symmetric."""
    lr: float = 1e-3
    """Adam's rate at the start, after `warmup` steps."""
    lr_end: float = 1e-5
    """Adam's rate at the end of a cosine."""
    decay: Literal["cosine", "step", "constant"] = "cosine"
    """How all rates fall: along a cosine, to a tenth every ten epochs (the released code), not at all (the paper)."""
    warmup: int = 100
    """Steps over which the fuser's rate rises from zero."""
    clip: float = 1.0
    """Largest norm of the fuser's gradient; larger ones are scaled down. 0: no limit."""
    ema: float = 0.0
    """Decay of the running average of the fuser's weights, which is then validated and kept; 0 keeps the weights
    themselves. An average over about 1 / (1 - ema) steps."""
    turns: bool = False
    """Crops are also turned by quarters: all eight ways a square lies, where otherwise some are mirrored."""
    validate_every: int = 200
    """Fit steps in an epoch; each epoch ends with a validation, a sheet of pictures and a checkpoint."""
    seed: int = 0
    """Seed of the initial weights and of every crop."""

    meta_steps: int = 0
    """Meta steps at the start of each epoch; 0 leaves the objective as it is."""
    warm_epochs: int = 0
    """Epochs before the first meta step: a task that has learned nothing has nothing to teach."""
    interleaved: bool = False
    """One meta step before each fit step, on the same crops, instead of two phases (the paper's ablation IV)."""
    method: Method = "forward"
    """How the hypergradient is found: see `tectum.training.bilevel`."""
    inner: Literal["adam", "sgd"] = "adam"
    """The look-ahead: the step that Adam will take, or the published plain step."""
    inner_lr: float = 0.0
    """Rate of the look-ahead; 0 takes the fuser's rate of the moment."""
    outer: Literal["max", "adam", "sgd"] = "max"
    """The objective's step on its gradient g: meta_lr g / max|g| (published), Adam on g / max|g|, or meta_lr g."""
    meta_lr: float = 1e-4
    """Rate of the objective's step."""
    task_px: tuple[int, int] = (240, 320)
    """(height, width) to which whole images are resized for the task."""
    small_masks: bool = False
    """Resize masks with the images; else, as published, the task's answer is enlarged to the masks in its loss."""
    task_batch: int = 1
    """Whole images per step of the task, over all processes."""
    task_lr: float = 1e-4
    """Adam's rate of the task."""
    task_mix: float = 0.0
    """Part of the task's batches that are random mixtures of the sources instead of fused images. A task that has seen
    fused images only takes any change of them for the worse; 0 as published."""
    task_first: int = 0
    """Steps of the task alone before anything else, on what the fuser makes at the start; 0 as published."""
    task_first_batch: int = 4
    """Images in each of them, over all processes."""
    task_first_lr: float = 1e-3
    """Adam's rate at their start; it falls along a cosine to a twentieth."""
    task_weight: float = 0.0
    """Weight of the task's loss in the fuser's own loss; 0 as published (1 is the paper's ablation III)."""

    penalty: float = 0.0
    """Weight of what the fuser says of its own parameters (`penalties()`); 0 tells it in the log only."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "crop_px",
            "validate_every",
            "lr",
            "meta_lr",
            "task_lr",
            "task_first_lr",
            "task_batch",
            "task_first_batch",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be greater than 0 and finite, got {value}")
        counts, parts = ("meta_steps", "warm_epochs", "task_first", "warmup"), ("task_mix", "task_weight", "penalty")
        for name in (*counts, *parts, "clip", "inner_lr", "lr_end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} must be 0 or greater and finite, got {value}")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema must be 0 (off) or a decay below 1 such as 0.999, got {self.ema}")
        object.__setattr__(self, "task_px", tuple(self.task_px))  # JSON has lists
        if len(self.task_px) != 2 or min(self.task_px) < 32:
            raise UserError(f"task_px must be a height and a width of at least 32 pixels, got {self.task_px}")
        choices = (
            ("decay", ("cosine", "step", "constant")),
            ("inner", ("adam", "sgd")),
            ("outer", ("max", "adam", "sgd")),
        )
        for name, known in (*choices, ("method", METHODS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def fade(self, step: int) -> float:
        """What is left of every rate at a fit step, counted from 0: 1 at the start."""
        if self.decay == "constant":
            return 1.0
        if self.decay == "step":
            return float(0.1 ** (step // self.validate_every // 10))
        along = min(1.0, max(0, step - self.warmup) / max(1, self.steps - self.warmup))
        floor = min(1.0, self.lr_end / self.lr)
        return floor + (1 - floor) * (1 + math.cos(math.pi * along)) / 2

    def rate(self, step: int) -> float:
        """The fuser's learning rate at a fit step."""
        return self.lr * self.fade(step) * min(1.0, (step + 1) / max(1, self.warmup))

    def task_rate(self, step: int, first: int) -> float:
        """The task's learning rate at a fit step, or at one of its own first steps."""
        if first >= self.task_first:
            return self.task_lr * self.fade(step)
        along = (1 + math.cos(math.pi * first / self.task_first)) / 2
        return self.task_first_lr * (0.05 + 0.95 * along) * min(1.0, (first + 1) / 30)

    def meta_due(self, step: int) -> int:
        """How many meta steps there must have been before a fit step."""
        if self.interleaved:
            return max(0, step + 1 - self.warm_epochs * self.validate_every) if self.meta_steps else 0
        return max(0, step // self.validate_every + 1 - self.warm_epochs) * self.meta_steps
