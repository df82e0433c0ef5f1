"""Time and memory of a training step with a learned loss: ours against double backward on the literal networks.

    python benchmarks/meta.py [--full] [--threads 1] [--rounds 3] [--json FILE]

A *meta step* is one update of the loss: the look-ahead of the task, that of the fuser, the outer loss and the
objective's step. A *fusion step* is one of the fuser and one of the task. Both see what a published step sees: a crop
and its swap, whole images and theirs, SegFormer-B0, labels of twice the images' size; at half of the published sides
unless `--full` (which takes 16 GiB for `literal`). `literal` writes the networks as published and finds the
hypergradient by double backward, `tectum` is what `tectum train` does. Both begin with the same numbers; the last
column says how far their hypergradients are apart, relative to the largest entry.

Every row has processes of its own, the variants take turns. A process takes one step on tiny images and two of the
real size; the second is timed, for a run takes thousands. Peak memory is the whole process; `before` is what it held
after the tiny step.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

FULL, HALF, TINY = (256, (240, 320)), (128, (120, 160)), (32, (32, 32))
VARIANTS, STEPS = ("literal", "tectum"), ("meta", "fusion")
Sizes = tuple[int, tuple[int, int]]


def child(variant: str, step: str, threads: int, sizes: Sizes) -> None:
    """Take two steps and print the measurements of the second as JSON."""
    import torch

    torch.set_num_threads(threads)
    trainer = make(variant)
    take(trainer, step, TINY)
    trainer = make(variant)
    before = peak()
    gradient = take(trainer, step, sizes)
    start, start_cpu = time.perf_counter(), time.process_time()
    take(trainer, step, sizes)
    measured = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}
    print(json.dumps(measured | {"before": before, "peak": peak(), "gradient": gradient}))


def peak() -> int:
    """The largest size this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make(variant: str):  # type: ignore[no-untyped-def]
    """Networks with the same numbers in both variants, and their optimisers."""
    import torch

    from tectum.models.tdfusion import LossGenerator, PublishedTDFusion, PublishedTDFusionLoss
    from tectum.nn.memory import keep_memory
    from tectum.pretrained.conversion import TDFUSION_KEYS
    from tectum.tasks import TASKS
    from tectum.training.recipes import RECIPES
    from tectum.training.trainer import Trainer

    torch.manual_seed(0)
    task = TASKS["segformer-b0"](tuple("abcdefghi"))
    fuser, generator = PublishedTDFusion(), LossGenerator()
    schedule = RECIPES["tdfusion-msrs"].schedule
    if variant == "literal":
        sys.path.insert(0, str(Path(__file__).parent))
        from literal import LiteralLossGenerator, LiteralTDFusion

        names = {new: old for old, new in TDFUSION_KEYS.items()}
        fuser = renamed(fuser, LiteralTDFusion(), names)
        generator = renamed(generator, LiteralLossGenerator(), names)
        schedule = replace(schedule, method="reverse")
    else:
        keep_memory()  # as `tectum train` does
    return Trainer(fuser, PublishedTDFusionLoss(generator), task, schedule)


def renamed(ours, literal, names: dict[str, str]):  # type: ignore[no-untyped-def]
    """The literal network with the numbers of ours."""
    state = {}
    for name, x in ours.state_dict().items():
        prefix = max((p for p in names if name == p or name.startswith(p + ".")), key=len, default="")
        state[names.get(prefix, prefix) + name.removeprefix(prefix)] = x
    literal.load_state_dict(state)
    return literal


def take(trainer, step: str, sizes: Sizes) -> list[float]:  # type: ignore[no-untyped-def]
    """One step; the hypergradient of the generator's first and last layers."""
    crop_px, task_px = sizes
    crops, whole, test = scene(0, (crop_px, crop_px)), scene(1, task_px), scene(2, task_px)

    def check(what, value, batch) -> None:  # type: ignore[no-untyped-def]
        assert bool(value.isfinite()), what

    trainer.set_rates(0, 0)
    if step == "fusion":
        trainer.fit_step(crops, whole, check)
        return []
    gradient = trainer.meta_step(crops, whole, test, 0, check).gradient
    ends = (
        gradient.get(f"generator.{ours}.weight", gradient.get(f"generator.{theirs}.weight")) for ours, theirs in ENDS
    )
    return [x for end in ends for x in end.flatten().tolist()]


ENDS = (("embed_infrared", "project_in_1"), ("embed_visible", "project_in_2"), ("output", "project_out_1"))
"""The generator's first and last layers by their names in both variants."""


def scene(seed: int, size: tuple[int, int]):  # type: ignore[no-untyped-def]
    """A smooth pair and its swap, with classes in blocks of twice the images' size."""
    import torch
    import torch.nn.functional as F

    from tectum.pair import Pair

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 1, 1, size[0] // 8, size[1] // 8, generator=generator)
    a, b = (F.interpolate(x, size, mode="bilinear") for x in coarse)
    blocks = torch.randint(9, (1, 1, size[0] // 16, size[1] // 16), generator=generator).float()
    mask = F.interpolate(blocks, (2 * size[0], 2 * size[1]), mode="nearest")[:, 0].long()
    pair = Pair(a, b, mask, (f"scene-{seed}",))
    return Pair.collate([pair, pair.swap()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the published sides")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.threads, FULL if arguments.full else HALF)
        return
    results: dict[str, list[dict[str, object]]] = {f"{step} {v}": [] for step in STEPS for v in VARIANTS}
    for _ in range(arguments.rounds):
        for name, runs in results.items():
            step, variant = name.split()
            command = [sys.executable, __file__, "--child", variant, step, "--threads", str(arguments.threads)]
            output = subprocess.run([*command, *["--full"] * arguments.full], check=True, capture_output=True)
            runs.append(json.loads(output.stdout))
    report(results, arguments.threads, FULL if arguments.full else HALF)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))


def report(results: dict[str, list[dict[str, object]]], threads: int, sizes: Sizes) -> None:
    """Print the table as Markdown."""
    import torch

    (crop_px, (height, width)), load = sizes, ", ".join(f"{x:.1f}" for x in os.getloadavg())
    num = len(results["meta literal"])
    print(
        f"{datetime.date.today()}, crops {crop_px}x{crop_px}, task images {height}x{width}, labels {2 * height}x"
        f"{2 * width}, {threads} of {os.cpu_count()} threads ({platform.machine()}), torch {torch.__version__}, {num} "
        f"rounds, load {load}\n"
    )
    print("| step | written | seconds | CPU-seconds | peak, GiB | before | CPU time to literal | memory | difference |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, runs in results.items():
        step, variant = name.split()
        others = results[f"{step} literal"]
        seconds, cpu, top, before = (
            statistics.median(r[k] for r in runs) for k in ("seconds", "cpu", "peak", "before")
        )  # type: ignore[misc]
        time_ratio = statistics.median(one["cpu"] / other["cpu"] for one, other in zip(runs, others, strict=True))  # type: ignore[operator]
        memory_ratio = top / statistics.median(r["peak"] for r in others)  # type: ignore[type-var]
        apart = ""
        if variant == "tectum" and step == "meta":
            one, other = (torch.tensor(r[0]["gradient"]) for r in (runs, others))
            apart = f"{float((one - other).abs().max() / other.abs().max()):.1e}"
        print(
            f"| {step} | {variant} | {seconds:.2f} | {cpu:.2f} | {top / 2**30:.2f} | {before / 2**30:.2f} | "
            f"{time_ratio:.2f} | {memory_ratio:.2f} | {apart} |"
        )


if __name__ == "__main__":
    main()
