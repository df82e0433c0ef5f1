"""The training loop: a fuser on a fixed objective, or on one that is learned from a task at the same time.

    epoch:  meta_steps x    the objective takes a step along its hypergradient              (only if it is learned)
            fit steps  x    the fuser takes a step on the objective, the task one on the fused images
            once            a balance, if there is one, gives the terms of the fuser's loss other weights

over random crops for the objective and whole resized images for the task (`tectum.training.trainer` has the steps).
The data of a step depends on the seed and on its number alone, so a run that was stopped at any moment and is started
again ends with the same bits as one that was not.

A run folder holds `recipe.json` (the settings), `log.jsonl` (a line per epoch), `last.pt` (the checkpoint),
`best.safetensors` (the fuser of the best validation score), `objective.safetensors` and `task.safetensors` (of the same
epoch) and `samples/`. With `schedule.ema` the fuser that is validated and saved is its moving average.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tectum.data.transforms import flip
from tectum.errors import UserError
from tectum.io.files import file_sha256, lock_folder, read_tensors, write_tensors, write_text
from tectum.nn.memory import keep_memory
from tectum.nn.stages import find_device
from tectum.pair import Pair, Pairs
from tectum.protocols import Balance
from tectum.training.batches import batch_indices, crop_batch, draw_mix, meta_indices, whole_batch
from tectum.training.checkpoint import FILES, Checkpoint
from tectum.training.distributed import World
from tectum.training.held_out import epoch_means, held_out_losses, split_held_out, weights_to_log
from tectum.training.inputs import check_inputs
from tectum.training.schedule import Schedule as Schedule
from tectum.training.trainer import Trainer, largest_entry
from tectum.training.validation import validate

SAVE_EVERY_S = 30.0
"""Seconds after which a checkpoint is written again: the most that an interruption can cost."""


def fit(
    fuser: nn.Module,
    objective: nn.Module,
    pairs: Pairs,
    validation: Pairs,
    *,
    run: str | Path,
    schedule: Schedule = Schedule(),
    task: Any = None,
    balance: Balance | None = None,
    device: str | torch.device = "auto",
    world: World | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    begin: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train `fuser` in place and leave its best weights in it.

    Args:
        fuser: any network (a, b) -> fused, images (B,1,H,W) in [0,1].
        objective: any module (fused, a, b) -> {term: scalar}. With trainable parameters it is learned, which needs a
            task and `schedule.meta_steps`; one whose parameters are frozen stays as it is.
        pairs: single pairs, with targets if there is a task.
        validation: single pairs. With a task, its score on them selects the weights that stay, else the lowest loss.
        run: folder of the run; one that holds a checkpoint is continued.
        schedule: steps, rates, crops, seed.
        task: the network that will see the fused image (`tectum.protocols.Task`); trained too.
        balance: weights of the terms and of the task's loss in the fuser's, new in every epoch (`tectum.balance`); None
            is 1, and `schedule.task_weight` for the task.
        device: where to train: "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:1", "mps".
        world: the processes of a run on several devices; None is this one alone.
        report: called after every step with {"step", "steps", "loss", ..}, and with a whole log line after an epoch.
        begin: called in the main process when the folder is locked for this run and nothing is written yet.

    Returns:
        The log line of the best validation.

    Raises:
        UserError: the run folder belongs to another run or process, a number is not finite (the batch is saved), or the
            objective cannot be learned in this way.
        OSError: a file cannot be written; all that was saved before stays.
    """
    folder, world = Path(run), world or World()
    sets = {"training": pairs, "validation": validation}
    device = world.device or find_device(device)
    pairs, held_out = split_held_out(pairs, 0 if balance is None else balance.held_out, schedule.seed)
    check_inputs(fuser, objective, task, pairs, validation, schedule, balance)
    keep_memory()
    for module in (fuser, objective, task):
        if module is not None:
            module.to(device)
    trainer = Trainer(fuser, objective, task, schedule, world=world, balance=balance)
    with ExitStack() as stack:
        if not world.on_main(lambda: stack.enter_context(lock_folder(folder))):
            raise UserError(f"another process trains in {folder}; wait for its end, or choose a new folder")
        world.on_main(begin or (lambda: None))
        loop = _Loop(trainer, pairs, validation, held_out, folder, device, Checkpoint(folder, trainer, pairs, sets))
        for module in trainer.modules.values():
            world.broadcast(module)
        best = loop.run(report or (lambda line: None))
        if world.is_main:
            fuser.load_state_dict(read_tensors(folder / FILES["fuser"]))
        world.broadcast(fuser)
    return best


