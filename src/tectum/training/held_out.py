"""The measurements for a balance at the end of an epoch: mean losses, and losses on a held-out split of the pairs."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Subset

from tectum.balance import Constant
from tectum.data.transforms import resize
from tectum.errors import UserError
from tectum.losses import gradient_loss, weighted_intensity_loss
from tectum.pair import Pairs
from tectum.training.trainer import Trainer

_FEWEST = 32
"""Least number of held-out pairs, where a quarter of all is not less."""


def split_held_out(pairs: Pairs, part: float, seed: int) -> tuple[Pairs, Pairs]:
    """Returns the pairs to train on and the held-out ones: that part of all, at least 32, at most a quarter.

    Raises:
        UserError: there are too few to hold one out.
    """
    if part == 0:
        return pairs, ()
    num = min(max(_FEWEST, math.ceil(part * len(pairs))), len(pairs) // 4)
    if num == 0:
        raise UserError(f"a balance that holds out pairs needs at least 4, got {len(pairs)}; give more pairs")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed * 7_919 + 3_000_000_019)).tolist()
    train, held_out = sorted(order[num:]), sorted(order[:num])
    return Subset(pairs, train), Subset(pairs, held_out)  # type: ignore[arg-type]


def epoch_means(trainer: Trainer, sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Returns the means over the epoch's fit steps of every term before its weight, and of "task".

    Where the task's loss reaches the fuser, "task" is its loss on the fuser's images.

    Args:
        trainer: for the weight of the task.
        sums: (sum, count) of the numbers of the log by name.
    """
    terms = {name.removeprefix("train_"): x for name, x in sums.items() if name.startswith("train_")}
    means = {name: total / num for name, (total, num) in terms.items()}
    if "task_in_fuser" in means:
        means["task"] = means.pop("task_in_fuser") / trainer.balance.weight("task")
    return means


@torch.no_grad()
def held_out_losses(trainer: Trainer, pairs: Pairs, device: str) -> dict[str, float]:
    """Returns means over held-out pairs, whole images at the task's size: "fusion" (w = 1/2) and "task"; {} for none.

    Raises:
        UserError: a loss is not finite.
    """
    if len(pairs) == 0:
        return {}
    trainer.eval()
    world, schedule, sums = trainer.world, trainer.schedule, {"fusion": 0.0, "task": 0.0}
    for index in range(world.rank, len(pairs), world.size):
        pair = resize(pairs[index].to(device), schedule.task_px, masks=schedule.small_masks)
        fused = trainer.fuser(pair.a, pair.b)
        losses = {"fusion": fixed_loss(fused, pair.a, pair.b), "task": trainer.task.loss(fused, pair.target)}
        for name, value in losses.items():
            if not bool(value.isfinite()):
                raise UserError(
                    f"the {name} loss on the held-out pair {' '.join(pair.name)} must stay finite, but is "
                    f"{float(value)}; lower --lr or --task-lr"
                )
            sums[name] += float(value)
    return {name: x * world.size / len(pairs) for name, x in world.average_numbers(sums).items()}


def fixed_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Returns the fusion loss in which both sources have the weight 1/2, a scalar; nothing in it is learned."""
    half = torch.full_like(torch.cat([a, b], dim=1), 0.5)
    return weighted_intensity_loss(fused, a, b, half) + gradient_loss(fused, a, b)


def weights_to_log(trainer: Trainer, terms: Mapping[str, float]) -> dict[str, float]:
    """Returns the weights of these terms in this epoch as log numbers; none for a loss whose weights are all 1."""
    if isinstance(trainer.balance, Constant) and not trainer.balance.task:
        return {}
    return {f"weight_{name}": trainer.balance.weight(name) for name in terms}
