"""Task scores: how well a segmenter or a detector did, over a whole data set.

Segmentation, from one confusion matrix M (true class x predicted class) over all pixels that count:

    IoU_c = M_cc / (sum_j M_cj + sum_i M_ic - M_cc)        mIoU = mean of IoU_c over the classes that occur
    recall_c = M_cc / sum_j M_cj                           mAcc = mean of recall_c over the classes of the target
    accuracy = sum_c M_cc / sum M

Detection, the average precision of COCO: a detection is right when it takes a box of its class that no detection of
higher score has taken, at an intersection over union of t or more, and

    AP_t = mean over r = 0, 0.01, .., 1 of the largest precision at recall >= r (0 where recall r is never reached)
    mAP50 = mean over classes of AP_0.5        mAP = the same, and over t = 0.5, 0.55, .., 0.95

What is not defined (a class that does not occur) is NaN, and no mean counts it.

Reference: Microsoft COCO: Common Objects in Context, Lin et al., ECCV 2014, https://arxiv.org/abs/1405.0312; evaluated
by faster-coco-eval, https://github.com/MiXaiLL76/faster_coco_eval
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tectum.errors import UserError

NAN = float("nan")


@dataclass(frozen=True)
class Segmentation:
    """A segmenter's score; all in [0,1], higher is better, NaN where nothing defines it.

    Attributes:
        miou: mean intersection over union.
        macc: mean recall over the classes of the target.
        accuracy: share of the pixels that have their class.
        iou: of each class; NaN for classes absent from target and prediction.
        recall: of each class; NaN for classes absent from the target.
        num_pixels: how many were counted.
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
        check_num_classes(num_classes)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reset()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: classes (B,H,W), any integer type; what it says of ignored pixels does not matter.
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
        counted = target != self.ignore_index if self.ignore_index is not None else torch.ones_like(target).bool()
        true, predicted = target[counted].long(), prediction[counted].long()
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
        pairs = torch.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.confusion += pairs.reshape(self.num_classes, self.num_classes).cpu()

    def merge(self, other: "SegmentationScore") -> None:
        """Take in what another score has counted, e.g. in another process.

        Raises:
            ValueError: it counts other classes.
        """
        mine, theirs = ((score.num_classes, score.ignore_index) for score in (self, other))
        if mine != theirs:
            raise UserError(f"scores must share num_classes and ignore_index to be merged, got {mine} and {theirs}")
        self.confusion += other.confusion

    def compute(
        self, *, classes: Literal["present", "target"] = "present", without: Sequence[int] = ()
    ) -> Segmentation:
        """The score of all pixels since the last `reset`.

        Args:
            classes: which classes mIoU is a mean over: "present" takes those that occur in target or prediction, so
                that a class predicted where there is none counts as 0; "target" those of the target alone, which is
                kinder to false alarms.
            without: classes left out of mIoU and mAcc, e.g. one too rare to be scored. Their pixels still count in the
                accuracy, and against whichever class was predicted there.
        """
        if classes not in ("present", "target"):
            raise UserError(f"classes must be 'present' or 'target', got {classes!r}")
        if outside := [c for c in without if not 0 <= c < self.num_classes]:
            raise UserError(f"without must name classes 0 to {self.num_classes - 1}, got {outside}")
        matrix = self.confusion.double()
        right, of_target, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        iou, recall = right / (of_target + predicted - right), right / of_target  # 0/0 is NaN
        means = torch.stack([iou if classes == "present" else iou.where(of_target > 0, NAN), recall])
        means[:, list(without)] = NAN
        miou, macc = means.nanmean(1).tolist()
        return Segmentation(
            miou=miou,
            macc=macc,
            accuracy=float(right.sum() / matrix.sum()),
            iou=tuple(iou.tolist()),
            recall=tuple(recall.tolist()),
            num_pixels=int(self.confusion.sum()),
        )

    def numbers(self) -> dict[str, float]:
        """mIoU and mAcc."""
        score = self.compute()
        return {"mIoU": score.miou, "mAcc": score.macc}

    def reset(self) -> None:
        """Forget the pixels counted."""
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)


