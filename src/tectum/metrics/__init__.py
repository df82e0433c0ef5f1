"""Fusion metrics by symbol, in capital or small letters: `METRICS["EN"]()(fused, a, b)` -> one value per image.

>>> import torch
>>> images = torch.rand(3, 4, 1, 64, 64)
>>> METRICS["ssim"]()(*images).shape
torch.Size([4])
"""

from tectum.metrics.edges import Nabf, Qabf, Qg
from tectum.metrics.exposure import MEFSSIM
from tectum.metrics.features import FMI
from tectum.metrics.haar import Qm
from tectum.metrics.information import CE, EN, MI, NMI, TE, Qncie
from tectum.metrics.metric import Metric
from tectum.metrics.multiscale import MSSSIM, VIFF
from tectum.metrics.names import MetricNames
from tectum.metrics.perception import Qcb, Qcv
from tectum.metrics.saliency import Qe, Qs, Qw
from tectum.metrics.sharpness import EI, Qsf
from tectum.metrics.similarity import Qc, Qy
from tectum.metrics.statistics import AG, CC, MSE, PSNR, RMSE, SCD, SD, SF
from tectum.metrics.structure import SSIM, VIF

_CLASSES: tuple[type[Metric], ...] = (
    *(EN, SD, SF, AG, MI, CC, SCD, PSNR, MSE, SSIM, VIF, Qabf),  # these have outside reference values
    *(NMI, Nabf, MSSSIM, MEFSSIM, VIFF, FMI, Qcb, Qcv, Qs, Qw, Qe, RMSE),
    *(CE, EI, Qncie, TE, Qy, Qc, Qsf, Qg, Qm),
)
METRICS: MetricNames[type[Metric]] = MetricNames({metric.symbol: metric for metric in _CLASSES})
"""All metrics; an unknown name raises a `KeyError` (and `ValueError`) that says the closest one."""
