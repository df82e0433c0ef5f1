"""Conventions of published tables: their metrics, options of each, and how the images were saved before.

The same symbol means different numbers in different papers: VIF, SSIM and MI are means over the two sources in one
evaluator and sums in another (twice as much), MI is in nats or bits (1.44 times as many), SSIM has the constants of
0..255 or of -1..1, and many test scripts stretch every fused image to the full range before they save it, which raises
EN, SD, SF and AG. Only numbers of one convention belong in one table.

    convention(fused, a, b) -> {name: (M,)}         the columns of its table, in its order
    convention.quantize(fused) -> fused             a network's output as its test script saves it, 8 bits

`quantize` is for images one makes oneself; files already saved have been through it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from tectum.color import to_levels
from tectum.errors import UserError
from tectum.metrics import METRICS
from tectum.metrics.edges import Qabf
from tectum.metrics.exposure import MEFSSIM
from tectum.metrics.features import FMI
from tectum.metrics.information import CE, EN, MI, NMI, TE, Qncie
from tectum.metrics.metric import Metric
from tectum.metrics.multiscale import VIFF
from tectum.metrics.names import MetricNames
from tectum.metrics.perception import Qcb, Qcv
from tectum.metrics.saliency import Qw
from tectum.metrics.sharpness import EI
from tectum.metrics.similarity import Qy
from tectum.metrics.statistics import AG, CC, MSE, PSNR, RMSE, SCD, SD, SF
from tectum.metrics.structure import SSIM, VIF, truncate_to_levels

MetricFactory = Callable[[], Metric]


@dataclass(frozen=True)
class Convention:
    """Metrics of a published table with their options, and the steps its test script takes before it saves an image.

    Args:
        name: its key in CONVENTIONS.
        summary: one sentence.
        metrics: constructors by column, in the order of the table.
        luma: in words, the grey that its evaluator compares.
        stretch: its test script maps each fused image from its own smallest and largest value to 0..1.
        levels: rounding to 8 bits: to the nearest level (halves up, as `tectum fuse`), or to the one below.
        notes: other differences.
    """

    name: str
    summary: str
    metrics: Mapping[str, MetricFactory]
    luma: str
    stretch: bool
    levels: Literal["round", "truncate"]
    notes: str

    def __call__(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The value of every metric per fused image, (M,).

        Args:
            fused: luminance (M,1,H,W) in [0,1], on 8-bit levels as evaluators read them from files.
            a, b: the sources, (M,1,H,W), or (1,1,H,W) when all fused images are of one pair.

        Raises:
            ValueError: shapes that do not fit, or values outside [0,1].

        >>> import torch
        >>> images = torch.arange(4096.0).view(1, 1, 64, 64).remainder(256) / 255
        >>> list(CONVENTIONS["tdfusion"](images, images, images))
        ['EN', 'SF', 'SCD', 'VIF', 'Qabf', 'SSIM']
        """
        return {name: make()(fused, a, b) for name, make in self.metrics.items()}

    def quantize(self, fused: Tensor) -> Tensor:
        """Stretches images (where its test script does) and quantizes them to 8-bit levels, as the script saves them.

        Args:
            fused: (M,1,H,W) in [0,1]. A constant image cannot be stretched and keeps its value.

        Returns:
            (M,1,H,W) in [0,1], the image that its evaluator reads.

        >>> import torch
        >>> x = torch.tensor([0.1, 0.3, 0.7]).view(1, 1, 1, 3)
        >>> [(c.quantize(x) * 255).round().flatten().int().tolist() for c in list(CONVENTIONS.values())[:4]]
        [[26, 77, 179], [0, 85, 255], [0, 85, 255], [0, 85, 255]]
        """
        if self.stretch:
            low, high = fused.amin((1, 2, 3), keepdim=True), fused.amax((1, 2, 3), keepdim=True)
            flat = high <= low
            fused = (fused - low.masked_fill(flat, 0)) / (high - low).masked_fill(flat, 1)
        return to_levels(fused) if self.levels == "round" else truncate_to_levels(fused.clamp(0, 1))


