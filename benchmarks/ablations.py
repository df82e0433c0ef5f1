"""TDFusion's ablations I to V at the size of examples/learn_a_loss.py: synthetic streets, networks of three layers.

    python benchmarks/ablations.py [--seeds 2] [--write]

Every variant trains a fuser (for V: weights that make the image) with the same steps and seeds; then three fresh
segmenters each are trained on what it makes of the training scenes and scored on scenes nobody has seen. On real pairs
the same is `tectum train RECIPE --ablation I`; this size is what a processor can repeat.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tectum
from results import put
from tectum.data.synthetic import render
from tectum.models.tdfusion import TDFusionLoss
from tectum.training.recipes.build import scene_pair

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import learn_a_loss as example

NAMES = {
    "full": "learned",
    "I": "I: w = 1/2",
    "II": "II: no gradient term",
    "III": "III: the task's loss reaches the fuser",
    "IV": "IV: no fusion phase",
    "V": "V: w_a a + w_b b, by the task's loss",
}


class WeightedSum(nn.Module):
    """The generator's weights make the image."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = example.Generator()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.generator(a, b) * torch.cat([a, b], dim=1)).sum(1, keepdim=True)


def train(variant: str, seed: int, pairs: Any, validation: Any, run: Path) -> tuple[nn.Module, float]:
    """Train a fuser; returns it and the mean abs(w_a - 1/2) of its loss at the end."""
    schedule = replace(example.SCHEDULE, seed=seed)
    options: dict[str, float] = {"alpha": example.ALPHA}
    if variant in ("I", "V"):
        schedule = replace(schedule, meta_steps=0)
    if variant == "II":
        options["alpha"] = 0.0
    if variant in ("III", "V"):
        schedule = replace(schedule, task_weight=1.0)
    if variant == "IV":
        schedule = replace(schedule, interleaved=True)
    if variant == "V":
        options["beta"] = 0.0
    torch.manual_seed(seed)
    fuser, segmenter, generator = example.Fuser(), example.Segmenter(), example.Generator()
    fuser = WeightedSum() if variant == "V" else fuser
    objective = TDFusionLoss(generator if schedule.meta_steps else None, **options)
    line = tectum.fit(fuser, objective, pairs, validation, run=run, schedule=schedule, task=segmenter)
    return fuser.eval(), line.get("weight_deviation", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="*", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenes = [scene_pair(render(seed, example.SIZE), f"street-{seed}", "masks") for seed in range(64)]
    pairs, validation, test = scenes[:36], scenes[36:40], scenes[40:]
    lines = ["| | mIoU | each seed | mean of abs(w_a - 1/2) |", "| --- | --: | --: | --: |"]
    for variant in given.variants:
        means, deviations = [], []
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as run:
                fuser, deviation = train(variant, seed, pairs, validation, Path(run))
            scores = [example.score(fuser, pairs, test, again) for again in range(example.SEEDS)]
            means.append(100 * statistics.mean(scores))
            deviations.append(deviation)
        each = ", ".join(f"{value:.1f}" for value in means)
        lines.append(
            f"| {NAMES[variant]} | {statistics.mean(means):.1f} | {each} | {statistics.mean(deviations):.3f} |"
        )
        print(lines[-1], flush=True)
    if given.write:
        put("results.md", "ablations", "\n".join(lines))


if __name__ == "__main__":
    main()
