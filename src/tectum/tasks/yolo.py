"""YOLOv8 and YOLOv5 (its anchor-free form, v5u), detectors from ultralytics, for those who accept its licence.

**ultralytics is AGPL-3.0**: whoever distributes or serves a program together with it must follow that licence. It
comes only with the extra `tectum[yolo]`; this is the only module that imports it, and only when a YOLO is built.
Nothing of it is copied here. `tectum.tasks.dfine` is a detector under Apache-2.0.

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
from tectum.io.files import read_tensors
from tectum.tasks.contract import load_weights
from tectum.tasks.detector import Detector
from tectum.tasks.torchvision import suppress

VERSIONS, SIZES = ("v8", "v5"), "nsmlx"
_MAX_CANDIDATES, MAX_BOXES = 3000, 300
"""Boxes that enter non-maximum suppression, and that leave it, per image."""


class YOLO(Detector):
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

    Raises:
        UserError: weights that do not fit, or ultralytics is not installed.
    """

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
        super().__init__(classes, channels)
        self.threshold, self.overlap = threshold, overlap
        self.network = _network(len(self.classes), channels, version, size, momentum)
        if weights is not None:
            head = f"network.model.{len(self.network.model) - 1}.cv3.0.2.weight"
            load_weights(self, weights, len(self.classes), head=head, read=_read_weights)

    def forward(self, image: Tensor) -> Any:
        """ultralytics' output for the image, its last row and column repeated up to a multiple of 32."""
        return self.network(self._pad(image))

    def _criterion(self, x: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        owners = torch.cat([x.new_full((len(label),), i) for i, label in enumerate(labels)])
        batch = {"batch_idx": owners, "cls": torch.cat(labels).to(x), "bboxes": torch.cat(boxes)}
        criterion = self.network.init_criterion()  # anew, for it remembers a device
        loss: Tensor = criterion(self(x), batch)[0].sum() / len(x)  # it multiplies by the batch size
        return loss

    def _detect(self, output: Any, fused: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [self._suppress(image) for image in output[0].float().transpose(1, 2)]

    def _suppress(self, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels that stay of (anchors, 4 + classes): centre, size, scores."""
        scores, index = anchors[:, 4:].flatten().topk(min(_MAX_CANDIDATES, anchors[:, 4:].numel()))
        index, scores = index[scores > self.threshold], scores[scores > self.threshold]
        anchor, label = index // len(self.classes), index % len(self.classes)
        centre, half = anchors[anchor, :2], anchors[anchor, 2:4] / 2
        boxes = torch.cat([centre - half, centre + half], dim=1)
        shift = (boxes.abs().amax() * 2 + 1 if len(boxes) else 0) * label[:, None]  # so that classes do not meet
        best = suppress(boxes + shift, scores, self.overlap, max_boxes=MAX_BOXES)
        return boxes[best], scores[best], label[best]


def _network(num_classes: int, channels: int, version: str, size: str, momentum: float) -> Any:
    """An ultralytics DetectionModel from its own description."""
    name = f"yolo{version}{size}"
    if version not in VERSIONS or len(size) != 1 or size not in SIZES:
        raise UserError(f"a YOLO must be {' or '.join(VERSIONS)}, in a size of {', '.join(SIZES)}, got {name}")
    try:
        with _quiet():
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


_SETTINGS = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
_FOLDERS: list[Any] = []
"""Where ultralytics may write; the folders are removed when the process ends."""


@contextmanager
def _quiet() -> Iterator[None]:
    """For the import of ultralytics: offline, settings in a temporary folder, other libraries' settings put back."""
    import cv2
    import numpy as np

    if "ultralytics" in sys.modules:
        yield
        return
    before, save, threads, printing = dict(os.environ), torch.save, cv2.getNumThreads(), np.get_printoptions()
    os.environ.update(_SETTINGS)
    if "YOLO_CONFIG_DIR" not in os.environ:
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="tectum-yolo-"))
        os.environ["YOLO_CONFIG_DIR"] = _FOLDERS[-1].name
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


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict in a .pt file, by the task's names.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged, or holds more than tensors.
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
