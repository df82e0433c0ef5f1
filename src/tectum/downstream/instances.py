"""Who was seen: the labelled things of one class, and which inputs' networks found each of them.

masks    a thing is a connected piece of the label of at least 1/2000 of the image (150 pixels of 640x480);
         found when at least half of its pixels are given its class
         a false alarm is a connected piece of the prediction of that size with no labelled pixel in it
boxes    a thing is a labelled box; found when a detection of its class with a score of 0.25 or more overlaps it by
         half (intersection over union) and is no better used for another
         a false alarm is such a detection that has taken no box
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tectum.downstream.cell import load_predictions
from tectum.downstream.run import Cell, Comparison
from tectum.downstream.statistics import matched
from tectum.report.painting import MIN_SCORE

Array = np.ndarray[Any, np.dtype[Any]]
SMALLEST = 1 / 2000
COVERED = 0.5
OVERLAP = 0.5


@dataclass(frozen=True)
class Seen:
    """The things of one image, and what came of them.

    Attributes:
        boxes: (N,4) around each, as parts of the image.
        found: {input: {seed: (N,) bool}}.
        false: {input: {seed: boxes of false alarms (M,4)}}.
    """

    boxes: Array
    found: Mapping[str, Mapping[int, Array]]
    false: Mapping[str, Mapping[int, Array]]

    def gained(self, one: str, other: str, seed: int) -> int:
        """Things that `one` found and `other` missed."""
        return int((self.found[one][seed] & ~self.found[other][seed]).sum())

    def bought(self, one: str, others: Sequence[str], seed: int) -> int:
        """What `one` found and each of the others missed, minus what it missed and they found."""
        return sum(self.gained(one, o, seed) - self.gained(o, one, seed) for o in others)


def seen(comparison: Comparison, cells: Sequence[Cell], label: int) -> list[Seen]:
    """One entry a test image, for the finished cells.

    Args:
        comparison: prepared.
        cells: of its run.
        label: number of the class.
    """
    frames = next(iter(comparison.frames.values()))["test"]
    predictions = {
        (cell.input, cell.seed): load_predictions(cell.folder, frames.names) for cell in cells if cell.row is not None
    }
    images = []
    for k, target in enumerate(frames.targets):
        found: dict[str, dict[int, Array]] = {}
        false: dict[str, dict[int, Array]] = {}
        pieces = masked(target, label) if isinstance(target, Tensor) else boxed(target, label)
        for (name, seed), answers in predictions.items():
            hit, alarms = pieces.judge(answers[k])
            found.setdefault(name, {})[seed], false.setdefault(name, {})[seed] = hit, alarms
        images.append(Seen(pieces.boxes, found, false))
    return images


@dataclass(frozen=True)
class Pieces:
    """Labelled pieces of a mask: their numbers in (H,W), and boxes around those that are large enough."""

    label: int
    target: Array
    pieces: Array
    chosen: Array
    boxes: Array

    def judge(self, mask: Tensor) -> tuple[Array, Array]:
        """Which pieces a predicted mask has found, and boxes of its false alarms."""
        said = mask.numpy() == self.label
        size = np.bincount(self.pieces.ravel(), minlength=self.chosen.max(initial=0) + 1)
        covered = np.bincount(self.pieces[said], minlength=len(size))
        found = covered[self.chosen] >= COVERED * size[self.chosen]
        numbers, chosen, boxes = connected(said)
        touched = np.bincount(numbers[self.target == self.label], minlength=chosen.max(initial=0) + 1)
        return found, boxes[touched[chosen] == 0]


@dataclass(frozen=True)
class Boxed:
    """Labelled boxes of one class."""

    label: int
    boxes: Array

    def judge(self, answer: Mapping[str, Tensor]) -> tuple[Array, Array]:
        """Which boxes were detected, and the detections that are false alarms."""
        mine = (answer["labels"] == self.label) & (answer["scores"] >= MIN_SCORE)
        order = torch.argsort(answer["scores"][mine], descending=True, stable=True)
        boxes = answer["boxes"][mine][order]
        taken = matched(boxes, torch.from_numpy(self.boxes), OVERLAP).numpy()
        return np.isin(np.arange(len(self.boxes)), taken), boxes.numpy()[taken < 0]


def masked(target: Tensor, label: int) -> Pieces:
    mask = target.numpy()
    return Pieces(label, mask, *connected(mask == label))


def boxed(target: Mapping[str, Tensor], label: int) -> Boxed:
    return Boxed(label, target["boxes"][target["labels"] == label].numpy())


def connected(there: Array) -> tuple[Array, Array, Array]:
    """Pieces numbered from 1, the numbers of the large ones, and boxes (N,4) around those as parts of the image."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(there.astype(np.uint8), connectivity=8)
    chosen = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= SMALLEST * there.size)
    left, top, wide, high = (stats[chosen, column].astype(np.float32) for column in range(4))
    height, width = there.shape
    boxes = np.stack([left / width, top / height, (left + wide) / width, (top + high) / height], 1)
    return np.asarray(pieces), chosen, boxes.reshape(-1, 4)


@dataclass(frozen=True)
class Tally:
    """What one input's networks found, a mean over its seeds.

    Attributes:
        found, missed: labelled things.
        false: alarms.
        gained, lost: things that the shown input found and this one missed, and the other way round; over the seeds
            that both have. None for the shown input itself.
        seeds: how many.
    """

    found: float
    missed: float
    false: float
    gained: float | None
    lost: float | None
    seeds: int


def tallies(images: Sequence[Seen], inputs: Sequence[str], shown: str) -> dict[str, Tally]:
    """Over all images; inputs without a finished cell are left out."""
    total = sum(len(image.boxes) for image in images)
    rows = {}
    for name in inputs:
        seeds = list(images[0].found.get(name, {})) if images else []
        if not seeds:
            continue
        found = np.mean([[image.found[name][seed].sum() for image in images] for seed in seeds], 0).sum()
        false = np.mean([[len(image.false[name][seed]) for image in images] for seed in seeds], 0).sum()
        both = [seed for seed in seeds if seed in images[0].found.get(shown, {})] if name != shown else []
        gained, lost = (
            float(np.mean([sum(image.gained(*pair, seed) for image in images) for seed in both])) if both else None
            for pair in ((shown, name), (name, shown))
        )
        rows[name] = Tally(float(found), total - float(found), float(false), gained, lost, len(seeds))
    return rows
