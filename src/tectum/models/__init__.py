"""The fusion systems by name. Registering one here is all it takes to be tested, trained and run.

`NAME-published` is a system as it was released, with its defects; NAME keeps what its abstract promises.
"""

from tectum.balance import DynamicWeightAverage, TaskFusionBalance
from tectum.models.adasffuse import AdaSFFuse, AdaSFFuseLoss
from tectum.models.adasffuse_published import PublishedAdaSFFuse, PublishedAdaSFFuseLoss
from tectum.models.baselines import Average, LaplacianPyramid, Maximum
from tectum.models.pyramids import ExposurePyramid, FocusSelection
from tectum.models.sfofusion import SFOFusion, SFOFusionLoss
from tectum.models.sfofusion_published import PublishedSFOFusion, PublishedSFOFusionLoss
from tectum.models.swift import Swift
from tectum.models.tdfusion import (
    PublishedTDFusion,
    PublishedTDFusionLoss,
    TDFusion,
    TDFusionLoss,
    learned_loss,
    published_learned_loss,
)
from tectum.models.tomiff import TOMIFF, TOMIFFLoss
from tectum.models.tomiff_published import PublishedTOMIFF, PublishedTOMIFFLoss
from tectum.objectives import NaturalLoss
from tectum.protocols import System

SYSTEMS: dict[str, System] = {
    "adasffuse": System(
        fuser=AdaSFFuse,
        objective=AdaSFFuseLoss,
        weights="adasffuse-infrared",
        variant="repaired",
        description="learned wavelets and state-space scans, for all four kinds of pairs",
    ),
    "adasffuse-published": System(
        fuser=PublishedAdaSFFuse,
        objective=PublishedAdaSFFuseLoss,
        variant="published",
        description="AdaSFFuse as it was released, with its defects",
    ),
    "average": System(fuser=Average, description="mean of both sources"),
    "exposure-pyramid": System(
        fuser=ExposurePyramid, description="exposure fusion in a Laplacian pyramid, the default for exposures"
    ),
    "focus-selection": System(
        fuser=FocusSelection, description="the source that is sharper around a pixel, the default for foci"
    ),
    "laplacian": System(
        fuser=LaplacianPyramid, description="stronger detail at each scale over the mean of the coarsest"
    ),
    "maximum": System(fuser=Maximum, description="brighter source at each pixel"),
    "sfofusion": System(
        fuser=SFOFusion,
        objective=TDFusionLoss,
        learned=SFOFusionLoss,
        balance=TaskFusionBalance,
        weights="sfofusion-fixed-msrs",
        variant="repaired",
        description=(
            "amplitude and phase fused, what is lost put back in space; a loss that follows the task's gradient"
        ),
    ),
    "sfofusion-published": System(
        fuser=PublishedSFOFusion,
        objective=PublishedTDFusionLoss,
        learned=PublishedSFOFusionLoss,
        balance=TaskFusionBalance,
        variant="published",
        description="SFOFusion as it was released, with its defects",
    ),
    "swift": System(
        fuser=Swift,
        objective=NaturalLoss,
        weights="swift-natural",
        description="gains for a Laplacian pyramid, read at an eighth of the size: real time on a processor",
    ),
    "tdfusion": System(
        fuser=TDFusion,
        objective=TDFusionLoss,
        learned=learned_loss,
        weights="tdfusion-fixed-msrs",
        variant="repaired",
        description="Restormer blocks, small and fast; a loss that a second network learns from a task",
    ),
    "tdfusion-published": System(
        fuser=PublishedTDFusion,
        objective=PublishedTDFusionLoss,
        learned=published_learned_loss,
        weights="tdfusion-fixed-msrs",
        variant="published",
        description="TDFusion as it was released, with its defects",
    ),
    "tomiff": System(
        fuser=TOMIFF,
        objective=TDFusionLoss,
        learned=TOMIFFLoss,
        balance=DynamicWeightAverage,
        weights="tomiff-fixed-msrs",
        variant="repaired",
        description="wavelet base, Gabor-guided attention for detail; a loss of four scalars",
    ),
    "tomiff-published": System(
        fuser=PublishedTOMIFF,
        objective=PublishedTDFusionLoss,
        learned=PublishedTOMIFFLoss,
        balance=DynamicWeightAverage,
        variant="published",
        description="TOMIFF as it was released, with its defects",
    ),
}
