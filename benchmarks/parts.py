"""What the parts of TOMIFF and SFOFusion bring: each claim of their abstracts, taken out.

    python benchmarks/parts.py fuser --data MSRS [--seeds 2]     real pairs, the fixed objective
    python benchmarks/parts.py loss [--seeds 3]                  synthetic streets, a segmenter's score

A part of the fuser is judged by the fixed objective (w = 1/2) that every variant is trained on from a random start,
with the same steps and seeds, on 10 of the 40 validation pairs: lower is better. A part of the loss is judged as
TDFusion's in ablations.py: a small fuser is trained on it, then fresh segmenters on what that makes of the scenes.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tectum
from tectum import balance
from tectum.data.datasets import open_set
from tectum.data.parts import exclude_names, read_split
from tectum.data.synthetic import render
from tectum.models.sfofusion import SFOFusion, SFOFusionLoss
from tectum.models.tdfusion import TDFusionLoss
from tectum.models.tomiff import TOMIFF, TOMIFFLoss
from tectum.training.recipes.build import scene_pair
from tectum.training.schedule import Schedule

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import learn_a_loss as example

BUDGET = Schedule(steps=400, batch=4, crop_px=64, lr=2e-3, warmup=20, validate_every=400)


# ---- parts of a fuser ------------------------------------------------------------------------------------------------


class FinestBase(nn.Module):
    """The finest means alone, no other level and nothing learned."""

    def coarse(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 4)

    def fine(self, x: Tensor, coarse: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class EvenGate(nn.Module):
    """Both bases alike, whatever they share: (B,1,h,w) twice -> (B,1,2h,2w)."""

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return ((visible + infrared) / 2).repeat_interleave(2, 2).repeat_interleave(2, 3)


class PlainBank(nn.Module):
    """Kernels of Gabor's size that learn freely from random numbers, in place of the bank."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Conv2d(1, 12, 5, padding=2, padding_mode="replicate")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        even, odd = self.kernels(x).chunk(2, 1)
        return even, odd


class PlainDetail(nn.Module):
    """An image without its means over 5x5: no bank, no attention."""

    def bank(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)

    def attend(self, even: Tensor, odd: Tensor, *, at_once: int | None = None) -> Tensor:
        return odd


def no_wavelet() -> nn.Module:
    net = TOMIFF()
    net.base = FinestBase()  # type: ignore[assignment]
    return net


def no_gabor() -> nn.Module:
    net = TOMIFF()
    net.detail.bank = PlainBank()  # type: ignore[assignment]
    return net


def no_attention() -> nn.Module:
    net = TOMIFF()
    net.detail = PlainDetail()  # type: ignore[assignment]
    return net


def no_gate() -> nn.Module:
    net = TOMIFF()
    net.gate = EvenGate()  # type: ignore[assignment]
    return net


def no_phase() -> nn.Module:
    """The phase of a + b: no alignment, no learned share of the sources' phases."""
    net = SFOFusion()

    def even(x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :1])

    def never(x: Tensor) -> Tensor:
        return torch.full_like(x[:, :1], -30.0)

    net.frequency.align, net.frequency.fuse_phase = Say(never), Say(even)
    return net


def no_amplitude() -> nn.Module:
    """Amplitudes of the sources alike, no gains by frequency."""
    net = SFOFusion()
    net.frequency.fuse_amplitude = Say(lambda x: torch.zeros_like(x[:, :1]))
    net.frequency.gains = Say(lambda level, width: torch.zeros_like(level))
    return net


def no_compensation() -> nn.Module:
    """Nothing is put back from the sources: the second half sees the mixture only."""
    net = SFOFusion()
    space = net.space
    for name, _ in [*space.named_children()]:
        if name != "interact" and not name.startswith("merge"):
            delattr(space, name)
    del space.strength

    def nothing(visible: Tensor, infrared: Tensor, x: Tensor, scene: Tensor) -> Tensor:
        return x.new_zeros(len(x), 8, *x.shape[2:])

    space.compensate = nothing  # type: ignore[method-assign]
    return net


class Say(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Any) -> Tensor:
        return self.function(*given)


FUSERS: dict[str, Callable[[], nn.Module]] = {
    "TOMIFF": TOMIFF,
    "TOMIFF: base of one level, without network": no_wavelet,
    "TOMIFF: free kernels in place of Gabor's": no_gabor,
    "TOMIFF: detail = image - mean, no attention": no_attention,
    "TOMIFF: gate 1/2": no_gate,
    "SFOFusion": SFOFusion,
    "SFOFusion: phase of the sum": no_phase,
    "SFOFusion: amplitudes alike, no gains": no_amplitude,
    "SFOFusion: no compensation": no_compensation,
}


