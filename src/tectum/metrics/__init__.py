"""Fusion metrics by symbol: `METRICS["EN"]()(fused, a, b)` -> one value per image.

>>> import torch
>>> images = torch.rand(3, 4, 1, 64, 64)
>>> METRICS["SSIM"]()(*images).shape
torch.Size([4])
"""

from tectum.metrics.edges import Nabf, Qabf
from tectum.metrics.exposure import MEFSSIM
from tectum.metrics.features import FMI
from tectum.metrics.information import EN, MI, NMI
from tectum.metrics.metric import Metric
from tectum.metrics.multiscale import MSSSIM, VIFF
from tectum.metrics.perception import Qcb, Qcv
from tectum.metrics.saliency import Qe, Qw
from tectum.metrics.statistics import AG, CC, MSE, PSNR, SCD, SD, SF
from tectum.metrics.structure import SSIM, VIF

METRICS: dict[str, type[Metric]] = {
    "EN": EN,
    "SD": SD,
    "SF": SF,
    "AG": AG,
    "MI": MI,
    "CC": CC,
    "SCD": SCD,
    "PSNR": PSNR,
    "MSE": MSE,
    "SSIM": SSIM,
    "VIF": VIF,
    "Qabf": Qabf,
    "NMI": NMI,
    "Nabf": Nabf,
    "MS-SSIM": MSSSIM,
    "MEF-SSIM": MEFSSIM,
    "VIFF": VIFF,
    "FMI": FMI,
    "Qcb": Qcb,
    "Qcv": Qcv,
    "Qw": Qw,
    "Qe": Qe,
}
