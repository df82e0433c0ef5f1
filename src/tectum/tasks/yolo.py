"""Detection by YOLOv8 and YOLOv5 (its anchor-free form, v5u) through ultralytics, for those who accept its licence.

**ultralytics is AGPL-3.0**: whoever distributes or serves a program together with it must follow that licence. It
comes only with the extra `tectum[yolo]`; this is the only module that imports it, and only when a YOLO is built.
Nothing of it is copied here. `tectum.tasks.detection` has a detector under Apache-2.0.

    loss       7.5 (1 - CIoU) + 0.5 BCE + 1.5 DFL over the anchors that the task-aligned assigner gives to the boxes,
               each divided by the sum of the batch's target scores
    predict    scores above a threshold, then non-maximum suppression class by class

ultralytics is kept quiet: no network, no installing of packages, settings in a folder that goes with the process, and
what its import changes in torch, NumPy, OpenCV and the environment is put back.

Reference: Ultralytics YOLOv8, Jocher et al., 2023, https://github.com/ultralytics/ultralytics
Differs from TDFusion's release: its YOLOv8 comes from another repository and starts from N(0, 0.02); its boxes were
divided by the wrong side of the image.
"""

import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tectum.errors import UserError
from tectum.metrics.task import DetectionScore
from tectum.pair import Boxes
from tectum.tasks.contract import (
    answering,
    as_answer,
    at_least,
    centred,
    check_boxes,
    check_classes,
    check_image,
    fill,
    read_tensors,
)
from tectum.tasks.vision import nms

VERSIONS, SIZES = ("v8", "v5"), "nsmlx"
STRIDE = 32
CANDIDATES, MOST = 3000, 300
"""Boxes that enter non-maximum suppression, and that leave it, per image."""


class YOLO(nn.Module):
    """YOLOv8 or YOLOv5u, randomly initialised or with your weights.

    Args:
        classes: names; there is no background among them.
        channels: 1 for luminance, 3 for colour (a luminance then goes into all three).
        weights: a safetensors file of this task's `state_dict`, or a .pt file of an ultralytics model's `state_dict`.
        version: "v8" or "v5".
        size: "n", "s", "m", "l" or "x"; v8 has 3.0, 11.1, 25.9, 43.6 and 68.2 million parameters.
        threshold: least score of a predicted box.
        overlap: predicted boxes of a class that overlap more than this (IoU) are one.
        momentum: share of a batch in the running means that `predict` uses. With the published 0.03 and a fast rate
            they lag: two images learned in 30 steps were not found in evaluation mode after 150, with 0.1 after 60.

    Attributes:
        classes, channels: as given.
        kind: "boxes".

    Raises:
        ValueError: weights that do not fit, or ultralytics is not installed.
    """

    kind = "boxes"

    def __init__(
        self,
        classes: Sequence[str],
        *,
        channels: int = 1,
        weights: str | Path | None = None,
        version: str = "v8",
        size: str = "n",
        threshold: float = 0.001,
        overlap: float = 0.7,
        momentum: float = 0.03,
    ) -> None:
        super().__init__()
        self.classes = check_classes(classes, channels)
        self.channels, self.threshold, self.overlap = channels, threshold, overlap
        self.network = network(len(self.classes), channels, version, size, momentum)
        if weights is not None:
            last = len(self.network.model) - 1
            head = f"network.model.{last}.cv3.0.2.weight"
            fill(self, read_weights(Path(weights)), weights, head=head, num_classes=len(self.classes))

    def forward(self, image: Tensor) -> Any:
        """What the network says of the image, its last row and column repeated up to a multiple of 32."""
        return self.network(at_least(check_image(image, self.channels), multiple=STRIDE))

    def loss(self, fused: Tensor, target: Sequence[Boxes]) -> Tensor:
        """ultralytics' own criterion, not multiplied by the batch size.

        Args:
            fused: (B,channels,H,W) in [0,1].
            target: boxes and labels of each image.

        Raises:
            ValueError: targets that are no boxes, boxes outside the image, labels that are no class.
        """
        x = at_least(check_image(fused, self.channels), multiple=STRIDE)
        boxes = check_boxes(target, len(x), len(self.classes))
        corners = torch.cat([image["boxes"].to(x) for image in boxes])
        owners = torch.cat([x.new_full((len(image["labels"]),), i) for i, image in enumerate(boxes)])
        labels = torch.cat([image["labels"].to(x) for image in boxes])
        batch = {"batch_idx": owners, "cls": labels, "bboxes": centred(corners, fused, x)}
        criterion = self.network.init_criterion()  # anew, for it remembers a device
        loss: Tensor = criterion(self(x), batch)[0].sum() / len(x)
        return loss

    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> list[Boxes]:
        """Boxes (N,4) as parts of the image, scores and labels of each image, best first; `size` does not matter."""
        with answering(self):
            found = self(fused)[0].float().transpose(1, 2)  # (B, anchors, 4 + classes): centre, size, scores
            return [self.answer(image, (fused.shape[2], fused.shape[3])) for image in found]

    def answer(self, found: Tensor, size: tuple[int, int]) -> Boxes:
        scores, index = found[:, 4:].flatten().topk(min(CANDIDATES, found[:, 4:].numel()))
        index, scores = index[scores > self.threshold], scores[scores > self.threshold]
        anchor, label = index // len(self.classes), index % len(self.classes)
        centre, half = found[anchor, :2], found[anchor, 2:4] / 2
        boxes = torch.cat([centre - half, centre + half], dim=1)
        apart = (boxes.abs().amax() * 2 + 1 if len(boxes) else 0) * label[:, None]  # classes do not meet
        kept = nms(boxes + apart, scores, self.overlap, most=MOST)
        return as_answer(boxes[kept], scores[kept], label[kept], size)

    def metric(self) -> DetectionScore:
        """An empty score: mAP50 first."""
        return DetectionScore(len(self.classes))


