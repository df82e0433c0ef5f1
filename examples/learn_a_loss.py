"""A minute on synthetic streets: a loss learned from a segmenter against the same loss fixed at one half.

    python examples/learn_a_loss.py OUT

Two fusers of one kind are trained for the same number of steps, one on the fixed loss and one on a loss that is learned
meanwhile. Then fresh segmenters, alike but for their seeds, are trained on what each of them fuses and scored on scenes
nobody has seen. OUT/learned.png shows the scores, a fused scene and where the learned loss asks for the infrared.
"""

import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tectum
from tectum.data.synthetic import CLASSES, render
from tectum.metrics.task import SegmentationScore
from tectum.models.tdfusion import TDFusionLoss
from tectum.pair import Pair
from tectum.training.recipes.build import scene_pair
from tectum.training.schedule import Schedule

SIZE, SEEDS = (72, 96), 3
SCHEDULE = Schedule(
    steps=400,
    batch=4,
    crop_px=48,
    lr=5e-3,
    warmup=10,
    validate_every=80,
    meta_steps=40,
    warm_epochs=1,
    outer="adam",
    meta_lr=3e-3,
    task_px=SIZE,
    task_batch=4,
    task_lr=1e-3,
    task_mix=0.5,
    task_first=200,
    task_first_lr=4e-3,
)
ALPHA = 0.05
"""Of the gradient term: at 1 it holds every intensity where it is, whatever the loss asks for."""
CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 6.0, 6.0])  # background, car, person, lamp: rare things count more


def layers(*channels: int, dilation: int = 1) -> nn.Sequential:
    """3x3 convolutions with leaky units between."""
    modules: list[nn.Module] = []
    for i, o in pairwise(channels):
        modules += [nn.Conv2d(i, o, 3, padding=dilation, dilation=dilation), nn.LeakyReLU(0.1)]
    return nn.Sequential(*modules[:-1])


class Fuser(nn.Module):
    """(a, b) -> fused by three convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers(2, 12, 12, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(torch.cat([a, b], dim=1)))


class Generator(nn.Module):
    """(a, b) -> the weights w_a and w_b of the loss, which add up to 1; they start at one half.

    Without the mean over the pixels it can say where it wants more of a source, but not that it wants one everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers(2, 12, 12, 2)
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.layers(torch.cat([a, b], dim=1))
        return (x - x.mean((2, 3), keepdim=True)).softmax(1)


class Segmenter(nn.Module):
    """A task: a network that gives the class of each pixel. A task needs no more than these three methods."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.wide = layers(1, 16, 16), layers(16, 24, 24, dilation=3)
        self.out = nn.Conv2d(40, len(CLASSES), 1)

    def forward(self, fused: Tensor) -> Tensor:
        fine = F.leaky_relu(self.fine(fused - 0.5), 0.1)
        return self.out(torch.cat([fine, F.leaky_relu(self.wide(fine), 0.1)], dim=1))

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self(fused), target, CLASS_WEIGHTS)

    @torch.no_grad()
    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self(fused).argmax(1)

    def metric(self) -> SegmentationScore:
        return SegmentationScore(len(CLASSES))


def train(learned: bool, pairs: list[Pair], validation: list[Pair], run: Path) -> tuple[nn.Module, TDFusionLoss]:
    """Train a fuser and return it with the loss it was trained on."""
    schedule = SCHEDULE if learned else replace(SCHEDULE, meta_steps=0)
    torch.manual_seed(0)
    fuser, segmenter, generator = Fuser(), Segmenter(), Generator()
    objective = TDFusionLoss(generator if learned else None, alpha=ALPHA)
    tectum.fit(fuser, objective, pairs, validation, run=run, schedule=schedule, task=segmenter)
    return fuser.eval(), objective


def score(fuser: nn.Module, pairs: list[Pair], test: list[Pair], seed: int) -> float:
    """Returns the mIoU on the test scenes of a new segmenter, trained on fused images of the other scenes."""
    torch.manual_seed(seed)
    segmenter = Segmenter()
    optimizer = torch.optim.Adam(segmenter.parameters(), lr=4e-3)
    with torch.no_grad():
        fused = torch.cat([fuser(pair.a, pair.b) for pair in pairs])
    masks = torch.cat([pair.target for pair in pairs])
    for _ in range(250):
        indices = torch.randint(len(fused), (4,))
        optimizer.zero_grad()
        segmenter.loss(fused[indices], masks[indices]).backward()
        optimizer.step()
    metric = segmenter.metric()
    for pair in test:
        with torch.no_grad():
            metric.update(segmenter.predict(fuser(pair.a, pair.b)), pair.target)
    return metric.numbers()["mIoU"]


def draw(scores: dict[str, list[float]], fusers: dict[str, nn.Module], objective: Any, pair: Pair, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with torch.no_grad():
        pictures = {"visible": pair.a, "infrared": pair.b, "weight of the infrared in the loss": None}
        pictures |= {name: fuser(pair.a, pair.b) for name, fuser in fusers.items()}
        pictures["weight of the infrared in the loss"] = objective.weights(pair.a, pair.b)[:, 1:]
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(picture[0, 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    axis = axes.flat[-1]
    for place, values in enumerate(scores.values()):
        axis.bar(place, sum(values) / len(values), 0.5, color="0.8")
        axis.plot([place] * len(values), values, "ko", markersize=4)
    axis.set_xticks(range(len(scores)), list(scores))
    axis.set_title(f"mIoU on unseen scenes, {SEEDS} segmenters each")
    figure.savefig(path, dpi=100)


def main(out: Path) -> dict[str, list[float]]:
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    scenes = [scene_pair(render(seed, SIZE), f"street-{seed}", "masks") for seed in range(64)]
    pairs, validation, test = scenes[:36], scenes[36:40], scenes[40:]
    fusers: dict[str, nn.Module] = {}
    for name in ("fixed", "learned"):
        fusers[name], objective = train(name == "learned", pairs, validation, out / name)
    scores = {name: [score(fuser, pairs, test, seed) for seed in range(SEEDS)] for name, fuser in fusers.items()}
    draw(scores, fusers, objective, test[0], out / "learned.png")
    for name, values in scores.items():
        print(f"{name:8} mIoU {sum(values) / len(values):.3f}   " + " ".join(f"{value:.3f}" for value in values))
    print(f"{time.monotonic() - start:.0f} s, {out / 'learned.png'}")
    return scores


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/learn_a_loss"))
