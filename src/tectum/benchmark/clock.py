"""Count and time one fuser in a process of its own.

The process is given a request as JSON in its first argument and prints the answer as JSON: parameters and
multiply-accumulates, or seconds and memory. `tectum.benchmark.measure` lets many of them take turns.
"""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from tectum.nn.stages import fuse_tensors
from tectum.protocols import System, resolve
from tectum.systems import SYSTEMS
from tectum.weights.loading import DTYPES

CALLS, MOST_CALLS, ENOUGH_S = 3, 100, 1.0
"""A process times so many calls at least, and more of them, up to the second number, until so many seconds are over."""


def in_a_process(request: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `child` answers; {"error": a sentence} when it could not."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)  # for systems of the user's own
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from tectum.benchmark.clock import child; child()", json.dumps(request)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout)
    if done.returncode < 0:
        why = ", as when memory runs out" if done.returncode == -9 else ""
        return {"error": f"its process was ended by signal {-done.returncode}{why}"}
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return {"error": f"its process failed ({last})"}


def child() -> None:
    """Do what the first argument asks for and print the answer as JSON."""
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a user's module prints is not the answer
    answer: dict[str, Any]
    ((what, request),) = json.loads(sys.argv[1]).items()
    try:
        answer = count(**request) if what == "count" else clock(**request)
    except Exception as error:  # memory, or whatever a user's own network raises
        first = (str(error).strip().splitlines() or [""])[0]
        answer = {"error": f"{type(error).__name__}: {first}" if first else type(error).__name__}
    with result:
        json.dump(answer, result)


def build(system: str, variant: str) -> nn.Module:
    entry = resolve(SYSTEMS, system, noun="system")
    make = entry.fuser if isinstance(entry, System) else entry
    options: dict[str, str] = {} if isinstance(entry, System) or variant == "default" else {"variant": variant}
    fuser: nn.Module = make(**options)
    return fuser.eval().requires_grad_(False)


def count(system: str, variant: str, size: tuple[int, int]) -> dict[str, int]:
    """Parameters and MACs; on the meta device, which computes shapes only, and for real where it cannot be."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(device: str) -> tuple[nn.Module, int]:
        with torch.device(device), torch.no_grad():
            fuser = build(system, variant)
            a, b = (torch.zeros(1, 1, size[1], size[0]) for _ in range(2))
            with FlopCounterMode(display=False) as counter:
                fuser(a, b)
        return fuser, counter.get_total_flops()

    try:
        fuser, total = flops("meta")
    except Exception:  # some networks look at values
        fuser, total = flops("cpu")
    return {"params": sum(p.numel() for p in fuser.parameters()), "macs": total // 2}


def clock(
    system: str,
    variant: str,
    size: tuple[int, int],
    device: str,
    dtype: str,
    threads: int | None,
    calls: int | None,
) -> dict[str, Any]:
    """Seconds of each call after the first, peak memory, and what it ran on."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    fuser = build(system, variant).to(device=device, dtype=DTYPES[dtype])
    a, b = (torch.rand(1, 1, size[1], size[0]).to(device) for _ in range(2))
    kind = device.partition(":")[0]
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)
    seconds: list[float] = []
    fuse_tensors(fuser, a, b)
    wait()
    while len(seconds) < (calls or CALLS) or (calls is None and len(seconds) < MOST_CALLS and sum(seconds) < ENOUGH_S):
        start = perf_counter()
        fuse_tensors(fuser, a, b)
        wait()
        seconds.append(perf_counter() - start)
    used = next((p.dtype for p in fuser.parameters()), a.dtype)
    return {
        "seconds": seconds,
        "peak_mb": torch.cuda.max_memory_allocated(device) / 1e6 if kind == "cuda" else resident_mb(),
        "threads": torch.get_num_threads(),
        "dtype": str(used).removeprefix("torch."),
        "machine": torch.cuda.get_device_name(device) if kind == "cuda" else processor(),
    }


def resident_mb() -> float | None:
    """Largest resident size of this process so far, in MB.

    Linux keeps two: VmHWM is that of this program, ru_maxrss also that of the one which started it.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def processor() -> str:
    """Name of the processor."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
