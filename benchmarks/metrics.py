"""Time, memory and agreement of the metrics, beside the same formulas written as the published evaluators are.

    python benchmarks/metrics.py [--threads 1 2] [--rounds 7] [--sizes]
    python benchmarks/metrics.py --agreement DIR

The first prints, as Markdown, how long TDFusion's six metrics and all twelve take for one pair, and for one pair under
six fused images, here and in `benchmarks/literal_metrics.py`; the variants take turns in one process, images are in
memory, medians over the rounds. `--sizes` adds how time and memory grow from 0.3 to 20 megapixels, each size in a
process of its own. The second compares with reference values: DIR holds `metrics.json` ({pair: {fused: {symbol:
value}}}, `_a` and `_b` for single sources) and a folder of 8-bit grey PNGs per pair.
"""

import argparse
import datetime
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tectum.metrics.conventions import CONVENTIONS

TIMES = (1, 2, 4, 8)
"""Of 640x480, in width and height: 0.3 to 20 megapixels."""
PER_SOURCE = ("MI", "VIF", "SSIM")


def images(times: int = 1, num: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Fused images of a packaged pair and the pair, 640x480 on 8-bit levels, `times` as wide and high by repeating."""
    from tectum.data.synthetic import demo_folder
    from tectum.io.image import read_image

    paths = [demo_folder() / folder / "street-1.png" for folder in ("vi", "ir")]
    a, b = (read_image(path, modality=role).y[None] for path, role in zip(paths, ("visible", "infrared"), strict=True))
    mixed = [w * a + (1 - w) * b for w in (0.5, 0.4, 0.3, 0.6, 0.7)]
    fused = torch.cat([torch.maximum(a, b), *mixed])[:num]
    fused, a, b = (x.mul(255).round().div(255).repeat(1, 1, times, times) for x in (fused, a, b))
    return fused, a, b


def clock(run: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def ours(names: str, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return CONVENTIONS[{"six": "tdfusion", "twelve": "tectum"}[names]](fused, a, b)


def literal(names: str, fused: Tensor, a: Tensor, b: Tensor) -> list[dict[str, float]]:
    sys.path.insert(0, str(Path(__file__).parent))
    import literal_metrics

    score = {"six": literal_metrics.tdfusion, "twelve": literal_metrics.twelve}[names]
    x, y = (image[0, 0].double().numpy() * 255 for image in (a, b))
    return [score(np.round(f[0].double().numpy() * 255), np.round(x), np.round(y)) for f in fused]


def speed(threads: list[int], rounds: int) -> None:
    """One pair, and one pair under six fused images."""
    fused, a, b = images()
    times: dict[tuple[str, int, int], list[float]] = {}  # what, threads (0 = literal), fused images
    for round_number in range(rounds + 1):
        for names in ("six", "twelve"):
            for num in (1, 6):
                seconds = {(names, n, num): 0.0 for n in threads}
                for n in threads:
                    torch.set_num_threads(n)
                    seconds[names, n, num] = clock(ours, names, fused[:num], a, b)
                if num == 1:
                    seconds[names, 0, 1] = clock(literal, names, fused[:1], a, b)
                for key, value in seconds.items() if round_number else ():  # the first round warms up
                    times.setdefault(key, []).append(value)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"{datetime.date.today()}, 640x480, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{rounds} rounds, load {load}\n"
    )
    print("| metrics | fused images | threads | ms a fused image, median | fastest | literal, ms | literal takes |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for names, label in (("six", "TDFusion's six"), ("twelve", "all twelve")):
        slow = times[names, 0, 1]
        for num in (1, 6):
            for n in threads:
                each = [seconds / num for seconds in times[names, n, num]]
                ratio = statistics.median(s / f for s, f in zip(slow, each, strict=True))
                print(
                    f"| {label} | {num} | {n} | {1e3 * statistics.median(each):.1f} | {1e3 * min(each):.1f} | "
                    f"{1e3 * statistics.median(slow):.0f} | {ratio:.1f}x |"
                )


def growth(threads: int) -> None:
    """Time and memory against pixels."""
    print("\n| megapixels | fused images | twelve metrics, s | us a pixel and fused image | images, MiB | peak, MiB |")
    print("|--:|--:|--:|--:|--:|--:|")
    for times in TIMES:
        for num in (1, 6):
            command = [sys.executable, __file__, "--child", str(times), str(num), str(threads)]
            measured = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            pixels = 480 * 640 * times**2
            each = 1e6 * measured["seconds"] / pixels / num
            sizes = " | ".join(f"{measured[key] / 2**20:.0f}" for key in ("images", "peak"))
            print(f"| {pixels / 1e6:.1f} | {num} | {measured['seconds']:.2f} | {each:.3f} | {sizes} |")


def child(times: int, num: int, threads: int) -> None:
    torch.set_num_threads(threads)
    fused, a, b = images(times, num)
    seconds = min(clock(ours, "twelve", fused, a, b) for _ in range(2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": seconds, "images": 4 * (fused.numel() + a.numel() + b.numel()), "peak": peak}))


def agreement(folder: Path) -> None:
    """The largest relative difference of every metric from reference values."""
    from PIL import Image

    def read(path: Path) -> Tensor:
        return torch.from_numpy(np.array(Image.open(path), dtype=np.float32))[None, None] / 255

    reference = json.loads((folder / "metrics.json").read_text())
    worst: dict[str, tuple[float, str]] = {}
    num = 0
    for pair, of_fused in reference.items():
        a, b = (read(folder / pair / f"{side}.png") for side in "ab")
        names = [name for name, values in of_fused.items() if isinstance(values, dict)]
        fused = torch.cat([read(folder / pair / f"{name}.png") for name in names])
        num += len(names)
        for symbol, make in CONVENTIONS["tectum"].metrics.items():
            metric: Any = make()
            if symbol in PER_SOURCE:
                values = dict(zip((f"{symbol}_a", f"{symbol}_b"), metric.per_source(fused, a, b), strict=True))
            else:
                values = {symbol: metric(fused, a, b)}
            for key, tensor in values.items():
                for name, value in zip(names, tensor.tolist(), strict=True):
                    difference = abs(value / of_fused[name][key] - 1)
                    if not difference <= worst.get(symbol, (-1.0, ""))[0]:  # NaN counts as the worst
                        worst[symbol] = (difference, f"{pair}, {name}")
    print(f"{datetime.date.today()}, {num} fused images of {len(reference)} pairs, float32 input\n")
    print("| metric | largest relative difference | of |")
    print("|---|--:|---|")
    for symbol, (difference, where) in worst.items():
        print(f"| {symbol} | {difference:.1e} | {where} |")
    limit = max(difference for difference, _ in worst.values())
    print(f"\nlargest of all: {limit:.1e}" + ("" if limit < 1e-4 and not math.isnan(limit) else ", above 1e-4"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", action="store_true", help="time and memory from 0.3 to 20 megapixels")
    parser.add_argument("--agreement", type=Path, metavar="DIR", help="compare with the reference values in DIR")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
    elif arguments.agreement:
        if not (arguments.agreement / "metrics.json").is_file():
            parser.error(f"{arguments.agreement} must hold reference values: metrics.json, and a folder for each pair")
        agreement(arguments.agreement)
    else:
        speed(arguments.threads, arguments.rounds)
        if arguments.sizes:
            growth(max(arguments.threads))


if __name__ == "__main__":
    main()