def network(num_classes: int, channels: int, version: str, size: str, momentum: float) -> Any:
    """An ultralytics DetectionModel from its own description."""
    name = f"yolo{version}{size}"
    if version not in VERSIONS or len(size) != 1 or size not in SIZES:
        raise UserError(f"a YOLO must be {' or '.join(VERSIONS)}, in a size of {', '.join(SIZES)}, got {name}")
    try:
        with quiet():
            library: Any = importlib.import_module("ultralytics")
            settings: Any = importlib.import_module("ultralytics.cfg")
            models: Any = importlib.import_module("ultralytics.nn.tasks")
    except ImportError as error:
        raise UserError(f"{name} needs ultralytics (AGPL-3.0): pip install 'tectum[yolo]', or take dfine-n") from error
    file = Path(library.__file__).parent / "cfg" / "models" / version / f"yolo{version}.yaml"
    description = library.utils.YAML.load(file) | {"scale": size, "nc": num_classes}
    net = models.DetectionModel(description, ch=channels, verbose=False)
    net.args = settings.get_cfg(library.utils.DEFAULT_CFG)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    return net.train()


SETTINGS = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
FOLDERS: list[Any] = []
"""Where ultralytics may write; they are gone when the process is."""


@contextmanager
def quiet() -> Iterator[None]:
    """Import ultralytics inside: offline, with its settings in a folder of this process, and leave no trace."""
    import cv2
    import numpy as np

    if "ultralytics" in sys.modules:
        yield
        return
    before, save, threads, printing = dict(os.environ), torch.save, cv2.getNumThreads(), np.get_printoptions()
    os.environ.update(SETTINGS)
    if "YOLO_CONFIG_DIR" not in os.environ:
        FOLDERS.append(tempfile.TemporaryDirectory(prefix="tectum-yolo-"))
        os.environ["YOLO_CONFIG_DIR"] = FOLDERS[-1].name
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for key in [key for key, value in os.environ.items() if before.get(key) != value]:
            os.environ.pop(key)
            os.environ.update({key: before[key]} if key in before else {})
        torch.save = save
        torch.set_printoptions(profile="default")
        np.set_printoptions(**printing)
        cv2.setNumThreads(threads)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict in a .pt file, by the task's names.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or holds more than tensors.
    """
    if path.suffix not in (".pt", ".pth") or not path.is_file():
        return read_tensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name if name.startswith("network.") else f"network.{name}": x.float() for name, x in state.items()}
    except Exception as error:  # zipfile, pickle and torch each raise their own
        raise UserError(
            f"{path} must be a state dict that can be read without running code in it, but {type(error).__name__}; "
            f"make one with torch.save(ultralytics.YOLO('{path.name}').model.float().state_dict(), 'weights.pt')"
        ) from error
