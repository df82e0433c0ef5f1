"""Train a fuser on pairs: plain descent on an objective, or on one that is learned from a task meanwhile.

    epoch:  meta_steps x    the objective takes a step along what the task has to say      (only if it is learned)
            fit steps  x    the fuser takes a step on the objective, the task one on the fused images
            once            a balance, if there is one, gives the terms of the fuser's loss other weights

over random crops for the objective and whole resized images for the task (`tectum.training.steps` has the steps).
What a step sees depends on the seed and on its number alone, so a run that was stopped at any moment and is started
again ends with the same bits as one that was not.

A run folder holds `recipe.json` (what was asked for), `log.jsonl` (a line per epoch), `last.pt` (all that is needed to
go on), `best.safetensors` (the fuser of the best validation score), `objective.safetensors` and `task.safetensors`
(of the same moment) and `samples/`. With `schedule.ema` the fuser that is validated and kept is its running average.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tectum.data.transforms import flip, random_crop, resize
from tectum.errors import UserError
from tectum.io.files import write_tensors, write_whole
from tectum.nn.memory import keep_memory
from tectum.pair import Pair, Pairs
from tectum.protocols import Balance
from tectum.training.checkpoint import FILES as FILES
from tectum.training.checkpoint import keep, resume
from tectum.training.distributed import Ranks
from tectum.training.loss_weights import epoch_means, kept_aside, measured, weights_told
from tectum.training.schedule import Schedule as Schedule
from tectum.training.steps import Learners, largest_entry
from tectum.training.validation import validate

KEEP_EVERY_S = 30.0
"""Seconds after which the state of a run is written again: what an interruption can cost."""


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
    device: str = "cpu",
    ranks: Ranks | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train `fuser` in place and leave its best weights in it; returns the log line of the best validation.

    Args:
        fuser: any network (a, b) -> fused.
        objective: any module (fused, a, b) -> {term: scalar}; trained itself if `schedule.meta_steps` is not 0.
        pairs: single pairs, with targets if there is a task.
        validation: single pairs. With a task, its score on them chooses the weights that stay, else the lowest loss.
        run: folder of the run; one that holds a checkpoint is continued.
        schedule: steps, rates, crops, seed.
        task: what the fused image is for (`tectum.protocols.Task`); trained too.
        balance: weights of the terms and of the task's loss in the fuser's, new in every epoch (`tectum.balance`); None
            is 1, and `schedule.task_weight` for the task.
        device: where to train.
        ranks: the processes of a run on several devices; None is this one alone.
        report: called after every step with {"step", "steps", "loss", ..}, and with a whole log line after an epoch.

    Raises:
        ValueError: the run folder belongs to another run, a number is not finite (the batch is saved), or what is
            to be learned cannot be.
    """
    folder, ranks = Path(run), ranks or Ranks()
    device = ranks.device or device
    pairs, aside = kept_aside(pairs, 0 if balance is None else balance.held_out, schedule.seed)
    refuse(fuser, objective, task, pairs, validation, schedule, balance)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    keep_memory()
    for module in (fuser, objective, task):
        if module is not None:
            module.to(device)
    learners = Learners(fuser, objective, task, schedule, ranks, balance)
    ranks.wait()
    state = resume(folder, learners, pairs)
    for module in learners.modules().values():
        ranks.same(module)
    clock = time.monotonic()  # of the last checkpoint
    while state["step"] < schedule.steps:
        found = ranks.mean_numbers(one_step(learners, pairs, state, folder, device))
        count(state, found)
        if report is not None:
            done = {name: state[name] for name in ("step", "meta", "first")}
            report(done | {"steps": schedule.steps} | found)
        validated = at_an_end(state, schedule)
        if validated:
            means, seen = epoch_means(learners, state["sums"]), measured(learners, aside, device)
            told = weights_told(learners, means) | {f"aside_{name}": value for name, value in seen.items()}
            if ranks.first:
                with learners.average.shown():
                    line = end_of_epoch(learners, validation, state, folder, device, time.monotonic() - clock, told)
                if report is not None:
                    report(line)
            learners.weigher.update(means, seen)
            state["balance"] = learners.weigher.state_dict()
            state["sums"], state["ended"] = {}, state["step"]
        now = time.monotonic()
        if ranks.first and (validated or now - clock > KEEP_EVERY_S):
            state["seconds"], clock = state["seconds"] + now - clock, now
            keep(folder, learners, state)
        if validated:
            ranks.wait()
    if ranks.first:
        fuser.load_state_dict(load_file(folder / FILES["fuser"], device=device))
    ranks.same(fuser)
    best: dict[str, Any] = state["best"] or {}
    return best


