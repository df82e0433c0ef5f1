"""Balances: weights of the loss terms and of the task's loss in the fuser's loss, new in every epoch (the third loop).

    L_F(e) = sum_k weight_k(e) L_k + weight_task(e) L_task

`Constant` never moves: task 0 is TDFusion, whose task never reaches the fuser. The other two get the means of every
epoch and move once in each. Their state is a few plain numbers.

    DynamicWeightAverage
        weight_k(e) = K softmax_k(r_k / 2),   r_k = mean_k(e - 1) / mean_k(e - 2);   the task's times c
    TaskFusionBalance
        weight_k = 1 - b,   weight_task = b s,   s = running mean of the fusion loss / running mean of t
        logit b <- logit b + kappa (ln r_t - ln r_q),   r = measure / its running mean,   b in [0.05, 0.5]

where K counts the terms and the task, and q and t are measured on pairs that are not trained on: a loss with fixed
w = 1/2, which a learned loss cannot lower by its weights, and the task's. What falls slower than the rest gains weight.

Reference: End-to-End Multi-Task Learning with Attention, Liu et al., CVPR 2019, https://arxiv.org/abs/1803.10704, for
dynamic weight averaging. TOMIFF and SFOFusion promise weights that change per epoch and publish no form of it: that
TOMIFF takes `DynamicWeightAverage`, and all of `TaskFusionBalance`, is ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tectum.errors import UserError

_SMALLEST_RATIO = 1e-6
"""Lower bound of the loss ratio."""


@dataclass(frozen=True)
class Constant:
    """Balance that does not move: every term weighs 1, the task the same in all epochs.

    >>> Constant().weight("intensity"), Constant(0.5).weight("task")
    (1.0, 0.5)
    """

    task: float = 0.0
    held_out: float = 0.0

    def weight(self, name: str) -> float:
        return self.task if name == "task" else 1.0

    def update(self, means: Mapping[str, float], held_out: Mapping[str, float]) -> None:
        """Nothing changes."""

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """There is nothing to load."""


class DynamicWeightAverage:
    """Dynamic weight averaging (TOMIFF): a term that falls slower than the others weighs more.

    For the first two epochs all weigh 1, the task `task`. A term that is 0 gets ratio 1.

    Args:
        task: c, factor of the task's weight.
        temperature: T of softmax(r / T); the larger, the nearer to 1 the weights stay.
        frozen: the weights stay at 1.

    >>> balance = DynamicWeightAverage()
    >>> for means in ({"intensity": 4.0, "task": 1.0}, {"intensity": 1.0, "task": 1.0}):
    ...     balance.update(means, {})
    >>> round(balance.weight("intensity"), 3), round(balance.weight("task"), 4)
    (0.815, 0.1185)
    """

    def __init__(self, *, task: float = 0.1, temperature: float = 2.0, frozen: bool = False) -> None:
        self.held_out = 0.0
        self.task, self.temperature, self.frozen = task, temperature, frozen
        self.before: dict[str, float] = {}  # mean_k(e - 2)
        self.last: dict[str, float] = {}  # mean_k(e - 1)

    def weight(self, name: str) -> float:
        return self._share(name) * (self.task if name == "task" else 1.0)

    def _share(self, name: str) -> float:
        """K softmax_k(r_k / T); the mean over k is 1."""
        if self.frozen or name not in self.before:
            return 1.0
        logits = {k: _ratio(self.last[k], self.before[k]) / self.temperature for k in self.before}
        exps = {k: math.exp(x - max(logits.values())) for k, x in logits.items()}
        return len(exps) * exps[name] / sum(exps.values())

    def update(self, means: Mapping[str, float], held_out: Mapping[str, float]) -> None:
        self.before, self.last = self.last, dict(means)

    def state_dict(self) -> dict[str, float]:
        state = {f"before_{name}": mean for name, mean in self.before.items()}
        return state | {f"last_{name}": mean for name, mean in self.last.items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.before, self.last = (
            {name.removeprefix(when): mean for name, mean in state.items() if name.startswith(when)}
            for when in ("before_", "last_")
        )


class TaskFusionBalance:
    """Balance of fusion and task by one number b (SFOFusion), which moves to the one that lags.

    s makes the two losses alike in size, so b is free of their scales. In a running mean an epoch counts half as much
    as the one after it. In the first epoch, of which nothing is known, the task weighs 0.

    Args:
        b: the share of the task at the start.
        low: the least b.
        high: the most.
        kappa: how far logit b moves for a lag of one e-fold.
        held_out: part of the training pairs on which q and t are measured.
        frozen: b stays; s still follows the losses.

    >>> balance = TaskFusionBalance()
    >>> for t in (1.0, 2.0):  # the task lags
    ...     balance.update({"intensity": 0.1, "gradient": 0.1, "task": 0.8}, {"fusion": 0.2, "task": t})
    >>> round(balance.b, 3), round(balance.weight("task"), 4)
    (0.333, 0.0444)
    """

    def __init__(
        self,
        *,
        b: float = 0.2,
        low: float = 0.05,
        high: float = 0.5,
        kappa: float = 1.0,
        held_out: float = 0.05,
        frozen: bool = False,
    ) -> None:
        if not 0 < low <= b <= high < 1:
            raise UserError(f"b must lie between low and high, both inside (0,1), got {low} <= {b} <= {high}")
        self.b, self.low, self.high, self.kappa = b, low, high, kappa
        self.held_out, self.frozen = held_out, frozen
        self.running: dict[str, float] = {}  # of the fusion loss, q and t

    @property
    def scale(self) -> float:
        """Factor s that makes the task's loss as large as the fusion loss; 0 before the first epoch has ended."""
        return self.running["fusion"] / self.running["t"] if self.running.get("t", 0.0) > 0 else 0.0

    def weight(self, name: str) -> float:
        return self.b * self.scale if name == "task" else 1 - self.b

    def update(self, means: Mapping[str, float], held_out: Mapping[str, float]) -> None:
        fusion = sum(mean for name, mean in means.items() if name != "task")
        latest = {"fusion": fusion, "q": held_out["fusion"], "t": held_out["task"]}
        if not self.frozen and "q" in self.running:
            lag = math.log(_ratio(latest["t"], self.running["t"])) - math.log(_ratio(latest["q"], self.running["q"]))
            logit = _logit(self.b) + self.kappa * lag
            logit = min(max(logit, _logit(self.low)), _logit(self.high))
            self.b = 1 / (1 + math.exp(-logit))
        self.running = {name: (self.running.get(name, now) + now) / 2 for name, now in latest.items()}

    def state_dict(self) -> dict[str, float]:
        return {"b": self.b} | self.running

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.running = dict(state)
        self.b = self.running.pop("b")


def _ratio(now: float, before: float) -> float:
    """now / before; 1 where before is 0."""
    return max(now / before, _SMALLEST_RATIO) if before > 0 else 1.0


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
