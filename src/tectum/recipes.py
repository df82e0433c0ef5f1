"""Complete training runs as functions: a recipe is a frozen value, a variant calls another and replaces fields."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tectum import weights
from tectum.color import rgb_to_ycbcr
from tectum.data.datasets import open_set
from tectum.data.folders import PairFolder, split_names, without
from tectum.data.synthetic import CLASSES, Scene, render
from tectum.engine.schedule import Schedule
from tectum.files import write_whole
from tectum.pair import Pair, Pairs
from tectum.protocols import resolve
from tectum.systems import SYSTEMS
from tectum.tasks import TASKS

Target = Literal["masks", "boxes"]


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
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the objective, e.g. variant="published"."""
    start: str | None = None
    """Packaged weights the fuser begins with; None begins at random."""
    schedule: Schedule = field(default_factory=Schedule)
    """Steps, rates, crops, seed."""


def tdfusion_fixed_msrs() -> Recipe:
    """TDFusion's fuser on its fixed objective (w = 1/2), on the labelled MSRS pairs: the control of the learned loss.

    The published run takes Adam at 1e-4 over 40 epochs of 1083 pairs, 256-pixel crops; with a rate of 1e-3 falling
    along a cosine, crops of 128 pixels and whole epochs in fewer steps it converges on a CPU within the hour.
    """
    return Recipe(
        name="tdfusion-fixed-msrs",
        system="tdfusion",
        data="folder",
        validation="msrs-validation",
        schedule=Schedule(steps=2800, batch=4, crop_px=128, lr=1e-3, validate_every=250),
    )


def tdfusion_fixed() -> Recipe:
    """The same on pairs of your own."""
    return replace(tdfusion_fixed_msrs(), name="tdfusion-fixed", validation=None)


def tdfusion_fixed_street() -> Recipe:
    """Two minutes on synthetic scenes: to see a training run work, without any data."""
    schedule = Schedule(steps=150, batch=4, crop_px=96, lr=2e-3, warmup=20, validate_every=50)
    return replace(
        tdfusion_fixed_msrs(), name="tdfusion-fixed-street", data="street", validation=None, schedule=schedule
    )


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


def tdfusion_msrs() -> Recipe:
    """TDFusion with the released constants, on MSRS for segmentation: a GPU's day, many days of a CPU.

    The loss is the repaired one; `--variant published` takes the released form. The pairs kept for validation are not
    trained on, so an epoch goes over the others a little more than once.
    """
    return Recipe(
        name="tdfusion-msrs",
        system="tdfusion",
        data="msrs",
        validation="msrs-validation",
        task="segformer-b0",
        target="masks",
        learned=True,
        schedule=published(1083, (240, 320)),
    )


def tdfusion_fmb() -> Recipe:
    """The same on FMB."""
    return replace(
        tdfusion_msrs(), name="tdfusion-fmb", data="fmb", validation=None, schedule=published(1220, (300, 400))
    )


def tdfusion_m3fd() -> Recipe:
    """The same on M3FD, for detection."""
    return replace(
        tdfusion_fmb(),
        name="tdfusion-m3fd",
        data="m3fd",
        task="yolov8n",
        target="boxes",
        schedule=published(3150, (192, 256)),
    )


def tdfusion_llvip() -> Recipe:
    """The same on every tenth pair of LLVIP."""
    return replace(tdfusion_m3fd(), name="tdfusion-llvip", data="llvip", every=10, schedule=published(1203, (256, 320)))


def tdfusion_msrs_small() -> Recipe:
    """The learned loss on a CPU within the hour: from the fuser of the fixed loss, at rates that move the loss.

    The look-ahead is the step that Adam will take, the objective's step is Adam's on the scaled hypergradient, and the
    task learns for some epochs before it teaches. See docs/log.md for what was tried.
    """
    schedule = Schedule(
        steps=400,
        batch=2,
        crop_px=112,
        lr=5e-4,
        warmup=20,
        validate_every=100,
        meta_steps=50,
        warm_epochs=1,
        inner="adam",
        outer="adam",
        meta_lr=1e-3,
        task_px=(120, 160),
        small_masks=True,
        task_batch=2,
        task_lr=1e-4,
        task_mix=0.5,
        task_first=1500,
        task_first_lr=2e-3,
    )
    return replace(
        tdfusion_msrs(),
        name="tdfusion-msrs-small",
        start="tdfusion-fixed-msrs",
        options={"centred": True},
        task_options={"class_weights": MSRS_WEIGHTS},
        schedule=schedule,
    )


MSRS_WEIGHTS = [0.63, 3.3, 5.2, 6.3, 8.3, 8.5, 18.0, 15.0, 8.7]
"""One over the square root of a class's share of the training pixels, with a mean over the pixels of 1."""


def tdfusion_msrs_detection_small() -> Recipe:
    """The same for detection: the detector learns for longer before it teaches."""
    recipe = tdfusion_msrs_small()
    return replace(
        recipe,
        name="tdfusion-msrs-detection-small",
        task="yolov8n",
        target="boxes",
        task_options={},
        schedule=replace(recipe.schedule, task_first=2500),
    )


def tdfusion_own() -> Recipe:
    """The small recipe on a folder of your own: vi, ir and labels (masks)."""
    return replace(tdfusion_msrs_small(), name="tdfusion-own", data="folder", validation=None, task_options={})


