"""Transfer of a learned loss: how good a loss learned from one task is for another task.

Synthetic streets, at the size of examples/learn_a_loss.py.

    python benchmarks/transfer.py [--seeds 2]

A loss is learned from a segmenter or from a detector, with the fuser it trains; the task's own loss never reaches that
fuser, so that what is carried over is the loss alone. Then fresh segmenters and fresh detectors, alike but for their
seeds, are trained on what each fuser makes of the training scenes and scored on scenes nobody has seen. The detector
finds centres of things (heat of each class, offset and size, at half resolution) as CenterNet does (Zhou et al., 2019).
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tectum
from parts import four_scalars, half, lgl, schedule_of
from tectum.data.synthetic import CLASSES, render
from tectum.metrics.task import DetectionScore
from tectum.models.tdfusion import TDFusionLoss
from tectum.models.tomiff import TOMIFFLoss
from tectum.pair import Pair
from tectum.training.recipes.build import scene_pair

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import learn_a_loss as example

LOSSES: dict[str, Callable[[], TDFusionLoss]] = {"SFOFusion's": lgl, "TOMIFF's": four_scalars}
Boxes = dict[str, Tensor]


class Detector(nn.Module):
    """Detector of centres and sizes of things: (B,1,H,W) -> heat, offset and size at half of H, W."""

    label_type = "boxes"

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = len(CLASSES) - 1
        self.fine, self.wide = example.layers(1, 16, 24), example.layers(24, 32, 32, dilation=3)
        self.out = nn.Conv2d(56, self.num_classes + 4, 1)
        with torch.no_grad():
            assert self.out.bias is not None
            self.out.bias[: self.num_classes] = -4.0

    def forward(self, fused: Tensor) -> Tensor:
        fine = F.max_pool2d(F.leaky_relu(self.fine(fused - 0.5), 0.1), 2)
        return self.out(torch.cat([fine, F.leaky_relu(self.wide(fine), 0.1)], dim=1))

    def loss(self, fused: Tensor, target: Sequence[Boxes]) -> Tensor:
        outputs = self(fused)
        logits, rest = outputs[:, : self.num_classes], outputs[:, self.num_classes :]
        heat, wanted, where = torch.zeros_like(logits), torch.zeros_like(rest), torch.zeros_like(rest[:, :1])
        height, width = logits.shape[2:]
        rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None, :] + 0.5
        scale = fused.new_tensor([width, height])
        for i, image in enumerate(target):
            corners, labels = image["boxes"].unflatten(1, (2, 2)) * scale, image["labels"]
            centre, side = corners.mean(1), corners[:, 1] - corners[:, 0]
            cell = centre.long().minimum(scale.long() - 1)
            x, y = columns - cell[:, 0, None, None] - 0.5, rows - cell[:, 1, None, None] - 0.5
            wide, high = side.clamp_min(1).T[..., None, None]
            bumps = torch.exp(-8 * ((x / wide).square() + (y / high).square()))
            for label in range(self.num_classes):
                if bool((labels == label).any()):
                    heat[i, label] = bumps[labels == label].amax(0)
            wanted[i, :, cell[:, 1], cell[:, 0]] = torch.cat([centre - cell - 0.5, side.log()], 1).T
            where[i, 0, cell[:, 1], cell[:, 0]] = 1
        p, count = torch.sigmoid(logits), where.sum().clamp_min(1)
        at, off = heat.eq(1), (1 - heat) ** 4 * p.square() * F.softplus(logits)
        focal = torch.where(at, (1 - p).square() * F.softplus(-logits), off).sum() / count
        return focal + ((rest - wanted).abs() * where).sum() / count

    @torch.no_grad()
    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> list[Boxes]:
        outputs = self(fused)
        p, (height, width) = torch.sigmoid(outputs[:, : self.num_classes]), outputs.shape[2:]
        p = p * p.eq(F.max_pool2d(p, 3, 1, 1))
        answers = []
        for image, rest in zip(p, outputs[:, self.num_classes :], strict=True):
            scores, index = image.flatten().topk(50)
            labels, cell = index // (height * width), index % (height * width)
            dx, dy, w, h = rest.flatten(1)[:, cell]
            x, y = (cell % width + 0.5 + dx) / width, (cell // width + 0.5 + dy) / height
            w, h = w.clamp(-4, 5).exp() / width / 2, h.clamp(-4, 5).exp() / height / 2
            boxes = torch.stack([x - w, y - h, x + w, y + h], 1)
            answers.append({"boxes": boxes, "scores": scores, "labels": labels})
        return answers

    def metric(self) -> DetectionScore:
        return DetectionScore(self.num_classes)


TASKS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "segmentation": (example.Segmenter, "masks", "mIoU"),
    "detection": (Detector, "boxes", "mAP50"),
}


def train(objective: TDFusionLoss, task: str, scenes: dict[str, list[Pair]], seed: int, *, learned: bool) -> nn.Module:
    """Train a fuser on a fixed loss, or on one that is learned from `task`, and return it."""
    schedule = schedule_of(seed, learned=learned, scalars=isinstance(objective, TOMIFFLoss))
    torch.manual_seed(seed)
    fuser, net = example.Fuser(), TASKS[task][0]()
    pairs = scenes[TASKS[task][1]]
    with tempfile.TemporaryDirectory() as run:
        tectum.fit(fuser, objective, pairs[:36], pairs[36:40], run=run, schedule=schedule, task=net)
    return fuser.eval()


def score(fuser: nn.Module, task: str, scenes: dict[str, list[Pair]], seed: int) -> float:
    """Returns the score of a new network on the test scenes, trained on fused images of the other scenes."""
    torch.manual_seed(seed)
    make, target, name = TASKS[task]
    net, pairs = make(), scenes[target]
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    steps = 250 if task == "segmentation" else 400
    with torch.no_grad():
        fused = torch.cat([fuser(pair.a, pair.b) for pair in pairs])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        some = torch.randint(36, (4,)).tolist()
        targets: Any = [pairs[i].target for i in some]
        optimizer.zero_grad()
        net.loss(fused[some], torch.cat(targets) if target == "masks" else [t[0] for t in targets]).backward()
        optimizer.step()
    net.eval()
    metric = net.metric()
    for i in range(40, len(pairs)):
        metric.update(net.predict(fused[i : i + 1]), pairs[i].target)
    return float(100 * metric.numbers()[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    drawn = [render(seed, example.SIZE) for seed in range(64)]
    scenes = {
        target: [scene_pair(scene, f"street-{i}", target) for i, scene in enumerate(drawn)]  # type: ignore[arg-type]
        for target in ("masks", "boxes")
    }
    lines = ["| loss | mIoU | each seed | mAP50 | each seed |", "| --- | --: | --: | --: | --: |"]
    rows: list[tuple[str, Callable[[], TDFusionLoss], str]] = [("fixed, w = 1/2", half, "segmentation")]
    rows += [(f"{name}, learned from {task}", make, task) for name, make in LOSSES.items() for task in TASKS]
    for title, make, teacher in rows:
        scores: dict[str, list[float]] = {task: [] for task in TASKS}
        for seed in range(arguments.seeds):
            fuser = train(make(), teacher, scenes, seed, learned=make is not half)
            for task, values in scores.items():
                values.append(statistics.mean(score(fuser, task, scenes, again) for again in range(example.SEEDS)))
        cells = [f"{statistics.mean(v):.1f} | {', '.join(f'{x:.1f}' for x in v)}" for v in scores.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