def refuse(
    fuser: nn.Module,
    objective: nn.Module,
    task: Any,
    pairs: Pairs,
    validation: Pairs,
    schedule: Schedule,
    balance: Balance | None,
) -> None:
    """What cannot be trained is said before anything is done."""
    if len(pairs) == 0 or len(validation) == 0:
        raise UserError(
            f"training needs pairs and validation pairs, got {len(pairs)} and {len(validation)}; complete the data set"
        )
    if not list(fuser.parameters()):
        raise UserError(f"{type(fuser).__name__} has no parameters to train; choose another system")
    if schedule.meta_steps and not list(objective.parameters()):
        raise UserError(
            f"{type(objective).__name__} has no parameters to learn; give it a generator, or set meta_steps to 0"
        )
    if (schedule.meta_steps or schedule.task_weight) and task is None:
        raise UserError("a loss can only be learned from a task; give one (task=...), or set meta_steps to 0")
    if balance is not None and task is None:
        raise UserError(
            "a balance weighs the task's loss, but there is no task; give one, or no balance (--balance none)"
        )
    if balance is not None and schedule.task_weight:
        raise UserError(
            f"the task's weight is the balance's, got task_weight {schedule.task_weight} too; leave one of them out"
        )
    if task is not None:
        for what, some in (("training", pairs), ("validation", validation)):
            if some[0].target is None:
                raise UserError(f"a task needs labels, the {what} pairs have none; give labelled pairs")
    if schedule.meta_steps and len(pairs) < 2:
        raise UserError("a meta step needs two pairs, one to learn from and one to judge on, got 1; give more pairs")
    if schedule.meta_steps and schedule.interleaved and len(pairs) <= schedule.batch:
        raise UserError(
            f"an interleaved meta step judges on pairs outside its batch, got {len(pairs)} pairs for a batch of "
            f"{schedule.batch}; give more pairs, or lower --batch"
        )


def one_step(learners: Learners, pairs: Pairs, state: dict[str, Any], folder: Path, device: str) -> dict[str, float]:
    """The next step of a run, meta or fit; returns what it found by name."""
    schedule, ranks, step = learners.schedule, learners.ranks, state["step"]

    def check(what: str, value: Tensor, batch: Pair) -> None:
        refuse_not_finite(what, value, batch, step, folder)

    learners.at(step, state["first"])
    if learners.task is not None and state["first"] < schedule.task_first:
        seed = schedule.seed * 1_000_003 + 700_001 + state["first"]
        at = places(len(pairs), schedule, state["first"], schedule.task_first_batch, salt=2)
        whole = resized(pairs, at, schedule, ranks).to(device)
        torch.manual_seed(seed + ranks.rank * 7_000_003)
        fused = learners.seen(whole, first=at[ranks.share(len(at))])
        whole = mirrored(Pair(fused, fused, whole.target, whole.name), seed)
        task_loss = learners.task_step(whole.a, whole, check)
        state["first"] += 1
        return {"first_task": float(task_loss), "loss": float(task_loss)}
    if state["meta"] < schedule.meta_due(step):
        learn, judge = lesson_places(len(pairs), schedule, state["meta"], step)
        own = step if schedule.interleaved else 500_009 + state["meta"]  # interleaved: the crops of the fit step
        seed = schedule.seed * 1_000_003 + own
        crops = crop(pairs, learn[: schedule.batch], schedule, ranks, seed).to(device)
        whole = resized(pairs, learn[: schedule.task_batch], schedule, ranks).to(device)
        test = resized(pairs, judge, schedule, ranks).to(device)
        lesson = learners.meta_step(crops, whole, test, seed, check)
        state["meta"] += 1
        largest = float(largest_entry(lesson.gradient))
        return {"loss": float(sum(lesson.terms.values())), "lesson": float(lesson.lesson), "hypergradient": largest}
    seed = schedule.seed * 1_000_003 + step
    crops = crop(pairs, places(len(pairs), schedule, step, schedule.batch), schedule, ranks, seed).to(device)
    labelled = None
    if learners.task is not None:
        at = places(len(pairs), schedule, step, schedule.task_batch, salt=1)
        labelled = resized(pairs, at, schedule, ranks).to(device)
    torch.manual_seed(seed + ranks.rank * 7_000_003)  # dropout resumes too
    terms = learners.fit_step(crops, labelled, check)
    state["step"] = step + 1
    own = learners.weighted({name: term for name, term in terms.items() if name != "task"})
    return {"loss": sum(float(x) for x in own.values())} | {f"train_{name}": float(x) for name, x in terms.items()}


def places(num: int, schedule: Schedule, step: int, batch: int, *, salt: int = 0) -> list[int]:
    """Which pairs a fit step takes: all in a fresh order, again and again."""
    found = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(place, num)
        found.append(order(num, schedule.seed * 7_919 + epoch + salt * 1_000_000_007)[index])
    return found


