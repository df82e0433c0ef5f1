"""AdaSFFuse on each kind of pairs, on its fixed objective of that kind."""

from dataclasses import replace

from tectum.training.recipes.recipe import Recipe
from tectum.training.schedule import Schedule


def adasffuse(kind: str) -> Recipe:
    """Crops of 128 pixels in all eight ways they can lie (always here), averaged weights.

    The published runs take 50,000 to 96,000 steps of 8 to 16 such crops (their rates are not published); with a rate of
    1e-3 falling along a cosine the repaired network converges in a few thousand.
    """
    schedule = Schedule(steps=3000, batch=4, crop_px=128, lr=1e-3, warmup=100, validate_every=300, ema=0.99, turns=True)
    return Recipe(name=f"adasffuse-{kind}", system="adasffuse", data="folder", kind=kind, schedule=schedule)


def adasffuse_infrared() -> Recipe:
    """AdaSFFuse on visible and infrared pairs."""
    return adasffuse("infrared")


def adasffuse_msrs() -> Recipe:
    """The same on MSRS; the pairs that choose every system's checkpoint are kept out of training."""
    return replace(adasffuse_infrared(), name="adasffuse-msrs", validation="msrs-validation")


def adasffuse_exposure() -> Recipe:
    """AdaSFFuse on over- and under-exposed pairs."""
    return adasffuse("exposure")


def adasffuse_focus() -> Recipe:
    """AdaSFFuse on pairs of two foci."""
    return adasffuse("focus")


def adasffuse_medical() -> Recipe:
    """AdaSFFuse on CT, PET or SPECT with MRI."""
    return adasffuse("medical")
