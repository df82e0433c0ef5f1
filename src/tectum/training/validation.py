"""Validation: mean loss terms, the task's scores and sample images, on pairs that are not trained on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tectum.data.transforms import centre_crop, is_boxes, resize
from tectum.pair import Pair, Pairs
from tectum.training.sample_sheets import centre_on_grey, paint_target, write_sheet
from tectum.training.trainer import Trainer, fuse_without_gradient

VALIDATION_PX, SAMPLE_PX = 256, 640


@torch.no_grad()
def validate(trainer: Trainer, pairs: Pairs, sheet: Path, device: str) -> dict[str, float]:
    """Measure the networks on validation pairs and write a sheet of samples.

    Without a task the objective is taken over the middle 256x256 pixels of each image; with one, both see whole images
    at the task's size.

    Returns:
        "valid_NAME" for each term of the objective, for the task's loss and scores; "valid_loss", the sum of the terms;
        "valid_score", the task's first score; "weight_deviation", the mean of |w_a - 1/2|, where the objective has such
        weights.
    """
    trainer.eval()
    sums: dict[str, float] = {}
    metric = None if trainer.task is None else trainer.task.metric()
    for index in range(len(pairs)):
        pair = pairs[index].to(device)
        pair = centre_crop(pair, VALIDATION_PX) if metric is None else resize(pair, trainer.schedule.task_px)
        for name, value in _measure(trainer, pair, metric).items():
            sums[name] = sums.get(name, 0.0) + value / len(pairs)
    deviation = {name: sums.pop(name) for name in ("weight_deviation",) if name in sums}
    line = {f"valid_{name}": value for name, value in sums.items()}
    line["valid_loss"] = sum(value for name, value in sums.items() if name != "task")
    if metric is not None:
        scores = metric.numbers()
        line |= {f"valid_{name}": value for name, value in scores.items()}
        line["valid_score"] = next(iter(scores.values()))
    first, last = pairs[0].to(device), pairs[len(pairs) - 1].to(device)
    two = [(first, last), (last, first)] if len(pairs) > 1 else [(first, first)]
    write_sheet([_sample_row(trainer, *pair) for pair in two], sheet)
    return line | deviation


def _measure(trainer: Trainer, pair: Pair, metric: Any) -> dict[str, float]:
    """Terms of the objective on one image, and the task's loss; its prediction goes to `metric`."""
    fused = trainer.fuser(pair.a, pair.b)
    numbers = {name: float(term) for name, term in trainer.objective(fused, pair.a, pair.b).items()}
    w = _weight_maps(trainer, pair)
    if w is not None:
        numbers["weight_deviation"] = float((w[:, :1] - 0.5).abs().mean())
    if metric is not None:
        numbers["task"] = float(trainer.task.loss(fused, pair.target))
        is_mask = isinstance(pair.target, Tensor) and pair.target.dim() == 3
        size = (int(pair.target.shape[1]), int(pair.target.shape[2])) if is_mask else None
        metric.update(trainer.task.predict(fused, size), pair.target)
    return numbers


def _weight_maps(trainer: Trainer, pair: Pair) -> Tensor | None:
    """w_a and w_b (B,2,H,W) of a learned objective that has such maps."""
    if not list(trainer.objective.parameters()):
        return None
    weights = getattr(trainer.objective, "weights", None)
    return None if weights is None else weights(pair.a, pair.b)


def _sample_row(trainer: Trainer, pair: Pair, other: Pair) -> list[Tensor]:
    """Visible, infrared, fused; weights and image gradient of a learned loss; the task's prediction and the label.

    The image gradient shows how the task, by its loss on `other`, would change this fused image: light is brighter.
    """
    if trainer.task is None:
        pair = centre_crop(pair, SAMPLE_PX)
        return [pair.a[0, 0], pair.b[0, 0], trainer.fuser(pair.a, pair.b)[0, 0]]
    pair, other = resize(pair, trainer.schedule.task_px), resize(other, trainer.schedule.task_px)
    fused = fuse_without_gradient(trainer.fuser, pair)
    row = [pair.a[0, 0], pair.b[0, 0], fused[0, 0]]
    w = _weight_maps(trainer, pair)
    if w is not None:
        row += [w[0, 0], w[0, 1]]
    if trainer.learned:
        row.append(centre_on_grey(_image_gradient(trainer, pair, other)[0, 0]))
    prediction = trainer.task.predict(fused, (int(fused.shape[2]), int(fused.shape[3])))[0]
    target = pair.target[0]
    is_mask = isinstance(target, Tensor) and target.dim() == 2 and not target.is_floating_point()
    if is_mask or is_boxes(pair.target):
        row += [paint_target(prediction, fused[0, 0]), paint_target(target, fused[0, 0])]
    return row


def _image_gradient(trainer: Trainer, pair: Pair, other: Pair) -> Tensor:
    with torch.enable_grad():
        trainer.objective.requires_grad_(True)
        gradient = trainer.hypergradient(pair, other, 0, local=True).image_gradient
    return torch.zeros_like(pair.a) if gradient is None else gradient
