"""Trains and scores the same task network on each of several inputs: a run of cells that can be stopped and shared.

    cell (input, seed):   task <- make_task(), seeded   w <- AdamW(w, grad task.loss(image, target)), `epochs` times
                          score(task.predict(image), target) on pairs it has not seen, with the weights of the last step

All cells have one budget. Cells of a seed start from the same weights, see the same scenes in the same order through
the same windows and draw the same dropout: what differs is the input. There is no choice of a checkpoint, so nothing is
chosen on the pairs that are scored.

A run folder holds `downstream.json` (what all cells share), `fused/` (images that were made here) and
`cells/INPUT/seed-K/` with a log, weights, predictions, and, written last, `cell.json`: a cell that has one is finished
and is never done again, any other starts from its beginning. Several processes may share a run: each takes cells that
no living process holds.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tectum.console import progress_bar
from tectum.downstream.cell import predict, read_result, save_predictions, score, train
from tectum.downstream.frames import Frames, shrink
from tectum.downstream.options import Budget
from tectum.errors import UserError, abbreviate
from tectum.evaluation.methods import CachedMethod, FolderMethod, FuserMethod, Method
from tectum.io.files import append_text, changed_settings, fingerprint, lock_folder, write_json, write_tensors
from tectum.io.image import Array, Picture, to_array
from tectum.nn.memory import keep_memory
from tectum.pair import Pair, Pairs
from tectum.protocols import Task

_PARTS = ("train", "test")
_LOG_EVERY = 50
"""Steps between two lines in the log of a cell."""


@dataclass(frozen=True)
class Input:
    """An image source by name: the methods that give the image of a training pair and of a test pair."""

    name: str
    train: Method
    test: Method

    def method(self, part: str) -> Method:
        """Returns the method for "train" or "test" pairs."""
        return self.train if part == "train" else self.test


@dataclass(frozen=True)
class Cell:
    """A run of one input and one seed.

    Attributes:
        input: name of the input.
        seed: of initial weights, order, windows and dropout.
        folder: of its files.
        result: content of its `cell.json`; None until it is finished.
    """

    input: str
    seed: int
    folder: Path
    result: dict[str, Any] | None = None


@dataclass
class Comparison:
    """A downstream comparison: inputs x seeds, one budget.

    Args:
        make_task: makes an untrained task network from the training frames, whose targets it may count.
        inputs: the images that are compared.
        pairs: {"train": ..., "test": ...}; single pairs with targets and names.
        out: the run folder.
        budget: of every cell.
        num_seeds: seeds are 0 to num_seeds - 1.
        settings: JSON types; what else decides a score (task, weights). Other settings in one folder are refused.
        device: where the task networks run.

    Attributes:
        frames: {input: {"train": Frames, "test": Frames}}, filled by `prepare`.
        failures: {"input, seed K": reason}, filled by `run`.

    Raises:
        UserError: there is no seed.
    """

    make_task: Callable[[Frames], Task]
    inputs: Sequence[Input]
    pairs: Mapping[str, Pairs]
    out: Path
    budget: Budget = field(default_factory=Budget)
    num_seeds: int = 3
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    frames: dict[str, dict[str, Frames]] = field(default_factory=dict, init=False)
    failures: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise UserError(f"--seeds must be at least 1, got {self.num_seeds}")
        self._cached: dict[tuple[str, str], Method] = {}

    @property
    def test_frames(self) -> Frames:
        """Test images of the first input; the names and targets are those of every input."""
        return self.frames[self.inputs[0].name]["test"]

    @property
    def label_type(self) -> Literal["masks", "boxes"]:
        """Type of the targets."""
        return "masks" if self.test_frames.has_masks else "boxes"

    def prepare(self, *, quiet: bool = True) -> None:
        """Bring every image of every input to the size of the budget, and check that the run may continue.

        Args:
            quiet: show no progress.

        Raises:
            UserError, FileNotFoundError: an input lacks images, or the run was begun with other settings.
        """
        keep_memory()
        self._check_folders()
        for part in _PARTS:
            self._read_frames(part, quiet=quiet)
        first = self.frames[self.inputs[0].name]
        budget = asdict(self.budget) | {"size": list(self.budget.size)}
        labels = {
            f"{word} labels": fingerprint(first[part].names, first[part].targets)
            for word, part in (("training", "train"), ("test", "test"))
        }
        self._check_settings({**self.settings, **budget, **labels})
        for cell in self.cells():
            if cell.result is not None and cell.result["images"] != self.images_fingerprint(cell.input):
                raise UserError(
                    f"the images of {cell.input} have changed since its cells in {cell.folder.parent} were trained; "
                    "give them another name (NAME=...), or delete that folder"
                )

    def _check_folders(self) -> None:
        """Refuse folders that lack images, or cannot tell training and test pairs apart, before any image is fused."""
        names = {part: getattr(self.pairs[part], "names", ()) for part in _PARTS}
        in_both = set(names["train"]) & set(names["test"])
        for i in self.inputs:
            for part in _PARTS:
                method = i.method(part)
                missing = [name for name in names[part] if not method.has(name)]
                if missing and isinstance(method, FolderMethod):
                    raise FileNotFoundError(
                        f"{i.name} must hold an image of every training and test pair, but {method.path} (which has "
                        f"{abbreviate(method.files)}) has none for {abbreviate(missing)}; fuse them too, or give a "
                        "folder with train and test inside"
                    )
            paths = [method.path for method in (i.train, i.test) if isinstance(method, FolderMethod)]
            if in_both and len(paths) == 2 and paths[0] == paths[1]:
                raise UserError(
                    f"training and test pairs of one folder must have different names, but {paths[0]} has one "
                    f"image for both of {abbreviate(in_both)}; give a folder with train and test inside"
                )

    def _read_frames(self, part: str, *, quiet: bool) -> None:
        """Fill the frames of all inputs in one pass over the pairs of a part."""
        names, targets = [], []
        images: dict[str, list[Tensor]] = {i.name: [] for i in self.inputs}
        for i in self.inputs:
            method = i.method(part)
            if isinstance(method, FuserMethod) and not method.is_baseline:  # it takes its time
                self._cached[i.name, part] = CachedMethod(method, self.out / "fused" / i.name / part)
        pairs = self.pairs[part]
        with progress_bar(len(pairs), "pair", quiet=quiet, label=f"reading {part} images", leave=False) as bar:
            for k in range(len(pairs)):
                pair = pairs[k]
                if not pair.name or pair.target is None:
                    raise UserError(f"pairs to train a task on need a name and a target, pair {k} lacks one; label it")
                names.append(pair.name[0])
                target = pair.target[0]
                targets.append(target.to(torch.uint8) if isinstance(target, Tensor) else target)
                for i in self.inputs:
                    images[i.name].append(shrink(self._luminance(i, part, pair), self.budget.size))
                bar.update()
        for i in self.inputs:
            frames = Frames(tuple(names), torch.stack(images[i.name]), tuple(targets))
            self.frames.setdefault(i.name, {})[part] = frames

    def _luminance(self, i: Input, part: str, pair: Pair) -> Tensor:
        """An input's image of a pair, (1,H,W) on 8-bit levels in [0,1]."""
        method = self._cached.get((i.name, part), i.method(part))
        return method.luminance(pair.name[0], Picture(pair.a[0]), Picture(pair.b[0]))

    def picture(self, name: str, index: int) -> Array:
        """Returns an input's image of a test pair at its full size, uint8 (H,W)."""
        i = next(i for i in self.inputs if i.name == name)
        return to_array(self._luminance(i, "test", self.pairs["test"][index]))

    def _check_settings(self, settings: dict[str, Any]) -> None:
        """Write the settings that all cells share; refuse a folder that was begun with others."""
        path = self.out / "downstream.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, settings, indent=2)
            return
        stored = read_result(path)
        if changes := changed_settings(stored, settings):
            raise UserError(
                f"{self.out} holds a run with other settings ({changes}); repeat them, or choose a new folder"
            )

    def images_fingerprint(self, name: str) -> str:
        """Returns a hash of all images of an input, as the networks see them."""
        return fingerprint(*(self.frames[name][part].images for part in _PARTS))

    def cells(self) -> list[Cell]:
        """Returns all cells as they are now: seed by seed, the inputs in their order."""
        cells = []
        for seed in range(self.num_seeds):
            for i in self.inputs:
                folder = self.out / "cells" / i.name / f"seed-{seed}"
                path = folder / "cell.json"
                cells.append(Cell(i.name, seed, folder, read_result(path) if path.exists() else None))
        return cells

    def run(self, *, quiet: bool = True) -> list[Cell]:
        """Train and score every cell that is not finished and that no other process holds.

        Args:
            quiet: show no progress.

        Returns:
            All cells as they are afterwards.
        """
        if not self.frames:
            self.prepare(quiet=quiet)
        for cell in self.cells():
            with lock_folder(cell.folder) as locked:
                if not locked or (cell.folder / "cell.json").exists():
                    continue
                try:
                    self._run_cell(cell, quiet=quiet)
                except (ValueError, RuntimeError) as error:  # RuntimeError: no memory left, among others
                    reason = str(error).strip().splitlines() or [type(error).__name__]
                    self.failures[f"{cell.input}, seed {cell.seed}"] = reason[0]
        return self.cells()

    def _run_cell(self, cell: Cell, *, quiet: bool) -> None:
        frames, label = self.frames[cell.input], f"{cell.input}, seed {cell.seed}"
        num_steps = self.budget.num_steps(len(frames["train"]))
        torch.manual_seed(cell.seed)
        task = self.make_task(frames["train"])
        assert isinstance(task, nn.Module)
        task.to(self.device)
        begin = time.monotonic()
        (cell.folder / "log.jsonl").unlink(missing_ok=True)
        with progress_bar(num_steps, "step", quiet=quiet, label=label, leave=False) as bar:

            def report(line: dict[str, Any]) -> None:
                bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
                bar.update()
                if line["step"] % _LOG_EVERY == 0:
                    append_text(cell.folder / "log.jsonl", json.dumps(line) + "\n")

            losses = train(task, frames["train"], self.budget, cell.seed, device=self.device, report=report)
        trained = time.monotonic()
        predictions = predict(task, frames["test"], self.device)
        result = {
            "input": cell.input,
            "seed": cell.seed,
            **score(task, predictions, frames["test"]),
            "losses": losses,
            "steps": num_steps,
            "seconds": round(time.monotonic() - begin, 1),
            "seconds a step": round((trained - begin) / num_steps, 4),
            "device": self.device,
            "images": self.images_fingerprint(cell.input),
        }
        save_predictions(cell.folder, frames["test"].names, predictions)
        write_tensors(cell.folder / "weights.safetensors", task.state_dict())
        write_json(cell.folder / "cell.json", result)
        if not quiet:
            scores = ", ".join(f"{k} {100 * v:.2f}" for k, v in result["scores"].items() if v is not None)
            seconds = f"{result['seconds']:.0f} s, {result['seconds a step']:.3f} s a step"
            print(f"{label}: {scores} ({seconds})", file=sys.stderr, flush=True)
