"""What an image is worth to a network: the same task network, trained and scored on each of several inputs.

    cell (input, seed):   task <- make(), seeded        w <- AdamW(w, grad task.loss(image, target)), `epochs` times
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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tectum.color import to_levels
from tectum.downstream.cell import Budget, predict, read_json, save_predictions, scored, train
from tectum.downstream.frames import Frames, fingerprint, small
from tectum.errors import UserError, abbreviate
from tectum.evaluation.methods import Folder, Made, Method
from tectum.io.files import write_tensors, write_whole
from tectum.io.folders import PairFiles, ResultFolder
from tectum.io.image import Array, Picture, read_image, to_array, write_image
from tectum.nn.memory import keep_memory
from tectum.pair import Pairs
from tectum.protocols import Task

PARTS = ("train", "test")
LOG_EVERY = 50
"""Steps between two lines in the log of a cell."""


@dataclass(frozen=True)
class Input:
    """One way to show a scene to a network: by name, what gives the image of a training and of a test pair."""

    name: str
    train: Method
    test: Method

    def part(self, name: str) -> Method:
        return self.train if name == "train" else self.test


@dataclass(frozen=True)
class Cell:
    """One input and one seed of a run; `row` is what `cell.json` holds, None until it is finished."""

    input: str
    seed: int
    folder: Path
    row: dict[str, Any] | None = None


@dataclass
class Comparison:
    """A run: inputs x seeds, one budget.

    Args:
        make: an untrained task network; it is given the training frames, whose targets it may count.
        inputs: what is compared.
        pairs: {"train": ..., "test": ...}; single pairs with targets and names.
        out: the run folder.
        budget: of every cell.
        seeds: of initial weights, order, windows and dropout.
        settings: JSON types; what else decides a result (task, weights). Other settings in one folder are refused.
        device: where the task networks run.
        frames: {input: {"train": Frames, "test": Frames}}, filled by `prepare`.
        failures: {"input, seed": why it has no score}.
        kept: {(input, "train" or "test"): images that were made here}, filled by `prepare`.
    """

    make: Callable[[Frames], Task]
    inputs: Sequence[Input]
    pairs: Mapping[str, Pairs]
    out: Path
    budget: Budget = field(default_factory=Budget)
    seeds: Sequence[int] = (0, 1, 2)
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    frames: dict[str, dict[str, Frames]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    kept: dict[tuple[str, str], "Kept"] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, report: Callable[[str, int, int], None] | None = None) -> None:
        """Bring every image of every input to the size of the budget, and check that the run may go on.

        Args:
            report: called after every pair with (part, pairs done, pairs).

        Raises:
            ValueError, FileNotFoundError: an input lacks images, or the run was begun otherwise.
        """
        keep_memory()
        self.check_folders()
        for part in PARTS:
            names, targets, images = self.load(part, report)
            for i in self.inputs:
                self.frames.setdefault(i.name, {})[part] = Frames(names, torch.stack(images[i.name]), targets)
        first = next(iter(self.frames.values()))
        marks = {part: fingerprint(first[part].names, first[part].targets) for part in PARTS}
        settings = {**self.settings, **asdict(self.budget), "size": list(self.budget.size)}
        self.same_run({**settings, "training labels": marks["train"], "test labels": marks["test"]})
        for cell in self.cells():
            mark = self.mark(cell.input)
            if cell.row is not None and cell.row["images"] != mark:
                raise UserError(
                    f"the images of {cell.input} have changed since its cells in {cell.folder.parent} were trained; "
                    "give them another name (NAME=...), or delete that folder"
                )

    def check_folders(self) -> None:
        """Refuse folders that lack images before any image is fused."""
        for i in self.inputs:
            for part in PARTS:
                method, names = i.part(part), getattr(self.pairs[part], "names", ())
                lacking = [name for name in names if not method.has(name)]
                if lacking and isinstance(method, Folder):
                    raise FileNotFoundError(
                        f"{i.name} must hold an image of every training and test pair, but {method.where} (which has "
                        f"{abbreviate(method.found)}) has none for {abbreviate(lacking)}; fuse them "
                        "too, or give a folder with train and test inside"
                    )
            self.check_one_folder(i)

    def check_one_folder(self, i: Input) -> None:
        """Refuse one folder for training and test pairs where it cannot tell them apart."""
        both = set(getattr(self.pairs["train"], "names", ())) & set(getattr(self.pairs["test"], "names", ()))
        if both and isinstance(i.train, Folder) and isinstance(i.test, Folder) and i.train.where == i.test.where:
            raise UserError(
                f"training and test pairs of one folder must have different names, but {i.test.where} has one image "
                f"for both of {abbreviate(both)}; give a folder with train and test inside"
            )

    def load(
        self, part: str, report: Callable[[str, int, int], None] | None
    ) -> tuple[tuple[str, ...], tuple[Any, ...], dict[str, list[Tensor]]]:
        """Names, targets and, by input, small images of a part, in one pass over its pairs."""
        pairs = self.pairs[part]
        names, targets = [], []
        images: dict[str, list[Tensor]] = {i.name: [] for i in self.inputs}
        for i in self.inputs:
            method = i.part(part)
            if isinstance(method, Made) and not method.baseline:  # it takes its time
                self.kept[i.name, part] = Kept(self.out / "fused" / i.name / part, method)
        for k in range(len(pairs)):
            pair = pairs[k]
            if not pair.name or pair.target is None:
                raise UserError(f"pairs to train a task on need a name and a target, pair {k} lacks one; label it")
            name = pair.name[0]
            names.append(name)
            target = pair.target[0]
            targets.append(target.to(torch.uint8) if isinstance(target, Tensor) else target)
            visible, infrared = Picture(pair.a[0]), Picture(pair.b[0])
            for i in self.inputs:
                y = self.luminance(i, part, name, visible, infrared)
                images[i.name].append(small(y, self.budget.size))
            if report is not None:
                report(part, k + 1, len(pairs))
        return tuple(names), tuple(targets), images

    def picture(self, name: str, index: int) -> Array:
        """The image of an input of a test pair at its full size, uint8 (H,W)."""
        pair, i = self.pairs["test"][index], next(i for i in self.inputs if i.name == name)
        return to_array(self.luminance(i, "test", pair.name[0], Picture(pair.a[0]), Picture(pair.b[0])))

    def luminance(self, i: Input, part: str, name: str, visible: Picture, infrared: Picture) -> Tensor:
        """An input's image of a pair, (1,H,W) on 8-bit levels in [0,1]."""
        kept = self.kept.get((i.name, part))
        return fused(i.part(part), name, visible, infrared) if kept is None else kept.image(name, visible, infrared)

    def same_run(self, settings: dict[str, Any]) -> None:
        """Note what all cells share; refuse a folder that was begun otherwise."""
        path = self.out / "downstream.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(settings, indent=2) + "\n"
            write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
            return
        stored = read_json(path)
        keys = [key for key in sorted({*stored, *settings}) if stored.get(key) != settings.get(key)]
        if keys:
            told = ", ".join(f"{key}: {stored.get(key)} there, {settings.get(key)} here" for key in keys)
            raise UserError(f"{self.out} holds a run with other settings ({told}); repeat them, or choose a new folder")

    def mark(self, name: str) -> str:
        """Changes with any pixel that a cell of an input sees."""
        return fingerprint(*(self.frames[name][part].images for part in PARTS))

    def cells(self) -> list[Cell]:
        """All cells as they are now: seed by seed, the inputs in their order."""
        found = []
        for seed in self.seeds:
            for i in self.inputs:
                folder = self.out / "cells" / i.name / f"seed-{seed}"
                path = folder / "cell.json"
                found.append(Cell(i.name, seed, folder, read_json(path) if path.exists() else None))
        return found

    def run(self, report: Callable[[Cell, dict[str, Any]], None] | None = None) -> list[Cell]:
        """Do every cell that is not finished and that no other process has in work; returns all as they then are.

        Args:
            report: called after every step with {"step", "steps", "loss"}, and with the row of a finished cell.
        """
        if not self.frames:
            self.prepare()
        for cell in self.cells():
            with held(cell.folder) as mine:
                if not mine or (cell.folder / "cell.json").exists():
                    continue
                try:
                    row = self.work(cell, report)
                except (ValueError, RuntimeError) as error:  # RuntimeError: no memory left, among others
                    reason = str(error).strip().splitlines() or [type(error).__name__]
                    self.failures[f"{cell.input}, seed {cell.seed}"] = reason[0]
                    continue
                if report is not None:
                    report(cell, row)
        return self.cells()

    def work(self, cell: Cell, report: Callable[[Cell, dict[str, Any]], None] | None) -> dict[str, Any]:
        """Train and score one cell."""
        frames = self.frames[cell.input]
        torch.manual_seed(cell.seed)
        task = self.make(frames["train"])
        assert isinstance(task, nn.Module)
        task.to(self.device)
        begin = time.monotonic()
        (cell.folder / "log.jsonl").unlink(missing_ok=True)

        def told(line: dict[str, Any]) -> None:
            if report is not None:
                report(cell, line)
            if line["step"] % LOG_EVERY == 0:
                with (cell.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

        losses = train(task, frames["train"], self.budget, cell.seed, device=self.device, report=told)
        trained = time.monotonic()
        found = predict(task, frames["test"], self.device)
        row = {
            "input": cell.input,
            "seed": cell.seed,
            **scored(task, found, frames["test"]),
            "losses": losses,
            "steps": self.budget.steps(len(frames["train"])),
            "seconds": round(time.monotonic() - begin, 1),
            "seconds a step": round((trained - begin) / self.budget.steps(len(frames["train"])), 4),
            "device": self.device,
            "images": self.mark(cell.input),
        }
        save_predictions(cell.folder, frames["test"].names, found)
        write_tensors(cell.folder / "weights.safetensors", task.state_dict())
        text = json.dumps(row) + "\n"
        write_whole(cell.folder / "cell.json", lambda file: file.write_text(text, encoding="utf-8"))
        return row


class Kept:
    """Images that were made here, as files; an image whose sources have changed is made again.

    `sources.jsonl` beside them says of which pixels each was made: a line an image, the last one of a name counts.

    Raises:
        ValueError: the folder holds images made with other settings.
    """

    def __init__(self, place: Path, method: Made) -> None:
        self.method, self.folder, self.list = method, ResultFolder(place), place / "sources.jsonl"
        self.folder.prepare(method.settings, ())
        self.marks: dict[str, str] = {}
        for line in self.list.read_text(encoding="utf-8").splitlines() if self.list.exists() else ():
            try:
                self.marks |= json.loads(line)
            except ValueError:  # cut short: that image is made again
                continue

    def image(self, name: str, visible: Picture, infrared: Picture) -> Tensor:
        """The image of a pair, from its file or made."""
        file, mark = self.folder.files(name)["colour"], fingerprint(visible.y, infrared.y)
        if file.exists() and self.marks.get(name) == mark:
            return read_image(file, value_range="full").y
        y = fused(self.method, name, visible, infrared)
        write_image(file, to_array(y))
        self.marks[name] = mark
        with self.list.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({name: mark}) + "\n")
        return y


def fused(method: Method, name: str, visible: Picture, infrared: Picture) -> Tensor:
    """A method's image of a pair, (1,H,W) on 8-bit levels in [0,1]."""
    return to_levels(method.luminance(PairFiles(name, Path(name), Path(name)), visible, infrared)[None])[0].float()


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Have a cell to oneself: False where another living process has it. The system frees what a dead one held."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: one process a run
        yield True
        return
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
