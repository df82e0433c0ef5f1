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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tectum.metrics.task import average_precision, class_means, match_boxes
from tectum.report.statistics import Array, bootstrap_weights, central_interval, student_t

_RESAMPLES = 2_000
_CHUNK = 250
"""Resamples that are scored at a time."""
_MAX_DETECTIONS = 100
"""Of an image and class, as COCO counts them."""

Scorer = Callable[[Array], dict[str, Array]]
"""Scores a cell's predictions: weights (R, images), how often each image counts -> {score: (R,)}."""


def confusion_scorer(matrices: Array, without: Sequence[int] = ()) -> Scorer:
    """mIoU and mAcc of a segmenter.

    Args:
        matrices: confusion matrices (images, C, C), true x predicted.
        without: classes left out of the means.
    """
    num_images, num_classes = matrices.shape[:2]
    flat = matrices.reshape(num_images, -1)

    def score(weights: Array) -> dict[str, Array]:
        summed = torch.from_numpy((weights @ flat).reshape(-1, num_classes, num_classes))
        miou, macc = class_means(summed, without=without).unbind(-1)
        return {"mAcc": macc.numpy(), "mIoU": miou.numpy()}

    return score


def detection_scorer(
    predictions: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    num_classes: int,
    without: Sequence[int] = (),
) -> Scorer:
    """mAP50 and mAP75 of a detector, whose boxes are matched once for all weights.

    Args:
        predictions: boxes, scores and labels of each image.
        targets: boxes and labels of each image.
        num_classes: classes are 0 to num_classes - 1.
        without: classes left out of the means.
    """
    classes = [
        _match_class(predictions, targets, label)
        for label in range(num_classes)
        if label not in without and any((target["labels"] == label).any() for target in targets)
    ]

    def score(weights: Array) -> dict[str, Array]:
        precisions = np.full((2, len(weights), max(1, len(classes))), np.nan)
        for c, (images, matches, num_boxes) in enumerate(classes):
            for k in range(2):
                precisions[k, :, c] = average_precision(weights[:, images], matches[k], weights @ num_boxes)
        return dict(zip(("mAP50", "mAP75"), torch.from_numpy(precisions).nanmean(-1).numpy(), strict=True))

    return score


def _match_class(
    predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]], label: int
) -> tuple[Array, list[Array], Array]:
    """Detections of a class, highest score first.

    Returns:
        the image of each detection (D,), whether it matches a box at an overlap of 0.5 and of 0.75 (D,), and the boxes
        of each image (images,).
    """
    scores, matches = [], ([], [])  # type: tuple[list[Tensor], tuple[list[Tensor], list[Tensor]]]
    num_boxes = np.array([int((target["labels"] == label).sum()) for target in targets], np.float64)
    for prediction, target in zip(predictions, targets, strict=True):
        of_class, boxes = prediction["labels"] == label, target["boxes"][target["labels"] == label]
        rank = torch.argsort(prediction["scores"][of_class], descending=True, stable=True)[:_MAX_DETECTIONS]
        scores.append(prediction["scores"][of_class][rank])
        for k, min_iou in enumerate((0.5, 0.75)):
            matches[k].append(match_boxes(prediction["boxes"][of_class][rank], boxes, min_iou) >= 0)
    images = np.repeat(np.arange(len(scores)), [len(x) for x in scores])
    order = np.argsort(-torch.cat(scores).double().numpy(), kind="stable")
    return images[order], [torch.cat(x).numpy()[order] for x in matches], num_boxes


@dataclass(frozen=True)
class SeedMean:
    """A score of an input over its finished seeds; NaN where there are none, sd NaN with one."""

    mean: float
    sd: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class SeedDifference:
    """A score of an input minus that of the reference, over the seeds that both have finished.

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
        """ "better" or "worse" if the interval leaves zero out, which takes two seeds; else "not clear" or "n/a"."""
        if math.isnan(self.mean):
            return "n/a"
        if math.isnan(self.half_seeds) or self.low <= 0 <= self.high:
            return "not clear"
        return "better" if self.mean > 0 else "worse"


def seed_mean(values: Sequence[float]) -> SeedMean:
    """Mean and standard deviation over seeds.

    >>> seed_mean([0.25, 0.75]).mean, round(seed_mean([0.25, 0.75]).sd, 4)
    (0.5, 0.3536)
    """
    if not values:
        return SeedMean(math.nan, math.nan, ())
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return SeedMean(float(np.mean(values)), sd, tuple(values))


def seed_difference(differences: Sequence[float], resampled: Array) -> SeedDifference:
    """Difference with its interval.

    Args:
        differences: of each seed, over all images.
        resampled: (seeds, R), of each seed in each resample of the images.
    """
    mean, num = float(np.mean(differences)), len(differences)
    low, high = central_interval(resampled.mean(0))
    half_images = float(high - low) / 2
    half_seeds = student_t(num - 1) * float(np.std(differences, ddof=1)) / math.sqrt(num) if num > 1 else math.nan
    half = math.hypot(half_images, 0.0 if math.isnan(half_seeds) else half_seeds)
    return SeedDifference(mean, mean - half, mean + half, tuple(differences), half_images, half_seeds)


def differences_to(
    reference: str, scorers: Mapping[str, Mapping[int, Scorer]], num_images: int
) -> dict[str, dict[str, SeedDifference]]:
    """Differences of every input to the reference.

    Args:
        reference: the input that the others are compared with.
        scorers: {input: {seed: scorer}} of the finished cells.
        num_images: of the test set.

    Returns:
        {input: {score: difference}} of the inputs that share a finished seed with the reference.
    """
    whole = np.ones((1, num_images))
    draws = np.concatenate(list(bootstrap_weights(num_images, _RESAMPLES, seed=0)))
    chunks = [whole, *(draws[i : i + _CHUNK] for i in range(0, len(draws), _CHUNK))]
    values: dict[str, dict[int, dict[str, Array]]] = {}  # {input: {seed: {score: (1 + R,)}}}, the whole set first
    for name, seeds in scorers.items():
        values[name] = {}
        for seed, scorer in seeds.items():
            parts = [scorer(weights) for weights in chunks]
            values[name][seed] = {score: np.concatenate([part[score] for part in parts]) for score in parts[0]}
    differences: dict[str, dict[str, SeedDifference]] = {}
    for name, own in values.items():
        theirs = values.get(reference, {})
        common = sorted(own.keys() & theirs.keys())
        if name == reference or not common:
            continue
        differences[name] = {}
        for score in own[common[0]]:
            gaps = np.stack([own[seed][score] - theirs[seed][score] for seed in common])
            differences[name][score] = seed_difference(gaps[:, 0].tolist(), gaps[:, 1:])
    return differences
