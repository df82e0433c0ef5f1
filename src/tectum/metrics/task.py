"""Task scores over a data set: mIoU, mAcc and pixel accuracy of a segmenter, average precision of a detector.

Segmentation, from one confusion matrix M (true class x predicted class) over all pixels that count:

    IoU_c = M_cc / (sum_j M_cj + sum_i M_ic - M_cc)        mIoU = mean of IoU_c over the classes that occur
    recall_c = M_cc / sum_j M_cj                           mAcc = mean of recall_c over the classes of the target
    accuracy = sum_c M_cc / sum M

Detection, the average precision of COCO: a detection is a true positive when it matches a box of its class that no
detection of higher score has matched, at an intersection over union of t or more, and

    AP_t = mean over r = 0, 0.01, .., 1 of the largest precision at recall >= r (0 where recall r is never reached)
    mAP50 = mean over classes of AP_0.5        mAP = mean over classes and over t = 0.5, 0.55, .., 0.95

What is not defined (a class that does not occur) is NaN, and no mean counts it.

`SegmentationScore` and `DetectionScore` collect a data set. `class_means`, `match_boxes` and `average_precision` apply
the same definitions to counts that are there already, for example to a bootstrap's weighted images.

Reference: Microsoft COCO: Common Objects in Context, Lin et al., ECCV 2014, https://arxiv.org/abs/1405.0312; evaluated
by faster-coco-eval, https://github.com/MiXaiLL76/faster_coco_eval
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tectum.errors import UserError

Classes = Literal["present", "target"]
_Floats = NDArray[np.float64]
_NAN = float("nan")


@dataclass(frozen=True)
class Segmentation:
    """A segmenter's score; all in [0,1], higher is better, NaN where nothing defines it.

    Attributes:
        miou: mean intersection over union.
        macc: mean recall over the classes of the target.
        accuracy: share of the pixels that have their class.
        iou: of each class; NaN for classes absent from target and prediction.
        recall: of each class; NaN for classes absent from the target.
        num_pixels: number of pixels counted.
    """

    miou: float
    macc: float
    accuracy: float
    iou: tuple[float, ...]
    recall: tuple[float, ...]
    num_pixels: int


class SegmentationScore:
    """mIoU, mAcc and pixel accuracy over a data set.

    Args:
        num_classes: classes are 0 .. num_classes - 1.
        ignore_index: label of the target for pixels that do not count; None when there is none.

    Attributes:
        confusion: (C, C) int64 on the CPU, true class x predicted class. Those of several processes may be added.

    >>> score = SegmentationScore(3)
    >>> score.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]]))
    >>> score.compute().iou
    (0.5, 0.5, nan)
    """

    def __init__(self, num_classes: int, ignore_index: int | None = 255) -> None:
        _check_num_classes(num_classes)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reset()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Counts the pixels of a batch.

        Args:
            prediction: classes (B,H,W), any integer type; its values at ignored pixels do not matter.
            target: classes or `ignore_index` (B,H,W), on the same device.

        Raises:
            ValueError: shapes or types that do not fit, or a label that is no class.
        """
        if prediction.shape != target.shape or target.dim() != 3:
            raise UserError(
                "prediction and target must share one shape (B,H,W), got "
                f"{tuple(prediction.shape)} and {tuple(target.shape)}; take the argmax over classes, and resize"
            )
        for name, x in (("prediction", prediction), ("target", target)):
            if x.is_floating_point() or x.is_complex():
                raise UserError(f"{name} must hold class numbers as integers, got {x.dtype}; take the argmax")
        is_counted = target != self.ignore_index if self.ignore_index is not None else torch.ones_like(target).bool()
        true, predicted = target[is_counted].long(), prediction[is_counted].long()
        if not true.numel():
            return
        for name, x in (("prediction", predicted), ("target", true)):
            low, high = (int(v) for v in x.aminmax())
            if low < 0 or high >= self.num_classes:
                ignored = "" if self.ignore_index is None else f" (or {self.ignore_index} in the target: ignored)"
                raise UserError(
                    f"labels must be 0 to {self.num_classes - 1}{ignored}, got {low if low < 0 else high} in the "
                    f"{name}; check num_classes and the label files"
                )
        counts = torch.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.confusion += counts.reshape(self.num_classes, self.num_classes).cpu()

    def merge(self, other: "SegmentationScore") -> None:
        """Adds the pixels that another score has counted, for example in another process.

        Raises:
            ValueError: it counts other classes.
        """
        own, others = ((score.num_classes, score.ignore_index) for score in (self, other))
        if own != others:
            raise UserError(f"scores must share num_classes and ignore_index to be merged, got {own} and {others}")
        self.confusion += other.confusion

    def compute(self, *, classes: Classes = "present", without: Sequence[int] = ()) -> Segmentation:
        """The score of all pixels since the last `reset`.

        Args:
            classes: the classes that mIoU is a mean over: "present" takes those that occur in target or prediction, so
                that a class predicted where there is none counts as 0; "target" those of the target alone, which is
                kinder to false alarms.
            without: classes left out of mIoU and mAcc, e.g. one too rare to be scored. Their pixels still count in the
                accuracy, and against whichever class was predicted there.
        """
        matrix = self.confusion.double()
        miou, macc = class_means(matrix, classes=classes, without=without).tolist()
        iou, recall = _iou_and_recall(matrix)
        return Segmentation(
            miou=miou,
            macc=macc,
            accuracy=float(matrix.trace() / matrix.sum()),
            iou=tuple(iou.tolist()),
            recall=tuple(recall.tolist()),
            num_pixels=int(self.confusion.sum()),
        )

    def numbers(self) -> dict[str, float]:
        """Returns {"mIoU": .., "mAcc": ..}."""
        score = self.compute()
        return {"mIoU": score.miou, "mAcc": score.macc}

    def reset(self) -> None:
        """Forgets the pixels counted."""
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)


