"""Makes a torchvision importable that was built for another torch; non-maximum suppression in plain torch.

The torchvision wheels of PyPI are built for CUDA. Beside a CPU torch their compiled part cannot be loaded, and then
`import torchvision` raises, as does every library that imports it when it is there, transformers among them. Nothing
tectum uses needs that part but one operator, non-maximum suppression, which is a few lines: greedy in the order of the
scores, a box is dropped when its overlap with one that stays is above the threshold.
"""

import importlib.util
import sys
from typing import Any

import torch
from torch import Tensor

_LIBRARIES: list[Any] = []
"""Keeps the Library alive; otherwise its operators unregister."""


def ensure_torchvision() -> bool:
    """Make torchvision importable where it is installed; returns False where it is not."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return True
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", suppress, "CPU")
    _LIBRARIES.append(library)
    import torchvision

    torchvision.extension._has_ops = lambda: True
    return True


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, *, max_boxes: int | None = None) -> Tensor:
    """Non-maximum suppression.

    Args:
        boxes: (N,4), x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: a box that overlaps a better one by more than this is dropped.
        max_boxes: how many may stay; None for all.

    Returns:
        Indices of the boxes that stay, best score first.

    >>> boxes = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [20, 0, 29, 9]])
    >>> suppress(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    x1, y1, x2, y2 = boxes[order].unbind(1)
    area = (x2 - x1) * (y2 - y1)
    dropped = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    indices: list[int] = []
    for i in range(len(order)):
        if dropped[i]:
            continue
        indices.append(i)
        if len(indices) == max_boxes:
            break
        width = (torch.minimum(x2[i], x2[i + 1 :]) - torch.maximum(x1[i], x1[i + 1 :])).clamp(min=0)
        height = (torch.minimum(y2[i], y2[i + 1 :]) - torch.maximum(y1[i], y1[i + 1 :])).clamp(min=0)
        common = width * height
        dropped[i + 1 :] |= common / (area[i] + area[i + 1 :] - common) > iou_threshold
    return order[indices]
