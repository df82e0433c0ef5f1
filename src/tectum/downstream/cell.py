"""Trains and scores one cell of a downstream comparison: a task network on one input with one seed.

rate of step t = lr x (t + 1) / (warm-up + 1), then lr (1 + cos(pi x part of the other steps)) / 2
w <- AdamW(w, grad task.loss(images, target)), the gradient's norm at most `clip`; weights decay, biases do not
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tectum.downstream.frames import Frames, draw_batch
from tectum.downstream.options import Budget
from tectum.errors import UserError
from tectum.io.files import read_json, write_json, write_whole
from tectum.pair import move_target
from tectum.protocols import Task

_SCORE_BATCH = 8


def train(
    task: nn.Module,
    frames: Frames,
    budget: Budget,
    seed: int,
    *,
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] | None = None,
) -> list[float]:
    """Train a task network in place.

    Args:
        task: the network, on `device`.
        frames: training images with their targets.
        budget: epochs, batch, rates.
        seed: of the order, the windows and the dropout.
        device: where the network is.
        report: called after each step with {"step", "steps", "loss"}.

    Returns:
        The mean loss of each epoch.

    Raises:
        UserError: the loss is not finite, or the network has nothing to train.
    """
    frames, num_steps = frames.shrink_masks(), budget.num_steps(len(frames))
    optimizer = torch.optim.AdamW(_parameter_groups(task, budget.weight_decay), lr=budget.lr, fused=True)
    sums = [[0.0, 0] for _ in range(budget.epochs)]
    for step in range(num_steps):
        task.train()
        images, target = draw_batch(frames, budget.batch, budget.zoom, seed, step)
        torch.manual_seed(seed * 1_000_003 + step)  # dropout
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(step, num_steps)
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = task.loss(images.to(device), move_target(target, device))  # type: ignore[operator]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(f"the loss must stay finite, but is {value} at step {step}; lower --lr")
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), budget.clip)
        optimizer.step()
        epoch = sums[min(budget.epochs - 1, step * budget.batch // len(frames))]
        epoch[0] += value
        epoch[1] += 1
        if report is not None:
            report({"step": step + 1, "steps": num_steps, "loss": value})
    return [round(total / num, 5) for total, num in sums if num]


def _parameter_groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without decay."""
    parameters = [p for p in task.parameters() if p.requires_grad]
    if not parameters:
        raise UserError(f"{type(task).__name__} has no parameters to train; choose another task")
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def predict(task: Task, frames: Frames, device: str = "cpu") -> list[Any]:
    """Returns the prediction for each image: a mask (H,W) uint8 of its target's size, or boxes, scores and labels."""
    predictions: list[Any] = []
    sizes = [tuple(target.shape) if frames.has_masks else None for target in frames.targets]
    for size, run in groupby(range(len(frames)), key=lambda i: sizes[i]):
        indices = list(run)
        for k in range(0, len(indices), _SCORE_BATCH):
            images = frames.images[indices[k : k + _SCORE_BATCH]][:, None].float().to(device) / 255
            batch = task.predict(images, size)
            if frames.has_masks:
                predictions += list(batch.to("cpu", torch.uint8))
            else:
                predictions += [{key: x.cpu() for key, x in boxes.items()} for boxes in batch]
    return predictions


def score(task: Task, predictions: Sequence[Any], frames: Frames) -> dict[str, Any]:
    """Returns scores as JSON types: of all images, of each class, and for masks the confusion matrix of each image."""
    metric, matrices = task.metric(), []
    for prediction, target in zip(predictions, frames.targets, strict=True):
        if not frames.has_masks:
            metric.update([prediction], [target])
            continue
        masks = prediction[None].long(), target[None].long()
        metric.update(*masks)
        image_metric: Any = task.metric()
        image_metric.update(*masks)
        if hasattr(image_metric, "confusion"):
            matrices.append(image_metric.confusion.tolist())
    scores: dict[str, Any] = {"scores": {name: _json_number(value) for name, value in metric.numbers().items()}}
    details = metric.compute() if hasattr(metric, "compute") else None
    for title, key in (("IoU", "iou"), ("recall", "recall"), ("AP50", "ap50")):
        if values := getattr(details, key, None):
            classes = getattr(task, "classes", range(len(values)))
            scores[title] = {str(c): _json_number(value) for c, value in zip(classes, values, strict=True)}
    return scores | ({"confusion": matrices} if matrices else {})


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def save_predictions(folder: Path, names: Sequence[str], predictions: Sequence[Any]) -> None:
    """Write predictions: masks as PNG files of class numbers, boxes as one JSON file."""
    folder = folder / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(predictions[0], Tensor):
        for name, mask in zip(names, predictions, strict=True):
            image = Image.fromarray(mask.numpy())
            write_whole(folder / f"{name}.png", partial(image.save, format="PNG"))
        return
    lists = {n: {key: x.tolist() for key, x in boxes.items()} for n, boxes in zip(names, predictions, strict=True)}
    write_json(folder / "boxes.json", lists)


def load_predictions(folder: Path, names: Iterable[str]) -> list[Any]:
    """Returns what `save_predictions` wrote."""
    folder = folder / "predictions"
    if not (folder / "boxes.json").exists():
        return [_load_mask(folder / f"{name}.png") for name in names]
    lists = read_result(folder / "boxes.json")
    return [
        {
            "boxes": torch.tensor(lists[name]["boxes"], dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor(lists[name]["scores"], dtype=torch.float32),
            "labels": torch.tensor(lists[name]["labels"], dtype=torch.int64),
        }
        for name in names
    ]


def _load_mask(path: Path) -> Tensor:
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file))


def read_result(path: Path) -> dict[str, Any]:
    """Returns the object of a JSON file of a run.

    Raises:
        UserError: it is damaged.
    """
    return read_json(path, problem="is damaged", advice="delete it to have its work done again")
