"""Task networks by name: segmenters and detectors of the fused image, each made from the names of its classes."""

from collections.abc import Callable
from functools import partial

from tectum.protocols import Task
from tectum.tasks import dfine, segformer, yolo

TASKS: dict[str, Callable[..., Task]] = {
    **{f"segformer-{size}": partial(segformer.SegFormer, size=size) for size in segformer.DEPTHS},
    **{f"dfine-{size}": partial(dfine.DFine, size=size) for size in dfine.SIZES},
    **{f"yolo{v}{size}": partial(yolo.YOLO, version=v, size=size) for v in yolo.VERSIONS for size in yolo.SIZES},
}
"""Constructors (classes, *, channels=1, weights=None, ...) -> Task. The YOLOs need the extra `yolo` (AGPL-3.0)."""