def tdfusion_own_detection() -> Recipe:
    """The same for boxes."""
    return replace(tdfusion_msrs_detection_small(), name="tdfusion-own-detection", data="folder", validation=None)


def tdfusion_fmb_small() -> Recipe:
    """The small recipe on FMB."""
    return replace(tdfusion_msrs_small(), name="tdfusion-fmb-small", data="fmb", validation=None, task_options={})


def tdfusion_m3fd_small() -> Recipe:
    """The small recipe on M3FD, for detection."""
    return replace(tdfusion_msrs_detection_small(), name="tdfusion-m3fd-small", data="m3fd", validation=None)


def tdfusion_llvip_small() -> Recipe:
    """The small recipe on LLVIP, for detection."""
    return replace(tdfusion_m3fd_small(), name="tdfusion-llvip-small", data="llvip", every=10)


def tdfusion_street() -> Recipe:
    """The learned loss on synthetic scenes, a few minutes, without any data."""
    schedule = replace(
        tdfusion_msrs_small().schedule,
        steps=120,
        crop_px=96,
        lr=2e-3,
        validate_every=40,
        meta_steps=15,
        task_first=200,
    )
    return replace(
        tdfusion_msrs_small(),
        name="tdfusion-street",
        data="street",
        validation=None,
        start=None,
        task_options={},
        schedule=schedule,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    make().name: make
    for make in (
        tdfusion_fixed,
        tdfusion_fixed_msrs,
        tdfusion_fixed_street,
        tdfusion_fmb,
        tdfusion_fmb_small,
        tdfusion_llvip,
        tdfusion_llvip_small,
        tdfusion_m3fd,
        tdfusion_m3fd_small,
        tdfusion_msrs,
        tdfusion_msrs_detection_small,
        tdfusion_msrs_small,
        tdfusion_own,
        tdfusion_own_detection,
        tdfusion_street,
    )
}

ABLATIONS = ("I", "II", "III", "IV", "V")


def ablation(recipe: Recipe, which: str) -> Recipe:
    """A learned recipe without one of its parts, as in the paper's Table 3.

    I: w = 1/2. II: no gradient term. III: the task's loss reaches the fuser too. IV: no fusion phase, the fuser moves
    in the meta phase. V: the weights of the loss generation module make the image; it is trained by the task's loss and
    the gradient term (our reading: the paper says no more than the formula).

    Raises:
        ValueError: unknown, or a recipe whose loss is not learned.
    """
    if which not in ABLATIONS:
        raise ValueError(f"ablation must be one of {', '.join(ABLATIONS)}, got {which!r}")
    if not recipe.learned:
        raise ValueError(f"an ablation needs a recipe whose loss is learned, '{recipe.name}' has a fixed one")
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
        return replace(recipe, schedule=replace(schedule, task_weight=1.0))
    if which == "IV":
        return replace(recipe, schedule=replace(schedule, interleaved=True))
    return replace(
        recipe,
        system="tectum.systems.tdfusion:WEIGHTED_SUM",
        learned=False,
        start=None,
        options=kept | {"beta": 0.0},
        schedule=replace(fixed, task_weight=1.0),
    )


@dataclass(frozen=True)
class Built:
    """What a recipe trains, and on what; the task is None where the loss is not learned from one."""

    fuser: nn.Module
    objective: nn.Module
    task: Any
    pairs: Pairs
    validation: Pairs


def build(recipe: Recipe, data: Path | None) -> Built:
    """Networks (initialised by the recipe's seed) and data of a recipe.

    Raises:
        ValueError: the recipe needs a folder and got none, or the system cannot be trained.
        FileNotFoundError: the folder does not hold the pairs.
    """
    system = resolve(SYSTEMS, recipe.system, kind="system")
    make = system.learned if recipe.learned else system.objective
    if make is None:
        what = "a loss that can be learned" if recipe.learned else "an objective"
        raise ValueError(f"system '{recipe.system}' has nothing to train; choose one with {what}")
    pairs, validation, classes = street(recipe.target) if recipe.data == "street" else opened(recipe, data)
    torch.manual_seed(recipe.schedule.seed)
    fuser, objective = system.fuser(), make(**recipe.options)
    task = None if recipe.task is None else resolve(TASKS, recipe.task, kind="task")(classes, **recipe.task_options)
    kind = getattr(task, "kind", recipe.target)
    if task is not None and kind != recipe.target:
        raise ValueError(
            f"task '{recipe.task}' learns from {kind}, recipe '{recipe.name}' has {recipe.target}; choose another task"
        )
    if recipe.start is not None:
        fuser.load_state_dict(weights.load(recipe.system, recipe.start).state_dict())
    return Built(fuser, objective, task, pairs, validation)


def opened(recipe: Recipe, data: Path | None) -> tuple[Pairs, Pairs, tuple[str, ...]]:
    """Training pairs, validation pairs and the names of the classes."""
    if data is None:
        raise ValueError(f"recipe '{recipe.name}' needs a folder of pairs (vi and ir inside); give it with --data")
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
        raise ValueError(f"training needs at least two pairs, one of them for validation, got {len(names)} in {data}")
    listed = [] if recipe.validation is None else split_names(recipe.validation)
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
        raise ValueError(f"{path} must hold a recipe ({names}), but {error}; take one from a run folder") from error
