"""Complete training runs as functions: a recipe is a frozen value, a variant calls another and replaces fields.

`tdfusion.py`, `balanced.py` (TOMIFF, SFOFusion) and `adasffuse.py` have them, `recipe.py` says what a recipe is,
`built.py` makes networks and data of one.
"""

from collections.abc import Callable

from tectum.systems import SYSTEMS as SYSTEMS
from tectum.training.recipes.adasffuse import (
    adasffuse_exposure,
    adasffuse_focus,
    adasffuse_infrared,
    adasffuse_medical,
    adasffuse_msrs,
)
from tectum.training.recipes.balanced import (
    sfofusion_fixed_msrs,
    sfofusion_fmb,
    sfofusion_llvip,
    sfofusion_m3fd,
    sfofusion_msrs,
    sfofusion_msrs_small,
    sfofusion_street,
    tomiff_fixed_msrs,
    tomiff_fmb,
    tomiff_llvip,
    tomiff_m3fd,
    tomiff_msrs,
    tomiff_msrs_small,
    tomiff_street,
)
from tectum.training.recipes.built import Built as Built
from tectum.training.recipes.built import build as build
from tectum.training.recipes.built import paired as paired
from tectum.training.recipes.recipe import ABLATIONS as ABLATIONS
from tectum.training.recipes.recipe import Recipe as Recipe
from tectum.training.recipes.recipe import Target as Target
from tectum.training.recipes.recipe import ablation as ablation
from tectum.training.recipes.recipe import published as published
from tectum.training.recipes.recipe import read as read
from tectum.training.recipes.recipe import save as save
from tectum.training.recipes.tdfusion import (
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
    tdfusion_refit,
    tdfusion_refit_msrs,
    tdfusion_street,
)

RECIPES: dict[str, Callable[[], Recipe]] = {
    make().name: make
    for make in (
        adasffuse_exposure,
        adasffuse_focus,
        adasffuse_infrared,
        adasffuse_medical,
        adasffuse_msrs,
        sfofusion_fixed_msrs,
        sfofusion_fmb,
        sfofusion_llvip,
        sfofusion_m3fd,
        sfofusion_msrs,
        sfofusion_msrs_small,
        sfofusion_street,
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
        tdfusion_refit,
        tdfusion_refit_msrs,
        tdfusion_street,
        tomiff_fixed_msrs,
        tomiff_fmb,
        tomiff_llvip,
        tomiff_m3fd,
        tomiff_msrs,
        tomiff_msrs_small,
        tomiff_street,
    )
}
