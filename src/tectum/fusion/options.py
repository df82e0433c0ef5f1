"""The options of fusion, for `tectum fuse`, `FusePipeline` and `tectum.fuse` alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class FuseOptions:
    """Options of fusion. `FusePipeline` refuses values that no pair could be fused with.

    Args:
        system: Which fuser: tdfusion, tomiff, sfofusion, adasffuse, average, maximum, laplacian, or your own as
            package.module:Class; the kind's own without it (infrared: tdfusion).
        weights: Packaged weights or a .safetensors file; the system's own without it.
        variant: published takes the system as its authors released it, with weights of your own.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes CUDA, then MPS, then the CPU.
        dtype: Numbers the network computes with; bfloat16 is faster where hardware has it, and less exact.
        tile: Fuse in tiles of N x N pixels: for images that do not fit in memory; slower, same result.
        stretch: minmax spreads each result over the whole brightness range (a sequence then flickers).
        resize: Bring the infrared to the visible's size: one view in two resolutions.
        align: Register the infrared to the visible, each pair by itself; or hand-held exposures and foci to one of
            them. Refused where that went badly.
        rig: Register with a file of `tectum align`: one transform, one infrared range, no flicker.
        visible_range: Raw values that become black and white in the first image: auto, full, LOW,HIGH or percentiles
            pLOW,pHIGH.
        infrared_range: The same for the infrared, or the second image and those after it; auto takes percentiles 0.1
            and 99.9 of each 16-bit or float image that is infrared or medical.
        nodata: Raw value of pixels without data in the infrared or second image (A,B: in both), which show the other
            image; none takes constant borders, alpha 0 and GDAL_NODATA tags as data too.
        kind: What the images are: infrared, exposure, focus or medical (or IVF, MEF, MFF, MIF).
    """

    system: str | None = None
    weights: str | None = None
    variant: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    tile: int | None = None
    stretch: Literal["none", "minmax"] = "none"
    resize: bool = False
    align: bool = False
    rig: str | Path | None = None
    visible_range: str = "auto"
    infrared_range: str = "auto"
    nodata: str | None = None
    kind: str = "infrared"
