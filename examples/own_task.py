"""A task of your own: say what is lost, what the answer is and how it is scored, and the loss is learned from it.

    python examples/own_task.py RUN

The task here counts: how many people are in the picture? The target of an image is one number. A task that learns from
masks or boxes is also taken by name (`tectum train tdfusion-street --task module:Class`); it is made from the classes.
"""

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import tectum
from tectum.color import rgb_to_ycbcr
from tectum.data.synthetic import CLASSES, render
from tectum.models import SYSTEMS
from tectum.pair import Pair
from tectum.training.recipes import RECIPES

PERSON = CLASSES.index("person")


class Error:
    """The mean of |counted - true|; as a score, its negative: higher is better."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.errors += (prediction - target).abs().tolist()

    def numbers(self) -> dict[str, float]:
        return {"minus_error": -sum(self.errors) / len(self.errors)}


class Counter(nn.Module):
    """A density that adds up to the number of people: (B,1,H,W) -> (B,)."""

    def __init__(self, classes: Any = ()) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 1, 3, padding=1), nn.Softplus(),
        )  # fmt: skip

    def forward(self, fused: Tensor) -> Tensor:
        return self.layers(fused).mean((1, 2, 3))

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        return (self(fused) - target).square().mean()

    @torch.no_grad()
    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self(fused)

    def metric(self) -> Error:
        return Error()


def counting_pair(seed: int) -> Pair:
    """A synthetic scene with its number of people as the target, one entry per image."""
    scene = render(seed, (96, 128))
    people = (scene.labels == PERSON).sum().float()[None]
    return Pair(rgb_to_ycbcr(scene.visible)[0][None], scene.infrared[None], people, (f"street-{seed}",))


if __name__ == "__main__":
    pairs = [counting_pair(seed) for seed in range(24)]
    recipe = RECIPES["tdfusion-street"]
    torch.manual_seed(0)
    system = SYSTEMS["tdfusion"]
    assert system.learned is not None
    schedule = replace(
        recipe.schedule, steps=30, validate_every=15, meta_steps=5, crop_px=48, batch=2, task_px=(48, 64), warmup=5
    )
    best = tectum.fit(
        system.fuser(), system.learned(), pairs[:18], pairs[18:], run=sys.argv[1], schedule=schedule, task=Counter()
    )
    print({name: round(value, 3) for name, value in best.items()})
