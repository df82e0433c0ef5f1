"""The three that learn, and the two kinds of step they take: a fit step and a meta step.

    fit     theta <- Adam(theta, grad[ sum_k weight_k L_k(F(a, b), a, b) + weight_task L_task(F(a, b), y)
                                       + penalty sum_j P_j(theta) ])                                       the fuser
            omega <- Adam(omega, grad L_task(F(a, b), y))       the task, on images that do not carry a gradient
    meta    omega' = the task's own next step;  theta' = the fuser's look-ahead
            phi   <- phi - rate * hypergradient of L_task(F_theta'(a2, b2), y2) under omega'     the objective

In a meta step only the objective changes, in a fit step only the fuser and the task: parameters, buffers and moments
of the others are as they were. L_k are the terms of the objective; the weights are those of a `Balance`, by default 1
and, for the task, 0. P_j are what a fuser says of its own parameters (`protocols.Fuser`). In a meta step the terms have
their weights too, and the look-ahead leaves the task's term and P_j out.

Reference: Task-driven Image Fusion with Learnable Fusion Loss, Bai et al., CVPR 2025, Algorithm 1,
https://arxiv.org/abs/2412.03240
Differs from the release: the moments of the task's optimiser do not keep what the look-ahead saw.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tectum.balance import Constant
from tectum.errors import UserError
from tectum.pair import Pair
from tectum.protocols import Balance
from tectum.training.bilevel import (
    InnerStep,
    Lesson,
    Named,
    adam_step,
    hypergradient,
    named_grad,
    seeded,
    sgd_step,
    total,
    weighted,
)
from tectum.training.distributed import Ranks
from tectum.training.ema import RunningAverage
from tectum.training.schedule import Schedule

PENALTY = "penalty_"
Check = Callable[[str, Tensor, Pair], None]
"""What is told of each number that must be finite, with the batch it came from."""


@dataclass
class Learners:
    """Fuser, objective and task of a run with their optimisers; the task may be missing."""

    fuser: nn.Module
    objective: nn.Module
    task: Any  # an nn.Module that is a protocols.Task
    schedule: Schedule
    ranks: Ranks = field(default_factory=Ranks)
    balance: Balance | None = None
    """Weights of the loss; None is `schedule.task_weight` for the task, in all epochs."""

    def __post_init__(self) -> None:
        self.weigher: Balance = self.balance or Constant(self.schedule.task_weight)
        self.hears = "task_grad" in inspect.signature(self.objective.forward).parameters
        if self.learned and self.schedule.method == "reverse" and self.ranks.world > 1:
            raise UserError("several processes learn a loss by method forward or finite, got reverse; change --method")
        adam = torch.optim.Adam
        self.average = RunningAverage(self.fuser, self.schedule.ema)
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.optimizers: dict[str, torch.optim.Adam] = {"fuser": adam(self.fuser.parameters(), lr=self.schedule.lr)}
        if self.trained:
            self.optimizers["task"] = adam(self.trained.values(), lr=self.schedule.task_lr)
        if self.learned:
            self.optimizers["objective"] = adam(self.objective.parameters(), lr=self.schedule.meta_lr)

    @property
    def learned(self) -> bool:
        """Whether the objective is trained."""
        return self.schedule.meta_steps > 0

    @property
    def trained(self) -> Named:
        """The task's parameters that are trained; none where there is no task, or one that is frozen."""
        named = () if self.task is None else self.task.named_parameters()
        return {name: p for name, p in named if p.requires_grad}

    def modules(self) -> dict[str, nn.Module]:
        """Everything with a state, by name."""
        found = {"fuser": self.fuser, "objective": self.objective, "task": self.task}
        return {name: module for name, module in found.items() if module is not None}

    def at(self, step: int, first: int) -> None:
        """Set all rates for a fit step, `first` steps of the task alone being done."""
        rates = {
            "fuser": self.schedule.rate(step),
            "task": self.schedule.task_rate(step, first),
            "objective": self.schedule.meta_lr * self.schedule.fade(step),
        }
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[name]

    def fit_step(self, crops: Pair, whole: Pair | None, check: Check) -> dict[str, Tensor]:
        """One step of the fuser on crops and, where there is a task, one of the task on whole labelled images.

        Returns the objective's terms before their weights, "task_in_fuser", the task's part of the fuser's loss,
        "penalty_NAME" for each of the fuser's own, and "task", the task's own loss.
        """
        self.objective.requires_grad_(False).eval()
        self.fuser.train()
        optimizer = self.optimizers["fuser"]
        optimizer.zero_grad(set_to_none=True)
        with self.ranks.autocast():
            terms: dict[str, Tensor] = dict(self.objective(self.fuser(crops.a, crops.b), crops.a, crops.b))
            if whole is not None and (self.hears or self.weigher.weight("task")):
                terms = self.terms_with_task(terms, whole)
            terms |= self.penalties()
        loss = total(self.weighted(terms))
        check("loss", loss, crops)
        loss.backward()
        self.ranks.mean_gradients(self.fuser)
        largest = self.schedule.clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.fuser.parameters(), largest)
        check("norm of the gradient", norm, crops)
        self.average.begin()
        optimizer.step()
        self.average.update()
        if whole is not None:
            terms["task"] = self.task_step(self.seen(whole), whole, check)
        return {name: term.detach() for name, term in terms.items()}

    def terms_with_task(self, terms: Named, whole: Pair) -> Named:
        """What the task adds to a fit step: its own loss, and its gradient where the objective asks for it.

        An objective with a keyword `task_grad` sees the whole labelled images too, with d task.loss / d fused; its
        terms are the means of those of the crops and of these.
        """
        weight = self.weigher.weight("task")
        self.task.train()
        fused = self.fuser(whole.a, whole.b)
        task_loss = self.task.loss(fused, whole.target)
        if self.hears:
            (gradient,) = torch.autograd.grad(task_loss, fused, retain_graph=weight != 0)
            seen = self.objective(fused, whole.a, whole.b, task_grad=gradient)
            terms = {name: (term + seen[name]) / 2 for name, term in terms.items()}
        return terms | {"task_in_fuser": weight * task_loss} if weight else terms

    def weighted(self, terms: Named) -> Named:
        """The parts of the fuser's loss, of the terms of a fit step."""

        def weight(name: str) -> float:
            if name.startswith(PENALTY):
                return self.schedule.penalty
            return 1.0 if name == "task_in_fuser" else self.weigher.weight(name)

        return weighted(terms, weight)

    def penalties(self) -> Named:
        """What the fuser has to say of its own parameters."""
        own = getattr(self.fuser, "penalties", dict)
        return {PENALTY + name: x for name, x in own().items()}

    def task_step(self, fused: Tensor, whole: Pair, check: Check) -> Tensor:
        """One step of the task on fused images that carry no gradient; returns its loss."""
        self.task.zero_grad(set_to_none=True)
        self.task.train()
        with self.ranks.autocast():
            loss: Tensor = self.task.loss(fused, whole.target)
        check("loss of the task", loss, whole)
        if not self.trained:
            return loss.detach()
        loss.backward()
        self.ranks.mean_gradients(self.task)
        check("norm of the task's gradient", nn.utils.clip_grad_norm_(self.task.parameters(), float("inf")), whole)
        self.optimizers["task"].step()
        return loss.detach()

    def seen(self, whole: Pair, *, first: Sequence[int] | None = None) -> Tensor:
        """What the task learns from: fused images, or mixtures m a + (1 - m) b with one m per image in [0,1].

        Drawn from torch's own random numbers, which the trainer has seeded. `first` says which pairs these are, before
        the fuser is trained: what it makes of them is kept.
        """
        if self.schedule.task_mix and float(torch.rand(())) < self.schedule.task_mix:
            m = torch.rand(len(whole.a), 1, 1, 1).to(whole.a)
            return m * whole.a + (1 - m) * whole.b
        return fused_image(self.fuser, whole) if first is None else self.first_fused(whole, first)

    def first_fused(self, whole: Pair, at: Sequence[int]) -> Tensor:
        """What the fuser makes of each image before it is trained, made once and kept; `at` says which these are."""
        found = []
        for index in range(len(whole.a)):
            key = (at[index % len(at)], index // len(at))  # a second half has its images exchanged
            if key not in self.kept:
                one = Pair(whole.a[index : index + 1], whole.b[index : index + 1])
                self.kept[key] = fused_image(self.fuser, one)
            found.append(self.kept[key])
        return torch.cat(found)

    def meta_step(self, crops: Pair, whole: Pair, test: Pair, seed: int, check: Check) -> Lesson:
        """One step of the objective.

        Args:
            crops: what the fuser's look-ahead is on.
            whole: labelled images of the same pairs, what the task's look-ahead is on.
            test: labelled images of other pairs, on which the task judges.
            seed: of dropout.
        """
        self.objective.requires_grad_(True).train()
        self.fuser.train()
        with unchanged(self.task), self.ranks.autocast():
            self.look_ahead_task(whole, seed)
            lesson = self.lesson(crops, test, seed)
        check("lesson", lesson.lesson, test)
        largest = largest_entry(lesson.gradient)
        check("hypergradient", largest, crops)
        self.teach(lesson.gradient, largest)
        return lesson

    def lesson(self, crops: Pair, test: Pair, seed: int, *, alone: bool = False) -> Lesson:
        """The hypergradient of this moment; `alone` where the other processes do not take part."""
        return hypergradient(
            self.fuser,
            self.objective,
            self.task,
            crops,
            test,
            step=self.inner_step(),
            method=self.schedule.method,
            seed=seed,
            average=dict if alone else self.ranks.mean,
            weight=self.weigher.weight,
        )

    def inner_step(self) -> InnerStep:
        optimizer = self.optimizers["fuser"]
        now = float(optimizer.param_groups[0]["lr"])
        rate = self.schedule.inner_lr or now
        return adam_step(optimizer, self.fuser, rate) if self.schedule.inner == "adam" else sgd_step(rate)

    def look_ahead_task(self, whole: Pair, seed: int) -> None:
        """Move the task to where its optimiser would: moments stay as they are."""
        self.task.train()
        theta = self.trained
        if not theta:
            return
        with seeded(seed):
            gradients = named_grad(self.task.loss(fused_image(self.fuser, whole), whole.target), theta)
        gradients = self.ranks.mean(gradients)
        step = adam_step(self.optimizers["task"], self.task)(theta, gradients)
        with torch.no_grad():
            for name, p in theta.items():
                p -= step.offset[name] + step.scale[name] * gradients[name]

    def teach(self, gradient: Named, largest: Tensor) -> None:
        """The objective's step along its hypergradient."""
        optimizer = self.optimizers["objective"]
        rate = optimizer.param_groups[0]["lr"]
        unit = 1.0 if self.schedule.outer == "sgd" or float(largest) == 0 else float(largest)
        with torch.no_grad():
            for name, p in self.objective.named_parameters():
                g = gradient[name] / unit
                if self.schedule.outer == "adam":
                    p.grad = g
                else:
                    p.sub_(rate * g)
        if self.schedule.outer == "adam":
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def largest_entry(gradient: Named) -> Tensor:
    return torch.stack([g.abs().max() for g in gradient.values()]).max()


@torch.no_grad()
def fused_image(fuser: nn.Module, pair: Pair) -> Tensor:
    """What the fuser gives in evaluation mode; its mode stays."""
    training = fuser.training
    fuser.eval()
    fused: Tensor = fuser(pair.a, pair.b)
    fuser.train(training)
    return fused


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers are afterwards what they were before."""
    saved = {name: x.detach().clone() for name, x in module.state_dict().items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, x in module.state_dict().items():
                x.copy_(saved[name])