@dataclass(frozen=True)
class Detection:
    """A detector's score; all in [0,1], higher is better, NaN where no target has a box (of the class).

    Attributes:
        map50, map75: mean over classes of the average precision at IoU 0.5 and 0.75.
        map: the same, and over the ten IoU 0.5, 0.55, .., 0.95.
        ap50: average precision of each class at IoU 0.5; 0 for a class that occurs and was never found.
        num_images: how many were seen.
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
        check_num_classes(num_classes)
        coco_eval()
        self.num_classes = num_classes
        self.reset()

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Take in the images of a batch.

        Args:
            predictions: for each image boxes (N,4) as x1, y1, x2, y2 (pixels, or parts of the image: the overlap
                of boxes is the same), scores (N,) and labels (N,).
            targets: for each image boxes (N,4) and labels (N,). N may be 0 in both.

        Raises:
            ValueError: counts or shapes that do not fit, a label that is no class, a box or score that is none.
        """
        if len(predictions) != len(targets):
            raise UserError(f"there must be one target for each prediction, got {len(targets)}, {len(predictions)}")
        found = [self.checked(x, "prediction", ("boxes", "labels", "scores")) for x in predictions]
        expected = [self.checked(x, "target", ("boxes", "labels")) for x in targets]
        self.images += zip(found, expected, strict=True)

    def checked(self, image: Mapping[str, Tensor], role: str, keys: tuple[str, ...]) -> dict[str, Tensor]:
        """The tensors of one image on the CPU, in float64 but for the labels."""
        if missing := [key for key in keys if key not in image]:
            raise UserError(f"a {role} must have {', '.join(keys)}, but lacks {', '.join(missing)}")
        cpu = {key: image[key].detach().cpu() for key in keys}
        num = len(cpu["labels"]) if cpu["labels"].dim() == 1 else -1
        shapes = {key: tuple(x.shape) for key, x in cpu.items()}
        if shapes != {key: (num, 4) if key == "boxes" else (num,) for key in keys}:
            raise UserError(f"a {role} must have boxes (N,4) and the rest (N,), got {shapes}")
        if cpu["labels"].is_floating_point():
            raise UserError(f"labels must be integers, got {cpu['labels'].dtype} in a {role}; use .long()")
        out = {key: x.long() if key == "labels" else x.double() for key, x in cpu.items()}
        wrong = out["labels"][(out["labels"] < 0) | (out["labels"] >= self.num_classes)]
        if len(wrong):
            raise UserError(f"labels must be 0 to {self.num_classes - 1}, got {int(wrong[0])} in a {role}")
        if not all(bool(x.isfinite().all()) for x in out.values()):
            raise UserError(f"boxes and scores must be finite, got NaN or infinity in a {role}")
        turned = out["boxes"][(out["boxes"][:, 2:] < out["boxes"][:, :2]).any(1)]
        if len(turned):
            raise UserError(f"boxes must be x1 <= x2, y1 <= y2 (not centre and size), got {turned[0].tolist()}")
        return out

    def merge(self, other: "DetectionScore") -> None:
        """Take in the images of another score, e.g. of another process; no image should be in both."""
        if self.num_classes != other.num_classes:
            raise UserError(
                f"scores must share num_classes to be merged, got {self.num_classes} and {other.num_classes}"
            )
        self.images += other.images

    def compute(self) -> Detection:
        """The score of all images since the last `reset`."""
        num_images = len(self.images)
        if not any(len(target["labels"]) for _, target in self.images):
            return Detection(NAN, NAN, NAN, (NAN,) * self.num_classes, num_images)
        coco, evaluator = coco_eval()
        truth, found = coco(), coco()
        for side, known in ((truth, 1), (found, 0)):
            side.dataset = {
                "images": [{"id": i} for i in range(num_images)],
                "categories": [{"id": c, "name": str(c)} for c in range(self.num_classes)],
                "annotations": annotations([image[known] for image in self.images]),
            }
            side.createIndex()
        run = evaluator(truth, found, "bbox", print_function=lambda *_: None)
        run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = [[0, 1e10]], ["all"], [100]
        run.evaluate()
        run.accumulate()
        precision = torch.from_numpy(run.eval["precision"])[..., 0, 0]  # IoU, recall, class; -1 where undefined
        ap = precision.where(precision > -1, NAN).mean(1)
        means = ap.nanmean(1)
        return Detection(float(means[0]), float(means[5]), float(means.mean()), tuple(ap[0].tolist()), num_images)

    def numbers(self) -> dict[str, float]:
        """mAP50, mAP75 and mAP."""
        score = self.compute()
        return {"mAP50": score.map50, "mAP75": score.map75, "mAP": score.map}

    def reset(self) -> None:
        """Forget the images seen."""
        self.images: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []


def check_num_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")


def coco_eval() -> tuple[Any, Any]:
    """The classes COCO and COCOeval_faster."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UserError("average precision needs faster-coco-eval: pip install 'tectum[train]'") from error
    return COCO, COCOeval_faster


def annotations(images: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Boxes as COCO lists them: x, y, width, height; numbered from 1."""
    numbers = itertools.count(1)
    rows = []
    for i, image in enumerate(images):
        sizes = image["boxes"][:, 2:] - image["boxes"][:, :2]
        boxes = torch.cat([image["boxes"][:, :2], sizes], dim=1).tolist()
        scores = image["scores"].tolist() if "scores" in image else [1.0] * len(boxes)
        for box, label, score in zip(boxes, image["labels"].tolist(), scores, strict=True):
            area = box[2] * box[3]
            row = {"id": next(numbers), "image_id": i, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            rows.append(row | {"score": score})
    return rows
