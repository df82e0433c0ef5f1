"""The weights that every network of the downstream table begins with.

    python benchmarks/start.py --data MSRS -o start.safetensors [--epochs 30] [--without-validation]

SegFormer-B0 from scratch learns little but the background from 221 small pictures in the few epochs that two cores can
carry. So one network is trained first on the visible images, the infrared ones and their averages together, and every
cell of the table, whatever its input, goes on from there. It has seen no image of a trained fuser: if the start favours
anything, then the sources and their average. Only training pairs are used; with `--split validation` take
`--without-validation`.
"""

import argparse
import time
from pathlib import Path

import torch

from tectum.data.datasets import open_set
from tectum.data.parts import exclude_names, read_split
from tectum.data.transforms import resize
from tectum.downstream.cell import train
from tectum.downstream.frames import Frames, class_weights
from tectum.downstream.options import Budget
from tectum.io.files import write_tensors
from tectum.nn.memory import keep_memory
from tectum.tasks import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--task", default="segformer-b0")
    parser.add_argument("--target", default="masks")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--without-validation", action="store_true", help="leave out the pairs of msrs-validation")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    pairs = open_set("msrs", given.data, target=given.target)
    if given.without_validation:
        names = exclude_names(pairs.names, read_split("msrs-validation"))
        pairs = open_set("msrs", given.data, target=given.target, names=names)
    budget = Budget(epochs=given.epochs, lr=given.lr)
    images, targets = [], []
    for index in range(len(pairs)):
        pair = resize(pairs[index], budget.size, antialias=True)
        for picture in (pair.a, pair.b, (pair.a + pair.b) / 2):
            images.append((picture[0, 0] * 255 + 0.5).clamp(0, 255).byte())
            targets.append(pair.target[0].byte() if given.target == "masks" else pair.target[0])
    frames = Frames(tuple(f"{k}" for k in range(len(images))), torch.stack(images), tuple(targets))
    options = {"class_weights": class_weights(frames, len(pairs.classes), 0.5)} if given.target == "masks" else {}
    torch.manual_seed(0)
    task = TASKS[given.task](pairs.classes, **options)
    start = time.monotonic()

    def report(line: dict[str, float]) -> None:
        if line["step"] % 250 == 0:
            print(
                f"{line['step']} of {line['steps']}: {line['loss']:.3f}, {time.monotonic() - start:.0f} s", flush=True
            )
            write_tensors(given.out, task.state_dict())

    print(train(task, frames, budget, 0, report=report))
    write_tensors(given.out, task.state_dict())


if __name__ == "__main__":
    main()