def lesson_places(num: int, schedule: Schedule, meta: int, step: int) -> tuple[list[int], list[int]]:
    """Which pairs a meta step learns from and which it is judged on; the two sets are disjoint over an epoch."""
    epoch, k = (step, 0) if schedule.interleaved else divmod(meta, schedule.meta_steps)
    mixed = order(num, schedule.seed * 7_919 + epoch + 2_000_000_011)
    learn, judge = mixed[::2], mixed[1::2]
    many = max(schedule.batch, schedule.task_batch)
    first = [learn[(k * many + i) % len(learn)] for i in range(many)]
    if schedule.interleaved:  # the crops of the fit step that follows; no image of theirs is judged on
        first = (places(num, schedule, step, schedule.batch) * many)[:many]
        judge = [place for place in mixed if place not in first]
    return first, [judge[(k * schedule.task_batch + i) % len(judge)] for i in range(schedule.task_batch)]


def order(num: int, seed: int) -> list[int]:
    found: list[int] = torch.randperm(num, generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def crop(pairs: Pairs, at: Sequence[int], schedule: Schedule, ranks: Ranks, seed: int) -> Pair:
    """This process's part of a batch of crops."""
    generator = torch.Generator().manual_seed(seed)
    crops = []
    for index in at:
        pair = pairs[index]
        pair = Pair(pair.a, pair.b, name=pair.name)
        crops.append(random_crop(pair, schedule.crop_px, generator, turns=schedule.turns))
    return gathered(crops[ranks.share(len(crops))], schedule)


def resized(pairs: Pairs, at: Sequence[int], schedule: Schedule, ranks: Ranks) -> Pair:
    """This process's part of a batch of whole labelled images, at the task's size."""
    return gathered(
        [resize(pairs[index], schedule.task_px, masks=schedule.small_masks) for index in at[ranks.share(len(at))]],
        schedule,
    )


def mirrored(pair: Pair, seed: int) -> Pair:
    """Every other batch left to right."""
    return flip(pair) if int(torch.randint(2, (1,), generator=torch.Generator().manual_seed(seed))) else pair


def gathered(some: Sequence[Pair], schedule: Schedule) -> Pair:
    swapped = [pair.swap() for pair in some] if schedule.swap else []
    return Pair.collate([*some, *swapped])


def refuse_not_finite(what: str, value: Tensor, batch: Pair, step: int, folder: Path) -> None:
    """Stop before a value that is not finite reaches the weights, and keep the batch that made it."""
    if not bool(value.isfinite()):
        file = folder / "not-finite.safetensors"
        write_tensors(file, {"a": batch.a, "b": batch.b})
        names = ", ".join(batch.name) or "unnamed pairs"
        rate = "--task-lr" if "task" in what else "--meta-lr" if what in ("lesson", "hypergradient") else "--lr"
        raise UserError(
            f"the {what} must stay finite, but is {value.item()} at step {step} on {names}; the batch is in {file}, "
            f"lower {rate}"
        )


def count(state: dict[str, Any], found: dict[str, float]) -> None:
    """Add to the epoch's means."""
    for name, value in found.items():
        total, num = state["sums"].get(name, (0.0, 0))
        state["sums"][name] = (total + value, num + 1)


def at_an_end(state: dict[str, Any], schedule: Schedule) -> bool:
    """Whether an epoch has just ended: its last fit step is done, and no meta step has followed."""
    step, ended = state["step"], state["ended"]
    return step > ended and (step % schedule.validate_every == 0 or step == schedule.steps)


def end_of_epoch(
    learners: Learners,
    validation: Pairs,
    state: dict[str, Any],
    folder: Path,
    device: str,
    since_s: float,
    told: dict[str, float],
) -> dict[str, Any]:
    """Validate, draw, keep the best weights, write the log line, `told` in it, and return it."""
    schedule, step = learners.schedule, state["step"]
    line: dict[str, Any] = {"step": step, "meta": state["meta"], "lr": schedule.rate(step - 1)}
    if learners.task is not None:
        line["task_lr"] = schedule.task_rate(step - 1, state["first"])
    if learners.learned:
        line["meta_lr"] = schedule.meta_lr * schedule.fade(step - 1)
    line |= {name: total / num for name, (total, num) in state["sums"].items() if name != "loss"} | told
    started = time.monotonic()
    line |= validate(learners, validation, folder / "samples" / f"{step:06d}.png", device)
    line["seconds"] = round(state["seconds"] + since_s + time.monotonic() - started, 1)
    best = state["best"]
    if best is None or (line["meta"] > 0, merit(line)) > (best["meta"] > 0, merit(best)):  # no lesson, no best
        state["best"] = line
        for name, module in learners.modules().items():
            if module.state_dict():
                write_tensors(folder / FILES[name], module.state_dict())
    log = folder / "log.jsonl"
    before = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    lines = [x for x in before if json.loads(x)["step"] < step] + [json.dumps(line)]
    write_whole(log, lambda path: path.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    return line


def merit(line: dict[str, Any]) -> float:
    """What the best weights are chosen by: the task's first score, or the loss turned round."""
    value = line["valid_score"] if "valid_score" in line else -line["valid_loss"]
    return -math.inf if math.isnan(value) else value
