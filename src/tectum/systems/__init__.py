"""The fusion systems by name. Registering one here is all it takes to be tested, trained and run.

`NAME-published` is a system as it was released, with its defects; NAME keeps what its abstract promises.
"""

from dataclasses import replace

from tectum.balance import DynamicWeightAverage, TaskFusionBalance
from tectum.protocols import System
from tectum.systems.adasffuse import AdaSFFuse, AdaSFFuseLoss
from tectum.systems.adasffuse_published import PublishedAdaSFFuse, PublishedAdaSFFuseLoss
from tectum.systems.baselines import Average, LaplacianPyramid, Maximum
from tectum.systems.sfofusion import SFOFusion, SFOFusionLoss
from tectum.systems.sfofusion_published import PublishedSFOFusion, PublishedSFOFusionLoss
from tectum.systems.tdfusion import (
    PublishedTDFusionLoss,
    TDFusion,
    TDFusionLoss,
    learned_loss,
    published_learned_loss,
)
from tectum.systems.tomiff import TOMIFF, TOMIFFLoss
from tectum.systems.tomiff_published import PublishedTOMIFF, PublishedTOMIFFLoss

_TDFUSION = System(
    fuser=TDFusion, objective=TDFusionLoss, learned=learned_loss, weights="tdfusion-fixed-msrs", variant="repaired"
)
_TOMIFF = System(
    fuser=TOMIFF,
    objective=TDFusionLoss,
    learned=TOMIFFLoss,
    balance=DynamicWeightAverage,
    weights="tomiff-fixed-msrs",
    variant="repaired",
)
_SFOFUSION = System(
    fuser=SFOFusion,
    objective=TDFusionLoss,
    learned=SFOFusionLoss,
    balance=TaskFusionBalance,
    weights="sfofusion-fixed-msrs",
    variant="repaired",
)
_ADASFFUSE = System(fuser=AdaSFFuse, objective=AdaSFFuseLoss, weights="adasffuse-infrared", variant="repaired")
_PUBLISHED = System(fuser=TDFusion, objective=PublishedTDFusionLoss, variant="published")

SYSTEMS: dict[str, System] = {
    "adasffuse": _ADASFFUSE,
    "adasffuse-published": replace(_PUBLISHED, fuser=PublishedAdaSFFuse, objective=PublishedAdaSFFuseLoss),
    "average": System(fuser=Average),
    "laplacian": System(fuser=LaplacianPyramid),
    "maximum": System(fuser=Maximum),
    "sfofusion": _SFOFUSION,
    "sfofusion-published": replace(
        _PUBLISHED, fuser=PublishedSFOFusion, learned=PublishedSFOFusionLoss, balance=TaskFusionBalance
    ),
    "tdfusion": _TDFUSION,
    "tdfusion-published": replace(_PUBLISHED, learned=published_learned_loss, weights="tdfusion-fixed-msrs"),
    "tomiff": _TOMIFF,
    "tomiff-published": replace(
        _PUBLISHED, fuser=PublishedTOMIFF, learned=PublishedTOMIFFLoss, balance=DynamicWeightAverage
    ),
}
