"""Task scores: confusion matrices by hand, average precision by hand and by a slow loop."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tectum.metrics.task import DetectionScore, SegmentationScore

# ---- segmentation ----------------------------------------------------------------------------------------------------

TARGET = torch.tensor([[[0, 0, 0, 1], [1, 1, 255, 2]]])
PREDICTION = torch.tensor([[[0, 0, 1, 1], [1, 0, 7, 3]]])


def segmentation(num_classes: int = 5, ignore_index: int | None = 255) -> SegmentationScore:
    score = SegmentationScore(num_classes, ignore_index)
    score.update(PREDICTION, TARGET)
    return score


def test_a_confusion_matrix_by_hand() -> None:
    score = segmentation()
    expected = torch.zeros(5, 5, dtype=torch.int64)
    expected[0, 0], expected[0, 1], expected[1, 1], expected[1, 0], expected[2, 3] = 2, 1, 2, 1, 1
    assert torch.equal(score.confusion, expected) and score.confusion.dtype == torch.int64
    result = score.compute()
    assert result.iou == pytest.approx((2 / 4, 2 / 4, 0, 0, np.nan), nan_ok=True)
    assert result.recall == pytest.approx((2 / 3, 2 / 3, 0, np.nan, np.nan), nan_ok=True)
    assert result.miou == pytest.approx(1 / 4)  # four classes occur in target or prediction
    assert result.macc == pytest.approx(4 / 9)
    assert (result.accuracy, result.num_pixels) == (pytest.approx(4 / 7), 7)


def test_which_classes_are_averaged() -> None:
    score = segmentation()
    assert score.compute(classes="target").miou == pytest.approx(1 / 3)  # class 3 was only predicted
    without = score.compute(without=[2])
    assert (without.miou, without.macc) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert without.iou == pytest.approx(score.compute().iou, nan_ok=True)
    assert without.accuracy == score.compute().accuracy
    assert score.compute(classes="target", without=(2, 3)).miou == pytest.approx(1 / 2)
    assert np.isnan(score.compute(without=range(5)).miou)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_against_a_loop_over_pixels(dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    prediction, target = (random.integers(0, 6, (3, 9, 7)) for _ in range(2))
    target[random.random(target.shape) < 0.2] = 255
    prediction[target == 255] = 200
    score = SegmentationScore(6)
    score.update(torch.from_numpy(prediction).to(dtype), torch.from_numpy(target).to(dtype))
    pairs = [(t, p) for t, p in zip(target.ravel(), prediction.ravel(), strict=True) if t != 255]
    ious, recalls = [], []
    for c in range(6):
        both = sum(t == c == p for t, p in pairs)
        ious.append(both / sum(t == c or p == c for t, p in pairs))
        recalls.append(both / sum(t == c for t, p in pairs))
    result = score.compute()
    assert result.iou == pytest.approx(ious) and result.miou == pytest.approx(np.mean(ious))
    assert result.macc == pytest.approx(np.mean(recalls))
    assert result.accuracy == pytest.approx(np.mean([t == p for t, p in pairs])) and result.num_pixels == len(pairs)


def test_batches_and_processes_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randint(4, (6, 5, 8), generator=generator) for _ in range(2))
    whole, first, second = (SegmentationScore(4, None) for _ in range(3))
    whole.update(prediction, target)
    for i in range(6):
        (first if i < 2 else second).update(prediction[i : i + 1], target[i : i + 1])
    assert first.compute() != whole.compute()
    first.merge(second)
    assert first.compute() == whole.compute() and first.compute().num_pixels == 240
    first.reset()
    assert first.compute().num_pixels == 0 and np.isnan(first.compute().miou)
    with pytest.raises(ValueError, match=r"got \(4, None\) and \(4, 255\)"):
        first.merge(SegmentationScore(4))


def test_perfect_empty_and_ignored() -> None:
    score = SegmentationScore(3)
    score.update(torch.full((1, 2, 2), 77), torch.full((1, 2, 2), 255))
    nothing = score.compute()
    assert nothing.num_pixels == 0 and np.isnan([nothing.miou, nothing.macc, nothing.accuracy, *nothing.iou]).all()
    labels = torch.tensor([[[0, 2], [2, 2]]])
    score.update(labels, labels)
    perfect = score.compute()
    assert (perfect.miou, perfect.macc, perfect.accuracy) == (1, 1, 1) and np.isnan(perfect.iou[1])


@pytest.mark.parametrize(
    ("prediction", "target", "words"),
    [
        (
            torch.zeros(1, 2, 2).long(),
            torch.full((1, 2, 2), 3),
            "0 to 2 .or 255 in the target: ignored., got 3 in the tar",
        ),
        (torch.full((1, 2, 2), 255), torch.zeros(1, 2, 2).long(), "got 255 in the prediction"),
        (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1), "got -1 in the target"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), "prediction must hold class numbers as integers"),
        (torch.zeros(1, 3, 2, 2).long(), torch.zeros(1, 2, 2).long(), r"one shape \(B,H,W\), got \(1, 3, 2, 2\)"),
        (torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), r"one shape \(B,H,W\)"),
    ],
)
def test_labels_that_cannot_be_counted(prediction: Tensor, target: Tensor, words: str) -> None:
    score = SegmentationScore(3)
    with pytest.raises(ValueError, match=words):
        score.update(prediction, target)
    assert score.confusion.sum() == 0


def test_questions_that_have_no_answer() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        SegmentationScore(0)
    with pytest.raises(ValueError, match=r"without must name classes 0 to 4, got \[5, -1\]"):
        segmentation().compute(without=[1, 5, -1])
    with pytest.raises(ValueError, match="'present' or 'target', got 'all'"):
        segmentation().compute(classes="all")  # type: ignore[arg-type]


# ---- detection -------------------------------------------------------------------------------------------------------

A, B, ELSEWHERE = [10.0, 10.0, 20.0, 20.0], [40.0, 5.0, 60.0, 25.0], [70.0, 70.0, 90.0, 90.0]
LOW = [10.0, 10.0, 20.0, 16.2]  # IoU 0.62 with A


def boxes(*given: tuple[list[float], int] | tuple[list[float], int, float]) -> dict[str, Tensor]:
    """(box, label) or (box, label, score) as a target or a prediction; none of them as an empty prediction."""
    out = {"boxes": torch.tensor([g[0] for g in given]).reshape(-1, 4)}
    out["labels"] = torch.tensor([g[1] for g in given]).long()
    if not given or len(given[0]) == 3:
        out["scores"] = torch.tensor([g[2] for g in given])  # type: ignore[misc]
    return out


def detection(predictions: list[dict[str, Tensor]], targets: list[dict[str, Tensor]], num_classes: int = 1) -> Any:
    score = DetectionScore(num_classes)
    score.update(predictions, targets)
    return score.compute()


@pytest.mark.parametrize(
    ("detections", "target", "map50", "map75", "mean"),
    [
        ([(A, 0, 0.9), (B, 0, 0.1)], [(A, 0), (B, 0)], 1, 1, 1),
        ([(A, 0, 0.9)], [(A, 0), (B, 0)], 51 / 101, 51 / 101, 51 / 101),  # recalls 0 to 0.5
        ([(LOW, 0, 0.9)], [(A, 0)], 1, 0, 0.3),  # right at 0.5, 0.55 and 0.6
        ([(A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7)], [(A, 0), (B, 0)], *[(51 + 50 * 2 / 3) / 101] * 3),  # a duplicate
        ([(A, 0, 0.9), (A, 0, 0.8)], [(A, 0)], 1, 1, 1),  # a duplicate after all boxes are matched
        ([(ELSEWHERE, 0, 0.9), (A, 0, 0.8)], [(A, 0)], 0.5, 0.5, 0.5),
        ([(A, 0, 0.9), (LOW, 0, 0.95)], [(A, 0)], 1, 0.5, (3 + 7 * 0.5) / 10),  # the worse box first
        ([(A, 0, 0.5), (ELSEWHERE, 0, 0.5)], [(A, 0)], 1, 1, 1),  # equal scores: the first is first
        ([(ELSEWHERE, 0, 0.5), (A, 0, 0.5)], [(A, 0)], 0.5, 0.5, 0.5),
        ([(ELSEWHERE, 0, 0.9)] * 100 + [(A, 0, 0.8)], [(A, 0)], 0, 0, 0),  # the 101st is not looked at
        ([(ELSEWHERE, 0, 0.9)] * 99 + [(A, 0, 0.8)], [(A, 0)], 0.01, 0.01, 0.01),
        ([(ELSEWHERE, 0, 0.9)], [(A, 0)], 0, 0, 0),
        ([], [(A, 0)], 0, 0, 0),
        ([(A, 0, 0.5)], [], np.nan, np.nan, np.nan),
        ([], [], np.nan, np.nan, np.nan),
    ],
)
def test_average_precision_by_hand(
    detections: Any, target: Any, map50: float, map75: float, mean: float, capfd: Any
) -> None:
    score = detection([boxes(*detections)], [boxes(*target)])
    assert (score.map50, score.map75, score.map) == pytest.approx((map50, map75, mean), nan_ok=True)
    assert score.ap50 == pytest.approx((map50,), nan_ok=True) and score.num_images == 1
    assert capfd.readouterr() == ("", "")


def test_classes_and_images() -> None:
    """Class 0 detected, class 1 not, class 2 only a false alarm, class 3 nowhere; images with nothing in them."""
    predictions = [boxes((A, 0, 0.9), (B, 2, 0.8)), boxes(), boxes((ELSEWHERE, 2, 0.4)), boxes()]
    targets = [boxes((A, 0)), boxes((B, 1)), boxes(), boxes()]
    score = detection(predictions, targets, 4)
    assert score.ap50 == pytest.approx((1, 0, np.nan, np.nan), nan_ok=True)
    assert (score.map50, score.map, score.num_images) == (pytest.approx(0.5), pytest.approx(0.5), 4)


def slow_average_precision(predictions: list[Any], targets: list[Any], label: int, threshold: float) -> float:
    """AP of one class by the definition, one detection, one box, one recall at a time."""
    detections, num = [], 0
    for prediction, target in zip(predictions, targets, strict=True):
        truths = [box for box, of in zip(target["boxes"].tolist(), target["labels"], strict=True) if of == label]
        num += len(truths)
        matched: set[int] = set()
        rows = zip(prediction["scores"].tolist(), prediction["boxes"].tolist(), prediction["labels"], strict=True)
        for score, box, _ in sorted((row for row in rows if row[2] == label), key=lambda row: -row[0]):
            free = [(overlap(box, other), i) for i, other in enumerate(truths) if i not in matched]
            best, match = max(free, default=(0.0, -1))
            detections.append((score, best >= threshold))
            matched |= {match} if best >= threshold else set()
    if not num:
        return float("nan")
    curve, right = [], 0
    for rank, (_, is_right) in enumerate(sorted(detections, key=lambda row: -row[0]), 1):
        right += is_right
        curve.append((right / num, right / rank))
    return sum(max((p for r, p in curve if r >= at), default=0.0) for at in np.linspace(0, 1, 101)) / 101


def overlap(x: list[float], y: list[float]) -> float:
    width, height = min(x[2], y[2]) - max(x[0], y[0]), min(x[3], y[3]) - max(x[1], y[1])
    both = max(width, 0) * max(height, 0)
    return both / ((x[2] - x[0]) * (x[3] - x[1]) + (y[2] - y[0]) * (y[3] - y[1]) - both)


def random_scenes(seed: int, num: int = 12) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Targets of three classes, and predictions that are shifted copies of them, misnamed copies and false alarms."""
    random = np.random.default_rng(seed)
    predictions, targets = [], []
    for _ in range(num):
        corners = random.uniform(0, 60, (random.integers(0, 6), 2))
        truths = np.hstack([corners, corners + random.uniform(8, 40, corners.shape)])
        labels = random.integers(0, 3, len(truths))
        copies = np.vstack([truths + random.normal(0, 2, truths.shape), truths + random.normal(0, 5, truths.shape)])
        copied_labels = np.where(
            random.random(len(copies)) < 0.2, random.integers(0, 3, len(copies)), np.tile(labels, 2)
        )
        sampled = random.random(len(copies)) < 0.7
        targets.append({"boxes": torch.from_numpy(truths), "labels": torch.from_numpy(labels)})
        predictions.append(
            {
                "boxes": torch.from_numpy(np.sort(copies[sampled].reshape(-1, 2, 2), axis=1).reshape(-1, 4)),
                "labels": torch.from_numpy(copied_labels[sampled]),
                "scores": torch.from_numpy(random.random(sampled.sum())),
            }
        )
    return predictions, targets


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_by_a_slow_loop(seed: int) -> None:
    predictions, targets = random_scenes(seed)
    score = detection(predictions, targets, 4)
    slow = np.array(
        [[slow_average_precision(predictions, targets, c, t) for c in range(4)] for t in np.linspace(0.5, 0.95, 10)]
    )
    assert 0.1 < np.nanmean(slow) < 0.9
    assert score.ap50 == pytest.approx(slow[0].tolist(), rel=1e-6, nan_ok=True) and np.isnan(score.ap50[3])
    assert score.map50 == pytest.approx(np.nanmean(slow[0]), rel=1e-6)
    assert score.map75 == pytest.approx(np.nanmean(slow[5]), rel=1e-6)
    assert score.map == pytest.approx(np.nanmean(slow), rel=1e-6)


