"""The tasks by name: networks that look at the fused image, each made from the names of its classes."""

from collections.abc import Callable
from functools import partial

from tectum.protocols import Task
from tectum.tasks import detection, yolo
from tectum.tasks.segmentation import DEPTHS, SegFormer

TASKS: dict[str, Callable[..., Task]] = {
    **{f"segformer-{size}": partial(SegFormer, size=size) for size in DEPTHS},
    **{f"dfine-{size}": partial(detection.DFine, size=size) for size in detection.SIZES},
    **{f"yolo{v}{size}": partial(yolo.YOLO, version=v, size=size) for v in yolo.VERSIONS for size in yolo.SIZES},
}
"""Constructors (classes, *, channels=1, weights=None, ...) -> Task. The YOLOs need the extra `yolo` (AGPL-3.0)."""
