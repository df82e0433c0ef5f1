"""The fusion systems by name. Registering one here is all it takes to be tested, trained and run."""

from tectum.balance import Pace, Tradeoff
from tectum.protocols import System
from tectum.systems.adasffuse import AdaSFFuse, AdaSFFuseLoss
from tectum.systems.baselines import Average, LaplacianPyramid, Maximum
from tectum.systems.sfofusion import SFOFusion, SFOFusionLoss
from tectum.systems.tdfusion import TDFusion, TDFusionLoss, learned_loss
from tectum.systems.tomiff import TOMIFF, TOMIFFLoss

SYSTEMS: dict[str, System] = {
    "adasffuse": System(fuser=AdaSFFuse, objective=AdaSFFuseLoss, weights="adasffuse-infrared"),
    "average": System(fuser=Average),
    "laplacian": System(fuser=LaplacianPyramid),
    "maximum": System(fuser=Maximum),
    "sfofusion": System(
        fuser=SFOFusion,
        objective=TDFusionLoss,
        learned=SFOFusionLoss,
        balance=Tradeoff,
        weights="sfofusion-fixed-msrs",
    ),
    "tdfusion": System(fuser=TDFusion, objective=TDFusionLoss, learned=learned_loss, weights="tdfusion-fixed-msrs"),
    "tomiff": System(
        fuser=TOMIFF, objective=TDFusionLoss, learned=TOMIFFLoss, balance=Pace, weights="tomiff-fixed-msrs"
    ),
}