def class_means(confusion: Tensor, *, classes: Classes = "present", without: Sequence[int] = ()) -> Tensor:
    """mIoU and mAcc of confusion matrices, weighted ones too.

    Args:
        confusion: (..., C, C), true class x predicted class.
        classes, without: as of `SegmentationScore.compute`.

    Returns:
        (..., 2) float64: mIoU and mAcc, NaN where no class is defined.

    Raises:
        ValueError: `classes` or `without` is not one of those.

    >>> class_means(torch.tensor([[2, 1], [1, 2]])).tolist()
    [0.5, 0.6666666666666666]
    """
    num_classes = confusion.shape[-1]
    if classes not in ("present", "target"):
        raise UserError(f"classes must be 'present' or 'target', got {classes!r}")
    if outside := [c for c in without if not 0 <= c < num_classes]:
        raise UserError(f"without must name classes 0 to {num_classes - 1}, got {outside}")
    iou, recall = _iou_and_recall(confusion.double())
    values = torch.stack([iou if classes == "present" else iou.where(~recall.isnan(), _NAN), recall], -2)
    values[..., list(without)] = _NAN
    return values.nanmean(-1)


def _iou_and_recall(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Of each class, (..., C) from (..., C, C) float64; 0/0 is NaN."""
    true_positives, of_target, predicted = matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-1), matrix.sum(-2)
    return true_positives / (of_target + predicted - true_positives), true_positives / of_target


@dataclass(frozen=True)
class Detection:
    """A detector's score; all in [0,1], higher is better, NaN where no target has a box (of the class).

    Attributes:
        map50, map75: mean over classes of the average precision at IoU 0.5 and 0.75.
        map: mean over classes and over the ten IoU 0.5, 0.55, .., 0.95.
        ap50: average precision of each class at IoU 0.5; 0 for a class that occurs and was never detected.
        num_images: number of images scored.
    """

    map50: float
    map75: float
    map: float
    ap50: tuple[float, ...]
    num_images: int


class DetectionScore:
    """Mean average precision as COCO defines it, over boxes of all areas, at most 100 detections an image and class.

    A class counts in the means when some target has a box of it; false alarms of other classes cost nothing. Of
    detections with equal scores the earlier ones come first.

    Args:
        num_classes: classes are 0 .. num_classes - 1.

    Raises:
        ValueError: faster-coco-eval is not installed.

    >>> score = DetectionScore(1)
    >>> box = {"boxes": torch.tensor([[2.0, 2.0, 9.0, 9.0]]), "labels": torch.tensor([0])}
    >>> score.update([box | {"scores": torch.tensor([0.8])}], [box])
    >>> round(score.compute().map, 6)
    1.0
    """

    def __init__(self, num_classes: int) -> None:
        _check_num_classes(num_classes)
        _import_coco()
        self.num_classes = num_classes
        self.reset()

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds the images of a batch.

        Args:
            predictions: for each image boxes (N,4) as x1, y1, x2, y2 (pixels, or parts of the image: the overlap
                of boxes is the same), scores (N,) and labels (N,).
            targets: for each image boxes (N,4) and labels (N,). N may be 0 in both.

        Raises:
            ValueError: counts or shapes that do not fit, a label that is no class, an invalid box or score.
        """
        if len(predictions) != len(targets):
            raise UserError(f"there must be one target for each prediction, got {len(targets)}, {len(predictions)}")
        detections = [self._check(x, "prediction", ("boxes", "labels", "scores")) for x in predictions]
        expected = [self._check(x, "target", ("boxes", "labels")) for x in targets]
        self._images += zip(detections, expected, strict=True)

    def _check(self, image: Mapping[str, Tensor], what: str, keys: tuple[str, ...]) -> dict[str, Tensor]:
        """The tensors of one image on the CPU, in float64 but for the labels; refuses what cannot be scored."""
        if missing := [key for key in keys if key not in image]:
            raise UserError(f"a {what} must have {', '.join(keys)}, but lacks {', '.join(missing)}")
        tensors = {key: image[key].detach().cpu() for key in keys}
        num = len(tensors["labels"]) if tensors["labels"].dim() == 1 else -1
        shapes = {key: tuple(x.shape) for key, x in tensors.items()}
        if shapes != {key: (num, 4) if key == "boxes" else (num,) for key in keys}:
            raise UserError(f"a {what} must have boxes (N,4) and the rest (N,), got {shapes}")
        if tensors["labels"].is_floating_point():
            raise UserError(f"labels must be integers, got {tensors['labels'].dtype} in a {what}; use .long()")
        tensors = {key: x.long() if key == "labels" else x.double() for key, x in tensors.items()}
        labels, boxes = tensors["labels"], tensors["boxes"]
        if len(unknown := labels[(labels < 0) | (labels >= self.num_classes)]):
            raise UserError(f"labels must be 0 to {self.num_classes - 1}, got {int(unknown[0])} in a {what}")
        if not all(bool(x.isfinite().all()) for x in tensors.values()):
            raise UserError(f"boxes and scores must be finite, got NaN or infinity in a {what}")
        if len(inverted := boxes[(boxes[:, 2:] < boxes[:, :2]).any(1)]):
            raise UserError(f"boxes must be x1 <= x2, y1 <= y2 (not centre and size), got {inverted[0].tolist()}")
        return tensors

    def merge(self, other: "DetectionScore") -> None:
        """Adds the images of another score, for example of another process; no image should be in both."""
        if self.num_classes != other.num_classes:
            raise UserError(
                f"scores must share num_classes to be merged, got {self.num_classes} and {other.num_classes}"
            )
        self._images += other._images

    def compute(self) -> Detection:
        """The score of all images since the last `reset`."""
        num_images = len(self._images)
        if not any(len(target["labels"]) for _, target in self._images):
            return Detection(_NAN, _NAN, _NAN, (_NAN,) * self.num_classes, num_images)
        coco, evaluator = _import_coco()
        detections, targets = coco(), coco()
        for dataset, images in zip((detections, targets), zip(*self._images, strict=True), strict=True):
            dataset.dataset = {
                "images": [{"id": i} for i in range(num_images)],
                "categories": [{"id": c, "name": str(c)} for c in range(self.num_classes)],
                "annotations": _to_coco(images),
            }
            dataset.createIndex()
        evaluation = evaluator(targets, detections, "bbox", print_function=lambda *_: None)
        parameters = evaluation.params
        parameters.areaRng, parameters.areaRngLbl, parameters.maxDets = [[0, 1e10]], ["all"], [100]
        evaluation.evaluate()
        evaluation.accumulate()
        precision = torch.from_numpy(evaluation.eval["precision"])[..., 0, 0]  # IoU, recall, class; -1 where undefined
        ap = precision.where(precision > -1, _NAN).mean(1)
        means = ap.nanmean(1)
        return Detection(float(means[0]), float(means[5]), float(means.mean()), tuple(ap[0].tolist()), num_images)

    def numbers(self) -> dict[str, float]:
        """Returns {"mAP50": .., "mAP75": .., "mAP": ..}."""
        score = self.compute()
        return {"mAP50": score.map50, "mAP75": score.map75, "mAP": score.map}

    def reset(self) -> None:
        """Forgets the images added."""
        self._images: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []


def average_precision(weights: _Floats, is_match: NDArray[np.bool_], num_boxes: _Floats) -> _Floats:
    """COCO's average precision of one class, for R weightings of the images at once.

    Args:
        weights: (R,D), how often each detection counts (its image's weight), in order of falling score.
        is_match: (D,), which detections match a box (`match_boxes`).
        num_boxes: (R,), weighted number of the targets' boxes.

    Returns:
        (R,) in [0,1], NaN where there is no box.

    >>> average_precision(np.ones((1, 2)), np.array([True, False]), np.array([1.0])).tolist()
    [1.0]
    """
    true_positives, detections = np.cumsum(weights * is_match, 1), np.cumsum(weights, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true_positives / num_boxes[:, None]
        precision = np.where(detections > 0, true_positives / detections, 0.0)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # the largest at this recall or more
    values = np.full(len(weights), np.nan)
    for r in np.flatnonzero(num_boxes > 0):
        first = np.searchsorted(recall[r], np.linspace(0, 1, 101))  # the first detection that reaches each recall
        values[r] = np.append(precision[r], 0.0)[first].mean()
    return values


def match_boxes(boxes: Tensor, targets: Tensor, min_iou: float) -> Tensor:
    """Matches detections of one image and class with target boxes, greedily, each target once.

    Args:
        boxes: (N,4) as x1, y1, x2, y2, highest score first.
        targets: (M,4).
        min_iou: smallest intersection over union of a match.

    Returns:
        (N,) int64, the index of the target that each box matches, -1 for none.

    >>> match_boxes(torch.tensor([[0, 0, 2, 2], [0, 0, 2, 1.5]]), torch.tensor([[0, 0, 2, 2]]), 0.5).tolist()
    [0, -1]
    """
    matches = torch.full((len(boxes),), -1)
    if not len(targets) or not len(boxes):
        return matches
    overlaps = _box_iou(boxes.double(), targets.double())
    for i, overlap in enumerate(overlaps):
        best = int(overlap.argmax())
        if overlap[best] >= min_iou:
            matches[i] = best
            overlaps[:, best] = -1.0
    return matches


def _box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (N,4) and (M,4) as x1, y1, x2, y2: (N,M)."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(1) for x in (a, b))
    return intersection / (area_a[:, None] + area_b[None] - intersection).clamp(min=1e-12)


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")


def _import_coco() -> tuple[Any, Any]:
    """The classes COCO and COCOeval_faster."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UserError("average precision needs faster-coco-eval: pip install 'tectum[train]'") from error
    return COCO, COCOeval_faster


def _to_coco(images: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Boxes as COCO lists them: x, y, width, height; numbered from 1."""
    numbers, rows = itertools.count(1), []
    for i, image in enumerate(images):
        corners, ends = image["boxes"].split(2, dim=1)
        boxes = torch.cat([corners, ends - corners], dim=1).tolist()
        scores = image["scores"].tolist() if "scores" in image else [1.0] * len(boxes)
        for box, label, score in zip(boxes, image["labels"].tolist(), scores, strict=True):
            row = {"id": next(numbers), "image_id": i, "category_id": label, "bbox": box}
            rows.append(row | {"area": box[2] * box[3], "iscrowd": 0, "score": score})
    return rows
