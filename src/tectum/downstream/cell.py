"""One cell of a downstream comparison: a task network is trained on one input, says what it sees, and is scored.

rate of step t = lr x (t + 1) / (warm-up + 1), then lr (1 + cos(pi x part of the other steps)) / 2
w <- AdamW(w, grad task.loss(images, target)), the gradient's norm at most `clip`; weights decay, biases do not
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tectum.downstream.frames import Frames, draw
from tectum.errors import UserError
from tectum.io.files import write_whole
from tectum.pair import moved
from tectum.protocols import Task

SCORE_BATCH = 8


@dataclass(frozen=True)
class Budget:
    """What every cell gets."""

    epochs: int = 30
    """How often each training image is seen."""
    size: tuple[int, int] = (128, 160)
    """Height and width of the images that the network sees."""
    batch: int = 4
    """Images a step."""
    lr: float = 1e-3
    """AdamW's rate after the warm-up; it falls along a cosine to zero."""
    warmup: float = 0.05
    """Part of the steps over which the rate rises from zero."""
    weight_decay: float = 0.01
    """Of matrices and kernels, not of biases and norms."""
    clip: float = 1.0
    """Largest norm of a gradient; larger ones are scaled down."""
    zoom: float = 1.25
    """Largest random zoom, in and out; 1 leaves the images whole."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be greater than 0 and finite, got {value}")
        if min(self.size) < 32:
            raise UserError(f"task images must be at least 32 pixels high and wide, got {self.size[1]}x{self.size[0]}")
        if not 1 <= self.zoom <= 4:
            raise UserError(f"zoom must be between 1 and 4, got {self.zoom}")

    def steps(self, num_images: int) -> int:
        return max(1, round(self.epochs * num_images / self.batch))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = max(1.0, self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        return self.lr * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising))) / 2


def train(
    task: nn.Module,
    frames: Frames,
    budget: Budget,
    seed: int,
    *,
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] | None = None,
) -> list[float]:
    """Train a task network in place; returns the mean loss of each epoch.

    Raises:
        ValueError: the loss is not finite, or the network has nothing to train.
    """
    frames, steps = frames.learnable(), budget.steps(len(frames))
    optimizer = torch.optim.AdamW(groups(task, budget.weight_decay), lr=budget.lr, fused=True)
    sums = [[0.0, 0] for _ in range(budget.epochs)]
    for step in range(steps):
        task.train()
        images, target = draw(frames, budget.batch, budget.zoom, seed, step)
        torch.manual_seed(seed * 1_000_003 + step)  # dropout
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = task.loss(images.to(device), moved(target, device))  # type: ignore[operator]
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
            report({"step": step + 1, "steps": steps, "loss": value})
    return [round(total / num, 5) for total, num in sums if num]


def groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without decay."""
    learned = [p for p in task.parameters() if p.requires_grad]
    if not learned:
        raise UserError(f"{type(task).__name__} has no parameters to train; choose another task")
    return [
        {"params": [p for p in learned if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
    ]


def predict(task: Task, frames: Frames, device: str = "cpu") -> list[Any]:
    """What a network says of each image: a mask (H,W) uint8 of its target's size, or boxes with scores and labels."""
    found: list[Any] = []
    masks = isinstance(frames.targets[0], Tensor)
    sizes = [tuple(t.shape) if masks else None for t in frames.targets]
    for size, run in groupby(range(len(frames)), key=lambda i: sizes[i]):
        indices = list(run)
        for k in range(0, len(indices), SCORE_BATCH):
            images = frames.images[indices[k : k + SCORE_BATCH]][:, None].float().to(device) / 255
            answer = task.predict(images, size)
            if masks:
                found += list(answer.to("cpu", torch.uint8))
            else:
                found += [{key: x.cpu() for key, x in boxes.items()} for boxes in answer]
    return found


def scored(task: Task, found: Sequence[Any], frames: Frames) -> dict[str, Any]:
    """Scores as JSON: of all images, of each class, and what each image adds to them."""
    whole, matrices = task.metric(), []
    for prediction, target in zip(found, frames.targets, strict=True):
        if not isinstance(target, Tensor):
            whole.update([prediction], [target])
            continue
        pair = prediction[None].long(), target[None].long()
        whole.update(*pair)
        one: Any = task.metric()
        one.update(*pair)
        if hasattr(one, "confusion"):
            matrices.append(one.confusion.tolist())
    row: dict[str, Any] = {"scores": {name: plain(value) for name, value in whole.numbers().items()}}
    details = whole.compute() if hasattr(whole, "compute") else None
    for title, key in (("IoU", "iou"), ("recall", "recall"), ("AP50", "ap50")):
        if hasattr(details, key):
            classes = getattr(task, "classes", range(len(getattr(details, key))))
            row[title] = {str(c): plain(v) for c, v in zip(classes, getattr(details, key), strict=True)}
    return row | ({"confusion": matrices} if matrices else {})


def plain(value: float) -> float | None:
    """A number as JSON has it: None for NaN."""
    return None if math.isnan(value) else float(value)


def save_predictions(folder: Path, names: Sequence[str], found: Sequence[Any]) -> None:
    """Masks as PNG files of class numbers, boxes as one JSON file."""
    from PIL import Image

    place = folder / "predictions"
    place.mkdir(parents=True, exist_ok=True)
    if isinstance(found[0], Tensor):
        for name, mask in zip(names, found, strict=True):
            Image.fromarray(mask.numpy()).save(place / f"{name}.png")
        return
    lists = {n: {key: x.tolist() for key, x in boxes.items()} for n, boxes in zip(names, found, strict=True)}
    text = json.dumps(lists) + "\n"
    write_whole(place / "boxes.json", lambda file: file.write_text(text, encoding="utf-8"))


def load_predictions(folder: Path, names: Iterable[str]) -> list[Any]:
    """What `save_predictions` wrote."""
    from PIL import Image

    place = folder / "predictions"
    if not (place / "boxes.json").exists():
        found = []
        for name in names:
            with Image.open(place / f"{name}.png") as file:
                found.append(torch.from_numpy(np.array(file)))
        return found
    lists = read_json(place / "boxes.json")
    return [
        {
            "boxes": torch.tensor(lists[name]["boxes"], dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor(lists[name]["scores"], dtype=torch.float32),
            "labels": torch.tensor(lists[name]["labels"], dtype=torch.int64),
        }
        for name in names
    ]


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to have its work done again") from error
