"""What a recipe is: its file, the published constants, and what may be left out of it."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tectum.errors import UserError
from tectum.io.files import write_whole
from tectum.kinds import KINDS
from tectum.training.schedule import Schedule

Target = Literal["masks", "boxes"]
BALANCES = ("none", "frozen", "moving")


@dataclass(frozen=True)
class Recipe:
    """All that decides the result of a training run, except the data's pixels."""

    name: str
    """What it is called."""
    system: str
    """Which fuser and objective."""
    data: str
    """A known set, "folder" (pairs of a folder given by the user) or "street" (synthetic scenes, rendered here)."""
    every: int = 1
    """Take one in so many of the set's sorted pairs."""
    validation: str | None = None
    """Packaged list of the pairs kept for validation, where the data has them; None takes every sixth pair."""
    task: str | None = None
    """What the loss is learned from; None trains on the fixed objective."""
    task_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task, e.g. class_weights."""
    target: Target | None = None
    """Which labels the task is trained on."""
    learned: bool = False
    """Whether the objective is learned."""
    loss: str | None = None
    """Packaged weights whose learned loss is taken as it is, for any fuser and without labels; None takes the system's
    own objective."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the objective, e.g. variant="published"."""
    balance: str = "none"
    """The system's balance: moving (other weights of the loss in each epoch), frozen (as it begins) or none."""
    start: str | None = None
    """Packaged weights the fuser begins with; None begins at random."""
    schedule: Schedule = field(default_factory=Schedule)
    """Steps, rates, crops, seed."""
    kind: str = "infrared"
    """What the pairs are: infrared, exposure, focus or medical; picks the objective where none is learned."""
    objective: str | None = None
    """A fixed objective as module:Class in place of the kind's or system's own; one that takes `kind` is told it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", KINDS[self.kind].name)
        if self.objective is not None and (self.learned or self.loss is not None):
            raise UserError(
                f"recipe '{self.name}' has a loss that was learned; leave out --objective, or take a fixed recipe"
            )
        if self.data == "street" and self.kind != "infrared":
            raise UserError(f"recipe '{self.name}' renders infrared scenes, got {self.kind}; take a recipe with --data")
        if self.loss is not None and self.learned:
            raise UserError(f"recipe '{self.name}' learns its own loss; leave out --loss, or take a fixed recipe")


def published(num_pairs: int, task_px: tuple[int, int]) -> Schedule:
    """The released constants: 40 epochs, 200 meta steps each, one pair and its swap, 256-pixel crops, plain inner
    and largest-entry outer steps at the fuser's own rate, 1e-4 and a tenth of it every ten epochs."""
    return Schedule(
        steps=40 * num_pairs,
        batch=1,
        crop_px=256,
        swap=True,
        lr=1e-4,
        decay="step",
        warmup=0,
        clip=0,
        validate_every=num_pairs,
        meta_steps=200,
        inner="sgd",
        outer="max",
        meta_lr=1e-4,
        task_px=task_px,
        task_batch=1,
        task_lr=1e-4,
    )


ABLATIONS = ("I", "II", "III", "IV", "V")


def ablation(recipe: Recipe, which: str) -> Recipe:
    """A learned recipe without one of its parts, as in the paper's Table 3.

    I: w = 1/2, also of a recipe with a packaged loss. II: no gradient term. III: the task's loss reaches the fuser
    too, at weight 1 in place of a balance. IV: no fusion phase, the fuser moves in the meta phase. V: the weights of
    TDFusion's loss generation module make the image; it is trained by the task's loss and the gradient term (our
    reading: the paper says no more than the formula).

    Raises:
        ValueError: unknown, or a recipe whose loss is not learned.
    """
    if which not in ABLATIONS:
        raise UserError(f"ablation must be one of {', '.join(ABLATIONS)}, got {which!r}")
    if which == "I" and recipe.loss is not None:
        return replace(recipe, name=f"{recipe.name}-I", loss=None)
    if not recipe.learned:
        raise UserError(f"an ablation needs a recipe whose loss is learned, '{recipe.name}' has a fixed one")
    recipe, schedule = replace(recipe, name=f"{recipe.name}-{which}"), recipe.schedule
    fixed = replace(schedule, meta_steps=0)
    kept = {
        name: value for name, value in recipe.options.items() if name != "centred"
    }  # the generator's, which is gone
    if which == "I":
        return replace(recipe, learned=False, options=kept, schedule=fixed)
    if which == "II":
        return replace(recipe, options=recipe.options | {"alpha": 0.0})
    if which == "III":
        return replace(recipe, balance="none", schedule=replace(schedule, task_weight=1.0))
    if which == "IV":
        return replace(recipe, schedule=replace(schedule, interleaved=True))
    return replace(
        recipe,
        system="tectum.systems.tdfusion:WEIGHTED_SUM",
        learned=False,
        balance="none",
        start=None,
        options=kept | {"beta": 0.0},
        schedule=replace(fixed, task_weight=1.0),
    )


def save(recipe: Recipe, path: Path) -> None:
    """Write a recipe as JSON."""
    text = json.dumps(asdict(recipe), indent=2) + "\n"
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


def read(path: Path) -> Recipe:
    """A recipe from `recipe.json`.

    Raises:
        ValueError: not a recipe.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schedule = Schedule(**content.pop("schedule"))
        return Recipe(schedule=schedule, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        names = ", ".join(f.name for f in fields(Recipe))
        raise UserError(f"{path} must hold a recipe ({names}), but {error}; take one from a run folder") from error
