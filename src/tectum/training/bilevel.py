"""Hypergradient: the exact gradient of the outer (meta-test) loss of a bi-level step, without second-order graphs.

The fuser, with parameters theta, takes an inner step on the loss with parameters phi; the outer loss is the task's loss
of the fuser after that step, on other pairs:

    theta' = theta - c - P g,    g = d/dtheta L_phi(F_theta(a, b), a, b)                      the look-ahead
    outer(phi) = L_task(F_theta'(a2, b2), target2)                                            the outer loss

P is diagonal: the rate for plain SGD (c = 0), or, for the step that the fuser will really take, the preconditioner of
Adam times the factor by which the gradient is clipped, both held fixed (c is what momentum adds). L_phi sees theta only
through the image f = F_theta(a, b), so

    d outer / d phi = - d/dphi < dL_phi/df , u >,    u = J P v,    v = d outer / d theta'

with J v the derivative of the *image* along a direction in theta: one forward-mode pass. f and u are constants there,
and what is left to differentiate twice is a pixel-wise loss. The image gradient -u is worth a look: it shows how the
task would change the fused image.

    forward    the above: exact, the default
    reverse    double backward through the look-ahead: exact, many times the memory; the oracle
    finite     u by a central difference of two passes, for fusers with an operation that has no forward mode

Fuser and task do not change: parameters, buffers (BatchNorm statistics move on clones) and random state stay.

Reference: Task-driven Image Fusion with Learnable Fusion Loss, Bai et al., CVPR 2025, https://arxiv.org/abs/2412.03240
Differs from the release: no double backward, no second set of weights in every layer; Adam's step as an option.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from tectum.errors import UserError
from tectum.pair import Pair
from tectum.protocols import Task
from tectum.training.schedule import Method

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class _InnerStep:
    """A step theta' = theta - offset - scale * g, parameter by parameter.

    Attributes:
        offset: the part that does not depend on g, c above.
        scale: the diagonal of P; broadcasts.
    """

    offset: Tensors
    scale: Tensors


InnerOptimizer = Callable[[Tensors, Tensors], _InnerStep]
"""(parameters, their gradients) -> the step, its scale held fixed."""


def sgd_step(rate: float) -> InnerOptimizer:
    """Returns the published look-ahead: theta - rate * g."""

    def step(parameters: Tensors, gradients: Tensors) -> _InnerStep:
        return _InnerStep(
            offset={name: torch.zeros((), dtype=p.dtype, device=p.device) for name, p in parameters.items()},
            scale={name: torch.full((), rate, dtype=p.dtype, device=p.device) for name, p in parameters.items()},
        )

    return step


def adam_step(
    optimizer: torch.optim.Adam, module: nn.Module, lr: float | None = None, *, clip: float = 0.0
) -> InnerOptimizer:
    """Returns the next step of this Adam, with moments, rates (or `lr`), sqrt(v) + eps and clipping factor held fixed.

    Args:
        optimizer: of the module's parameters; it does not change.
        module: the network whose parameters are meant by their names.
        lr: learning rate in place of the optimiser's.
        clip: largest norm of the gradient of all parameters, which is scaled down to it before the step; 0: no limit.

    Raises:
        UserError: the optimiser has options whose step is another (weight decay, amsgrad).
    """
    for group in optimizer.param_groups:
        if group["weight_decay"] or group["amsgrad"]:
            raise UserError("the look-ahead must be Adam without weight_decay and amsgrad; use sgd_step otherwise")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    owners = dict(module.named_parameters())

    def step(parameters: Tensors, gradients: Tensors) -> _InnerStep:
        offset, scale = {}, {}
        clipping = 1.0 if clip == 0 else _clipping_factor(gradients.values(), clip)
        for name, g in gradients.items():
            p, g = owners[name], clipping * g
            group, state = groups[id(p)], optimizer.state.get(p, {})
            beta1, beta2 = group["betas"]
            # Moments before this step, and its number t from 1
            t = float(state["step"]) + 1 if state else 1.0
            m = state["exp_avg"] if state else torch.zeros_like(g)
            v = state["exp_avg_sq"] if state else torch.zeros_like(g)
            # Second moment with this gradient
            v = beta2 * v + (1 - beta2) * g.square()
            # Rate with both bias corrections
            rate = (group["lr"] if lr is None else lr) / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
            offset[name], scale[name] = rate * beta1 * m, rate * (1 - beta1) * clipping
        return _InnerStep(offset, scale)

    return step


def _clipping_factor(gradients: Iterable[Tensor], clip: float) -> Tensor:
    """Factor in (0,1] by which `torch.nn.utils.clip_grad_norm_` scales gradients down to a norm."""
    return (clip / (nn.utils.get_total_norm(list(gradients)) + 1e-6)).clamp(max=1.0)


@dataclass(frozen=True)
class HyperGradient:
    """Result of `hypergradient`.

    Attributes:
        gradient: d outer / d phi, by the objective's parameter names.
        outer_loss: the task's loss after the look-ahead, a scalar.
        terms: the objective's terms before the look-ahead, and before their weights.
        image_gradient: -u (B,1,H,W), how the task would change the fused image of `train`; None for `reverse`.
    """

    gradient: Tensors
    outer_loss: Tensor
    terms: Mapping[str, Tensor]
    image_gradient: Tensor | None


def hypergradient(
    fuser: nn.Module,
    objective: nn.Module,
    task: Task,
    train: Pair,
    test: Pair,
    *,
    step: InnerOptimizer,
    method: Method = "forward",
    seed: int = 0,
    average: Callable[[Tensors], Tensors] = dict,
    weight: Callable[[str], float] = lambda term: 1.0,
) -> HyperGradient:
    """Returns the gradient of the outer loss, after one inner step of the fuser, by the objective's parameters.

    Args:
        fuser: any network (a, b) -> fused; its buffers are cloned.
        objective: (fused, a, b) -> {term: scalar}, with parameters; it must see the fuser only through the image.
        task: `task.loss(fused, target)`; its parameters do not change. Where it has buffers that move in train mode,
            give a copy.
        train: the pair of the look-ahead.
        test: the pair of the outer loss, with its target.
        step: `sgd_step(rate)` or `adam_step(optimizer, fuser)`.
        method: "forward", "reverse" or "finite".
        seed: of dropout; each network draws the same in every pass, so the methods agree with dropout too.
        average: takes gradients by name to their mean over processes that each hold a part of both batches.
        weight: of a term of the objective, by its name.

    Raises:
        UserError: objective or fuser has nothing to learn, the test pair has no target, or the method is unknown.
    """
    learned: Tensors = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    _check_arguments(objective, learned, test, method)
    theta = {name: p.detach().requires_grad_() for name, p in fuser.named_parameters() if p.requires_grad}
    if not theta:
        raise UserError(f"{type(fuser).__name__} is frozen, so that no step moves it; call requires_grad_(True)")
    reverse = method == "reverse"

    def image(parameters: Tensors, pair: Pair, dropout_seed: int) -> Tensor:
        with temporary_seed(dropout_seed):
            buffers = {name: x.clone() for name, x in fuser.named_buffers()}
            fused: Tensor = _call_with(fuser, parameters | buffers, (pair.a, pair.b))
        return fused

    def objective_terms(fused: Tensor, *, learn: bool) -> Tensors:
        # Without `learn` the graph to phi, which is as large as the fuser's, is not kept
        state: Tensors = dict(objective.named_parameters()) if learn else _detached_state(objective)
        with temporary_seed(seed + 1):
            terms: Tensors = _call_with(objective, state, (fused, train.a, train.b))
        return terms

    def outer_loss_of(parameters: Tensors) -> Tensor:
        fused = image(parameters, test, seed + 2)
        with temporary_seed(seed + 3):
            return task.loss(fused, test.target)

    # Look-ahead theta' = theta - c - P g
    fused = image(theta, train, seed)
    terms = objective_terms(fused, learn=reverse)
    gradients = gradients_by_name(weighted_sum(terms, weight), theta, create_graph=reverse)
    gradients = gradients if reverse else average(gradients)
    inner = step(theta, {name: g.detach() for name, g in gradients.items()})
    lookahead = {name: p - inner.offset[name] - inner.scale[name] * gradients[name] for name, p in theta.items()}
    logged = {name: term.detach() for name, term in terms.items()}
    if reverse:
        outer_loss = outer_loss_of(lookahead)
        return HyperGradient(gradients_by_name(outer_loss, learned), outer_loss.detach(), logged, None)

    # Direction P v, v = d outer / d theta'
    lookahead = {name: p.detach().requires_grad_() for name, p in lookahead.items()}
    outer_loss = outer_loss_of(lookahead)
    v = average(gradients_by_name(outer_loss, lookahead))
    direction = {name: inner.scale[name] * x for name, x in v.items()}
    # u = J P v
    u = _derivative_along(
        lambda parameters: image(parameters, train, seed), theta, direction, finite=method == "finite"
    )
    # -d/dphi < dL_phi/df , u >
    fused = fused.detach().requires_grad_()
    loss = weighted_sum(objective_terms(fused, learn=True), weight)
    (slope,) = torch.autograd.grad(loss, fused, create_graph=True)
    return HyperGradient(average(gradients_by_name(-(slope * u).sum(), learned)), outer_loss.detach(), logged, -u)


def gradients_by_name(loss: Tensor, parameters: Tensors, *, create_graph: bool = False) -> Tensors:
    """Returns the gradients of a scalar by parameter name; zeros where it does not depend on a parameter."""
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, gradients, strict=True))


def weighted_sum(terms: Mapping[str, Tensor], weight: Callable[[str], float]) -> Tensor:
    """Returns the sum of scalars by name, each times its weight."""
    return torch.stack([weight(name) * term for name, term in terms.items()]).sum()


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """A context with random numbers from a seed; the random state of before comes back."""
    devices: list[Any] = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _check_arguments(objective: nn.Module, learned: Tensors, test: Pair, method: str) -> None:
    if not learned:
        raise UserError(
            f"the objective must have parameters to learn, {type(objective).__name__} has none; use fit alone"
        )
    if test.target is None:
        raise UserError("the outer loss needs labels, but the test pair has no target; give labelled pairs")
    if method not in get_args(Method):
        raise UserError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")


def _call_with(module: nn.Module, state: Tensors, inputs: tuple[Tensor, ...]) -> Any:
    """Result of a module with other parameters and buffers; tied ones are given under all their names.

    torch's own `tie_weights` would leave the given tensors in a module that has two names (torch 2.13).
    """
    first: dict[int, str] = {}
    whole: Tensors = {}
    for prefix, part in module.named_modules():
        own = [*part.named_parameters(prefix, recurse=False), *part.named_buffers(prefix, recurse=False)]
        for name, x in own:
            if (given := state.get(first.setdefault(id(x), name))) is not None:
                whole[name] = given
    return functional_call(module, whole, inputs, tie_weights=False)


def _detached_state(module: nn.Module) -> Tensors:
    """Parameters without their graph, and copies of the buffers."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    return parameters | {name: x.clone() for name, x in module.named_buffers()}


def _derivative_along(
    image: Callable[[Tensors], Tensor], parameters: Tensors, direction: Tensors, *, finite: bool
) -> Tensor:
    """The derivative of an image along a direction of its parameters, by forward mode or a central difference."""
    parameters = {name: p.detach() for name, p in parameters.items()}
    if not finite:
        tangent: Tensor = jvp(image, (parameters,), (direction,))[1]
        return tangent.detach()
    length = torch.stack([x.square().sum() for x in direction.values()]).sum().sqrt()
    if float(length) == 0:
        return torch.zeros_like(image(parameters))
    h = torch.finfo(length.dtype).eps ** (1 / 3) / length  # where rounding and curvature are about equal
    with torch.no_grad():
        plus, minus = (
            image({name: p + sign * h * direction[name] for name, p in parameters.items()}) for sign in (1, -1)
        )
    return (plus - minus) / (2 * h)
