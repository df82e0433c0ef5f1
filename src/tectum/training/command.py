"""`tectum train`: a recipe, data, and a run folder that can be stopped and continued at any moment."""

import contextlib
import math
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from tectum.console import Flag, optional, progress_bar, say, use_threads
from tectum.errors import UserError

if TYPE_CHECKING:
    from tectum.training.recipes import Recipe
    from tectum.training.schedule import Schedule


@dataclass(frozen=True)
class Train:
    """Train a fuser by a recipe, on a fixed loss or on one learned from a task; the same command continues a run.

    RUN holds recipe.json, log.jsonl (a line per epoch), samples/ (visible, infrared, fused; with a learned loss its
    weight maps, the pull of the task, prediction and label), last.pt (all that is needed to go on), best.safetensors
    (for `tectum fuse --system NAME --weights RUN/best.safetensors`), objective.safetensors and task.safetensors.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A name (an unknown one lists them), module:function of your own, or the recipe.json of a run to repeat."""

    out: Annotated[str, arg(aliases=["-o"], metavar="RUN")]
    """Folder of the run."""

    data: Annotated[str | None, optional("DIR")] = None
    """Folder of the pairs; `tectum data list` says what it must look like."""

    ablation: Annotated[str | None, optional("I..V")] = None
    """Leave out one part of a learned recipe, as in TDFusion's Table 3: I the learned weights, II the gradient term,
    III the task's silence (its loss reaches the fuser), IV the fusion phase, V the fusion network."""

    variant: Annotated[str | None, optional("NAME")] = None
    """published takes the released form of the loss: w squared, zero-padded Sobel; the fuser stays repaired."""

    loss: Annotated[str | None, optional("WEIGHTS")] = None
    """Train a fixed recipe on the loss that packaged weights were taught, e.g. tdfusion-msrs; needs no labels."""

    kind: Annotated[str | None, optional("KIND")] = None
    """What the pairs are: infrared, exposure, focus or medical; picks the objective where none is learned."""

    objective: Annotated[str | None, optional("MODULE:CLASS")] = None
    """A fixed objective of your own in place of the recipe's; one that takes `kind` is told it."""

    alpha: Annotated[float | None, optional("WEIGHT")] = None
    """Weight of the gradient term; 1 as published, less lets the weights of the intensities decide more."""

    balance: Annotated[str | None, optional("NAME")] = None
    """The weights of the loss from epoch to epoch, for systems that have a balance: moving, frozen or none."""

    task: Annotated[str | None, optional("TASK")] = None
    """Task in place of the recipe's: segformer-b0, yolov8n, dfine-n, module:Class."""

    task_weights: Annotated[str | None, optional("FILE")] = None
    """Weights the task begins with, e.g. the task.safetensors of another run; it then does not learn alone first."""

    steps: Annotated[int | None, optional("N")] = None
    """Optimiser steps of the fuser, in place of the recipe's."""

    validate_every: Annotated[int | None, optional("N")] = None
    """Steps in an epoch."""

    meta_steps: Annotated[int | None, optional("N")] = None
    """Meta steps in an epoch."""

    batch: Annotated[int | None, optional("N")] = None
    """Crops per step."""

    crop_px: Annotated[int | None, optional("N")] = None
    """Side of a crop."""

    task_batch: Annotated[int | None, optional("N")] = None
    """Whole images per step of the task."""

    task_px: Annotated[tuple[int, int] | None, optional("HEIGHT WIDTH")] = None
    """Size of the images the task sees, e.g. 240 320."""

    lr: Annotated[float | None, optional("RATE")] = None
    """Highest learning rate of the fuser."""

    meta_lr: Annotated[float | None, optional("RATE")] = None
    """Rate of the learned loss."""

    task_lr: Annotated[float | None, optional("RATE")] = None
    """Rate of the task."""

    ema: Annotated[float | None, optional("DECAY")] = None
    """Validate and keep a running average of the fuser's weights, e.g. 0.999; 0 the weights themselves."""

    turns: Flag = False
    """Crops are also turned by quarters, so that they lie in all eight ways."""

    decay: Annotated[str | None, optional("NAME")] = None
    """cosine, step (a tenth every ten epochs) or constant."""

    inner: Annotated[str | None, optional("NAME")] = None
    """The look-ahead of a meta step: adam or sgd."""

    outer: Annotated[str | None, optional("NAME")] = None
    """The step of the learned loss: max, adam or sgd."""

    method: Annotated[str | None, optional("NAME")] = None
    """How the hypergradient is found: forward, reverse or finite."""

    swap: Flag = False
    """Each batch also with its images exchanged."""

    seed: Annotated[int | None, optional("N")] = None
    """Seed of weights, crops and dropout."""

    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU."""

    devices: int = 1
    """How many of them; `torchrun` works too."""

    precision: str = "32-true"
    """bf16-mixed for the forward passes on a GPU."""

    threads: Annotated[int | None, optional("N")] = None
    """Processor threads to use."""

    quiet: Flag = False
    """No progress bar."""

    def run(self) -> int:
        from tectum.training import recipes
        from tectum.training.distributed import Ranks
        from tectum.training.loop import fit
        from tectum.weights.loading import find_device

        recipe = self.chosen()
        use_threads(self.threads)
        device = find_device(self.device)
        ranks = Ranks(self.devices, accelerator=device.split(":")[0], precision=self.precision)
        if recipe.data == "street" and not self.quiet and ranks.first:
            print("rendering synthetic scenes", file=sys.stderr)
        built = recipes.build(recipe, None if self.data is None else Path(self.data))
        run = Path(self.out)
        run.mkdir(parents=True, exist_ok=True)
        if (run / "last.pt").exists():
            refuse_another(recipe, run)
        elif ranks.first:
            recipes.save(recipe, run / "recipe.json")
        with Progress(run, recipe.schedule, quiet=self.quiet or not ranks.first, writes=ranks.first) as progress:
            try:
                best = fit(
                    built.fuser,
                    built.objective,
                    built.pairs,
                    built.validation,
                    run=run,
                    schedule=recipe.schedule,
                    task=built.task,
                    balance=built.balance,
                    device=device,
                    ranks=ranks,
                    report=progress,
                )
            except KeyboardInterrupt:
                say(f"interrupted; the same command continues the run in {run}")
                return 130
        if ranks.first:
            print(f"{run / 'best.safetensors'}: {told(best)} at step {best['step']}")
            if recipe.learned and best.get("away", 1.0) < NOT_LEARNED:
                say(
                    f"the learned loss stayed at one half (mean |w_a - 1/2| is {best['away']:.3f}, under "
                    f"{NOT_LEARNED}): it has not been learned; raise --meta-lr or --meta-steps"
                )
                return 1
        return 0

    def chosen(self) -> "Recipe":
        """The recipe with the flags' replacements."""
        from tectum.protocols import resolve
        from tectum.training import recipes

        if self.recipe.endswith(".json"):
            if not Path(self.recipe).is_file():
                raise FileNotFoundError(f"a recipe must be a file, and {self.recipe} is none; check the path")
            recipe = recipes.read(Path(self.recipe))
        else:
            make = resolve(recipes.RECIPES, self.recipe, noun="recipe")
            recipe = make()
            if not isinstance(recipe, recipes.Recipe):
                raise UserError(
                    f"'{self.recipe}' must be a function that returns a Recipe, got {type(recipe).__name__}"
                )
        if self.data is not None and recipe.data == "street":
            raise UserError(f"recipe '{recipe.name}' renders its own scenes; leave out --data")
        names = {field.name for field in fields(recipe.schedule)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in names}
        changes = {name: value for name, value in given.items() if value is not None and value is not False}
        recipe = replace(recipe, schedule=replace(recipe.schedule, **changes))
        if self.variant is not None:
            recipe = replace(recipe, options=recipe.options | {"variant": self.variant})
        for name in ("loss", "kind", "objective"):
            if (value := getattr(self, name)) is not None:
                recipe = replace(recipe, **{name: value})
        if self.alpha is not None:
            if not (math.isfinite(self.alpha) and self.alpha >= 0):
                raise UserError(f"--alpha must be 0 or greater and finite, got {self.alpha}")
            recipe = replace(recipe, options=recipe.options | {"alpha": self.alpha})
        if self.balance is not None:
            recipe = replace(recipe, balance=self.balance)
        if self.task is not None:
            recipe = replace(recipe, task=self.task, task_options={})
        if self.task_weights is not None:
            if recipe.task is None:
                raise UserError(f"recipe '{recipe.name}' has no task to give weights to; leave out --task-weights")
            options = recipe.task_options | {"weights": self.task_weights}
            recipe = replace(recipe, task_options=options, schedule=replace(recipe.schedule, task_first=0))
        return recipe if self.ablation is None else recipes.ablation(recipe, self.ablation)


