"""Checks of the networks, pairs and settings that a run is given, before anything is written."""

from typing import Any

from torch import nn

from tectum.errors import UserError
from tectum.pair import Pairs
from tectum.protocols import Balance
from tectum.training.schedule import Schedule


def check_inputs(
    fuser: nn.Module,
    objective: nn.Module,
    task: Any,
    pairs: Pairs,
    validation: Pairs,
    schedule: Schedule,
    balance: Balance | None,
) -> None:
    """Refuse what cannot be trained; arguments as those of `tectum.training.loop.fit`.

    Raises:
        UserError: a network has nothing to train, or the pairs or settings do not fit it.
    """
    meta_steps, name, num, batch = schedule.meta_steps, type(objective).__name__, len(pairs), schedule.batch
    if not (num and len(validation)):
        raise UserError(f"training needs pairs and validation pairs, got {num} and {len(validation)}; complete the set")
    for noun, network in (("fuser", fuser), ("objective", objective)):
        if not isinstance(network, nn.Module):
            raise UserError(f"{noun} must be a torch.nn.Module, got {network!r}; load it or make it first")
    if not list(fuser.parameters()):
        raise UserError(f"{type(fuser).__name__} has no parameters to train; choose another system")
    if not any(p.requires_grad for p in fuser.parameters()):
        raise UserError(f"{type(fuser).__name__} is frozen; load it with trainable=True, or call requires_grad_(True)")
    if not meta_steps and any(p.requires_grad for p in objective.parameters()):
        raise UserError(
            f"{name} has trainable parameters, but there are no meta steps to train them; give a task and meta_steps "
            "(--meta-steps), or freeze the objective with requires_grad_(False)"
        )
    if meta_steps and not list(objective.parameters()):
        raise UserError(f"{name} has no parameters to learn; give it a generator, or set meta_steps to 0")
    if task is None and (meta_steps or schedule.task_weight):
        raise UserError("a loss can only be learned from a task; give one (task=...), or leave out meta steps")
    if task is None and balance is not None:
        raise UserError("a balance weighs the task's loss, but there is no task; give one, or leave out --balance")
    if schedule.task_weight and balance is not None:
        raise UserError(f"a balance sets the task's weight, got task_weight {schedule.task_weight} too; leave one out")
    if meta_steps and num < 2:
        raise UserError("a meta step needs two pairs, one for each of its losses, got 1; give more pairs")
    if meta_steps and schedule.interleaved and num <= batch:
        raise UserError(
            "an interleaved meta step needs pairs outside its batch for the outer loss, got "
            f"{num} pairs for a batch of {batch}; give more pairs, or lower --batch"
        )
    for noun, part in (("training", pairs), ("validation", validation)):
        if task is not None and part[0].target is None:
            raise UserError(f"a task needs labels, the {noun} pairs have none; give labelled pairs")
