"""Networks and data of a recipe."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tectum.color import rgb_to_ycbcr
from tectum.data.datasets import find_part_if_any, get_known_set, open_set
from tectum.data.labelled import JoinedPairs, LabelledPairs, check_apart
from tectum.data.parts import exclude_names, read_split
from tectum.data.synthetic import CLASSES, Scene, render
from tectum.data.transforms import check_crop
from tectum.errors import UserError
from tectum.io.files import load_state
from tectum.kinds import KINDS
from tectum.objectives import OBJECTIVES
from tectum.pair import Pair, Pairs
from tectum.pretrained import loading as weights
from tectum.protocols import Balance, System, resolve
from tectum.tasks import TASKS
from tectum.training.recipes.recipe import BALANCES, Recipe, Target, read

_NUM_SCENES, _SCENE_PX = 36, (240, 320)
_Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Built:
    """Networks and data of a run, in the order of `fit`; task and balance are None where there is none."""

    fuser: nn.Module
    objective: nn.Module
    task: Any
    pairs: Pairs
    validation: Pairs
    balance: Balance | None = None


def build(recipe: Recipe, data: Path | None, *, tell: _Tell = lambda line: None) -> _Built:
    """Make the networks of a recipe, initialised by its seed, and open its data.

    Args:
        recipe: a value of `tectum.training.recipes.RECIPES`, or one of your own.
        data: folder of the pairs; None for recipes on synthetic scenes, which are rendered when they are first needed.
        tell: given a line on where the validation pairs come from, and one before the rendering.

    Raises:
        UserError: the recipe needs a folder and got none, or the system cannot be trained in this way.
        FileNotFoundError: the folder does not hold the pairs.
    """
    name, system = weights.select_system(recipe.system)
    if not isinstance(system, System):
        raise UserError(f"system '{name}' must be a tectum.protocols.System to be trained, got {system!r}")
    make_objective = _objective_class(recipe, system)
    balance = _balance(recipe, system)
    pairs, validation, classes = (_open_scenes if recipe.data == "street" else _open_data)(recipe, data, tell)
    torch.manual_seed(recipe.schedule.seed)
    fuser = system.fuser()
    objective = make_objective(**recipe.options)
    task = None if recipe.task is None else resolve(TASKS, recipe.task, noun="task")(classes, **recipe.task_options)
    label_type = getattr(task, "label_type", recipe.target)
    if task is not None and label_type != recipe.target:
        raise UserError(
            f"task '{recipe.task}' learns from {label_type}, recipe '{recipe.name}' has {recipe.target}; choose "
            "another task"
        )
    if recipe.start is not None:
        fuser.load_state_dict(weights.load(recipe.system, recipe.start, device="cpu").state_dict())
    return _Built(fuser, objective, task, pairs, validation, balance)


def scene_pair(scene: Scene, name: str, target: Target | None = None) -> Pair:
    """Returns a synthetic scene as a pair (1,1,H,W) with labels: masks have the background as class 0, boxes none."""
    labels: Any = None
    if target == "masks":
        labels = scene.mask[None]
    elif target == "boxes":
        height, width = scene.mask.shape
        relative = scene.boxes / torch.tensor([width, height, width, height])
        labels = [{"boxes": relative, "labels": scene.labels - 1}]
    return Pair(rgb_to_ycbcr(scene.visible)[0][None], scene.infrared[None], labels, (name,))


def _objective_class(recipe: Recipe, system: System) -> Callable[..., nn.Module]:
    """The constructor of the objective: one from another run, the learned one, the recipe's, kind's or system's."""
    if recipe.loss is not None:
        return _taught_loss(recipe)
    make = system.learned if recipe.learned else system.objective
    if make is None:
        needed = "a loss that can be learned" if recipe.learned else "an objective"
        raise UserError(f"system '{recipe.system}' has nothing to train; choose one with {needed}")
    name = None if recipe.learned else recipe.objective or KINDS[recipe.kind].objective
    if name is not None:
        make = resolve(OBJECTIVES, name, noun="objective")
    elif not recipe.learned and recipe.kind != "infrared" and "kind" not in inspect.signature(make).parameters:
        raise UserError(
            f"recipe '{recipe.name}' trains {recipe.kind} pairs and the objective of '{recipe.system}' is for infrared "
            "ones; name another with --objective module:Class"
        )
    parameters = inspect.signature(make).parameters
    unknown = sorted(recipe.options.keys() - parameters.keys())
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise UserError(
            f"the objective of recipe '{recipe.name}' takes {', '.join(sorted(parameters)) or 'no options'}, got "
            f"{unknown[0]}; leave out --{unknown[0]}"
        )
    return lambda **options: make(**({"kind": recipe.kind} if "kind" in parameters else {}) | options)