def fuser_parts(data: Path, seeds: int) -> list[str]:
    """The table of the fusers' parts."""
    kept = read_split("msrs-validation")
    validation = open_set("folder", data, names=kept[::4])
    whole = open_set("folder", data)
    pairs = whole.subset(exclude_names(whole.names, kept))
    lines = ["| | parameters | fixed objective | each seed |", "| --- | --: | --: | --: |"]
    for name, make in FUSERS.items():
        found = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            fuser = make()
            with tempfile.TemporaryDirectory() as run:
                line = tectum.fit(
                    fuser, TDFusionLoss(None), pairs, validation, run=run, schedule=replace(BUDGET, seed=seed)
                )
            found.append(line["valid_loss"])
        size = sum(p.numel() for p in fuser.parameters())
        each = ", ".join(f"{value:.4f}" for value in found)
        lines.append(f"| {name} | {size:,} | {statistics.mean(found):.4f} | {each} |")
        print(lines[-1], flush=True)
    return lines


# ---- parts of a loss -------------------------------------------------------------------------------------------------


class Deaf(SFOFusionLoss):
    """The loss that does not hear the task's gradient."""

    def forward(self, fused: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> dict[str, Tensor]:
        return super().forward(fused, a, b)


def generated() -> TDFusionLoss:
    """Weights from a network in place of four scalars."""
    return TDFusionLoss(example.Generator(), alpha=example.ALPHA)


def half() -> TDFusionLoss:
    return TDFusionLoss(None, alpha=example.ALPHA)


def four_scalars() -> TDFusionLoss:
    return TOMIFFLoss(alpha=example.ALPHA)


def lgl() -> TDFusionLoss:
    return SFOFusionLoss(alpha=example.ALPHA, centred=True)


def deaf() -> TDFusionLoss:
    return Deaf(alpha=example.ALPHA, centred=True)


LOSSES: dict[str, tuple[Callable[[], TDFusionLoss], Callable[[], Any], bool]] = {
    "w = 1/2, the task does not reach the fuser": (half, lambda: None, False),
    "TOMIFF": (four_scalars, balance.DynamicWeightAverage, True),
    "TOMIFF: weights of the epochs frozen": (four_scalars, lambda: balance.DynamicWeightAverage(frozen=True), True),
    "TOMIFF: no task term, no weights of the epochs": (four_scalars, lambda: None, True),
    "TOMIFF: the four scalars stay as they begin": (four_scalars, balance.DynamicWeightAverage, False),
    "TOMIFF: w = 1/2": (half, balance.DynamicWeightAverage, False),
    "TOMIFF: a network in place of the four scalars": (generated, balance.DynamicWeightAverage, True),
    "SFOFusion": (lgl, balance.TaskFusionBalance, True),
    "SFOFusion: third loop frozen": (lgl, lambda: balance.TaskFusionBalance(frozen=True), True),
    "SFOFusion: no third loop, no task term": (lgl, lambda: None, True),
    "SFOFusion: deaf to the task's gradient": (deaf, balance.TaskFusionBalance, True),
    "SFOFusion: w = 1/2": (half, balance.TaskFusionBalance, False),
}


def schedule_of(seed: int, *, learned: bool, scalars: bool) -> Schedule:
    """The example's; four numbers are learned at ten times the rate of a network's."""
    schedule = replace(example.SCHEDULE, seed=seed, meta_steps=example.SCHEDULE.meta_steps if learned else 0)
    return replace(schedule, meta_lr=3e-2) if scalars else schedule


def loss_parts(seeds: int) -> list[str]:
    """The table of the losses' parts."""
    scenes = [scene_pair(render(seed, example.SIZE), f"street-{seed}", "masks") for seed in range(64)]
    pairs, validation, test = scenes[:36], scenes[36:40], scenes[40:]
    lines = ["| | mIoU | each seed | mean of abs(w_a - 1/2) |", "| --- | --: | --: | --: |"]
    for name, (objective, loop, learned) in LOSSES.items():
        found, aways = [], []
        for seed in range(seeds):
            schedule = schedule_of(seed, learned=learned, scalars=objective is four_scalars)
            torch.manual_seed(seed)
            fuser, segmenter = example.Fuser(), example.Segmenter()
            with tempfile.TemporaryDirectory() as run:
                line = tectum.fit(
                    fuser,
                    objective(),
                    pairs,
                    validation,
                    run=run,
                    schedule=schedule,
                    task=segmenter,
                    balance=loop(),
                )
            fuser.eval()
            scores = [example.score(fuser, pairs, test, again) for again in range(example.SEEDS)]
            found.append(100 * statistics.mean(scores))
            aways.append(line.get("weight_deviation", 0.0))
        each = ", ".join(f"{value:.1f}" for value in found)
        lines.append(f"| {name} | {statistics.mean(found):.1f} | {each} | {statistics.mean(aways):.3f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["fuser", "loss"])
    parser.add_argument("--data", type=Path, help="folder of MSRS, for fuser")
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    if given.which == "fuser" and given.data is None:
        parser.error("fuser needs --data, the folder of MSRS")
    torch.set_num_threads(1)
    if given.which == "fuser":
        fuser_parts(given.data, given.seeds)
    else:
        loss_parts(given.seeds)


if __name__ == "__main__":
    main()
