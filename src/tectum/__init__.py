"""Image fusion: one picture from two of a scene, infrared and visible first; losses can be learned from a vision task.

Five things to do, here on packaged pictures.

Fuse a pair: files, arrays, PIL images or tensors; `tectum fuse` does the same for folders.

>>> import tempfile, torch, tectum
>>> from tectum.data.synthetic import demo_folder
>>> visible, infrared = demo_folder() / "vi", demo_folder() / "ir"
>>> tectum.fuse(visible / "street-1.png", infrared / "street-1.png", system="laplacian").shape
(480, 640, 3)

Load a network, a `torch.nn.Module` for luminances (B,1,H,W) in [0,1]; `systems()` and `weights()` list what there is.

>>> fuser = tectum.load("tdfusion", device="cpu")
>>> a, b = torch.rand(2, 4, 1, 48, 64)
>>> fuser(a, b).shape
torch.Size([4, 1, 48, 64])

Evaluate systems, networks, or folders of anyone's fused images.

>>> methods = {"mean": "average", "pyramid": "laplacian"}
>>> tectum.evaluate(methods, visible, infrared, metrics=["EN", "SSIM"], baselines=()).scores.methods
('mean', 'pyramid')

Train any network on pairs of your own; recipes for known sets: `tectum train --help`.

>>> from tectum.models.tdfusion import TDFusionLoss
>>> pairs = [tectum.Pair(a[i : i + 1], b[i : i + 1]) for i in range(4)]
>>> fuser = tectum.load("tdfusion", trainable=True, device="cpu")
>>> short = tectum.Schedule(steps=2, batch=2, crop_px=32, validate_every=1)
>>> with tempfile.TemporaryDirectory() as run:
...     best = tectum.fit(fuser, TDFusionLoss(), pairs[:3], pairs[3:], run=run, schedule=short, device="cpu")
>>> best["step"] in (1, 2)  # `fuser` holds the weights of the best step
True

Use a metric: one value per image, and a loss; `to_torchmetrics()` makes it a member of a `MetricCollection`.

>>> tectum.metrics.METRICS["SSIM"]()(fuser(a, b), a, b).shape
torch.Size([4])
"""

import copy
import importlib
from typing import TYPE_CHECKING, Any

from tectum.errors import UserError

if TYPE_CHECKING:
    from tectum import metrics as metrics
    from tectum.evaluation.evaluate import evaluate as evaluate
    from tectum.fusion.fuse import fuse as fuse
    from tectum.pair import Pair as Pair
    from tectum.pretrained.loading import load as load
    from tectum.training.loop import fit as fit
    from tectum.training.schedule import Schedule as Schedule

__version__ = "0.1.0"

_HOMES = {
    "Pair": "tectum.pair",
    "Schedule": "tectum.training.schedule",
    "evaluate": "tectum.evaluation.evaluate",
    "fit": "tectum.training.loop",
    "fuse": "tectum.fusion.fuse",
    "load": "tectum.pretrained.loading",
}
__all__ = ["Pair", "Schedule", "UserError", "evaluate", "fit", "fuse", "load", "metrics", "systems", "weights"]


def systems() -> dict[str, str]:
    """List the fusion systems: {name: one line}. `fuse`, `load` and `--system` take a name.

    >>> systems()["average"]
    'mean of both sources'
    """
    from tectum.models import SYSTEMS

    return {name: system.description for name, system in SYSTEMS.items()}


def weights() -> dict[str, dict[str, Any]]:
    """List the packaged weights: {name: card}, with the system, the data, the scores and the licence of each.

    >>> weights()["tdfusion-fixed-msrs"]["system"]
    'tdfusion'
    """
    from tectum.pretrained.loading import cards

    return copy.deepcopy(cards())


def __dir__() -> list[str]:
    return ["__version__", *__all__]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import tectum` stays light."""
    if name == "metrics":
        return importlib.import_module("tectum.metrics")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tectum' has no attribute '{name}'")
