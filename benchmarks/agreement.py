"""Agreement of our metrics with public evaluators: the table of docs/metrics.md, from values that those printed.

    python benchmarks/agreement.py GOLDEN [--write]

GOLDEN is a folder with golden2.json, {pair: {fused: {metric_evaluator: value}}}, and PAIR/{a,b,FUSED}.png (or below
real/), 8-bit grey; b is the first source. One row for each metric as an evaluator has it: on how many fused images we
have its value, and the largest relative difference. --write puts it between its marks in docs/metrics.md.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from results import put
from tectum.metrics import METRICS
from tectum.metrics.conventions import CONVENTIONS
from tectum.metrics.metric import Metric, SourceMetric

LIU = "Zheng Liu's collection"
VIFB, ZOO = CONVENTIONS["vifb"].metrics, CONVENTIONS["ivif-zoo"].metrics
# name in the file: (our name, how it is made, whose value it is, centre crop)
ROWS: dict[str, tuple[str, Callable[[], Metric], str, int]] = {
    **{f"{name}_vifb": (f"vifb: {name}", make, "VIFB", 0) for name, make in VIFB.items()},
    **{f"{name}_ivifzoo": (f"ivif-zoo: {name}", make, "IVIF_ZOO", 0) for name, make in ZOO.items()},
    "VIFF_han": ("VIFF", METRICS["VIFF"], "Han's release", 0),
    "VIFF_mefb": ("mefb: VIF", METRICS["VIFF"], "MEFB", 0),
    "Nabf255_kumar": ("Nabf", METRICS["Nabf"], "Kumar's release, on 0..255", 0),
    "Nabf01_hli1221": ("Nabf(unit_range=True)", partial(METRICS["Nabf"], unit_range=True), "DenseFuse's, on 0..1", 0),
    "MSSSIM_a_wang": ("MS-SSIM", METRICS["MS-SSIM"], "Wang's release", 0),
    "MEFSSIM_ma": ("MEF-SSIM", METRICS["MEF-SSIM"], "Ma's release (others' \"MS_SSIM\")", 0),
    "FMI_edge_haghighat_crop64": ("FMI", METRICS["FMI"], 'Haghighat, edges (papers\' "FMI_pixel")', 64),
    **{
        f"FMI_{printed}_haghighat_crop64": (
            f'FMI(feature="{feature}")', partial(METRICS["FMI"], feature=feature), "Haghighat", 64
        )
        for printed, feature in (("gradient", "gradient"), ("none", "pixel"), ("dct", "dct"))
    },
    "SCD_hli1221": ("SCD", METRICS["SCD"], "DenseFuse's", 0),
    "NMI_liu": ("NMI", METRICS["NMI"], f"{LIU}, MEFB", 0),
    "Qncie_liu": ("Qncie", METRICS["Qncie"], f"{LIU}, MEFB", 0),
    "TE_liu": ("TE(released=True)", partial(METRICS["TE"], released=True), LIU, 0),
    "TEcvejic_liu": ("mefb: TE", CONVENTIONS["mefb"].metrics["TE"], f"{LIU}, MEFB", 0),
    "Qg_liu": ("Qg", METRICS["Qg"], LIU, 0),
    "Qm_liu": ("Qm", METRICS["Qm"], LIU, 0),
    "Qsf_liu": ("Qsf", METRICS["Qsf"], LIU, 0),
    "Qs_liu": ("Qs", METRICS["Qs"], f"{LIU}; rounding decides in flat windows", 0),
    "Qw_liu": ("Qw", METRICS["Qw"], LIU, 0),
    "Qw_mefb": ("mefb: Qw", CONVENTIONS["mefb"].metrics["Qw"], "MEFB, of edge images", 0),
    "Qy_mefb": ("Qy", METRICS["Qy"], "MEFB; rounding decides in flat windows", 0),
    "Qc_mefb": ("Qc", METRICS["Qc"], "MEFB: NOT reproduced", 0),
    "Qcv_liu": ("Qcv", METRICS["Qcv"], f"{LIU}, VIFB, MEFB", 0),
    "Qcb_liu": ("Qcb", METRICS["Qcb"], f"{LIU}, VIFB, MEFB; to 1 % on black backgrounds", 0),
}  # fmt: skip


def read(folder: Path, pair: str, name: str, crop: int) -> Tensor:
    file = folder / pair / f"{name}.png"
    file = file if file.exists() else folder / "real" / pair / f"{name}.png"
    x = np.asarray(Image.open(file), np.float64)
    if crop:
        top, left = ((size - crop) // 2 for size in x.shape)
        x = x[top : top + crop, left : left + crop]
    return torch.from_numpy(x.copy())[None, None] / 255


def compare(folder: Path, golden: dict[str, Any], column: str) -> list[float]:
    """Relative differences, one per fused image of which the evaluator's value is known."""
    _, make, _, crop = ROWS[column]
    metric, differences = make(), []
    for pair, images in golden.items():
        for fused, values in images.items():
            value = values.get(column)
            if value is None:
                continue
            three = (read(folder, pair, name, crop) for name in (fused, "b", "a"))
            if column.startswith("MSSSIM") and isinstance(metric, SourceMetric):
                ours = float(metric.per_source(*three)[1])
            else:
                ours = float(metric(*three))
            differences.append(abs(ours - value) / max(abs(value), 1e-12))
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path, metavar="GOLDEN")
    parser.add_argument("--write", action="store_true", help="put the table into docs/metrics.md")
    arguments = parser.parse_args()
    golden = json.loads((arguments.golden / "golden2.json").read_text(encoding="utf-8"))
    lines = ["| metric | equals | images | largest difference | median |", "| --- | --- | --: | --: | --: |"]
    for column, (name, _, whose, _) in ROWS.items():
        if differences := compare(arguments.golden, golden, column):
            numbers = f"{len(differences)} | {max(differences):.0e} | {float(np.median(differences)):.0e}"
            lines.append(f"| {name} | {whose} | {numbers} |")
            print(lines[-1], flush=True)
    if arguments.write:
        put("metrics.md", "agreement", "\n".join(lines))


if __name__ == "__main__":
    main()
