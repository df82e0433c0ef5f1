"""TOMIFF and SFOFusion: TDFusion's runs with another fuser and loss, and the epoch-level loop.

Neither publishes its training; both were developed inside TDFusion's, whose constants these are. Differences: no copies
with exchanged images (both fusers know which source is infrared), Adam on the parameters of the loss, the balance.
"""

from dataclasses import replace
from typing import Any

from tectum.training.recipes import tdfusion
from tectum.training.recipes.recipe import Recipe

SMALL: dict[str, Any] = {
    "steps": 250,
    "validate_every": 50,
    "meta_steps": 50,
    "warm_epochs": 0,
    "batch": 4,
    "crop_px": 96,
    "meta_lr": 2e-3,
}
"""Of the small recipes, which begin with the fuser of the fixed loss: as many lessons as steps of the fuser."""
ALPHA = 0.05
"""Of their gradient term: at 1 it holds every intensity where it is, whatever the loss asks for (docs/log.md)."""


def as_tomiff(recipe: Recipe, **changes: Any) -> Recipe:
    """TDFusion's recipe with TOMIFF; `changes` are the schedule's. Its loss has four parameters, hence their rate."""
    options = {name: value for name, value in recipe.options.items() if name != "centred"}
    return balanced(replace(recipe, options=options), "tomiff", **(changes | {"meta_lr": 1e-2}))


def as_sfofusion(recipe: Recipe, **changes: Any) -> Recipe:
    """The same with SFOFusion."""
    return balanced(recipe, "sfofusion", **changes)


def balanced(recipe: Recipe, system: str, **changes: Any) -> Recipe:
    """The same with a system that has a balance, from a random start."""
    schedule = replace(recipe.schedule, swap=False, outer="adam", **changes)
    name = recipe.name.replace("tdfusion", system)
    return replace(recipe, name=name, system=system, start=None, balance="moving", schedule=schedule)


def small(recipe: Recipe) -> Recipe:
    """The same on a CPU, from the fuser of the fixed loss: half an hour where the task brings weights of its own."""
    return replace(recipe, start=f"{recipe.system}-fixed-msrs", options=recipe.options | {"alpha": ALPHA})


def tomiff_msrs() -> Recipe:
    """TOMIFF with TDFusion's released constants, on MSRS for segmentation."""
    return as_tomiff(tdfusion.tdfusion_msrs())


def tomiff_fmb() -> Recipe:
    """The same on FMB."""
    return as_tomiff(tdfusion.tdfusion_fmb())


def tomiff_m3fd() -> Recipe:
    """The same on M3FD, for detection."""
    return as_tomiff(tdfusion.tdfusion_m3fd())


def tomiff_llvip() -> Recipe:
    """The same on every tenth pair of LLVIP."""
    return as_tomiff(tdfusion.tdfusion_llvip())


def tomiff_msrs_small() -> Recipe:
    """TOMIFF on a CPU, from the fuser of the fixed loss."""
    return small(as_tomiff(tdfusion.tdfusion_msrs_small(), **SMALL))


def tomiff_street() -> Recipe:
    """TOMIFF on synthetic scenes, a few minutes, without any data."""
    return as_tomiff(tdfusion.tdfusion_street())


def tomiff_fixed_msrs() -> Recipe:
    """TOMIFF's fuser on the fixed objective: the control."""
    recipe = tdfusion.tdfusion_fixed_msrs()
    schedule = replace(recipe.schedule, steps=2200, crop_px=96)
    return replace(recipe, name="tomiff-fixed-msrs", system="tomiff", schedule=schedule)


def sfofusion_msrs() -> Recipe:
    """SFOFusion with TDFusion's released constants, on MSRS for segmentation."""
    return as_sfofusion(tdfusion.tdfusion_msrs())


def sfofusion_fmb() -> Recipe:
    """The same on FMB."""
    return as_sfofusion(tdfusion.tdfusion_fmb())


def sfofusion_m3fd() -> Recipe:
    """The same on M3FD, for detection."""
    return as_sfofusion(tdfusion.tdfusion_m3fd())


def sfofusion_llvip() -> Recipe:
    """The same on every tenth pair of LLVIP."""
    return as_sfofusion(tdfusion.tdfusion_llvip())


def sfofusion_msrs_small() -> Recipe:
    """SFOFusion on a CPU, from the fuser of the fixed loss."""
    return small(as_sfofusion(tdfusion.tdfusion_msrs_small(), **SMALL))


def sfofusion_street() -> Recipe:
    """SFOFusion on synthetic scenes, a few minutes, without any data."""
    return as_sfofusion(tdfusion.tdfusion_street())


def sfofusion_fixed_msrs() -> Recipe:
    """SFOFusion's fuser on the fixed objective: the control."""
    recipe = tdfusion.tdfusion_fixed_msrs()
    schedule = replace(recipe.schedule, steps=2000, crop_px=112, lr=2e-3)
    return replace(recipe, name="sfofusion-fixed-msrs", system="sfofusion", schedule=schedule)
