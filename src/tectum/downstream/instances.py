"""Labelled objects of one class, and which networks found each of them.

masks    an object is a connected piece of the label of at least 1/2000 of the image (150 pixels of 640x480);
         found when at least half of its pixels are given its class
         a false alarm is a connected piece of the prediction of that size with no labelled pixel in it
boxes    an object is a labelled box; found when a detection of its class with a score of 0.25 or more overlaps it by
         half (intersection over union) and is no better used for another
         a false alarm is such a detection that matches no box
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tectum.downstream.cell import load_predictions
from tectum.downstream.run import Cell, Comparison
from tectum.metrics.task import match_boxes
from tectum.report.painting import MIN_SCORE

Array = np.ndarray[Any, np.dtype[Any]]
_MIN_AREA = 1 / 2000
_MIN_COVERED = 0.5
_MIN_IOU = 0.5


@dataclass(frozen=True)
class ImageInstances:
    """The objects of one image, and which cells found them.

    Attributes:
        boxes: (N,4) around each, as parts of the image.
        found: {input: {seed: (N,) bool}}.
        false_alarms: {input: {seed: boxes (M,4)}}.
    """

    boxes: Array
    found: Mapping[str, Mapping[int, Array]]
    false_alarms: Mapping[str, Mapping[int, Array]]

    def gained(self, name: str, other: str, seed: int) -> int:
        """Number of objects that input `name` found and `other` missed."""
        return int((self.found[name][seed] & ~self.found[other][seed]).sum())

    def net_gain(self, name: str, others: Sequence[str], seed: int) -> int:
        """Net number of objects gained over the other inputs: found by `name` alone minus found by the other alone."""
        return sum(self.gained(name, other, seed) - self.gained(other, name, seed) for other in others)


def find_instances(comparison: Comparison, cells: Sequence[Cell], label: int) -> list[ImageInstances]:
    """Match the predictions of the finished cells with the labelled objects of a class.

    Args:
        comparison: prepared.
        cells: of its run.
        label: number of the class.

    Returns:
        One entry for each test image.
    """
    frames = comparison.test_frames
    predictions = {
        (cell.input, cell.seed): load_predictions(cell.folder, frames.names)
        for cell in cells
        if cell.result is not None
    }
    images = []
    for k, target in enumerate(frames.targets):
        found: dict[str, dict[int, Array]] = {}
        false_alarms: dict[str, dict[int, Array]] = {}
        objects = MaskInstances(target, label) if frames.has_masks else BoxInstances(target, label)
        for (name, seed), answers in predictions.items():
            found.setdefault(name, {})[seed], false_alarms.setdefault(name, {})[seed] = objects.match(answers[k])
        images.append(ImageInstances(objects.boxes, found, false_alarms))
    return images


class MaskInstances:
    """Connected pieces of a class in a labelled mask (H,W) uint8; `boxes` (N,4) lie around the large ones."""

    def __init__(self, target: Tensor, label: int) -> None:
        self.label, self.target = label, target.numpy() == label
        self.pieces, self.numbers, self.boxes = _connected_pieces(self.target)

    def match(self, mask: Tensor) -> tuple[Array, Array]:
        """Returns which pieces a predicted mask has found (N,), and boxes of its false alarms (M,4)."""
        predicted = mask.numpy() == self.label
        area = np.bincount(self.pieces.ravel(), minlength=self.numbers.max(initial=0) + 1)
        covered = np.bincount(self.pieces[predicted], minlength=len(area))
        pieces, numbers, boxes = _connected_pieces(predicted)
        labelled = np.bincount(pieces[self.target], minlength=numbers.max(initial=0) + 1)
        return covered[self.numbers] >= _MIN_COVERED * area[self.numbers], boxes[labelled[numbers] == 0]


class BoxInstances:
    """Labelled boxes (N,4) of a class."""

    def __init__(self, target: Mapping[str, Tensor], label: int) -> None:
        self.label, self.boxes = label, target["boxes"][target["labels"] == label].numpy()

    def match(self, prediction: Mapping[str, Tensor]) -> tuple[Array, Array]:
        """Returns which boxes were detected (N,), and the detections that are false alarms (M,4)."""
        of_class = (prediction["labels"] == self.label) & (prediction["scores"] >= MIN_SCORE)
        order = torch.argsort(prediction["scores"][of_class], descending=True, stable=True)
        boxes = prediction["boxes"][of_class][order]
        matches = match_boxes(boxes, torch.from_numpy(self.boxes), _MIN_IOU).numpy()
        return np.isin(np.arange(len(self.boxes)), matches), boxes.numpy()[matches < 0]


def _connected_pieces(is_class: Array) -> tuple[Array, Array, Array]:
    """Pieces numbered from 1 (H,W), the numbers of the large ones, and relative boxes (N,4) around those."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(is_class.astype(np.uint8), connectivity=8)
    numbers = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= _MIN_AREA * is_class.size)
    left, top, wide, high = (stats[numbers, column].astype(np.float32) for column in range(4))
    height, width = is_class.shape
    boxes = np.stack([left / width, top / height, (left + wide) / width, (top + high) / height], 1)
    return np.asarray(pieces), numbers, boxes.reshape(-1, 4)


@dataclass(frozen=True)
class InstanceCounts:
    """Objects of all images that one input's networks found, means over its seeds.

    Attributes:
        found, missed: labelled objects.
        false_alarms: see above.
        gained, lost: objects that the featured input found and this one missed, and the other way round; over the seeds
            that both have. None for the featured input itself.
        num_seeds: seeds of the means.
    """

    found: float
    missed: float
    false_alarms: float
    gained: float | None
    lost: float | None
    num_seeds: int


def count_instances(
    images: Sequence[ImageInstances], inputs: Sequence[str], featured: str
) -> dict[str, InstanceCounts]:
    """{input: counts over all images}; inputs without a finished cell are left out."""
    total = sum(len(image.boxes) for image in images)
    counts = {}
    for name in inputs:
        seeds = list(images[0].found.get(name, {})) if images else []
        if not seeds:
            continue
        found = np.mean([[image.found[name][seed].sum() for image in images] for seed in seeds], 0).sum()
        false = np.mean([[len(image.false_alarms[name][seed]) for image in images] for seed in seeds], 0).sum()
        common = [seed for seed in seeds if seed in images[0].found.get(featured, {})] if name != featured else []
        gained, lost = (
            float(np.mean([sum(image.gained(*pair, seed) for image in images) for seed in common])) if common else None
            for pair in ((featured, name), (name, featured))
        )
        counts[name] = InstanceCounts(float(found), total - float(found), float(false), gained, lost, len(seeds))
    return counts