def test_images_of_several_processes_add_up() -> None:
    predictions, targets = random_scenes(7)
    parts = [DetectionScore(3), DetectionScore(3)]
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        parts[i >= 5].update([prediction], [target])
    parts[0].merge(parts[1])
    assert parts[0].compute() == detection(predictions, targets, 3) == parts[0].compute()
    parts[0].reset()
    assert parts[0].compute().num_images == 0
    with pytest.raises(ValueError, match="num_classes to be merged, got 3 and 2"):
        parts[0].merge(DetectionScore(2))


@pytest.mark.parametrize(
    ("prediction", "target", "words"),
    [
        (boxes((A, 1, 0.5)), boxes((A, 0)), "labels must be 0 to 0, got 1 in a prediction"),
        (boxes((A, 0, 0.5)), boxes((A, -1)), "got -1 in a target"),
        (boxes((A, 0)), boxes((A, 0)), "a prediction must have boxes, labels, scores, but lacks scores"),
        (boxes((A, 0, 0.5)) | {"scores": torch.rand(2)}, boxes((A, 0)), r"boxes \(N,4\) and the rest \(N,\)"),
        (boxes((A, 0, 0.5)), boxes() | {"boxes": torch.zeros(0)}, r"'boxes': \(0,\)"),
        (boxes((A, 0, 0.5)) | {"labels": torch.zeros(1)}, boxes((A, 0)), "labels must be integers"),
        (boxes((A, 0, float("nan"))), boxes((A, 0)), "finite, got NaN or infinity in a prediction"),
        (boxes((A, 0, 0.5)), boxes(([30.0, 10.0, 20.0, 20.0], 0)), r"x1 <= x2.*got \[30.0, 10.0, 20.0, 20.0\]"),
    ],
)
def test_boxes_that_cannot_be_scored(prediction: Any, target: Any, words: str) -> None:
    score = DetectionScore(1)
    with pytest.raises(ValueError, match=words):
        score.update([prediction], [target])
    assert score.compute().num_images == 0


def test_one_target_for_each_prediction_and_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="one target for each prediction, got 2, 1"):
        DetectionScore(1).update([boxes()], [boxes(), boxes()])
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ValueError, match=r"needs faster-coco-eval: pip install 'tectum\[train\]'"):
        DetectionScore(1)
