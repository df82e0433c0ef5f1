"""Batch sampling: which pairs, crops and whole images a step of a run sees, by the seed and the step's number alone."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tectum.data.transforms import random_crop, resize
from tectum.pair import Pair, Pairs
from tectum.training.distributed import World
from tectum.training.schedule import Schedule


def batch_indices(num: int, schedule: Schedule, step: int, batch: int, *, salt: int = 0) -> list[int]:
    """Returns the indices of the pairs of a fit step: all pairs in a fresh order, again and again.

    Args:
        num: number of pairs.
        schedule: for its seed.
        step: number of the step, from 0.
        batch: pairs in a step.
        salt: another number gives other orders.
    """
    indices = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(position, num)
        indices.append(_random_order(num, schedule.seed * 7_919 + epoch + salt * 1_000_000_007)[index])
    return indices


def meta_indices(num: int, schedule: Schedule, meta: int, step: int) -> tuple[list[int], list[int]]:
    """Returns the indices of the meta-train and the meta-test pairs of a meta step; disjoint over an epoch.

    Args:
        num: number of pairs.
        schedule: for its seed and batches.
        meta: number of the meta step, from 0.
        step: number of the fit step that follows.
    """
    epoch, k = (step, 0) if schedule.interleaved else divmod(meta, schedule.meta_steps)
    order = _random_order(num, schedule.seed * 7_919 + epoch + 2_000_000_011)
    train, test = order[::2], order[1::2]
    batch = max(schedule.batch, schedule.task_batch)
    indices = [train[(k * batch + i) % len(train)] for i in range(batch)]
    if schedule.interleaved:  # the crops of the fit step that follows; no image of theirs is in the outer loss
        indices = (batch_indices(num, schedule, step, schedule.batch) * batch)[:batch]
        test = [index for index in order if index not in indices]
    return indices, [test[(k * schedule.task_batch + i) % len(test)] for i in range(schedule.task_batch)]


def crop_batch(pairs: Pairs, indices: Sequence[int], schedule: Schedule, world: World, seed: int) -> Pair:
    """Returns this process's part of a batch of random crops (B,1,crop_px,crop_px), without targets."""
    generator = torch.Generator().manual_seed(seed)
    unlabelled = (replace(pairs[index], target=None) for index in indices)
    crops = [random_crop(pair, schedule.crop_px, generator, turns=schedule.dihedral) for pair in unlabelled]
    return _collate(crops[world.local_part(len(crops))], schedule)


def whole_batch(pairs: Pairs, indices: Sequence[int], schedule: Schedule, world: World) -> Pair:
    """Returns this process's part of a batch of whole labelled images, at the task's size."""
    indices = indices[world.local_part(len(indices))]
    images = [resize(pairs[index], schedule.task_px, masks=schedule.small_masks) for index in indices]
    return _collate(images, schedule)


def draw_mix(num: int, schedule: Schedule, world: World) -> Tensor | None:
    """Returns the weights m (B,1,1,1) with which this process's images of a task step are mixed, m a + (1 - m) b.

    Random numbers are those of torch, seeded alike in all processes: they belong to the step and the image.

    Args:
        num: pairs of the step, over all processes.
        schedule: for its part of mixtures; with `swap` there are twice as many images.
        world: the processes.

    Returns:
        None where the task is to see the fused images.
    """
    if not schedule.task_mix or float(torch.rand(())) >= schedule.task_mix:
        return None
    m = torch.rand(num * (1 + schedule.swap), 1, 1, 1)
    return torch.cat([part[world.local_part(num)] for part in m.split(num)])


def _random_order(num: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(num, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _collate(pairs: Sequence[Pair], schedule: Schedule) -> Pair:
    """A batch of pairs and, with `schedule.swap`, of the same with their images exchanged."""
    swapped = [pair.swap() for pair in pairs] if schedule.swap else []
    return Pair.collate([*pairs, *swapped])