def selection_score(line: dict[str, Any]) -> float:
    """Returns the number that selects the best weights, of a log line: the task's first score, else minus the loss."""
    value = line["valid_score"] if "valid_score" in line else -line["valid_loss"]
    return -math.inf if math.isnan(value) else value


@dataclass
class _Loop:
    """A run: its networks, data and folder, and how far it is."""

    trainer: Trainer
    pairs: Pairs
    validation: Pairs
    held_out: Pairs
    folder: Path
    device: str
    checkpoint: Checkpoint

    def __post_init__(self) -> None:
        self.schedule, self.world = self.trainer.schedule, self.trainer.world
        self.progress = self.checkpoint.load()
        self.saved_at = time.monotonic()

    def run(self, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        progress, schedule, world = self.progress, self.schedule, self.world
        if progress.step < schedule.steps:
            world.on_main(self.prepare_folder)
        while progress.step < schedule.steps:
            numbers = world.average_numbers(self.take_step())
            for name, value in numbers.items():
                total, num = progress.sums.get(name, (0.0, 0))
                progress.sums[name] = (total + value, num + 1)
            counts = {"step": progress.step, "meta": progress.meta, "first": progress.first}
            report(counts | {"steps": schedule.steps} | numbers)
            at_end = progress.step % schedule.validate_every == 0 or progress.step == schedule.steps
            epoch_ended = progress.step > progress.ended and at_end
            if epoch_ended:
                self.end_epoch(report)
                world.on_main(self.save)
            elif world.is_main and time.monotonic() - self.saved_at > SAVE_EVERY_S:
                self.save()
        return progress.best or {}

    def save(self) -> None:
        now = time.monotonic()
        self.progress.seconds, self.saved_at = self.progress.seconds + now - self.saved_at, now
        self.checkpoint.save(self.progress)

    def prepare_folder(self) -> None:
        try:
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise UserError(
                f"{self.folder} must be writable, its run is not finished ({error.strerror}); copy it to another place"
            ) from error
        (self.folder / "samples").mkdir(exist_ok=True)
        for unfinished in self.folder.rglob(".tectum-*.tmp"):  # of a process that was killed
            unfinished.unlink(missing_ok=True)

    def take_step(self) -> dict[str, float]:
        """Take the next step, of the task alone, of the objective or of the fuser; returns its numbers by name."""
        progress, schedule = self.progress, self.schedule
        self.trainer.set_rates(progress.step, progress.first)
        if self.trainer.task is not None and progress.first < schedule.task_first:
            return self.task_step()
        if progress.meta < schedule.meta_due(progress.step):
            return self.meta_step()
        return self.fit_step()

    def task_step(self) -> dict[str, float]:
        progress, schedule = self.progress, self.schedule
        seed = schedule.seed * 1_000_003 + 700_001 + progress.first
        indices = batch_indices(len(self.pairs), schedule, progress.first, schedule.task_first_batch, salt=2)
        whole = self.whole_batch(indices)
        mix = self.seed_step(seed, len(indices))
        fused = self.trainer.task_images(whole, mix, untrained=indices[self.world.local_part(len(indices))])
        batch = Pair(fused, fused, whole.target, whole.name)
        if int(torch.randint(2, (1,), generator=torch.Generator().manual_seed(seed))):
            batch = flip(batch)
        loss = float(self.trainer.task_step(batch.a, batch, self.check_finite))
        progress.first += 1
        return {"first_task": loss, "loss": loss}

    def meta_step(self) -> dict[str, float]:
        progress, schedule = self.progress, self.schedule
        train, test = meta_indices(len(self.pairs), schedule, progress.meta, progress.step)
        number = progress.step if schedule.interleaved else 500_009 + progress.meta  # interleaved: the fit step's crops
        seed = schedule.seed * 1_000_003 + number
        crops = crop_batch(self.pairs, train[: schedule.batch], schedule, self.world, seed).to(self.device)
        whole = self.whole_batch(train[: schedule.task_batch])
        result = self.trainer.meta_step(crops, whole, self.whole_batch(test), seed, self.check_finite)
        progress.meta += 1
        return {
            "loss": float(sum(result.terms.values())),
            "outer_loss": float(result.outer_loss),
            "hypergradient": float(largest_entry(result.gradient)),
        }

    def fit_step(self) -> dict[str, float]:
        step, schedule = self.progress.step, self.schedule
        seed = schedule.seed * 1_000_003 + step
        indices = batch_indices(len(self.pairs), schedule, step, schedule.batch)
        crops = crop_batch(self.pairs, indices, schedule, self.world, seed).to(self.device)
        whole = None
        if self.trainer.task is not None:
            whole = self.whole_batch(batch_indices(len(self.pairs), schedule, step, schedule.task_batch, salt=1))
        mix = self.seed_step(seed, 0 if whole is None else schedule.task_batch)
        terms = self.trainer.fit_step(crops, whole, self.check_finite, mix)
        self.progress.step += 1
        loss = sum(float(self.trainer.term_weight(name) * x) for name, x in terms.items() if name != "task")
        return {"loss": loss} | {f"train_{name}": float(x) for name, x in terms.items()}

    def seed_step(self, seed: int, num: int) -> Tensor | None:
        """Seed torch for a step, and return the weights of its mixtures of `num` pairs, if it has any."""
        torch.manual_seed(seed)
        mix = draw_mix(num, self.schedule, self.world) if num else None
        if self.world.rank:
            torch.manual_seed(seed + self.world.rank * 7_000_003)  # dropout differs from process to process
        return mix

    def whole_batch(self, indices: Sequence[int]) -> Pair:
        return whole_batch(self.pairs, indices, self.schedule, self.world).to(self.device)

    def check_finite(self, name: str, value: Tensor, batch: Pair) -> None:
        """Stop before a value that is not finite reaches the weights, and save the batch it came from."""
        if bool(value.isfinite()):
            return
        file = self.folder / "not-finite.safetensors"
        write_tensors(file, {"a": batch.a, "b": batch.b})
        names = ", ".join(batch.name) or "unnamed pairs"
        flag = "--task-lr" if "task" in name else "--meta-lr" if name in ("outer loss", "hypergradient") else "--lr"
        raise UserError(
            f"the {name} must stay finite, but is {value.item()} at step {self.progress.step} on {names}; the batch is "
            f"in {file}, lower {flag}"
        )

    def end_epoch(self, report: Callable[[dict[str, Any]], None]) -> None:
        """Validate, save the best weights, write the log, and give the balance the losses of the epoch."""
        trainer, progress = self.trainer, self.progress
        means = epoch_means(trainer, progress.sums)
        losses = held_out_losses(trainer, self.held_out, self.device)
        logged = weights_to_log(trainer, means) | {f"held_out_{name}": value for name, value in losses.items()}

        def end() -> None:
            with trainer.ema.applied():
                line = self.validate(logged)
                self.save_best(line)
            self.write_log(line)
            report(line)

        self.world.on_main(end)
        trainer.balance.update(means, losses)
        progress.sums, progress.ended = {}, progress.step

    def validate(self, logged: dict[str, float]) -> dict[str, Any]:
        """The log line of this epoch: counts, rates, the epoch's means, `logged`, and the validation."""
        progress, schedule, step = self.progress, self.schedule, self.progress.step
        line: dict[str, Any] = {"step": step, "meta": progress.meta, "lr": schedule.rate(step - 1)}
        if self.trainer.task is not None:
            line["task_lr"] = schedule.task_rate(step - 1, progress.first)
        if self.trainer.learned:
            line["meta_lr"] = schedule.meta_lr * schedule.fade(step - 1)
        line |= {name: total / num for name, (total, num) in progress.sums.items() if name != "loss"} | logged
        line |= validate(self.trainer, self.validation, self.folder / "samples" / f"{step:06d}.png", self.device)
        line["seconds"] = round(progress.seconds + time.monotonic() - self.saved_at, 1)
        return line

    def save_best(self, line: dict[str, Any]) -> None:
        """Save the weights if this is the best validation; one after a meta step is better than any before."""
        best = self.progress.best
        if best is None or (line["meta"] > 0, selection_score(line)) > (best["meta"] > 0, selection_score(best)):
            self.progress.best = line
            for name, module in self.trainer.modules.items():
                if module.state_dict():
                    write_tensors(self.folder / FILES[name], module.state_dict())
                    self.progress.saved[FILES[name]] = file_sha256(self.folder / FILES[name])

    def write_log(self, line: dict[str, Any]) -> None:
        """Write the log with one more line."""
        self.progress.log.append(line)
        write_text(self.folder / "log.jsonl", "".join(json.dumps(x) + "\n" for x in self.progress.log))
