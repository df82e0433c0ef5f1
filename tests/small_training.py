"""Small networks, labelled pairs and runs that the tests of training share; a step takes milliseconds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.metrics.task import SegmentationScore
from tectum.models.tdfusion import TDFusionLoss
from tectum.pair import Pair
from tectum.training.checkpoint import FILES
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer

Images = Callable[..., tuple[Tensor, ...]]


PX = 32


SHORT = Schedule(
    steps=6, batch=2, crop_px=12, lr=1e-2, warmup=2, validate_every=3, meta_steps=2, meta_lr=1e-2, task_px=(PX, PX),
    task_batch=2, task_lr=1e-2,
)  # fmt: skip


class Small(nn.Module):
    """A fuser with dropout and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = F.dropout(self.norm(self.hidden(torch.cat([a, b], 1))).relu(), 0.1, self.training)
        return self.out(x).sigmoid()


class Segmenter(nn.Module):
    """A task with dropout and BatchNorm; `scale` multiplies its loss."""

    label_type = "masks"

    def __init__(self, classes: Sequence[str] = "abc", *, dropout: float = 0.2, scale: float = 1.0) -> None:
        super().__init__()
        num_classes = len(classes)
        self.first, self.norm, self.last = (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, num_classes, 1),
        )
        self.classes, self.dropout, self.scale = tuple(classes), dropout, scale

    def forward(self, fused: Tensor) -> Tensor:
        return self.last(F.dropout(self.norm(self.first(fused)).relu(), self.dropout, self.training))

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        logits = F.interpolate(self(fused), target.shape[1:], mode="bilinear", align_corners=False)
        return self.scale * F.cross_entropy(logits, target)

    @torch.no_grad()
    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        training = self.training
        logits = self.eval()(fused)
        self.train(training)
        return F.interpolate(logits, size or fused.shape[2:], mode="bilinear", align_corners=False).argmax(1)

    def metric(self) -> SegmentationScore:
        return SegmentationScore(len(self.classes))


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.conv(torch.cat([a, b], dim=1)).softmax(1)


def labelled_pairs(
    images: Images, num: int, *, size: tuple[int, int] = (36, 40), batch: int = 1, seed: int = 0
) -> list[Pair]:
    """Pairs whose classes are the brightness of the infrared in three steps."""
    pairs = []
    for index in range(num):
        a, b = images(*size, batch=batch, seed=seed + index)
        names = tuple(f"pair-{index}-{i}" if batch > 1 else f"pair-{index}" for i in range(batch))
        pairs.append(Pair(a, b, (b[:, 0] * 2.999).long(), names))
    return pairs


def prepare_trainer(
    images: Images, *, fits: int = 2, scale: float = 1.0, **changes: Any
) -> tuple[Trainer, Pair, Pair, Pair]:
    """A trainer after some fit steps, so that moments exist; crops, whole images and a pair for the outer loss."""
    torch.manual_seed(0)
    trainer = Trainer(Small(), TDFusionLoss(Generator()), Segmenter(scale=scale), replace(SHORT, **changes))
    crops, whole, test = labelled_pairs(images, 3, size=(PX, PX), batch=2)
    crops = Pair(crops.a[..., :12, :12], crops.b[..., :12, :12])
    torch.manual_seed(1)
    for step in range(fits):
        trainer.set_rates(step, 0)
        trainer.fit_step(crops, whole, check_finite)
    return trainer, crops, whole, test


def check_finite(what: str, value: Tensor, batch: Pair) -> None:
    assert value.isfinite()


def copy_state(trainer: Trainer) -> dict[str, Tensor]:
    """Parameters, buffers and moments, by whose they are."""
    state_of = {}
    for name, module in trainer.modules.items():
        state_of |= {f"{name}.{key}": x.detach().clone() for key, x in module.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            state_of |= {f"{name}.adam.{index}.{key}": x.clone() for key, x in state.items()}
    return state_of


def changed_names(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before | after if name not in before or not torch.equal(before[name], after[name])}


class Stopped(BaseException):
    """What a user's Ctrl-C or a dying machine is to the trainer."""


def stop_after(num: int) -> Callable[[dict[str, Any]], None]:
    """Die in the `num`-th step of this session."""
    seen: list[int] = []

    def report(line: dict[str, Any]) -> None:
        seen.extend([1] * ("valid_loss" not in line))
        if len(seen) == num:
            raise Stopped

    return report


def read_results(folder: Path) -> dict[str, Any]:
    """All that a run leaves, as bytes and numbers; wall time left out."""
    last = torch.load(folder / "last.pt", weights_only=True)
    modules = {name: {k: x.numpy().tobytes() for k, x in last[name].items()} for name in FILES}
    adams = {
        name: [x.numpy().tobytes() for s in o["state"].values() for x in s.values()]
        for name, o in last["optimizers"].items()
    }
    files = [*folder.glob("*.safetensors"), *(folder / "samples").iterdir()]
    return {
        "modules": modules,
        "adams": adams,
        "counts": {name: last["state"][name] for name in ("step", "meta", "first", "ended", "sums")},
        "files": {path.name: path.read_bytes() for path in files},
        "log": [{name: value for name, value in line.items() if name != "seconds"} for line in read_log(folder)],
    }


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class OneWeight(nn.Module):
    """The same w for all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.logits.softmax(0)[:, None, None].expand(len(a), 2, *a.shape[2:])