def with_metrics(convention: Convention, names: Sequence[str] | None) -> Convention:
    """The convention with other columns; a metric that it lacks has the options of METRICS.

    Args:
        convention: its columns are replaced.
        names: in the order of the table, in capital or small letters; "all" takes every one, None changes nothing.

    Raises:
        ValueError: unknown names (a `KeyError` too), or none.

    >>> list(with_metrics(CONVENTIONS["tectum"], ["vif", "MS-SSIM"]).metrics)
    ['VIF', 'MS-SSIM']
    """
    if names is None:
        return convention
    if not names:
        raise UserError("at least one metric must be given; leave the option out for the convention's own")
    known = MetricNames[MetricFactory]({**METRICS, **convention.metrics})
    symbols = list(known) if [name.lower() for name in names] == ["all"] else [known.symbol(name) for name in names]
    return replace(convention, metrics=MappingProxyType({symbol: known[symbol] for symbol in symbols}))


_TWELVE = ("EN", "SD", "SF", "AG", "MI", "CC", "SCD", "PSNR", "MSE", "SSIM", "VIF", "Qabf")
_GREY = "BT.601 grey of colour images, rounded to 8 bits before anything is computed"


def _sums(vif: str, *, data_range: float) -> Mapping[str, MetricFactory]:
    """The columns of the evaluators that add over the sources; `vif` is their name of vifp."""
    return MappingProxyType(
        {
            "EN": EN,
            "SD": SD,
            "SF": SF,
            "MI": partial(MI, reduction="sum"),
            "SCD": SCD,
            vif: partial(VIF, reduction="sum"),
            "Qabf": Qabf,
            "SSIM": partial(SSIM, reduction="sum", data_range=data_range),
        }
    )


def _vifb() -> dict[str, MetricFactory]:
    """The thirteen columns of VIFB."""
    return {
        "CE": CE,
        "EN": EN,
        "MI": partial(MI, reduction="sum"),
        "PSNR": partial(PSNR, peak=255, root_of_sum=True),
        "AG": partial(AG, divide_by="differences"),
        "EI": EI,
        "Qabf": Qabf,
        "SD": SD,
        "SF": partial(SF, divide_by="pixels"),
        "Qcb": Qcb,
        "Qcv": Qcv,
        "RMSE": partial(RMSE, root_of_sum=True),
        "SSIM": partial(SSIM, window="gaussian", reduction="sum"),
    }


def _mefb(ssim: str, factory: MetricFactory) -> Mapping[str, MetricFactory]:
    """The columns of MEFB and MFIFB, which differ in one of structure."""
    shared = _vifb()
    own: dict[str, MetricFactory] = {
        "NMI": NMI,
        "TE": partial(TE, form="cvejic", released=True),
        "Qncie": Qncie,
        "FMI": FMI,
        "Qw": partial(Qw, edges=True),
        "Qy": Qy,
        ssim: factory,
        "VIF": VIFF,
    }
    del shared["MI"], shared["RMSE"], shared["SSIM"]
    return MappingProxyType(shared | own)


_UNVERIFIED = (
    "Not compared with its evaluator, and taken from VIFB's: CE, EN, PSNR, AG, EI, SD, SF, Qabf. Left out: Q_P (phase "
    "congruency) and Q_C, whose printed values were not reproduced."
)

