"""From a recipe to networks and data."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tectum.color import rgb_to_ycbcr
from tectum.data.datasets import open_set
from tectum.data.folders import PairFolder, split_names, without
from tectum.data.synthetic import CLASSES, Scene, render
from tectum.errors import UserError
from tectum.kinds import KINDS
from tectum.pair import Pair, Pairs
from tectum.protocols import Balance, System, resolve
from tectum.systems import SYSTEMS
from tectum.tasks import TASKS
from tectum.training.recipes.recipe import BALANCES, Recipe, Target
from tectum.weights import loading as weights


@dataclass(frozen=True)
class Built:
    """What a recipe trains, and on what; task and balance are None where there is none."""

    fuser: nn.Module
    objective: nn.Module
    task: Any
    pairs: Pairs
    validation: Pairs
    balance: Balance | None = None


def build(recipe: Recipe, data: Path | None) -> Built:
    """Networks (initialised by the recipe's seed) and data of a recipe.

    Raises:
        ValueError: the recipe needs a folder and got none, or the system cannot be trained so.
        FileNotFoundError: the folder does not hold the pairs.
    """
    system = resolve(SYSTEMS, recipe.system, noun="system")
    refuse_other_kinds(recipe)
    make = None if recipe.loss is not None else objective_of(recipe, system)
    balance = balance_of(recipe, system)
    pairs, validation, classes = street(recipe.target) if recipe.data == "street" else opened(recipe, data)
    torch.manual_seed(recipe.schedule.seed)
    fuser = system.fuser()
    if make is None:
        objective = weights.load_objective(str(recipe.loss), **recipe.options)
    else:
        refuse_options(make, recipe)
        objective = make(**(({"kind": recipe.kind} if takes_kind(make) else {}) | recipe.options))
    task = None if recipe.task is None else resolve(TASKS, recipe.task, noun="task")(classes, **recipe.task_options)
    kind = getattr(task, "kind", recipe.target)
    if task is not None and kind != recipe.target:
        raise UserError(
            f"task '{recipe.task}' learns from {kind}, recipe '{recipe.name}' has {recipe.target}; choose another task"
        )
    if recipe.start is not None:
        fuser.load_state_dict(weights.load(recipe.system, recipe.start).state_dict())
    return Built(fuser, objective, task, pairs, validation, balance)


def refuse_other_kinds(recipe: Recipe) -> None:
    """A packaged loss is for the kind of pairs it was taught on."""
    taught = weights.cards().get(recipe.loss or "", {}).get("kind", "infrared")
    if recipe.loss is not None and taught != recipe.kind:
        raise UserError(
            f"the loss of '{recipe.loss}' was taught on {taught} pairs, got --kind {recipe.kind}; leave out --loss, or "
            "take a recipe on a fixed objective"
        )


def objective_of(recipe: Recipe, system: System) -> Callable[..., nn.Module]:
    """What makes the objective: the learned one, the recipe's, the kind's, or the system's own."""
    own = system.learned if recipe.learned else system.objective
    if own is None:
        what = "a loss that can be learned" if recipe.learned else "an objective"
        raise UserError(f"system '{recipe.system}' has nothing to train; choose one with {what}")
    if recipe.learned:
        return own
    named = recipe.objective or KINDS[recipe.kind].objective
    if named is not None:
        found: dict[str, Callable[..., nn.Module]] = {}
        return resolve(found, named, noun="objective")
    if recipe.kind != "infrared" and not takes_kind(own):
        raise UserError(
            f"recipe '{recipe.name}' trains {recipe.kind} pairs and the objective of '{recipe.system}' is for infrared "
            "ones; name another with --objective module:Class"
        )
    return own


def refuse_options(make: Callable[..., nn.Module], recipe: Recipe) -> None:
    """One sentence where an objective is given what it does not take."""
    known = inspect.signature(make).parameters.values()
    names = {p.name for p in known}
    lost = [name for name in recipe.options if name not in names]
    if lost and not any(p.kind is p.VAR_KEYWORD for p in known):
        raise UserError(
            f"the objective of recipe '{recipe.name}' takes {', '.join(sorted(names)) or 'no options'}, got {lost[0]}; "
            f"leave out --{lost[0]}"
        )


def takes_kind(make: Callable[..., nn.Module]) -> bool:
    """Whether an objective can be told the kind of the pairs."""
    return "kind" in inspect.signature(make).parameters


def balance_of(recipe: Recipe, system: System) -> Balance | None:
    """The system's balance, as the recipe wants it."""
    if recipe.balance not in BALANCES:
        raise UserError(f"balance must be one of {', '.join(BALANCES)}, got {recipe.balance!r}")
    if recipe.balance == "none":
        return None
    if system.balance is None:
        raise UserError(f"system '{recipe.system}' has no balance; choose none, got {recipe.balance!r}")
    return system.balance(frozen=recipe.balance == "frozen")


def opened(recipe: Recipe, data: Path | None) -> tuple[Pairs, Pairs, tuple[str, ...]]:
    """Training pairs, validation pairs and the names of the classes."""
    if data is None:
        sides = KINDS[recipe.kind].sides[0]
        raise UserError(
            f"recipe '{recipe.name}' needs a folder of pairs ({' and '.join(sides)} inside); give it with --data"
        )
    if recipe.kind != "infrared":
        whole = open_set(recipe.data, data, target=recipe.target, every=recipe.every, kind=recipe.kind)
        kept = validation_names(recipe, whole.names, data)
        return whole.subset(without(whole.names, kept)), whole.subset(kept), tuple(whole.classes)
    if recipe.target is None:
        names = PairFolder(data).names
        kept = validation_names(recipe, names, data)
        return PairFolder(data, without(names, kept)), PairFolder(data, kept), ()
    whole = open_set(recipe.data, data, split="train", target=recipe.target, every=recipe.every)
    kept = validation_names(recipe, whole.names, data)
    return whole.subset(without(whole.names, kept)), whole.subset(kept), tuple(whole.classes)


def validation_names(recipe: Recipe, names: list[str], data: Path) -> list[str]:
    """The recipe's list; every sixth pair where there is none, or where the data is another part of its set."""
    if len(names) < 2:
        raise UserError(f"training needs at least two pairs, one of them for validation, got {len(names)} in {data}")
    packaged = recipe.validation is not None and recipe.kind == "infrared"  # such lists are of infrared sets
    listed = split_names(str(recipe.validation)) if packaged else []
    if recipe.data != "folder" and not set(listed) & set(names):
        listed = []
    return listed or names[::6]


def street(target: Target | None, num: int = 36, size: tuple[int, int] = (240, 320)) -> Any:
    """Synthetic night scenes to train on, every sixth for validation, and the names of their classes."""
    pairs = [paired(render(seed, size), f"street-{seed}", target) for seed in range(num)]
    classes = CLASSES if target == "masks" else CLASSES[1:]
    return [pair for i, pair in enumerate(pairs) if i % 6], pairs[::6], classes


def paired(scene: Scene, name: str, target: Target | None = None) -> Pair:
    """A synthetic scene as a pair, labelled if asked for: masks count the background as class 0, boxes do not."""
    labels: Any = None
    if target == "masks":
        labels = scene.mask[None]
    elif target == "boxes":
        height, width = scene.mask.shape
        relative = scene.boxes / torch.tensor([width, height, width, height])
        labels = [{"boxes": relative, "labels": scene.labels - 1}]
    return Pair(rgb_to_ycbcr(scene.visible)[0][None], scene.infrared[None], labels, (name,))
