"""The fusion systems by name. Registering one here is all it takes to be tested, trained and run."""

from tectum.protocols import System
from tectum.systems.baselines import Average, LaplacianPyramid, Maximum
from tectum.systems.tdfusion import TDFusion, TDFusionLoss, learned_loss

SYSTEMS: dict[str, System] = {
    "average": System(fuser=Average),
    "laplacian": System(fuser=LaplacianPyramid),
    "maximum": System(fuser=Maximum),
    "tdfusion": System(fuser=TDFusion, objective=TDFusionLoss, learned=learned_loss, weights="tdfusion-fixed-msrs"),
}