CONVENTIONS: dict[str, Convention] = {
    convention.name: convention
    for convention in (
        Convention(
            name="tectum",
            summary="Ours: twelve metrics that have outside reference values, means over the sources, no stretching.",
            metrics=MappingProxyType({name: METRICS[name] for name in _TWELVE}),
            luma=_GREY,
            stretch=False,
            levels="round",
            notes="MI in nats. PSNR has the fused image's largest level as its peak. SCD is a sum by definition.",
        ),
        Convention(
            name="tdfusion",
            summary="TDFusion (CVPR 2025): six metrics, VIF and SSIM as means over the two sources.",
            metrics=MappingProxyType(
                {"EN": EN, "SF": SF, "SCD": SCD, "VIF": VIF, "Qabf": Qabf, "SSIM": partial(SSIM, truncate=True)}
            ),
            luma=_GREY,
            stretch=True,
            levels="truncate",
            notes="SSIM casts the images to uint8, which cuts fractions off; it changes nothing on 8-bit levels.",
        ),
        Convention(
            name="cddfuse",
            summary="CDDFuse (CVPR 2023) and many papers with its evaluator: sums over the two sources, MI in nats.",
            metrics=_sums("VIF", data_range=2.0),
            luma=_GREY,
            stretch=True,
            levels="truncate",
            notes=(
                "SSIM has the data range 2 on images of 0..255, the silent default of the library of its time; "
                "with 255 the same images get 1.1 to 1.8 times as much. Its rows for other methods are of images as "
                "those methods saved them. Saving depends on the version of the image library (some round): truncation "
                "is assumed."
            ),
        ),
        Convention(
            name="adasffuse",
            summary="AdaSFFuse (2025): sums over the two sources, MI in nats; its VIFF is twice the mean vifp.",
            metrics=_sums("VIFF", data_range=255.0),
            luma=_GREY,
            stretch=True,
            levels="truncate",
            notes="The column VIFF is the pixel-domain VIF (vifp), summed, not Han's VIFF. SSIM has the range 255.",
        ),
        Convention(
            name="vifb",
            summary="VIFB (CVPRW 2020), infrared and visible: its thirteen metrics; MI and SSIM are sums.",
            metrics=MappingProxyType(_vifb()),
            luma=_GREY,
            stretch=False,
            levels="round",
            notes=(
                "PSNR and RMSE take sqrt(sum of squares) / (H W) for the mean squared error and its root: a slip, "
                "reproduced here alone, that makes PSNR 54 to 65 dB. AG divides by (H-1)(W-1), SF by H W (its formula, "
                "no value was at hand). SD is printed as Variance. EN was not compared."
            ),
        ),
        Convention(
            name="mefb",
            summary="MEFB (Information Fusion 2021), exposures: its metrics but two; TE is Cvejic's, FMI of edges.",
            metrics=_mefb("MEF-SSIM", MEFSSIM),
            luma=_GREY,
            stretch=False,
            levels="round",
            notes=(
                'Its "VIF" is Han\'s VIFF, its "Qw" the index of the Prewitt edge images, its "FMI" that of edges. In '
                f"flat windows its Q_Y divides rounding errors. {_UNVERIFIED}"
            ),
        ),
        Convention(
            name="mfifb",
            summary="MFIFB (2021), foci: as MEFB, with VIFB's SSIM; unverified but for the columns of MEFB.",
            metrics=_mefb("SSIM", partial(SSIM, window="gaussian", reduction="sum")),
            luma=_GREY,
            stretch=False,
            levels="round",
            notes=f"Its own evaluators were not at hand; those of MEFB are of the same author. {_UNVERIFIED}",
        ),
        Convention(
            name="ivif-zoo",
            summary="IVIF_ZOO (the survey of Liu et al., 2024): those of its columns that are published metrics.",
            metrics=MappingProxyType(
                {
                    "EN": EN,
                    "SF": SF,
                    "AG": AG,
                    "CC": CC,
                    "SCD": SCD,
                    "Qabf": Qabf,
                    "MSE": partial(MSE, unit_range=True),
                    "PSNR": partial(PSNR, peak=255.0**2),
                }
            ),
            luma=_GREY,
            stretch=False,
            levels="round",
            notes=(
                "In float32, so equal to 1e-4. MSE is of 0..1, PSNR has 255 squared as its peak. Left out, because "
                "their definitions are its own: SD, MI, NMI, EI, CE (a cross entropy of sigmoids), Qncie (of Pearson's "
                "r), TE (a sum of Shannon entropies), VIF (padded), SSIM and MS-SSIM (scaled twice), Qcb, Qy, Nabf."
            ),
        ),
    )
}
