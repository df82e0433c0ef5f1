"""The two kinds of training step: a fit step of fuser and task, and a meta step of the objective.

    fit     theta <- Adam(theta, grad[ sum_k weight_k L_k(F(a, b), a, b) + weight_task L_task(F(a, b), y) ])   the fuser
            omega <- Adam(omega, grad L_task(F(a, b), y))       the task, on images that do not carry a gradient
    meta    omega' = the task's own next step;  theta' = the fuser's look-ahead
            phi   <- phi - rate * hypergradient of L_task(F_theta'(a2, b2), y2) under omega'     the objective

In a meta step only the objective changes, in a fit step only the fuser and the task: parameters, buffers and moments
of the others stay. L_k are the terms of the objective; the weights are those of a `Balance`, by default 1 and, for the
task, 0. In a meta step the terms have their weights too, and the look-ahead leaves the task's term out.

Reference: Task-driven Image Fusion with Learnable Fusion Loss, Bai et al., CVPR 2025, Algorithm 1,
https://arxiv.org/abs/2412.03240
Differs from the release: the moments of the task's optimiser do not keep the gradient of the look-ahead.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tectum.balance import Constant
from tectum.errors import UserError
from tectum.nn.modes import evaluation_mode
from tectum.pair import Pair
from tectum.protocols import Balance
from tectum.training.bilevel import (
    HyperGradient,
    InnerOptimizer,
    Tensors,
    adam_step,
    gradients_by_name,
    hypergradient,
    sgd_step,
    temporary_seed,
    weighted_sum,
)
from tectum.training.distributed import World
from tectum.training.ema import EMA
from tectum.training.schedule import Schedule

Check = Callable[[str, Tensor, Pair], None]
"""Callback (name, value, batch) that raises if a value is not finite."""


class Trainer:
    """Fuser, objective and task of a run with their optimisers: takes fit steps and meta steps.

    Args:
        fuser: any network (a, b) -> fused.
        objective: any module (fused, a, b) -> {term: scalar}; trained if `schedule.meta_steps` is not 0.
        task: an `nn.Module` that is a `tectum.protocols.Task`, or None.
        schedule: rates and settings of the steps.
        world: the processes of the run; None is this one alone.
        balance: weights of the loss; None is `schedule.task_weight` for the task, in all epochs.

    Raises:
        UserError: several processes cannot learn a loss by double backward.
    """

    def __init__(
        self,
        fuser: nn.Module,
        objective: nn.Module,
        task: Any,
        schedule: Schedule,
        *,
        world: World | None = None,
        balance: Balance | None = None,
    ) -> None:
        self.fuser, self.objective, self.task, self.schedule = fuser, objective, task, schedule
        self.world = world or World()
        self.balance: Balance = balance or Constant(schedule.task_weight)
        self.learned = schedule.meta_steps > 0
        if self.learned and schedule.method == "reverse" and self.world.size > 1:
            raise UserError("several processes learn a loss by method forward or finite, got reverse; change --method")
        modules = {"fuser": fuser, "objective": objective, "task": task}
        self.modules: dict[str, nn.Module] = {name: module for name, module in modules.items() if module is not None}
        self.ema = EMA(fuser, schedule.ema)
        adam = torch.optim.Adam
        self.optimizers: dict[str, torch.optim.Adam] = {"fuser": adam(fuser.parameters(), lr=schedule.lr)}
        if parameters := self._task_parameters():
            self.optimizers["task"] = adam(parameters.values(), lr=schedule.task_lr)
        if self.learned:
            self.optimizers["objective"] = adam(objective.parameters(), lr=schedule.meta_lr)
        self._uses_task_gradient = "task_grad" in inspect.signature(objective.forward).parameters
        self._untrained_images: dict[tuple[int, int], Tensor] = {}

    def set_rates(self, step: int, first: int) -> None:
        """Set all learning rates for a fit step, after `first` steps of the task alone."""
        rates = {
            "fuser": self.schedule.rate(step),
            "task": self.schedule.task_rate(step, first),
            "objective": self.schedule.meta_lr * self.schedule.fade(step),
        }
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[name]

    def eval(self) -> None:
        """Put all networks into evaluation mode."""
        for module in self.modules.values():
            module.eval()

    def fit_step(self, crops: Pair, whole: Pair | None, check: Check, mix: Tensor | None = None) -> Tensors:
        """Take one step of the fuser on crops and, where there is a task, one of the task on whole labelled images.

        Args:
            crops: for the fuser.
            whole: for the task; None where there is none.
            check: called with each number that must be finite.
            mix: weights (B,1,1,1) of mixtures of the sources, on which the task is to step; None: on fused images.

        Returns:
            The objective's terms before their weights; "task_in_fuser", the task's part of the fuser's loss; and
            "task", the task's own loss.
        """
        self.objective.requires_grad_(False).eval()
        self.fuser.train()
        optimizer = self.optimizers["fuser"]
        optimizer.zero_grad(set_to_none=True)
        with self.world.autocast():
            terms: Tensors = dict(self.objective(self.fuser(crops.a, crops.b), crops.a, crops.b))
            if whole is not None and (self._uses_task_gradient or self.balance.weight("task")):
                terms = self._add_task(terms, whole)
        loss = weighted_sum(terms, self.term_weight)
        check("loss", loss, crops)
        loss.backward()
        self.world.average_gradients(self.fuser)
        norm = nn.utils.clip_grad_norm_(self.fuser.parameters(), self.schedule.clip or float("inf"))
        check("norm of the gradient", norm, crops)
        self.ema.start()
        optimizer.step()
        self.ema.update()
        if whole is not None:
            terms["task"] = self.task_step(self.task_images(whole, mix), whole, check)
        return {name: term.detach() for name, term in terms.items()}

    def term_weight(self, name: str) -> float:
        """Returns the weight of a term in the fuser's loss; "task_in_fuser" has the task's weight in it already."""
        return 1.0 if name == "task_in_fuser" else self.balance.weight(name)

    def task_step(self, fused: Tensor, whole: Pair, check: Check) -> Tensor:
        """Take one step of the task on fused images (B,1,H,W) that carry no gradient; returns its loss."""
        self.task.zero_grad(set_to_none=True)
        self.task.train()
        with self.world.autocast():
            loss: Tensor = self.task.loss(fused, whole.target)
        check("loss of the task", loss, whole)
        if not self._task_parameters():
            return loss.detach()
        loss.backward()
        self.world.average_gradients(self.task)
        check("norm of the task's gradient", nn.utils.clip_grad_norm_(self.task.parameters(), float("inf")), whole)
        self.optimizers["task"].step()
        return loss.detach()

    def task_images(self, whole: Pair, mix: Tensor | None, *, untrained: Sequence[int] | None = None) -> Tensor:
        """Returns the images of a task step: fused, or mixtures m a + (1 - m) b with one m per image in [0,1].

        Args:
            whole: a batch of pairs.
            mix: the m (B,1,1,1); None for fused images.
            untrained: their indices, while the fuser is untrained: its images are then made once and kept.
        """
        if mix is not None:
            m = mix.to(whole.a)
            return m * whole.a + (1 - m) * whole.b
        if untrained is None:
            return fuse_without_gradient(self.fuser, whole)
        images = []
        for i in range(len(whole.a)):
            key = (untrained[i % len(untrained)], i // len(untrained))  # a second half has its images exchanged
            if key not in self._untrained_images:
                pair = Pair(whole.a[i : i + 1], whole.b[i : i + 1])
                self._untrained_images[key] = fuse_without_gradient(self.fuser, pair)
            images.append(self._untrained_images[key])
        return torch.cat(images)

    def meta_step(self, crops: Pair, whole: Pair, test: Pair, seed: int, check: Check) -> HyperGradient:
        """Take one step of the objective along its hypergradient, and return that.

        Args:
            crops: for the fuser's look-ahead.
            whole: labelled images of the same pairs, for the task's look-ahead.
            test: labelled images of other pairs, for the outer loss.
            seed: of dropout.
            check: called with the outer loss and the largest entry of the hypergradient.
        """
        self.objective.requires_grad_(True).train()
        self.fuser.train()
        with _restored(self.task), self.world.autocast():
            self._look_ahead_task(whole, seed)
            result = self.hypergradient(crops, test, seed)
        check("outer loss", result.outer_loss, test)
        largest = largest_entry(result.gradient)
        check("hypergradient", largest, crops)
        self._step_objective(result.gradient, largest)
        return result

    def hypergradient(self, crops: Pair, test: Pair, seed: int, *, local: bool = False) -> HyperGradient:
        """Returns the hypergradient with the present networks; `local`: of this process alone."""
        optimizer = self.optimizers["fuser"]
        rate = self.schedule.inner_lr or float(optimizer.param_groups[0]["lr"])
        step: InnerOptimizer = sgd_step(rate)
        if self.schedule.inner == "adam":
            step = adam_step(optimizer, self.fuser, rate, clip=self.schedule.clip)
        return hypergradient(
            self.fuser,
            self.objective,
            self.task,
            crops,
            test,
            step=step,
            method=self.schedule.method,
            seed=seed,
            average=dict if local else self.world.average,
            weight=self.balance.weight,
        )

    def _task_parameters(self) -> Tensors:
        """The task's parameters that are trained; none where there is no task, or a frozen one."""
        parameters = () if self.task is None else self.task.named_parameters()
        return {name: p for name, p in parameters if p.requires_grad}

    def _add_task(self, terms: Tensors, whole: Pair) -> Tensors:
        """Add the task's loss to the terms of a fit step, and its gradient where the objective asks for it.

        An objective with a keyword `task_grad` sees the whole labelled images too, with d task.loss / d fused; its
        terms are the means of those of the crops and of these.
        """
        weight = self.balance.weight("task")
        self.task.train()
        fused = self.fuser(whole.a, whole.b)
        task_loss = self.task.loss(fused, whole.target)
        if self._uses_task_gradient:
            (gradient,) = torch.autograd.grad(task_loss, fused, retain_graph=weight != 0)
            whole_terms = self.objective(fused, whole.a, whole.b, task_grad=gradient)
            terms = {name: (term + whole_terms[name]) / 2 for name, term in terms.items()}
        return terms | {"task_in_fuser": weight * task_loss} if weight else terms

    def _look_ahead_task(self, whole: Pair, seed: int) -> None:
        """Move the task to where its optimiser would; the moments stay."""
        self.task.train()
        omega = self._task_parameters()
        if not omega:
            return
        with temporary_seed(seed):
            loss = self.task.loss(fuse_without_gradient(self.fuser, whole), whole.target)
            gradients = gradients_by_name(loss, omega)
        gradients = self.world.average(gradients)
        step = adam_step(self.optimizers["task"], self.task)(omega, gradients)
        with torch.no_grad():
            for name, p in omega.items():
                p -= step.offset[name] + step.scale[name] * gradients[name]

    def _step_objective(self, gradient: Tensors, largest: Tensor) -> None:
        """Move the objective by its hypergradient, whose largest entry is given."""
        optimizer, outer = self.optimizers["objective"], self.schedule.outer
        rate = optimizer.param_groups[0]["lr"]
        unit = 1.0 if outer == "sgd" or float(largest) == 0 else float(largest)
        with torch.no_grad():
            for name, p in self.objective.named_parameters():
                g = gradient[name] / unit
                if outer == "adam":
                    p.grad = g
                else:
                    p.sub_(rate * g)
        if outer == "adam":
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def largest_entry(gradient: Tensors) -> Tensor:
    """Returns the largest absolute entry of gradients by name, a scalar."""
    return torch.stack([g.abs().max() for g in gradient.values()]).max()


@torch.no_grad()
def fuse_without_gradient(fuser: nn.Module, pair: Pair) -> Tensor:
    """Returns the fused image (B,1,H,W) of the fuser in evaluation mode; its mode stays."""
    with evaluation_mode(fuser):
        fused: Tensor = fuser(pair.a, pair.b)
    return fused


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """A context after which parameters and buffers are what they were before."""
    saved = {name: x.detach().clone() for name, x in module.state_dict().items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, x in module.state_dict().items():
                x.copy_(saved[name])
