"""Time and memory of a fuser against the same network written literally, side by side in one run.

    python benchmarks/fuser.py [--system tdfusion|tomiff|sfofusion|adasffuse] [--threads 2] [--rounds 5] [--json FILE]

Every variant runs in processes of its own (so that none inherits another's allocator), the variants take turns within
a round, and a process counts the calls after its first. Both networks hold the same numbers; the table says how far
their outputs differ. `memory-bound` and `arithmetic-bound` are what this machine would need at least: the bytes that
must pass between the stages at the measured bandwidth of a copy, the multiplications at the measured rate of a large
matrix product. No allocator setting of the environment is used.
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
from pathlib import Path

HEIGHT, WIDTH = 480, 640
GMACS = 18.49  # convolutions and matrix products of the literal TDFusion at 640x480
VARIANTS = {
    "literal": "written as published, float32",
    "tectum": "stripes, float32 (the default)",
    "tile 256": "tiles of 256 px, float32",
    "bfloat16": "stripes, bfloat16",
    "average": "(a + b) / 2",
}
TWO_NETWORKS = {
    "literal": "written as published, float32",
    "published": "the same network as tectum runs it",
    "tectum": "repaired, float32 (the default)",
    "average": "(a + b) / 2",
}
"""Of the systems whose default is another network than the published one: numbers are random, time is not."""

KEPT = {"literal, memory kept": "the same, and the allocator told not to give memory back"}
"""Of AdaSFFuse, whose literal network spends half its time on page faults."""


def variants(system: str) -> dict[str, str]:
    """The rows of a system's table."""
    return {"tdfusion": VARIANTS, "adasffuse": TWO_NETWORKS | KEPT}.get(system, TWO_NETWORKS)


def child(system: str, variant: str, threads: int, calls: int) -> None:
    """Run one variant and print its measurements as JSON."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if variant == "limits":
        print(json.dumps(limits()))
        return
    a, b = scene()
    with torch.inference_mode():
        reference, fused_by = networks(system, variant)
        seconds, cpu = [], []
        for _ in range(calls + 1):
            start, start_cpu = time.perf_counter(), time.process_time()
            fused = fused_by(a, b)
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        error = None if reference is None else float((fused - reference(a, b)).abs().max())
    print(json.dumps({"seconds": seconds[1:], "cpu": cpu[1:], "peak": peak, "error": error}))


def scene():  # type: ignore[no-untyped-def]
    """A packaged pair, as luminances (1,1,480,640)."""
    from tectum.data.synthetic import demo_folder
    from tectum.io.image import read_image

    folder = demo_folder()
    visible = read_image(folder / "vi" / "street-1.png")
    infrared = read_image(folder / "ir" / "street-1.png", modality="infrared")
    return visible.y[None], infrared.y[None]


def networks(system: str, variant: str):  # type: ignore[no-untyped-def]
    """The literal network as the reference, or None where none applies, and the variant as a function."""
    import tectum
    from tectum.nn.memory import keep_memory
    from tectum.nn.stages import fuse_tensors

    if variant == "average":
        from tectum.models.baselines import Average

        return None, Average()
    if system != "tdfusion":
        net, published, repaired = two_networks(system)
        if variant == "literal":
            return None, net
        if variant == "literal, memory kept":
            keep_memory()
            return None, net
        fuser = published if variant == "published" else repaired

        def reference(a, b):  # type: ignore[no-untyped-def]
            return net(a, b).clamp(0, 1)  # AdaSFFuse's literal network ends without bounds

        same = variant == "published"
        return (reference if same else None), lambda a, b: fuse_tensors(fuser, a, b)
    if variant == "literal":
        return None, literal()
    dtype = "bfloat16" if variant == "bfloat16" else "float32"
    fuser = tectum.load("tdfusion-published", dtype=dtype)  # the repaired network sees other borders
    tile = 256 if variant == "tile 256" else None
    return literal(), lambda a, b: fuse_tensors(fuser, a, b, tile=tile)


def literal():  # type: ignore[no-untyped-def]
    """The literal network with the packaged weights under their published names."""
    import tectum
    from tectum.pretrained.conversion import TDFUSION_KEYS

    sys.path.insert(0, str(Path(__file__).parent))
    from literal import LiteralTDFusion

    ours = tectum.load("tdfusion").state_dict()
    theirs = {new: old for old, new in TDFUSION_KEYS.items()}
    net = LiteralTDFusion().eval()
    state = {}
    for name, x in ours.items():
        prefix = max((p for p in theirs if name == p or name.startswith(p + ".")), key=len, default="")
        state[theirs.get(prefix, prefix) + name.removeprefix(prefix)] = x
    net.load_state_dict(state)
    return net


def two_networks(system: str):  # type: ignore[no-untyped-def]
    """A system's literal network, the same as tectum runs it, and the repaired one."""
    from tectum.models import SYSTEMS

    sys.path.insert(0, str(Path(__file__).parent))
    from literal_adasffuse import LiteralAdaSFFuse
    from literal_sfofusion import LiteralSFOFusion
    from literal_tomiff import LiteralTOMIFF

    literal = {"adasffuse": LiteralAdaSFFuse, "sfofusion": LiteralSFOFusion, "tomiff": LiteralTOMIFF}[system]().eval()
    published, repaired = SYSTEMS[f"{system}-published"].fuser().eval(), SYSTEMS[system].fuser().eval()
    published.load_state_dict(literal.state_dict())
    return literal, published, repaired


