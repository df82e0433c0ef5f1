"""What a run is worth so far: the objective, the task's score and pictures, on pairs that are not trained on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tectum.data.transforms import centre_crop, is_boxes, resize
from tectum.pair import Pair, Pairs
from tectum.training.sample_sheets import painted, sheet, signed
from tectum.training.steps import Learners, fused_image

VALIDATION_PX, SAMPLE_PX = 256, 640


@torch.no_grad()
def validate(learners: Learners, pairs: Pairs, sample: Path, device: str) -> dict[str, float]:
    """Mean terms of the objective, the task's scores, how far the loss is from a fixed one; and a sheet of pictures.

    Without a task the objective is taken over the middle 256x256 pixels of each image; with one, both see whole images
    at the task's size. `valid_score` is the task's first score; `away` the mean of |w_a - 1/2| where the objective has
    such weights.
    """
    for module in learners.modules().values():
        module.eval()
    means: dict[str, float] = {}
    metric = None if learners.task is None else learners.task.metric()
    for index in range(len(pairs)):
        pair = pairs[index].to(device)
        seen = centre_crop(pair, VALIDATION_PX) if metric is None else resize(pair, learners.schedule.task_px)
        found = judged(learners, seen, metric)
        for name, value in found.items():
            means[name] = means.get(name, 0.0) + value / len(pairs)
    terms = {name: value for name, value in means.items() if name not in ("away", "task")}
    line = {f"valid_{name}": value for name, value in means.items() if name != "away"}
    line["valid_loss"] = sum(terms.values())
    if metric is not None:
        numbers = metric.numbers()
        line |= {f"valid_{name}": value for name, value in numbers.items()}
        line["valid_score"] = next(iter(numbers.values()))
    if "away" in means:
        line["away"] = means["away"]
    shown = sorted({0, len(pairs) - 1})
    sheet([row(learners, pairs[index].to(device), pairs[shown[-1] - index].to(device)) for index in shown], sample)
    return line


def judged(learners: Learners, pair: Pair, metric: Any) -> dict[str, float]:
    """Terms of the objective on one image, the task's loss and its answer, given to `metric`."""
    fused = learners.fuser(pair.a, pair.b)
    found = {name: float(term) for name, term in learners.objective(fused, pair.a, pair.b).items()}
    w = weights(learners, pair)
    if w is not None:
        found["away"] = float((w[:, :1] - 0.5).abs().mean())
    if metric is not None:
        found["task"] = float(learners.task.loss(fused, pair.target))
        metric.update(learners.task.predict(fused, label_size(pair)), pair.target)
    return found


def weights(learners: Learners, pair: Pair) -> Tensor | None:
    """w_a and w_b (B,2,H,W) of a learned objective that has such maps."""
    if not list(learners.objective.parameters()):
        return None
    maps = getattr(learners.objective, "weights", None)
    return None if maps is None else maps(pair.a, pair.b)


def label_size(pair: Pair) -> tuple[int, int] | None:
    """Height and width of the target where it is a mask."""
    if isinstance(pair.target, Tensor) and pair.target.dim() == 3:
        return int(pair.target.shape[1]), int(pair.target.shape[2])
    return None


def row(learners: Learners, pair: Pair, other: Pair) -> list[Tensor]:
    """Visible, infrared, fused; the weights of a learned loss and the pull u; the task's answer and the label.

    The pull is how the task, judging `other`, would have this fused image change: brighter where it is light.
    """
    if learners.task is None:
        pair = centre_crop(pair, SAMPLE_PX)
        return [pair.a[0, 0], pair.b[0, 0], learners.fuser(pair.a, pair.b)[0, 0]]
    pair, other = resize(pair, learners.schedule.task_px), resize(other, learners.schedule.task_px)
    fused = fused_image(learners.fuser, pair)
    found = [pair.a[0, 0], pair.b[0, 0], fused[0, 0]]
    w = weights(learners, pair)
    if w is not None:
        found += [w[0, 0], w[0, 1]]
    if learners.learned:
        found.append(signed(pull(learners, pair, other)[0, 0]))
    size = (int(fused.shape[2]), int(fused.shape[3]))
    answer = learners.task.predict(fused, size)[0]
    target = pair.target[0]
    is_mask = isinstance(target, Tensor) and target.dim() == 2 and not target.is_floating_point()
    if is_mask or is_boxes(pair.target):
        found += [painted(answer, fused[0, 0]), painted(target, fused[0, 0])]
    return found


def pull(learners: Learners, pair: Pair, other: Pair) -> Tensor:
    with torch.enable_grad():
        learners.objective.requires_grad_(True)
        found = learners.lesson(pair, other, 0, alone=True).pull
    return torch.zeros_like(pair.a) if found is None else found
