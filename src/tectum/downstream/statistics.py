"""Scores of inputs over seeds, and differences with an interval that counts both seeds and images.

With D_s the difference of two inputs' scores over all test images at seed s (same initial weights, same batches):

    D = mean_s D_s         D -/+ h,   h^2 = h_images^2 + h_seeds^2

    h_seeds  = t_(n-1) sd(D_s) / sqrt(n)          other seeds on these images, by Student's t for n seeds
    h_images = half the 95 % interval of D under 2,000 bootstrap resamples of the images, the same for all inputs and
               seeds                              other images with these networks

The score of a resample is that of the whole set with every image counted as often as it was drawn: mIoU and mAcc from
the sum of the images' confusion matrices, average precision from all detections in the order of their scores. With one
seed there is no h_seeds, and the interval says nothing of other seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tectum.data.transforms import area
from tectum.report.statistics import Array, bootstrap_weights, central_interval, student_t

RESAMPLES = 2_000
CHUNK = 250
"""Resamples at a time."""


class Counts(Protocol):
    """A cell's answers, ready to be scored with any number of copies of each image."""

    def scores(self, weights: Array) -> dict[str, Array]:
        """{score: (R,)} for weights (R, images), how often each image counts."""
        ...


@dataclass(frozen=True)
class Confusions:
    """Confusion matrices (images, C, C), true x predicted; `without` are classes left out of the means."""

    matrices: Array
    without: tuple[int, ...] = ()

    def scores(self, weights: Array) -> dict[str, Array]:
        num, classes = self.matrices.shape[:2]
        summed = (weights @ self.matrices.reshape(num, -1)).reshape(-1, classes, classes)
        right, of_target, predicted = np.einsum("rcc->rc", summed), summed.sum(2), summed.sum(1)
        kept = [c for c in range(classes) if c not in self.without]
        with np.errstate(invalid="ignore"):
            iou, recall = right / (of_target + predicted - right), right / of_target
        return {"mAcc": nanmean(recall[:, kept]), "mIoU": nanmean(iou[:, kept])}


@dataclass(frozen=True)
class Detections:
    """Detections of one set of images, matched with its boxes once for each overlap.

    Attributes:
        order: {class: the image of each detection, highest score first}.
        right: {(class, overlap): which of them have found a box}.
        num: {class: boxes of it in each image}, for the classes that occur and are not left out.
    """

    order: Mapping[int, Array]
    right: Mapping[tuple[int, float], Array]
    num: Mapping[int, Array]

    @staticmethod
    def of(
        found: Sequence[Mapping[str, Tensor]],
        targets: Sequence[Mapping[str, Tensor]],
        num_classes: int,
        overlaps: Sequence[float] = (0.5, 0.75),
        without: Sequence[int] = (),
    ) -> "Detections":
        order: dict[int, Array] = {}
        right: dict[tuple[int, float], Array] = {}
        num: dict[int, Array] = {}
        for c in range(num_classes):
            counts = np.array([int((t["labels"] == c).sum()) for t in targets], np.float64)
            if not counts.sum() or c in without:
                continue
            num[c], per_image = counts, []
            for f, t in zip(found, targets, strict=True):
                mine = f["labels"] == c
                rank = torch.argsort(f["scores"][mine], descending=True, stable=True)[:100]
                per_image.append((f["scores"][mine][rank], f["boxes"][mine][rank], t["boxes"][t["labels"] == c]))
            places = np.repeat(np.arange(len(found)), [len(s) for s, _, _ in per_image])
            ranks = np.argsort(-torch.cat([s for s, _, _ in per_image]).double().numpy(), kind="stable")
            order[c] = places[ranks]
            for overlap in overlaps:
                hits = torch.cat([matched(boxes, truth, overlap) >= 0 for _, boxes, truth in per_image])
                right[c, overlap] = hits.numpy()[ranks]
        return Detections(order, right, num)

    def scores(self, weights: Array) -> dict[str, Array]:
        found = {}
        for name, overlap in (("mAP50", 0.5), ("mAP75", 0.75)):
            columns = [
                precision(weights[:, self.order[c]], self.right[c, overlap], weights @ self.num[c]) for c in self.num
            ]
            found[name] = nanmean(np.stack(columns, 1)) if columns else np.full(len(weights), np.nan)
        return found


