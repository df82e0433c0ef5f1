"""Cost of AdaSFFuse against pixels: seconds and peak memory from 0.1 to 8 megapixels, a process for every size.

    python benchmarks/scan.py [--system adasffuse-published] [--threads 2] [--megapixels 0.1 0.3 1 2 4 8] [--step]

Of a fuser that is linear in the pixels the last two columns do not change. `--step` also times a training step of both
systems (batch 2, crop 128, objective, forward and backward, one thread), one after the other.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

NAMES = ("adasffuse", "adasffuse-published")
SIZES = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)


def fuse(system: str, megapixels: float, threads: int) -> dict[str, float]:
    """One image of 4:3, after a small one that loads what torch loads on demand."""
    import torch

    from tectum.models import SYSTEMS
    from tectum.nn.stages import fuse_tensors

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    fuser = SYSTEMS[system].fuser().eval()
    height = round((megapixels * 0.75e6) ** 0.5)
    a, b = torch.rand(2, 1, 1, height, round(height / 0.75))
    fuse_tensors(fuser, a[..., :64, :64], b[..., :64, :64])
    before = peak()
    start, start_cpu = time.perf_counter(), time.process_time()
    fuse_tensors(fuser, a, b)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {"pixels": a.numel(), "seconds": seconds, "cpu": cpu, "peak": peak(), "added": peak() - before}


def step(rounds: int = 3) -> dict[str, float]:
    """CPU-seconds of a training step, the fastest of a few after the first, of both systems in turns."""
    import torch

    from tectum.models import SYSTEMS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    a, b = torch.rand(2, 2, 1, 128, 128)
    parts = {name: (SYSTEMS[name].fuser(), SYSTEMS[name].objective()) for name in NAMES}
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(rounds + 1):
        for name, (fuser, objective) in parts.items():
            start = time.process_time()
            sum(objective(fuser(a, b), a, b).values()).backward()
            times[name].append(time.process_time() - start)
    return {name: min(runs[1:]) for name, runs in times.items()}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", choices=NAMES, default=NAMES[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--megapixels", type=float, nargs="+", default=SIZES)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--child", type=float)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(fuse(arguments.system, arguments.child, arguments.threads)))
        return
    print(f"{arguments.system}, {arguments.threads} threads\n")
    print("| megapixels | seconds | CPU-seconds | peak, MiB | CPU-seconds a megapixel | bytes a pixel |")
    print("|--:|--:|--:|--:|--:|--:|")
    for megapixels in arguments.megapixels:
        command = [sys.executable, __file__, "--child", str(megapixels), "--system", arguments.system]
        output = subprocess.run(
            [*command, "--threads", str(arguments.threads)], check=True, stdout=subprocess.PIPE
        ).stdout
        run = json.loads(output)
        print(
            f"| {run['pixels'] / 1e6:.2f} | {run['seconds']:.2f} | {run['cpu']:.2f} | {run['peak'] / 2**20:.0f} | "
            f"{run['cpu'] / run['pixels'] * 1e6:.2f} | {run['added'] / run['pixels']:.0f} |"
        )
    if arguments.step:
        times = step()
        ratio = times["adasffuse-published"] / times["adasffuse"]
        measured = ", ".join(f"{name} {seconds:.2f}" for name, seconds in times.items())
        print(f"\ntraining step, CPU-seconds: {measured} ({ratio:.1f}x)")


if __name__ == "__main__":
    main()
