"""What a balance is told when an epoch ends: its means, and the losses on training pairs that are kept aside."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tectum.data.transforms import resize
from tectum.errors import UserError
from tectum.losses import gradient_loss, weighted_intensity_loss
from tectum.pair import Pair, Pairs
from tectum.training.steps import PENALTY, Learners

FEWEST = 32
"""Pairs to keep aside at least, where a quarter of all is not less."""


@dataclass(frozen=True)
class Some:
    """Some of the pairs."""

    pairs: Pairs
    at: Sequence[int]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int, /) -> Pair:
        return self.pairs[self.at[index]]


def kept_aside(pairs: Pairs, part: float, seed: int) -> tuple[Pairs, Pairs]:
    """The pairs to train on, and those that are kept aside: that part, at least 32, a quarter at most.

    Raises:
        ValueError: there are too few to keep one aside.
    """
    if part == 0:
        return pairs, ()
    num = min(max(FEWEST, math.ceil(part * len(pairs))), len(pairs) // 4)
    if num == 0:
        raise UserError(f"a balance that keeps pairs aside needs at least 4, got {len(pairs)}; give more pairs")
    mixed = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed * 7_919 + 3_000_000_019)).tolist()
    return Some(pairs, sorted(mixed[num:])), Some(pairs, sorted(mixed[:num]))


def epoch_means(learners: Learners, sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Of every term before its weight, and of the task: its loss on the fuser's images where that reaches the fuser."""
    found = {name: total / num for name, (total, num) in sums.items()}
    means = {name.removeprefix("train_"): mean for name, mean in found.items() if name.startswith("train_")}
    means = {name: mean for name, mean in means.items() if not name.startswith(PENALTY)}
    if "task_in_fuser" in means:
        means["task"] = means.pop("task_in_fuser") / learners.weigher.weight("task")
    return means


@torch.no_grad()
def measured(learners: Learners, aside: Pairs, device: str) -> dict[str, float]:
    """Means over the pairs kept aside, whole images at the task's size: "fusion", with w = 1/2, and "task"."""
    if len(aside) == 0:
        return {}
    for module in learners.modules().values():
        module.eval()
    ranks, schedule, sums = learners.ranks, learners.schedule, {"fusion": 0.0, "task": 0.0}
    for index in range(ranks.rank, len(aside), ranks.world):
        pair = resize(aside[index].to(device), schedule.task_px, masks=schedule.small_masks)
        fused = learners.fuser(pair.a, pair.b)
        found = {"fusion": fixed_loss(fused, pair.a, pair.b), "task": learners.task.loss(fused, pair.target)}
        for name, value in found.items():
            if not bool(value.isfinite()):
                raise UserError(
                    f"the {name} loss on the pair {' '.join(pair.name)}, kept aside for the balance, must stay finite, "
                    f"but is {float(value)}; lower --lr or --task-lr"
                )
            sums[name] += float(value)
    return {name: x * ranks.world / len(aside) for name, x in ranks.mean_numbers(sums).items()}


def fixed_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The fusion loss in which both sources weigh the same: nothing in it is learned."""
    half = torch.full_like(torch.cat([a, b], dim=1), 0.5)
    return weighted_intensity_loss(fused, a, b, half) + gradient_loss(fused, a, b)


def weights_told(learners: Learners, means: Mapping[str, float]) -> dict[str, float]:
    """For the log: the weights of the epoch, where they are not those of a loss without a balance."""
    if learners.balance is None and not learners.schedule.task_weight:
        return {}
    return {f"weight_{name}": learners.weigher.weight(name) for name in means}
