"""What a task teaches a learned loss: the exact gradient of a bi-level step, without second-order graphs.

Two equations. The fuser, parameters theta, takes a step on the loss with parameters phi; then the task judges the
fuser that came of it, on other pairs:

    theta' = theta - c - P g,    g = d/dtheta L_phi(F_theta(a, b), a, b)                      the look-ahead
    lesson(phi) = L_task(F_theta'(a2, b2), target2)                                           its judgement

P is diagonal: the rate for plain SGD (c = 0), the preconditioner of Adam, held fixed, for the step that the fuser will
really take (c is what momentum adds). L_phi sees theta only through the image f = F_theta(a, b), so

    d lesson / d phi = - d/dphi < dL_phi/df , u >,    u = J P v,    v = d lesson / d theta'

with J v the derivative of the *image* along a direction in theta: one forward-mode pass. f and u are constants there,
and what is left to differentiate twice is a pixel-wise loss. -u is worth looking at: it is how the task would have the
fused image change.

    forward    the above: exact, the default
    reverse    double backward through the look-ahead: exact, many times the memory; the oracle
    finite     u by a central difference of two passes, for fusers with an operation that has no forward mode

Fuser and task are not changed by this: parameters, buffers (BatchNorm statistics move on clones) and random state stay.

Reference: Task-driven Image Fusion with Learnable Fusion Loss, Bai et al., CVPR 2025, https://arxiv.org/abs/2412.03240
Differs from the release: no double backward, no second set of weights in every layer; Adam's step as an option.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from tectum.errors import UserError
from tectum.pair import Pair
from tectum.protocols import Task

Method = Literal["forward", "reverse", "finite"]
Named = dict[str, Tensor]
METHODS = ("forward", "reverse", "finite")


@dataclass(frozen=True)
class Step:
    """A step theta' = theta - offset - scale * g, parameter by parameter.

    Attributes:
        offset: what moves whatever g is, c above.
        scale: the diagonal of P; broadcasts.
    """

    offset: Named
    scale: Named


InnerStep = Callable[[Named, Named], Step]
"""(parameters, their gradients) -> the step that is taken, its scale held fixed."""


def sgd_step(rate: float) -> InnerStep:
    """The published look-ahead: theta - rate * g."""

    def step(parameters: Named, gradients: Named) -> Step:
        return Step(
            offset={name: torch.zeros((), dtype=p.dtype, device=p.device) for name, p in parameters.items()},
            scale={name: torch.full((), rate, dtype=p.dtype, device=p.device) for name, p in parameters.items()},
        )

    return step


def adam_step(optimizer: torch.optim.Adam, fuser: nn.Module, lr: float | None = None) -> InnerStep:
    """The step that this Adam would take now, with its moments, its rates (or `lr`) and sqrt(v) + eps held fixed.

    Raises:
        ValueError: the optimiser has options whose step is another (weight decay, amsgrad).
    """
    for group in optimizer.param_groups:
        if group["weight_decay"] or group["amsgrad"]:
            raise UserError("the look-ahead must be Adam without weight_decay and amsgrad; use sgd_step otherwise")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    owners = dict(fuser.named_parameters())

    def step(parameters: Named, gradients: Named) -> Step:
        offset, scale = {}, {}
        for name, g in gradients.items():
            p = owners[name]
            group, state = groups[id(p)], optimizer.state.get(p, {})
            beta1, beta2 = group["betas"]
            t = float(state["step"]) + 1 if state else 1.0
            m = state["exp_avg"] if state else torch.zeros_like(g)
            v = state["exp_avg_sq"] if state else torch.zeros_like(g)
            v = beta2 * v + (1 - beta2) * g.square()
            rate = (group["lr"] if lr is None else lr) / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
            offset[name], scale[name] = rate * beta1 * m, rate * (1 - beta1)
        return Step(offset, scale)

    return step


@dataclass(frozen=True)
class Lesson:
    """What `hypergradient` finds.

    Attributes:
        gradient: d lesson / d phi, by the objective's parameter names.
        lesson: the task's loss after the look-ahead, a scalar.
        terms: the objective's terms before it, and before their weights.
        pull: -u (B,1,H,W), how the task would have the fused image of `train` change; None for `reverse`.
    """

    gradient: Named
    lesson: Tensor
    terms: Mapping[str, Tensor]
    pull: Tensor | None


def hypergradient(
    fuser: nn.Module,
    objective: nn.Module,
    task: Task,
    train: Pair,
    test: Pair,
    *,
    step: InnerStep,
    method: Method = "forward",
    seed: int = 0,
    average: Callable[[Named], Named] = dict,
    weight: Callable[[str], float] = lambda term: 1.0,
) -> Lesson:
    """The gradient of the task's loss after one step of the fuser, with respect to the objective's parameters.

    Args:
        fuser: any network (a, b) -> fused; its buffers are cloned.
        objective: (fused, a, b) -> {term: scalar}, with parameters; it must see the fuser only through the image.
        task: `task.loss(fused, target)`; its parameters are not changed. Where it has buffers of its own that move in
            train mode, give a copy.
        train: the pair of the look-ahead.
        test: the pair, with its target, that the task judges.
        step: `sgd_step(rate)` or `adam_step(optimizer, fuser)`.
        method: "forward", "reverse" or "finite".
        seed: of dropout; each network draws the same in every pass, so the methods agree with dropout too.
        average: takes gradients by name to their mean over processes that each hold a part of both batches.
        weight: of a term of the objective, by its name.

    Raises:
        ValueError: the objective has nothing to learn, the test pair has no target, or the method is unknown.
    """
    learned: Named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if not learned:
        raise UserError(
            f"the objective must have parameters to learn, {type(objective).__name__} has none; use fit alone"
        )
    if test.target is None:
        raise UserError("the task judges by labels, but the test pair has no target; give labelled pairs")
    if method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    theta = {name: p.detach().requires_grad_() for name, p in fuser.named_parameters()}

    def image(parameters: Named, pair: Pair, which: int) -> Tensor:
        with seeded(seed + which):
            buffers = {name: x.clone() for name, x in fuser.named_buffers()}
            fused: Tensor = functional_call(fuser, (parameters, buffers), (pair.a, pair.b))
        return fused

    def loss(fused: Tensor, *, learns: bool) -> dict[str, Tensor]:
        """The terms; where phi does not learn from them, its graph (as large as the fuser's) is not kept."""
        own: Named = dict(objective.named_parameters()) if learns else detached(objective)
        with seeded(seed + 1):
            terms: dict[str, Tensor] = functional_call(objective, own, (fused, train.a, train.b))
        return terms

    def judge(ahead: Named) -> Tensor:
        fused = image(ahead, test, 2)
        with seeded(seed + 3):
            return task.loss(fused, test.target)

    reverse = method == "reverse"
    fused = image(theta, train, 0)
    terms = loss(fused, learns=reverse)
    gradients = named_grad(total(weighted(terms, weight)), theta, create_graph=reverse)
    gradients = gradients if reverse else average(gradients)
    taken = step(theta, {name: g.detach() for name, g in gradients.items()})
    ahead = {name: p - taken.offset[name] - taken.scale[name] * gradients[name] for name, p in theta.items()}
    told = {name: term.detach() for name, term in terms.items()}
    if reverse:
        lesson = judge(ahead)
        return Lesson(named_grad(lesson, learned), lesson.detach(), told, None)

    fused = fused.detach().requires_grad_()
    ahead = {name: p.detach().requires_grad_() for name, p in ahead.items()}
    lesson = judge(ahead)
    along = {name: taken.scale[name] * v for name, v in average(named_grad(lesson, ahead)).items()}
    u = pushed(lambda parameters: image(parameters, train, 0), theta, along, finite=method == "finite")
    (slope,) = torch.autograd.grad(total(weighted(loss(fused, learns=True), weight)), fused, create_graph=True)
    return Lesson(average(named_grad(-(slope * u).sum(), learned)), lesson.detach(), told, -u)


def detached(module: nn.Module) -> Named:
    """Parameters without their graph, and copies of the buffers."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    return parameters | {name: x.clone() for name, x in module.named_buffers()}


def pushed(image: Callable[[Named], Tensor], at: Named, along: Named, *, finite: bool) -> Tensor:
    """The derivative of an image along a direction of its parameters, by forward mode or a central difference."""
    at = {name: p.detach() for name, p in at.items()}
    if not finite:
        tangent: Tensor = jvp(image, (at,), (along,))[1]
        return tangent.detach()
    length = torch.stack([x.square().sum() for x in along.values()]).sum().sqrt()
    if float(length) == 0:
        return torch.zeros_like(image(at))
    reach = torch.finfo(length.dtype).eps ** (1 / 3) / length  # where rounding and curvature are about equal
    with torch.no_grad():
        high, low = (image({name: p + sign * reach * along[name] for name, p in at.items()}) for sign in (1, -1))
    return (high - low) / (2 * reach)


def named_grad(loss: Tensor, parameters: Named, *, create_graph: bool = False) -> Named:
    """Gradients by name; zeros where the loss does not depend on a parameter."""
    found = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, found, strict=True))


def weighted(terms: Mapping[str, Tensor], weight: Callable[[str], float]) -> Named:
    return {name: weight(name) * term for name, term in terms.items()}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from a seed inside, and the state of before afterwards."""
    devices: list[Any] = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
