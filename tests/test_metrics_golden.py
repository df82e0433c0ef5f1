"""Golden values of all metrics on crops of rendered scenes: of packages on PyPI, and of literal restatements.

The pictures in golden/ are crops of `tectum.data.synthetic.render(3, (240, 320))` and `render(8, (120, 160),
hour="dusk")`: luminance of the visible image, and infrared, 8 bits.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tectum.metrics import METRICS

Picture = NDArray[np.float64]
GOLDEN = Path(__file__).parent / "golden"


def read(pair: str, fusion: str) -> tuple[Picture, Picture, Picture]:
    """Fused image, visible, infrared: whole levels of 0..255."""
    a, b = (np.asarray(Image.open(GOLDEN / f"{pair}-{side}.png"), np.float64) for side in ("visible", "infrared"))
    return np.floor((a + b + 1) / 2) if fusion == "average" else np.maximum(a, b), a, b


# pip install scikit-image==0.26.0 scikit-learn==1.9.1 piq==0.8.0 pytorch-msssim==1.0.0
#
#     import piq, pytorch_msssim, sklearn.metrics as sl, skimage.metrics as sk
#     from skimage.measure import shannon_entropy
#
#     def values(f, a, b):
#         both = lambda metric: (metric(f, a) + metric(f, b)) / 2
#         corr = lambda x, y: np.corrcoef(x.ravel(), y.ravel())[0, 1]
#         image = lambda x: torch.from_numpy(x)[None, None]
#         mse = both(sk.mean_squared_error)
#         return {
#             "EN": shannon_entropy(f, base=2),
#             "SD": np.std(f),
#             "MI": both(lambda f, s: sl.mutual_info_score(s.ravel(), f.ravel())),
#             "NMI": 2 * both(lambda f, s: sl.normalized_mutual_info_score(s.ravel(), f.ravel())),
#             "CC": both(corr),
#             "SCD": corr(a, f - b) + corr(b, f - a),
#             "MSE": mse,
#             "RMSE": both(lambda f, s: sk.mean_squared_error(f, s) ** 0.5),
#             "PSNR": sk.peak_signal_noise_ratio(np.zeros(1), np.full(1, mse**0.5), data_range=f.max()),
#             "SSIM": both(lambda f, s: sk.structural_similarity(f, s, data_range=255)),
#             "VIF": both(lambda f, s: float(piq.vif_p(image(f), image(s), data_range=255.0))),
#             "MS-SSIM": both(lambda f, s: float(pytorch_msssim.ms_ssim(image(f), image(s), data_range=255))),
#         }
PACKAGES: dict[tuple[str, str], dict[str, float]] = {
    ("night", "average"): {
        "EN": 6.214784558323639,
        "SD": 22.829143661318316,
        "MI": 1.1250542773490313,
        "NMI": 0.515341905152515,
        "CC": 0.6876437922165597,
        "SCD": 1.3948210317153373,
        "MSE": 537.6003196022727,
        "RMSE": 23.186201336623114,
        "PSNR": 19.056671516925107,
        "SSIM": 0.7453792974075328,
        "VIF": 0.31248206180456095,
        "MS-SSIM": 0.5962540623144237,
    },
    ("night", "maximum"): {
        "EN": 6.358594086903037,
        "SD": 37.99972091548514,
        "MI": 2.2538682142361313,
        "NMI": 1.0385413375451409,
        "CC": 0.6691997455506877,
        "SCD": 1.7510037898943125,
        "MSE": 1074.951397856405,
        "RMSE": 32.74563236176739,
        "PSNR": 17.816915320766938,
        "SSIM": 0.7143864448911554,
        "VIF": 0.4052170163734409,
        "MS-SSIM": 0.5806745735438661,
    },
    ("dusk", "average"): {
        "EN": 5.631146765021655,
        "SD": 18.75449020308944,
        "MI": 1.2330235362773034,
        "NMI": 0.5992050550880672,
        "CC": 0.569745018990973,
        "SCD": 1.6252842146075919,
        "MSE": 753.8526475694445,
        "RMSE": 27.45626992092211,
        "PSNR": 17.027827582895217,
        "SSIM": 0.5950023138476774,
        "VIF": 0.19964024992100715,
    },
    ("dusk", "maximum"): {
        "EN": 6.438739091927289,
        "SD": 37.32145783602927,
        "MI": 2.633241705061733,
        "NMI": 1.1908730696788983,
        "CC": 0.531309576291525,
        "SCD": 1.8263058432239405,
        "MSE": 1507.4544270833333,
        "RMSE": 38.137211720081226,
        "PSNR": 16.348361693196708,
        "SSIM": 0.5990627546971217,
        "VIF": 0.3430861387105039,
    },
}

# Of benchmarks/literal_metrics.py and benchmarks/literal_toolboxes.py, which equal the values of published evaluators
# on fused images of 11 real pairs, to the last bit and to 1e-12 (docs/metrics.md).
#
#     import literal_metrics, literal_toolboxes as toolboxes
#
#     def values(f, a, b):
#         return {
#             "SF": literal_metrics.spatial_frequency(f),
#             "AG": literal_metrics.average_gradient(f),
#             "Qabf": literal_metrics.qabf(f, a, b),
#             "Nabf": toolboxes.nabf(f, a, b),
#             "MEF-SSIM": toolboxes.mef_ssim(f, a, b),
#             "VIFF": toolboxes.viff(f, a, b),
#             "FMI": toolboxes.fmi(f, a, b, "edge"),
#             "Qe": (toolboxes.qw(f, a, b) * toolboxes.qw_edges(f, a, b)) ** 0.5,
#             ...  the same for qcb, qcv, qs, qw
#         }
LOOPS: dict[tuple[str, str], dict[str, float]] = {
    ("night", "average"): {
        "SF": 11.570868593152374,
        "AG": 3.6078922875946087,
        "Qabf": 0.4371445459652877,
        "Nabf": 3.0430520271326936e-07,
        "MEF-SSIM": 0.8338446102883217,
        "VIFF": 0.31385516674083697,
        "FMI": 0.8980555898558086,
        "Qcb": 0.6001368564570628,
        "Qcv": 300.0915232538518,
        "Qs": 0.8198025918108623,
        "Qw": 0.688394291347252,
        "Qe": 0.6188087452946665,
        "CE": 0.41509545487354055,
        "EI": 35.824081201252,
        "Qncie": 0.8078626843244638,
        "TE": 0.02321663379843247,
        "Qy": 0.7562628300801438,
        "Qc": 0.7185397888517228,
        "Qsf": -0.48706578741202966,
        "Qg": 0.43082704884265366,
        "Qm": 0.3254337353863703,
    },
    ("night", "maximum"): {
        "SF": 20.559716633551837,
        "AG": 5.4801799275280105,
        "Qabf": 0.6685179714202343,
        "Nabf": 0.0005022789091134927,
        "MEF-SSIM": 0.9000031728533205,
        "VIFF": 0.510228109843183,
        "FMI": 0.9198315582643113,
        "Qcb": 0.5959512255503366,
        "Qcv": 215.9918268179311,
        "Qs": 0.8079876984620242,
        "Qw": 0.8667176045028017,
        "Qe": 0.8716123869738747,
        "CE": 0.5619578999287,
        "EI": 55.77171867694943,
        "Qncie": 0.8225311685810464,
        "TE": 0.03381645739529658,
        "Qy": 0.933137178575817,
        "Qc": 0.8291667030426599,
        "Qsf": -0.07998015534946934,
        "Qg": 0.5624608968243214,
        "Qm": 2.011162900520149,
    },
    ("dusk", "average"): {
        "SF": 15.084536998273895,
        "AG": 4.66965883479336,
        "Qabf": 0.4540709902536262,
        "Nabf": 3.4448766933173193e-07,
        "MEF-SSIM": 0.7662858821941276,
        "VIFF": 0.11129156974826479,
        "FMI": 0.8485612186362249,
        "Qcb": 0.5930709657656421,
        "Qcv": 144.2044370261345,
        "Qs": 0.7234434852581891,
        "Qw": 0.6258998083192184,
        "Qe": 0.573219420061789,
        "CE": 0.37979195181914543,
        "EI": 46.40238898671652,
        "Qncie": 0.8103326216682226,
        "TE": 0.027290705370329182,
        "Qy": 0.708795957687938,
        "Qc": 0.6840054087417986,
        "Qsf": -0.5014721287144979,
        "Qg": 0.45136136460400855,
        "Qm": 0.23144023745365194,
    },
    ("dusk", "maximum"): {
        "SF": 28.31531404138694,
        "AG": 8.588443031811838,
        "Qabf": 0.7519080198956637,
        "Nabf": 0.0010597600634902565,
        "MEF-SSIM": 0.9132016355535801,
        "VIFF": 0.16308534916993864,
        "FMI": 0.8471035765455219,
        "Qcb": 0.5460066751386601,
        "Qcv": 163.4967463575846,
        "Qs": 0.8191283397128618,
        "Qw": 0.8454160018968194,
        "Qe": 0.8757692664628219,
        "CE": 0.5680476424015631,
        "EI": 86.8707064093356,
        "Qncie": 0.8374790997813842,
        "TE": 0.04331843324998889,
        "Qy": 0.9483515485722378,
        "Qc": 0.8910626299056806,
        "Qsf": -0.06110754795177875,
        "Qg": 0.6794753245065365,
        "Qm": 1.840090485345648,
    },
}

CASES = [
    (*key, name, value) for table in (PACKAGES, LOOPS) for key, row in table.items() for name, value in row.items()
]


@pytest.mark.parametrize(("pair", "fusion", "name", "value"), CASES)
def test_golden_values(pair: str, fusion: str, name: str, value: float) -> None:
    def image(x: Picture, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(x)[None, None].to(dtype) / 255

    for dtype, rel in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        if name == "MS-SSIM":
            rel = 1e-6  # the package's weights are float32
        elif name == "VIF":
            rel = max(rel, 1e-7)  # the package adds 1e-8 to denominators
        images = (image(x, dtype) for x in read(pair, fusion))
        assert float(METRICS[name]()(*images)) == pytest.approx(value, rel=rel, abs=1e-10), dtype


def test_every_metric_has_a_golden_value() -> None:
    assert {name for _, _, name, _ in CASES} == set(METRICS)
