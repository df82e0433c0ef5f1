"""Base class of the detectors: boxes are checked, padded images are looked at, pixels become parts of the image.

A box is (x1, y1, x2, y2) as parts of the image, in [0,1].
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tectum.errors import UserError
from tectum.metrics.task import DetectionScore
from tectum.nn.modes import evaluation_mode
from tectum.pair import Boxes
from tectum.tasks.contract import check_batch, check_classes, check_image, describe, pad

STRIDE = 32
"""Images are padded to multiples of this many pixels."""


class Detector(nn.Module, ABC):
    """A network that finds boxes in an image.

    Args:
        classes: names; there is no background among them.
        channels: 1 for luminance, 3 for colour (a luminance then goes into all three).

    Attributes:
        classes, channels: as given.
        label_type: "boxes".
    """

    label_type = "boxes"

    def __init__(self, classes: Sequence[str], channels: int) -> None:
        super().__init__()
        self.classes, self.channels = check_classes(classes, channels), channels

    def loss(self, fused: Tensor, target: Sequence[Boxes]) -> Tensor:
        """The library's own criterion, a scalar, the mean over the images or over their boxes.

        Args:
            fused: (B,channels,H,W) in [0,1].
            target: boxes and labels of each image.

        Raises:
            UserError: targets that are no boxes, boxes outside the image, labels that are no class.
        """
        x = self._pad(fused)
        images = check_boxes(target, len(x), len(self.classes))
        scale = x.new_tensor([fused.shape[3] / x.shape[3], fused.shape[2] / x.shape[2]])  # parts of the padded image
        boxes = []
        for image in images:
            low, high = (image["boxes"].to(x)[:, part] * scale for part in (slice(2), slice(2, 4)))
            boxes.append(torch.cat([(low + high) / 2, high - low], 1))
        return self._criterion(x, boxes, [image["labels"].to(x.device) for image in images])

    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> list[Boxes]:
        """Boxes (N,4) as parts of the image, scores and labels of each image, best first; `size` does not matter."""
        with evaluation_mode(self), torch.no_grad():
            images = self._detect(self(fused), fused)
        return [_relative(*image, (fused.shape[2], fused.shape[3])) for image in images]

    def metric(self) -> DetectionScore:
        """An empty score: mAP50 first."""
        return DetectionScore(len(self.classes))

    def _pad(self, image: Tensor) -> Tensor:
        return pad(check_image(image, self.channels), multiple=STRIDE)

    @abstractmethod
    def _criterion(self, x: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """The loss of padded images and their boxes (N,4): centre and size, as parts of the padded image."""

    @abstractmethod
    def _detect(self, output: Any, fused: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Corners (N,4) in pixels, scores and labels of each image, from the network's output."""


def _relative(corners: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> Boxes:
    """Boxes in pixels of an image (H,W) as parts of it; those that lie outside are left out. Best score first."""
    height, width = size
    boxes = (corners.float() / corners.new_tensor([width, height, width, height])).clamp(0, 1)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    order = scores[inside].argsort(descending=True, stable=True)
    return {"boxes": boxes[inside][order], "scores": scores[inside][order], "labels": labels[inside][order].long()}


def check_boxes(target: Any, batch: int, num_classes: int) -> list[Boxes]:
    """Returns the boxes of each image.

    Raises:
        UserError: not a list of dicts with boxes (N,4) and labels (N,), boxes outside [0,1] or turned, labels that are
            no class.
    """
    if (
        isinstance(target, Tensor)
        or not isinstance(target, Sequence)
        or not all(isinstance(x, Mapping) for x in target)
    ):
        raise UserError(
            f'a detector learns from a list of {{"boxes", "labels"}}, one per image, got {describe(target)}; '
            "open the data with boxes as its target"
        )
    check_batch(target, batch)
    for i, image in enumerate(target):
        if missing := {"boxes", "labels"} - image.keys():
            raise UserError(f"a target must have boxes and labels, but image {i} lacks {', '.join(sorted(missing))}")
        boxes, labels = image["boxes"], image["labels"]
        if labels.dim() != 1 or boxes.shape != (len(labels), 4) or labels.is_floating_point():
            raise UserError(
                f"a target must have boxes (N,4) and integer labels (N,), got {tuple(boxes.shape)} and {labels.dtype} "
                f"{tuple(labels.shape)} in image {i} of the batch"
            )
        if not len(labels):
            continue
        low, high = (int(x) for x in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise UserError(
                f"labels must be 0 to {num_classes - 1}, got {low if low < 0 else high} in image {i} of the batch; "
                "check the classes and the label files"
            )
        valid = ((boxes >= 0) & (boxes <= 1)).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)  # NaN is not valid
        if not bool(valid.all()):
            raise UserError(
                "boxes must be x1 <= x2, y1 <= y2 as parts of the image, in [0,1], got "
                f"{[round(x, 3) for x in boxes[~valid][0].tolist()]} in image {i} of the batch; divide x by the width "
                "and y by the height"
            )
    return list(target)