def _taught_loss(recipe: Recipe) -> Callable[..., nn.Module]:
    """The loss that was learned in another run, from the package or from the folder of that run."""
    name = str(recipe.loss)
    teacher = None if name in weights.cards() or not Path(name).exists() else read(Path(name) / "recipe.json")
    kind = teacher.kind if teacher is not None else weights.cards().get(name, {}).get("kind", "infrared")
    if kind != recipe.kind:
        raise UserError(
            f"the loss of '{name}' was taught on {kind} pairs, got --kind {recipe.kind}; leave out --loss, or take a "
            "recipe on a fixed objective"
        )
    if teacher is None:
        return lambda **options: weights.load_objective(name, **options)
    learned = getattr(weights.select_system(teacher.system)[1], "learned", None)
    if not teacher.learned or learned is None:
        raise UserError(f"the run in {name} has a fixed loss; give --loss the folder of one whose loss was learned")
    file = Path(name) / "objective.safetensors"
    state = weights.read_weights(file)

    def load(**options: Any) -> nn.Module:
        objective: nn.Module = learned(**teacher.options | options)
        load_state(objective, state, file, advice="give the folder of a whole run")
        return objective.eval().requires_grad_(False)

    return load


def _balance(recipe: Recipe, system: System) -> Balance | None:
    if recipe.balance not in BALANCES:
        raise UserError(f"balance must be one of {', '.join(BALANCES)}, got {recipe.balance!r}")
    if recipe.balance == "none":
        return None
    if system.balance is None:
        raise UserError(f"system '{recipe.system}' has no balance; choose none, got {recipe.balance!r}")
    return system.balance(frozen=recipe.balance == "frozen")


def _open_data(recipe: Recipe, folder: Path | None, tell: _Tell) -> tuple[Pairs, Pairs, tuple[str, ...]]:
    """Training pairs, validation pairs and class names."""
    if folder is None:
        sides = KINDS[recipe.kind].sides[0]
        raise UserError(
            f"recipe '{recipe.name}' needs a folder of pairs ({' and '.join(sides)} inside); give it with --data"
        )
    parts = [_open_set(recipe, name, folder, tell) for name in recipe.data.split("+")]
    if len(parts) == 1:
        return *parts[0], parts[0][0].classes
    return JoinedPairs([pairs for pairs, _ in parts], alike=True), JoinedPairs([pairs for _, pairs in parts]), ()


def _open_set(recipe: Recipe, name: str, folder: Path, tell: _Tell) -> tuple[LabelledPairs, LabelledPairs]:
    """Training and validation pairs of a set: its part val, where it has one, else some of its training pairs."""
    kind = None if recipe.kind == "infrared" else recipe.kind

    def open_part(split: str) -> LabelledPairs:
        return open_set(name, folder, split=split, target=recipe.target, every=recipe.every, kind=kind)

    train = open_part("train")
    images = find_part_if_any(name, get_known_set(name, kind), folder, "val")
    if images is None:
        names = _validation_names(recipe, train.names, folder)
        return train.subset(exclude_names(train.names, names)), train.subset(names)
    validation = open_part("val")
    check_apart(train, validation, "validation")
    tell(f"validating on the {len(validation)} pairs of the part val in {images.home}")
    return train, validation


def _validation_names(recipe: Recipe, names: list[str], folder: Path) -> list[str]:
    """The recipe's list; every sixth pair where there is none, or where the data is another part of its set."""
    if len(names) < 2:
        raise UserError(f"training needs at least two pairs, one of them for validation, got {len(names)} in {folder}")
    packaged = recipe.validation is not None and recipe.kind == "infrared"  # such lists are of infrared sets
    lists = [read_split(split) for split in str(recipe.validation).split("+")] if packaged else []
    # Of a known set, the list that has names of this part; of a user's folder, the recipe's.
    validation_names = next((x for x in lists if recipe.data == "folder" or set(x) & set(names)), [])
    return validation_names or names[::6]


class _Scenes:
    """Synthetic night scenes as pairs, each rendered when it is first asked for."""

    def __init__(self, seeds: Sequence[int], target: Target | None, tell: _Tell) -> None:
        self._seeds, self._target, self._tell = seeds, target, tell
        self._pairs: dict[int, Pair] = {}

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: int) -> Pair:
        seed = self._seeds[index]
        if seed not in self._pairs:
            self._tell("rendering synthetic scenes")
            self._pairs[seed] = scene_pair(render(seed, _SCENE_PX), f"street-{seed}", self._target)
        return self._pairs[seed]


def _open_scenes(recipe: Recipe, _: Path | None, tell: _Tell) -> tuple[Pairs, Pairs, tuple[str, ...]]:
    """Synthetic scenes to train on, every sixth for validation, and their class names."""
    check_crop(recipe.schedule.crop_px, _SCENE_PX, "a synthetic scene")
    tell = functools.cache(tell)  # once for all
    train, validation = (
        _Scenes([seed for seed in range(_NUM_SCENES) if (seed % 6 == 0) == held_out], recipe.target, tell)
        for held_out in (False, True)
    )
    return train, validation, tuple(CLASSES if recipe.target == "masks" else CLASSES[1:])