NOT_LEARNED = 0.02
"""A loss whose weights stay this near one half on average has learned nothing."""


def refuse_another(recipe: "Recipe", run: Path) -> None:
    """A run goes on as it began; `fit` looks after the schedule."""
    from tectum.training import recipes

    known = recipes.read(run / "recipe.json")
    names = (field.name for field in fields(recipe) if field.name not in ("name", "schedule"))
    if changed := [name for name in names if getattr(known, name) != getattr(recipe, name)]:
        raise UserError(
            f"{run} holds a run with another {', '.join(changed)}; repeat its settings, or choose a new folder"
        )


def told(line: dict[str, Any]) -> str:
    """The validation scores of a log line, in words."""
    names = [name for name in line if name.startswith("valid_") and name != "valid_score"]
    words = [f"{name[6:]} {line[name]:.4f}" for name in names]
    return "validation " + ", ".join(words + ([f"|w - 1/2| {line['away']:.3f}"] if "away" in line else []))


class Progress:
    """A bar with the loss of each step, and TensorBoard beside the log where it is installed."""

    def __init__(self, run: Path, schedule: "Schedule", *, quiet: bool, writes: bool = True) -> None:
        total = schedule.task_first + schedule.steps + schedule.meta_due(schedule.steps - 1)
        self.bar = progress_bar(total, "step", quiet=quiet)
        self.begun = False
        self.writer: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run / "tensorboard")) if writes else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()

    def __call__(self, line: dict[str, Any]) -> None:
        if "valid_loss" not in line:
            done = line["first"] + line["step"] + line["meta"]
            if not self.begun:  # what an earlier process did says nothing about the time that is left
                self.bar.initial, self.bar.n, self.begun = done - 1, done - 1, True
            self.bar.update(done - self.bar.n)
            phase = "meta" if "lesson" in line else "fit" if line["step"] else "task"
            self.bar.set_description(phase, refresh=False)
            self.bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
            return
        if not self.bar.disable:
            self.bar.write(f"step {line['step']}: {told(line)}", file=sys.stderr)
        if self.writer is not None:
            for name, value in line.items():
                self.writer.add_scalar(name, value, line["step"])