def limits() -> dict[str, float]:
    """Bytes a second of a copy, multiply-adds a second of a 2048-square product."""
    import torch

    x, y = torch.rand(2**25), torch.empty(2**25)
    m = torch.rand(2048, 2048)
    copies, products = [], []
    for _ in range(6):
        start = time.perf_counter()
        y.copy_(x)
        copies.append(2 * 4 * 2**25 / (time.perf_counter() - start))
        start = time.perf_counter()
        m @ m
        products.append(2048**3 / (time.perf_counter() - start))
    return {"bandwidth": max(copies), "macs": max(products)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", choices=["tdfusion", "tomiff", "sfofusion", "adasffuse"], default="tdfusion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.system, arguments.child, arguments.threads, arguments.calls)
        return
    results: dict[str, list[dict[str, object]]] = {variant: [] for variant in [*variants(arguments.system), "limits"]}
    for _ in range(arguments.rounds):
        for variant, runs in results.items():
            command = [sys.executable, __file__, "--system", arguments.system, "--child", variant]
            numbers = ["--threads", str(arguments.threads), "--calls", str(arguments.calls)]
            output = subprocess.run([*command, *numbers], check=True, capture_output=True)
            runs.append(json.loads(output.stdout))
    report(results, arguments.system, arguments.threads)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))


def report(results: dict[str, list[dict[str, object]]], system: str, threads: int) -> None:
    """Print the table as Markdown."""
    import torch

    bandwidth = max(run["bandwidth"] for run in results["limits"])  # type: ignore[type-var]
    macs = max(run["macs"] for run in results["limits"])  # type: ignore[type-var]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"{datetime.date.today()}, {system}, {WIDTH}x{HEIGHT}, {threads} threads of {os.cpu_count()} "
        f"({platform.machine()}), torch {torch.__version__}, {len(results['literal'])} rounds, load {load}\n"
    )
    print("| variant | | seconds, median | fastest | CPU-seconds | peak, MiB | literal takes | largest difference |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    times = {name: [statistics.median(run["seconds"]) for run in results[name]] for name in variants(system)}
    for name, what in variants(system).items():
        runs = results[name]
        ratio = statistics.median(slow / fast for slow, fast in zip(times["literal"], times[name], strict=True))
        error = runs[0]["error"]
        cpu = statistics.median(x for run in runs for x in run["cpu"])  # type: ignore[attr-defined]
        fastest = min(x for run in runs for x in run["seconds"])  # type: ignore[attr-defined]
        peak = max(run["peak"] for run in runs) / 2**20  # type: ignore[type-var, operator]
        print(
            f"| {name} | {what} | {statistics.median(times[name]):.3f} | {fastest:.3f} | {cpu:.2f} | {peak:.0f} | "
            f"{ratio:.1f}x | {'' if error is None else f'{error:.1e}'} |"
        )
    if system != "tdfusion":
        return
    moved = 2 * 64 * 4 * HEIGHT * WIDTH * 5 / bandwidth  # 64 channels written and read between 6 stages
    print(f"\nmemory-bound: {moved:.3f} s at {bandwidth / 1e9:.0f} GB/s")
    print(f"arithmetic-bound: {GMACS * 1e9 / macs:.3f} s at {macs / 1e9:.0f} GMAC/s ({GMACS} GMACs)")


if __name__ == "__main__":
    main()
