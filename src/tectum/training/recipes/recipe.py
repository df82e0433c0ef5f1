"""The recipe of a training run: a frozen value, its JSON file, and the ablations of a learned one."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tectum.errors import UserError
from tectum.io.files import read_text, write_json
from tectum.kinds import KINDS
from tectum.training.old_names import use_new_modules, use_new_names
from tectum.training.schedule import Schedule

Target = Literal["masks", "boxes"]
BALANCES = ("none", "frozen", "moving")
ABLATIONS = ("I", "II", "III", "IV", "V")


@dataclass(frozen=True)
class Recipe:
    """All settings that decide the result of a training run, except the pixels of the data."""

    name: str
    """Name of the recipe, for messages."""
    system: str
    """System (fuser and objective): a key of `tectum.models.SYSTEMS` or module:Attribute."""
    data: str
    """A known set, several joined by + (without labels; all weigh alike), "folder" (pairs in a folder of the user) or
    "street" (synthetic scenes, rendered here)."""
    every: int = 1
    """Take every n-th of the set's sorted pairs."""
    validation: str | None = None
    """Packaged list of the validation pairs (of several sets: lists joined by +), where the data has them and no part
    val; None: every sixth pair."""
    task: str | None = None
    """Task that the loss is learned from: segformer-b0, yolov8n, dfine-n, module:Class. None: no task."""
    task_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task, e.g. class_weights."""
    target: Target | None = None
    """Type of the labels that the task is trained on."""
    learned: bool = False
    """Whether the objective is learned."""
    loss: str | None = None
    """Loss that another run has learned, taken as it is, without labels: the folder of that run, or packaged weights
    such as tdfusion-msrs. None: the system's own objective."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the objective, e.g. alpha."""
    balance: str = "none"
    """Weights of the loss from epoch to epoch, for systems that have a balance: moving, frozen (as at the start) or
    none."""
    start: str | None = None
    """Weights the fuser starts from: packaged ones, or a file such as RUN/best.safetensors. None: random weights."""
    schedule: Schedule = field(default_factory=Schedule)
    """Steps, rates, batches, seed."""
    kind: str = "infrared"
    """Kind of the pairs: infrared, exposure, focus or medical; selects the objective where none is learned."""
    objective: str | None = None
    """A fixed objective in place of the system's: natural, or one of your own as module:Class, which is called with
    `kind` if it takes that argument."""

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

    def change(self, **changes: Any) -> "Recipe":
        """Returns a copy with other values of fields, those of its schedule included.

        >>> recipe = Recipe("mine", "tdfusion", "folder").change(name="longer", steps=5000)
        >>> recipe.name, recipe.schedule.steps
        ('longer', 5000)
        """
        own = {f.name for f in fields(Recipe)}
        schedule = replace(
            changes.pop("schedule", self.schedule), **{name: x for name, x in changes.items() if name not in own}
        )
        return replace(self, **{name: x for name, x in changes.items() if name in own}, schedule=schedule)

    def ablate(self, part: str) -> "Recipe":
        """Returns a learned recipe without one of its parts, as in Table 3 of the TDFusion paper.

        Args:
            part: I: w = 1/2, also of a recipe with a packaged loss. II: no gradient term. III: the task's loss reaches
                the fuser too, at weight 1 in place of a balance. IV: no fusion phase, one meta step before each fit
                step. V: the weights of TDFusion's loss generation module make the image; it is trained by the task's
                loss and the gradient term (our reading: the paper says no more than the formula).

        Raises:
            UserError: an unknown part, or a recipe whose loss is not learned.
        """
        if part not in ABLATIONS:
            raise UserError(f"ablation must be one of {', '.join(ABLATIONS)}, got {part!r}")
        name = f"{self.name}-{part}"
        if part == "I" and self.loss is not None:
            return self.change(name=name, loss=None)
        if not self.learned:
            raise UserError(f"an ablation needs a recipe whose loss is learned, '{self.name}' has a fixed one")
        fixed = {key: value for key, value in self.options.items() if key != "centred"}  # centred: the generator's
        if part == "I":
            return self.change(name=name, learned=False, options=fixed, meta_steps=0)
        if part == "II":
            return self.change(name=name, options=self.options | {"alpha": 0.0})
        if part == "III":
            return self.change(name=name, balance="none", task_weight=1.0)
        if part == "IV":
            return self.change(name=name, interleaved=True)
        from tectum.pretrained.loading import select_system

        published = getattr(select_system(self.system)[1], "variant", None) == "published"
        system = f"tectum.models.tdfusion:{'PUBLISHED_' * published}WEIGHTED_SUM"
        changes = {"system": system, "learned": False, "start": None, "balance": "none"}
        return self.change(name=name, options=fixed | {"beta": 0.0}, meta_steps=0, task_weight=1.0, **changes)


def save(recipe: Recipe, path: Path) -> None:
    """Write a recipe as JSON."""
    write_json(path, asdict(recipe), indent=2)


def read(path: Path) -> Recipe:
    """Returns the recipe in a file such as RUN/recipe.json.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file does not hold a recipe.
    """
    if not path.is_file():
        raise FileNotFoundError(f"a recipe must be a file, and {path} is none; check the path")
    try:
        content: dict[str, Any] = json.loads(use_new_modules(read_text(path)))
        content = {**content, **_published_system(content), "schedule": Schedule(**use_new_names(content["schedule"]))}
        return Recipe(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        names = ", ".join(f.name for f in fields(Recipe))
        raise UserError(f"{path} must hold a recipe ({names}), but {error}; take one from a run folder") from error


def _published_system(content: dict[str, Any]) -> dict[str, Any]:
    """System and options of a recipe of an earlier version, where `variant` was an option of the objective alone.

    Raises:
        UserError: the published system has another fuser than the one that was trained.
    """
    options = dict(content.get("options", {}))
    variant = options.pop("variant", None)
    if variant is None:
        return {}
    from tectum.pretrained.loading import select_system

    (_, before), (name, system) = select_system(content["system"]), select_system(content["system"], variant)
    fuser, former = (getattr(entry, "fuser", None) for entry in (system, before))
    # A subclass has the same parameters; TDFusion's numerics were the published ones then
    same = isinstance(fuser, type) and isinstance(former, type) and issubclass(fuser, former)
    if not same or content.get("loss") or content.get("objective"):
        raise UserError(f"the {variant} loss has its own fuser now, system {name}; start a new run with --variant")
    return {"system": name, "options": options}