def precision(weights: Array, right: Array, num: Array) -> Array:
    """COCO's average precision (R,): detections in order with weights (R,D), right or not (D,), of num (R,) boxes."""
    hits, all_ = np.cumsum(weights * right, 1), np.cumsum(weights, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, value = hits / num[:, None], np.where(all_ > 0, hits / all_, 0.0)
    value = np.maximum.accumulate(value[:, ::-1], 1)[:, ::-1]
    wanted = np.linspace(0, 1, 101)
    found = np.full(len(weights), np.nan)
    for r in np.flatnonzero(num > 0):
        places = np.searchsorted(recall[r], wanted)
        found[r] = np.append(value[r], 0.0)[places].mean()
    return found


def matched(boxes: Tensor, truth: Tensor, overlap: float) -> Tensor:
    """For each box, highest score first, the box of the truth that it takes, or -1: (N,4), (M,4) -> (N,)."""
    found = torch.full((len(boxes),), -1)
    if not len(truth) or not len(boxes):
        return found
    both = iou(boxes.double(), truth.double())
    for i in range(len(boxes)):
        best = int(both[i].argmax())
        if both[i, best] >= overlap:
            found[i] = best
            both[:, best] = -1.0
    return found


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (N,4) and (M,4): (N,M)."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(2)
    return inside / (area(a)[:, None] + area(b)[None] - inside).clamp(min=1e-12)


def nanmean(x: Array) -> Array:
    """Means along the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(x)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(defined, x, 0.0).sum(-1) / defined.sum(-1)
    return found


@dataclass(frozen=True)
class Spread:
    """A score of an input over its finished seeds; NaN where there are none, sd NaN with one."""

    mean: float
    sd: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Gap:
    """An input minus the reference, over the seeds that both have finished.

    Attributes:
        mean: of the seeds' differences; NaN without a common seed.
        low, high: 95 %, of seeds and images.
        seeds: the difference of each.
        half_images, half_seeds: the two parts of the interval's half width; half_seeds is NaN with one seed.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    half_images: float
    half_seeds: float

    @property
    def verdict(self) -> str:
        """Better or worse where the interval leaves zero out; never on the word of a single seed."""
        if math.isnan(self.mean):
            return "n/a"
        if math.isnan(self.half_seeds) or self.low <= 0 <= self.high:
            return "not clear"
        return "better" if self.mean > 0 else "worse"


def spread(values: Sequence[float]) -> Spread:
    """
    >>> spread([0.25, 0.75]).mean, round(spread([0.25, 0.75]).sd, 4)
    (0.5, 0.3536)
    """
    if not values:
        return Spread(math.nan, math.nan, ())
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), sd, tuple(values))


def gaps(
    cells: Mapping[str, Mapping[int, Counts]], reference: str, num_images: int, *, resamples: int = RESAMPLES
) -> dict[str, dict[str, Gap]]:
    """{input: {score: Gap}} of every input but the reference.

    Args:
        cells: {input: {seed: counts}} of the finished cells.
        reference: the input that the others are compared with.
        num_images: of the test set.
        resamples: of the bootstrap.
    """
    whole = np.ones((1, num_images))
    draws = np.concatenate(list(bootstrap_weights(num_images, resamples, seed=0)))
    own, own_drawn = {}, {}
    for name, seeds in cells.items():
        own[name] = {seed: counts.scores(whole) for seed, counts in seeds.items()}
        own_drawn[name] = {seed: drawn(counts, draws) for seed, counts in seeds.items()}
    found: dict[str, dict[str, Gap]] = {}
    for name in cells:
        common = sorted(own[name].keys() & own.get(reference, {}).keys())
        if name == reference or not common:
            continue
        found[name] = {
            score: gap(
                [float(own[name][s][score][0] - own[reference][s][score][0]) for s in common],
                np.stack([own_drawn[name][s][score] - own_drawn[reference][s][score] for s in common]),
            )
            for score in own[name][common[0]]
        }
    return found


def drawn(counts: Counts, draws: Array) -> dict[str, Array]:
    parts = [counts.scores(draws[i : i + CHUNK]) for i in range(0, len(draws), CHUNK)]
    return {score: np.concatenate([part[score] for part in parts]) for score in parts[0]}


def gap(differences: Sequence[float], resampled: Array) -> Gap:
    """From the seeds' differences and those of resamples (seeds, R)."""
    mean = float(np.mean(differences))
    low, high = central_interval(resampled.mean(0))
    half_images = float(high - low) / 2
    num = len(differences)
    half_seeds = student_t(num - 1) * float(np.std(differences, ddof=1)) / math.sqrt(num) if num > 1 else math.nan
    half = math.hypot(half_images, 0.0 if math.isnan(half_seeds) else half_seeds)
    return Gap(mean, mean - half, mean + half, tuple(differences), half_images, half_seeds)
