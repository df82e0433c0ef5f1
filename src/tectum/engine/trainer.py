"""Train a fuser on pairs: plain descent on an objective whose parameters, if it has any, stay as they are.

    theta <- Adam(theta, grad_theta sum of objective(F_theta(a, b), a, b))

over random crops, with a cosine schedule from `lr` to `lr_end`. What step t sees depends on the seed and on t alone, so
a run that was stopped at any moment and is started again ends with the same bits as one that was not.

A run folder holds `recipe.json` (what was asked for), `log.jsonl` (a line per validation), `last.pt` (all that is
needed to go on), `best.safetensors` (the fuser with the lowest validation loss) and `samples/`.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tectum.data.transforms import centre_crop, random_crop
from tectum.engine.memory import keep_memory
from tectum.files import write_tensors, write_whole
from tectum.pair import Pair, Pairs

VALIDATION_PX, SAMPLE_PX = 256, 640
KEEP_EVERY_S = 30.0
"""Seconds after which the state of a run is written again: what an interruption can cost."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int = 4000
    """Optimiser steps."""
    batch: int = 8
    """Crops per step."""
    crop_px: int = 128
    """Side of a training crop."""
    lr: float = 1e-3
    """Adam's rate at the start, after `warmup` steps."""
    lr_end: float = 1e-5
    """Adam's rate at the end."""
    warmup: int = 100
    """Steps over which the rate rises from zero."""
    clip: float = 1.0
    """Largest norm of a gradient; larger ones are scaled down."""
    validate_every: int = 200
    """Steps between validations; each writes a checkpoint."""
    seed: int = 0
    """Seed of the initial weights and of every crop."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop_px", "validate_every", "lr", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be greater than 0 and finite, got {value}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        along = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * min(1.0, along))) / 2


def fit(
    fuser: nn.Module,
    objective: nn.Module,
    pairs: Pairs,
    validation: Pairs,
    *,
    run: str | Path,
    schedule: Schedule = Schedule(),
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train `fuser` in place and leave its best weights in it; returns the log line of the best validation.

    Args:
        fuser: any network (a, b) -> fused.
        objective: any module (fused, a, b) -> {term: scalar}.
        pairs: single pairs to crop from.
        validation: single pairs; the objective scores their middle 256x256 pixels, the weights of the lowest loss stay.
        run: folder of the run; one that holds a checkpoint is continued.
        schedule: steps, rates, crops, seed.
        device: where to train.
        report: called after every step with {"step", "steps", "loss"}, and with a whole log line after a validation.

    Raises:
        ValueError: the run folder belongs to another schedule, or a loss is not finite (the batch is saved).
    """
    folder = Path(run)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    if len(pairs) == 0 or len(validation) == 0:
        raise ValueError(
            f"training needs pairs and validation pairs, got {len(pairs)} and {len(validation)}; complete the data set"
        )
    if not list(fuser.parameters()):
        raise ValueError(f"{type(fuser).__name__} has no parameters to train; choose another system")
    keep_memory()
    fuser, objective = fuser.to(device), objective.to(device).requires_grad_(False)
    optimizer = torch.optim.Adam(fuser.parameters(), lr=schedule.lr)
    state = resume(folder, fuser, optimizer, schedule)
    clock = time.monotonic()  # of the last checkpoint
    while state["step"] < schedule.steps:
        step = state["step"]
        batch = draw(pairs, schedule, step).to(device)
        torch.manual_seed(schedule.seed * 1_000_003 + step)  # dropout, if the fuser has any, resumes too
        terms = train_step(fuser, objective, optimizer, batch, schedule, step, folder)
        state["step"] = step + 1
        if report is not None:
            report({"step": step + 1, "steps": schedule.steps, "loss": sum(terms.values())})
        validated = (step + 1) % schedule.validate_every == 0 or step + 1 == schedule.steps
        if validated:
            seconds = state["seconds"] + time.monotonic() - clock
            line: dict[str, Any] = {"step": step + 1, "seconds": round(seconds, 1), "lr": schedule.rate(step)}
            line |= {f"train_{name}": value for name, value in terms.items()}
            line |= validate(fuser, objective, validation, folder / "samples" / f"{step + 1:06d}.png", device)
            record(folder, fuser, state, line)
            if report is not None:
                report(line)
        now = time.monotonic()
        if validated or now - clock > KEEP_EVERY_S:
            state["seconds"], clock = state["seconds"] + now - clock, now
            keep(folder, fuser, optimizer, state)
    best: dict[str, Any] = state["best"]
    fuser.load_state_dict(load_file(folder / "best.safetensors", device=device))
    return best


