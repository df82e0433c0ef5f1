"""Metrics against the values that public MATLAB and Python evaluators give on real pairs (docs/metrics.md names them).

The images and values lie in `golden` beside the folder that TECTUM_DATA names: golden2.json has what evaluators
printed, golden2_restated.json full images where they take hours.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tectum.metrics import METRICS
from tectum.metrics.conventions import CONVENTIONS
from tectum.metrics.edges import Nabf
from tectum.metrics.exposure import MEFSSIM
from tectum.metrics.features import FMI
from tectum.metrics.information import TE
from tectum.metrics.metric import Metric, SourceMetric
from tectum.metrics.multiscale import MSSSIM, VIFF
from tectum.metrics.perception import Qcb, Qcv
from tectum.metrics.saliency import Qs, Qw
from tectum.metrics.statistics import AG, PSNR, RMSE
from tectum.metrics.structure import SSIM

Case = tuple[str, str, float]
MEDICAL = "harvard_pet_mri_25015"  # its black background is 0/0 up to rounding in Qcb and Qw


@pytest.fixture(scope="module")
def golden() -> Path:
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data, with golden beside it")
    folder = Path(os.environ["TECTUM_DATA"]).parent / "golden"
    if not (folder / "golden2.json").is_file():
        pytest.skip(f"the values of the evaluators are not in {folder}")
    return folder


def cases(golden: Path, column: str) -> Iterator[Case]:
    """Pair, fused image and value, of the evaluator where it has one."""
    printed, restated = (json.loads((golden / name).read_text()) for name in ("golden2.json", "golden2_restated.json"))
    for pair, of_fused in printed.items():
        for fused, values in of_fused.items():
            value = values.get(column)
            value = restated.get(pair, {}).get(fused, {}).get(column) if value is None else value
            if value is not None:
                yield pair, fused, value


def read(golden: Path, pair: str, name: str, crop: int) -> Tensor:
    folder = golden / "real" if name == "tdfusion" else golden
    x = np.asarray(Image.open(folder / pair / f"{name}.png"), np.float64)
    if crop:
        top, left = (x.shape[0] - crop) // 2, (x.shape[1] - crop) // 2
        x = x[top : top + crop, left : left + crop]
    return torch.from_numpy(x.copy())[None, None] / 255


COLUMNS: dict[str, tuple[Callable[[], Metric], float, int]] = {  # constructor, relative tolerance, centre crop
    "VIFF_han": (VIFF, 1e-9, 0),
    "VIFF_mefb": (VIFF, 1e-9, 0),
    "Qcv_liu": (Qcv, 1e-9, 0),
    "Qcb_liu": (Qcb, 1e-6, 0),
    "Qw_liu": (Qw, 1e-6, 0),
    "Qw_mefb": (lambda: Qw(edges=True), 1e-6, 0),
    "Qs_liu": (Qs, 3e-3, 0),
    "Nabf255_kumar": (Nabf, 1e-9, 0),
    "Nabf01_hli1221": (lambda: Nabf(unit_range=True), 1e-9, 0),
    "MEFSSIM_ma": (MEFSSIM, 1e-9, 0),
    "MEFSSIM1_ma": (lambda: MEFSSIM(scales=1), 1e-9, 0),
    "MEFSSIM_c256": (MEFSSIM, 1e-9, 256),
    "MEFSSIM1_c256": (lambda: MEFSSIM(scales=1), 1e-9, 256),
    "MSSSIM_a_wang": (MSSSIM, 1e-9, 0),
    "MSSSIM_b_wang": (MSSSIM, 1e-9, 0),
    "SSIM_vifb": (lambda: SSIM(window="gaussian", reduction="sum"), 1e-9, 0),
    "AG_vifb": (lambda: AG(divide_by="differences"), 1e-9, 0),
    "RMSE_vifb": (lambda: RMSE(root_of_sum=True), 1e-9, 0),
    "PSNR_vifb": (lambda: PSNR(peak=255, root_of_sum=True), 1e-9, 0),
    "CE_vifb": (METRICS["CE"], 1e-9, 0),
    "EI_vifb": (METRICS["EI"], 1e-9, 0),
    "Qncie_liu": (METRICS["Qncie"], 1e-9, 0),
    "TE_liu": (lambda: TE(released=True), 1e-9, 0),
    "TEcvejic_liu": (lambda: TE(form="cvejic", released=True), 1e-9, 0),
    "Qsf_liu": (METRICS["Qsf"], 1e-9, 0),
    "Qg_liu": (METRICS["Qg"], 3e-8, 0),
    "Qm_liu": (METRICS["Qm"], 1e-9, 0),
    "Qy_mefb": (METRICS["Qy"], 1e-9, 0),
    "FMI_none_haghighat_crop128": (lambda: FMI(feature="pixel"), 1e-6, 128),
}
for _printed, _feature in (("edge", "edge"), ("gradient", "gradient"), ("none", "pixel"), ("dct", "dct")):
    COLUMNS[f"FMI_{_printed}_haghighat"] = (lambda feature=_feature: FMI(feature=feature), 1e-6, 0)  # type: ignore[misc]
    COLUMNS[f"FMI_{_printed}_haghighat_crop64"] = (lambda feature=_feature: FMI(feature=feature), 1e-6, 64)  # type: ignore[misc]


for _name, _make in CONVENTIONS["vifb"].metrics.items():
    COLUMNS.setdefault(f"{_name}_vifb", (_make, 1e-9, 0))
for _name, _make in CONVENTIONS["ivif-zoo"].metrics.items():
    COLUMNS[f"{_name}_ivifzoo"] = (_make, 1e-4, 0)
for _name in ("EN_vifb", "SF_vifb", "Qcb_vifb", "Qcv_vifb"):  # no value of its own there
    del COLUMNS[_name]
FLAT = {MEDICAL, "msrs_00196D", "msrs_01178N", "mefb_ArchSequence", "lytro_lytro-02", "llvip_260473"}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("all_pairs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_evaluators_values_again(column: str, all_pairs: bool, golden: Path) -> None:
    make, rel, crop = COLUMNS[column]
    metric, num = make(), 0
    for pair, fused, value in cases(golden, column):
        if pair == MEDICAL and rel == 1e-6 and column.startswith("Q"):
            continue
        if column == "Qy_mefb" and pair in FLAT:  # rounding decides in flat windows (values above 100)
            continue
        if not (all_pairs or crop or pair in ("tno_05", MEDICAL)):  # the small ones
            continue
        # restated, not printed: its hypot makes two equal gradients unequal
        odd = (column, pair, fused) == ("Nabf255_kumar", "lytro_lytro-02", "unsharp")
        images = (read(golden, pair, name, crop) for name in (fused, "b", "a"))
        if isinstance(metric, SourceMetric) and column.startswith("MSSSIM"):
            ours = float(metric.per_source(*images)["ba".index(column[7])])
        else:
            ours = float(metric(*images))
        assert math.isfinite(value) and ours == pytest.approx(value, rel=4e-7 if odd else rel, abs=0), (pair, fused)
        num += 1
    assert num >= 1
