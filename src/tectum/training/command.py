"""`tectum train`: a recipe, data, and a run folder that can be stopped and continued at any moment."""

import ast
import contextlib
import inspect
import math
import sys
import textwrap
from dataclasses import dataclass, fields, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg

from tectum.console import Flag, optional, progress_bar, say, sentence, use_threads
from tectum.errors import UserError
from tectum.options import option_values
from tectum.training import recipes
from tectum.training.old_names import OLD_NAMES
from tectum.training.recipes import ABLATIONS, RECIPES, Recipe
from tectum.training.schedule import Schedule


def _flags(options: type, *names: str) -> list[Any]:
    """Returns the fields of a dataclass, or those of these names, as optional flags: (name, type, default).

    A flag that is not given is None, a switch False. The help is the text below the field.
    """
    lines = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0].body  # type: ignore[attr-defined]
    texts = {
        ast.unparse(line.target): " ".join(ast.literal_eval(text.value).split())
        for line, text in pairwise(lines)
        if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    hints = get_type_hints(options)
    flags: list[Any] = []
    for name in names or [f.name for f in fields(options)]:
        hint, metavar = hints[name], name.rpartition("_")[2].upper()
        if get_origin(hint) is Literal:
            hint, metavar = str, "|".join(get_args(hint))  # the dataclass itself refuses a wrong value
        elif hint is int or get_origin(hint) is tuple:
            metavar = "N" if hint is int else "HEIGHT WIDTH"
        aliases = [f"--{old}" for old, new in OLD_NAMES.items() if new == name]
        details: dict[str, Any] = {"help": texts[name], "help_behavior_hint": "", "aliases": aliases}
        if hint is bool:
            flags.append((name, Annotated[bool, arg(**details)], False))
        else:
            flags.append((name, Annotated[hint | None, arg(**details, metavar=metavar)], None))
    return flags


_CHANGES = [*_flags(Recipe, "kind", "task", "objective", "loss", "start", "balance"), *_flags(Schedule)]
_Changes: Any = make_dataclass("_Changes", _CHANGES, frozen=True, kw_only=True)


@dataclass(frozen=True)
class _Arguments:
    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """A name (an unknown one lists them), module:function or module:VALUE of your own, or the recipe.json of a run."""

    out: Annotated[str, arg(aliases=["-o"], metavar="RUN")]
    """Folder of the run."""

    data: Annotated[str | None, optional("DIR")] = None
    """Folder of the pairs; `tectum data list` says what it must look like."""

    ablation: Annotated[str | None, optional("|".join(ABLATIONS))] = None
    """Leave out one part of a learned recipe, as in TDFusion's Table 3: I the learned weights, II the gradient term,
    III the task's silence (its loss reaches the fuser), IV the fusion phase, V the fusion network."""

    variant: Annotated[str | None, optional("NAME")] = None
    """published trains the system as its authors released it, fuser and loss: SYSTEM-published."""

    alpha: Annotated[float | None, optional("WEIGHT")] = None
    """Weight of the gradient term; 1 as published, less gives more effect to the weights of the intensities."""

    task_weights: Annotated[str | None, optional("FILE")] = None
    """Weights the task starts with, e.g. the task.safetensors of another run; it then has no steps alone."""

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


@dataclass(frozen=True)
class Train(_Changes, _Arguments):  # type: ignore[misc]
    """Train a fuser by a recipe, on a fixed loss or on one learned from a task; the same command continues a run.

    RUN holds recipe.json, log.jsonl (a line per epoch), samples/ (visible, infrared, fused; with a learned loss its
    weight maps, the image gradient of the task, prediction and label), last.pt (all that is needed to continue),
    best.safetensors (for `tectum fuse --system NAME --weights RUN/best.safetensors`), objective.safetensors and
    task.safetensors. Flags that are not given have the recipe's value.
    """

    def run(self) -> int:
        """Train, print the best validation, and return the exit code: 1 for a full disk, or a loss not learned."""
        recipe = self.make_recipe()
        from tqdm import tqdm

        from tectum.nn.stages import find_device
        from tectum.training.distributed import World
        from tectum.training.loop import fit
        from tectum.training.recipes.build import build

        if self.threads is not None:
            use_threads(self.threads)
        device = find_device(self.device)
        world = World(self.devices, accelerator=device.split(":")[0], precision=self.precision)
        quiet = self.quiet or not world.is_main
        run = Path(self.out)

        def tell(line: str) -> None:
            if not quiet:
                tqdm.write(f"tectum: {line}", file=sys.stderr)  # above the progress bar

        built = build(recipe, None if self.data is None else Path(self.data), tell=tell)

        def begin() -> None:
            if (run / "last.pt").exists():
                _check_same_recipe(recipe, run)
            else:
                recipes.save(recipe, run / "recipe.json")

        options: dict[str, Any] = {"schedule": recipe.schedule, "device": device, "world": world, "begin": begin}
        with _Report(run, recipe.schedule, quiet=quiet, writes=world.is_main) as report:
            try:
                best = fit(**vars(built), run=run, report=report, **options)
            except KeyboardInterrupt:
                say(f"interrupted; the same command continues the run in {run}")
                return 130
            except OSError as error:
                if not report.started:
                    raise
                say(f"{sentence(error)}; the same command then goes on from what was saved last")
                return 1
        if not world.is_main:
            return 0
        print(f"{run / 'best.safetensors'}: {_validation_text(best)} at step {best['step']}")
        deviation = best.get("weight_deviation", 1.0)
        if recipe.learned and deviation < _NOT_LEARNED:
            say(
                f"the learned loss stayed at one half (mean |w_a - 1/2| is {deviation:.3f}, under {_NOT_LEARNED}): it "
                "has not been learned; raise --meta-lr or --meta-steps"
            )
            return 1
        return 0

    def _choose_variant(self, recipe: "Recipe") -> dict[str, Any]:
        """Returns the system of the variant, and no start where its network is another than that of the start."""
        from tectum.pretrained.loading import select, select_system

        system, _ = select_system(recipe.system, self.variant)
        try:
            select(system, recipe.start)
        except UserError:
            say(f"{system} starts from random weights: those of the recipe, {recipe.start}, are of {recipe.system}")
            return {"system": system, "start": None}
        return {"system": system}

    def make_recipe(self) -> Recipe:
        """Returns the recipe with the values of the flags."""
        recipe = _find_recipe(self.recipe)
        if self.data is not None and recipe.data == "street":
            raise UserError(f"recipe '{recipe.name}' renders its own scenes; leave out --data")
        changes: dict[str, Any] = {}
        if self.variant is not None:
            changes |= self._choose_variant(recipe)
        if self.alpha is not None:
            if not (math.isfinite(self.alpha) and self.alpha >= 0):
                raise UserError(f"--alpha must be 0 or greater and finite, got {self.alpha}")
            changes["options"] = recipe.options | {"alpha": self.alpha}
        flags = option_values(self, _Changes)
        changes |= {name: value for name, value in flags.items() if value is not None and value is not False}
        if "task" in changes:
            changes["task_options"] = {}
        if self.task_weights is not None:
            if (changes.get("task") or recipe.task) is None:
                raise UserError(f"recipe '{recipe.name}' has no task to give weights to; leave out --task-weights")
            options = changes.get("task_options", recipe.task_options) | {"weights": self.task_weights}
            changes = {"task_first": 0} | changes | {"task_options": options}
        recipe = recipe.change(**changes)
        return recipe if self.ablation is None else recipe.ablate(self.ablation)


_NOT_LEARNED = 0.02
"""A loss whose weights stay this near one half on average has not learned anything."""


def _find_recipe(name: str) -> Recipe:
    """A recipe by its name, from a file, or from the user's own code: a value, or a function that makes one."""
    from tectum.protocols import resolve

    if name.endswith(".json"):
        return recipes.read(Path(name))
    table: dict[str, Any] = dict(RECIPES)
    recipe = resolve(table, name, noun="recipe")
    recipe = recipe() if callable(recipe) else recipe
    if not isinstance(recipe, Recipe):
        raise UserError(f"'{name}' must be a Recipe or a function that returns one, got {type(recipe).__name__}")
    return recipe


def _check_same_recipe(recipe: Recipe, run: Path) -> None:
    """Refuse to continue a run with another recipe; `fit` checks its networks and data."""
    before, now = (vars(x) | vars(x.schedule) for x in (recipes.read(run / "recipe.json"), recipe))
    if changed := [name for name in now if name not in ("name", "schedule") and before[name] != now[name]]:
        raise UserError(
            f"{run} holds a run with another {', '.join(changed)}; repeat its settings, or choose a new folder"
        )


def _validation_text(line: dict[str, Any]) -> str:
    """The validation scores of a log line, for people."""
    scores = [f"{name[6:]} {x:.4f}" for name, x in line.items() if name.startswith("valid_") and name != "valid_score"]
    deviation = [f"|w - 1/2| {line['weight_deviation']:.3f}"] if "weight_deviation" in line else []
    return "validation " + ", ".join(scores + deviation)


class _Report:
    """Shows a progress bar with the loss of each step, and writes the log for TensorBoard where that is installed."""

    def __init__(self, run: Path, schedule: Schedule, *, quiet: bool, writes: bool) -> None:
        total = schedule.task_first + schedule.steps + schedule.meta_due(schedule.steps - 1)
        self._bar = progress_bar(total, "step", quiet=quiet)
        self.started = False
        self._folder = run / "tensorboard" if writes else None
        self._writer: Any = None

    def __enter__(self) -> "_Report":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def __call__(self, line: dict[str, Any]) -> None:
        if "valid_loss" in line:
            if not self._bar.disable:
                self._bar.write(f"step {line['step']}: {_validation_text(line)}", file=sys.stderr)
            self._write(line)
            return
        done = line["first"] + line["step"] + line["meta"]
        if not self.started:  # the speed of an earlier process says nothing about the time that is left
            self._bar.initial, self._bar.n, self.started = done - 1, done - 1, True
        self._bar.update(done - self._bar.n)
        phase = "meta" if "outer_loss" in line else "fit" if line["step"] else "task"
        self._bar.set_description(phase, refresh=False)
        self._bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)

    def _write(self, line: dict[str, Any]) -> None:
        """Write a log line for TensorBoard."""
        if self._writer is None and self._folder is not None:
            with contextlib.suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder))
        if self._writer is not None:
            for name, value in line.items():
                self._writer.add_scalar(name, value, line["step"])