def draw(pairs: Pairs, schedule: Schedule, step: int) -> Pair:
    """The batch of a step: crops of pairs in a fresh order every epoch, all from (seed, step)."""
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
    crops = []
    for place in range(step * schedule.batch, (step + 1) * schedule.batch):
        epoch, index = divmod(place, len(pairs))
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(schedule.seed * 7_919 + epoch))
        crops.append(random_crop(pairs[int(order[index])], schedule.crop_px, generator))
    return Pair.collate(crops)


def train_step(
    fuser: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Pair,
    schedule: Schedule,
    step: int,
    folder: Path,
) -> dict[str, float]:
    """One step of the optimiser; returns the terms of the loss."""
    fuser.train()
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(step)
    optimizer.zero_grad(set_to_none=True)
    terms = objective(fuser(batch.a, batch.b), batch.a, batch.b)
    loss: Tensor = torch.stack(list(terms.values())).sum()
    refuse_not_finite("loss", loss, batch, step, folder)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(fuser.parameters(), schedule.clip)
    refuse_not_finite("norm of the gradient", norm, batch, step, folder)
    optimizer.step()
    return {name: float(term.detach()) for name, term in terms.items()}


def refuse_not_finite(what: str, value: Tensor, batch: Pair, step: int, folder: Path) -> None:
    """Stop before a value that is not finite reaches the weights, and keep the batch that made it."""
    if not bool(value.isfinite()):
        file = folder / "not-finite.safetensors"
        write_tensors(file, {"a": batch.a, "b": batch.b})
        names = ", ".join(batch.name) or "unnamed pairs"
        raise ValueError(
            f"the {what} must stay finite, but is {value.item()} at step {step} on {names}; the batch is in {file}, "
            "lower --lr"
        )


@torch.no_grad()
def validate(fuser: nn.Module, objective: nn.Module, pairs: Pairs, sample: Path, device: str) -> dict[str, float]:
    """Mean terms of the objective over the middle of each image, and a picture of the first and the last pair."""
    fuser.eval()
    sums: dict[str, float] = {}
    sheets = []
    for index in range(len(pairs)):
        pair = pairs[index]
        if index in (0, len(pairs) - 1):
            shown = centre_crop(pair, SAMPLE_PX).to(device)
            sheets.append(torch.cat([shown.a, shown.b, fuser(shown.a, shown.b)], dim=3)[0, 0])
        middle = centre_crop(pair, VALIDATION_PX).to(device)
        for name, term in objective(fuser(middle.a, middle.b), middle.a, middle.b).items():
            sums[name] = sums.get(name, 0.0) + float(term) / len(pairs)
    draw_sheet(sheets, sample)
    return {f"valid_{name}": value for name, value in sums.items()} | {"valid_loss": sum(sums.values())}


def draw_sheet(rows: list[Tensor], path: Path) -> None:
    """Rows of visible | infrared | fused as one grey PNG."""
    from PIL import Image

    width = max(row.shape[1] for row in rows)
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows]
    Image.fromarray((torch.cat(padded) * 255 + 0.5).clamp(0, 255).byte().cpu().numpy()).save(path)


def resume(folder: Path, fuser: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule) -> dict[str, Any]:
    """The state of a run: that of its checkpoint, or a new one."""
    path = folder / "last.pt"
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "best": None, "schedule": asdict(schedule)}
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        known = saved["state"]["schedule"]
    except Exception as error:  # zipfile, pickle and torch each raise their own
        raise ValueError(f"{path} is damaged ({type(error).__name__}); delete it to start the run again") from error
    if known != asdict(schedule):
        changed = [k for k, v in asdict(schedule).items() if known.get(k) != v]
        raise ValueError(
            f"{folder} holds a run with another {', '.join(changed)}; repeat its settings, or choose a new folder"
        )
    try:
        fuser.load_state_dict(saved["fuser"])
    except RuntimeError as error:
        raise ValueError(
            f"{folder} holds a run of another fuser than {type(fuser).__name__}; choose a new folder"
        ) from error
    optimizer.load_state_dict(saved["optimizer"])
    state: dict[str, Any] = saved["state"]
    return state


def record(folder: Path, fuser: nn.Module, state: dict[str, Any], line: dict[str, Any]) -> None:
    """Write the best weights if these are the best, and the log line."""
    best = state["best"]
    if best is None or line["valid_loss"] < best["valid_loss"]:
        state["best"] = line
        write_tensors(folder / "best.safetensors", fuser.state_dict())
    log = folder / "log.jsonl"
    before = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    lines = [x for x in before if json.loads(x)["step"] < line["step"]] + [json.dumps(line)]
    write_whole(log, lambda path: path.write_text("\n".join(lines) + "\n", encoding="utf-8"))


def keep(folder: Path, fuser: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write what is needed to go on from here."""
    content = {"fuser": fuser.state_dict(), "optimizer": optimizer.state_dict(), "state": state}
    write_whole(folder / "last.pt", lambda path: torch.save(content, path))
