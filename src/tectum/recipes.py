"""Complete training runs as functions: a recipe is a frozen value, a variant calls another and replaces fields."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import nn

from tectum.color import rgb_to_ycbcr
from tectum.data.folders import PairFolder, split_names, without
from tectum.data.synthetic import render
from tectum.engine.trainer import Schedule
from tectum.files import write_whole
from tectum.pair import Pair, Pairs
from tectum.protocols import resolve
from tectum.systems import SYSTEMS


@dataclass(frozen=True)
class Recipe:
    """All that decides the result of a training run, except the data's pixels."""

    name: str
    """What it is called."""
    system: str
    """Which fuser and objective."""
    data: str
    """"folder": pairs of a folder given by the user; "street": synthetic scenes, rendered on the spot."""
    validation: str | None = None
    """Packaged list of the pairs kept for validation; None takes every sixth pair."""
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


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tdfusion-fixed": tdfusion_fixed,
    "tdfusion-fixed-msrs": tdfusion_fixed_msrs,
    "tdfusion-fixed-street": tdfusion_fixed_street,
}


def build(recipe: Recipe, data: Path | None) -> tuple[nn.Module, nn.Module, Pairs, Pairs]:
    """Fuser (initialised by the recipe's seed), objective, training pairs and validation pairs.

    Raises:
        ValueError: the recipe needs a folder and got none, or the system cannot be trained.
        FileNotFoundError: the folder does not hold the pairs.
    """
    system = resolve(SYSTEMS, recipe.system, kind="system")
    if system.objective is None:
        raise ValueError(f"system '{recipe.system}' has nothing to train; choose one with an objective")
    pairs, validation = street() if recipe.data == "street" else folder(recipe, data)
    torch.manual_seed(recipe.schedule.seed)
    return system.fuser(), system.objective(), pairs, validation


def folder(recipe: Recipe, data: Path | None) -> tuple[Pairs, Pairs]:
    if data is None:
        raise ValueError(f"recipe '{recipe.name}' needs a folder of pairs (vi and ir inside); give it with --data")
    names = PairFolder(data).names
    if len(names) < 2:
        raise ValueError(f"training needs at least two pairs, one of them for validation, got {len(names)} in {data}")
    kept = names[::6] if recipe.validation is None else split_names(recipe.validation)
    return PairFolder(data, without(names, kept)), PairFolder(data, kept)


def street(num: int = 36, size: tuple[int, int] = (240, 320)) -> tuple[Pairs, Pairs]:
    """Synthetic night scenes to train on, and every sixth for validation."""
    scenes = [render(seed, size) for seed in range(num)]
    pairs = [
        Pair(rgb_to_ycbcr(scene.visible)[0][None], scene.infrared[None], name=(f"street-{seed}",))
        for seed, scene in enumerate(scenes)
    ]
    return [pair for i, pair in enumerate(pairs) if i % 6], pairs[::6]


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
