"""`tectum train`: a recipe, data, and a run folder that can be stopped and continued at any moment."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from tectum.commands.messages import Flag, optional, say, use_threads

if TYPE_CHECKING:
    from tectum.recipes import Recipe


@dataclass(frozen=True)
class Train:
    """Train a fuser by a recipe; the same command continues a run that was stopped.

    RUN holds recipe.json, log.jsonl (a line per validation), samples/ (visible, infrared, fused), last.pt (all that is
    needed to go on) and best.safetensors, which `tectum fuse --weights RUN/best.safetensors` takes.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """tdfusion-fixed-msrs, tdfusion-fixed (pairs of your own), tdfusion-fixed-street (synthetic, no data needed), or
    the recipe.json of a run to repeat."""

    out: Annotated[str, arg(aliases=["-o"], metavar="RUN")]
    """Folder of the run."""

    data: Annotated[str | None, optional("DIR")] = None
    """Folder of pairs: vi and ir (or visible and infrared) inside, or in its train folder."""

    steps: Annotated[int | None, optional("N")] = None
    """Optimiser steps, in place of the recipe's."""

    batch: Annotated[int | None, optional("N")] = None
    """Crops per step, in place of the recipe's."""

    crop_px: Annotated[int | None, optional("N")] = None
    """Side of a crop, in place of the recipe's."""

    lr: Annotated[float | None, optional("RATE")] = None
    """Highest learning rate, in place of the recipe's."""

    seed: Annotated[int | None, optional("N")] = None
    """Seed of weights and crops, in place of the recipe's."""

    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU."""

    threads: Annotated[int | None, optional("N")] = None
    """Processor threads to use."""

    quiet: Flag = False
    """No progress bar."""

    def run(self) -> int:
        from tectum import recipes
        from tectum.engine.trainer import fit
        from tectum.weights import find_device

        recipe = self.chosen()
        use_threads(self.threads)
        device = find_device(self.device)
        if recipe.data == "street" and not self.quiet:
            print("rendering synthetic scenes", file=sys.stderr)
        fuser, objective, pairs, validation = recipes.build(recipe, None if self.data is None else Path(self.data))
        run = Path(self.out)
        run.mkdir(parents=True, exist_ok=True)
        if not (run / "last.pt").exists():
            recipes.save(recipe, run / "recipe.json")
        with Progress(run, recipe.schedule.steps, quiet=self.quiet) as progress:
            try:
                best = fit(
                    fuser,
                    objective,
                    pairs,
                    validation,
                    run=run,
                    schedule=recipe.schedule,
                    device=device,
                    report=progress,
                )
            except KeyboardInterrupt:
                say(f"interrupted; the same command continues the run in {run}")
                return 130
        print(f"{run / 'best.safetensors'}: validation loss {best['valid_loss']:.4f} at step {best['step']}")
        return 0

    def chosen(self) -> "Recipe":
        """The recipe with the flags' replacements."""
        from tectum import recipes
        from tectum.protocols import resolve

        if self.recipe.endswith(".json"):
            if not Path(self.recipe).is_file():
                raise FileNotFoundError(f"a recipe must be a file, and {self.recipe} is none; check the path")
            recipe = recipes.read(Path(self.recipe))
        else:
            make = resolve(recipes.RECIPES, self.recipe, kind="recipe")
            recipe = make()
            if not isinstance(recipe, recipes.Recipe):
                raise ValueError(
                    f"'{self.recipe}' must be a function that returns a Recipe, got {type(recipe).__name__}"
                )
        if self.data is not None and recipe.data != "folder":
            raise ValueError(f"recipe '{recipe.name}' renders its own scenes; leave out --data")
        changes = {name: getattr(self, name) for name in ("steps", "batch", "crop_px", "lr", "seed")}
        changes = {name: value for name, value in changes.items() if value is not None}
        return replace(recipe, schedule=replace(recipe.schedule, **changes))


class Progress:
    """A bar with the loss of each step, and TensorBoard beside the log where it is installed."""

    def __init__(self, run: Path, steps: int, *, quiet: bool) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=steps, unit="step", disable=quiet or None)
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run / "tensorboard"))
        except ImportError:
            pass

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()

    def __call__(self, line: dict[str, Any]) -> None:
        if "valid_loss" not in line:
            self.bar.update(line["step"] - self.bar.n)
            self.bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
            return
        terms = ", ".join(f"{name[6:]} {line[name]:.4f}" for name in line if name.startswith("valid_"))
        if not self.bar.disable:
            self.bar.write(f"step {line['step']}: validation {terms}", file=sys.stderr)
        if self.writer is not None:
            for name, value in line.items():
                self.writer.add_scalar(name, value, line["step"])
