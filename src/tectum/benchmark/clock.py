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

from tectum.models import SYSTEMS
from tectum.nn.stages import fuse_tensors
from tectum.pretrained.loading import DTYPES
from tectum.protocols import System, resolve

MIN_CALLS, MAX_CALLS, ENOUGH_S = 3, 100, 1.0
"""A process times so many calls at least, and more of them, up to the second number, until so many seconds are over."""


def run_in_process(request: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the answer of `_answer_request` in a new process; {"error": a sentence} where there is none."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)  # for systems of the user's own
    script = "from tectum.benchmark.clock import _answer_request; _answer_request()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, json.dumps(request)],
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


def _answer_request() -> None:
    """Count or time a fuser, as the first argument of the process asks, and print the answer as JSON."""
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a user's module prints is not the answer
    answer: dict[str, Any]
    ((verb, request),) = json.loads(sys.argv[1]).items()
    try:
        answer = count_fuser(**request) if verb == "count" else time_fuser(**request)
    except Exception as error:  # memory, or whatever a user's own network raises
        first = (str(error).strip().splitlines() or [""])[0]
        answer = {"error": f"{type(error).__name__}: {first}" if first else type(error).__name__}
    with result:
        json.dump(answer, result)


def _build_fuser(system: str, variant: str) -> nn.Module:
    entry = resolve(SYSTEMS, system, noun="system")
    make = entry.fuser if isinstance(entry, System) else entry
    options: dict[str, str] = {} if isinstance(entry, System) or variant == "default" else {"variant": variant}
    fuser: nn.Module = make(**options)
    return fuser.eval().requires_grad_(False)


def count_fuser(system: str, variant: str, size: tuple[int, int]) -> dict[str, int]:
    """Parameters and MACs; on the meta device, which computes shapes only, and for real where it cannot be."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(device: str) -> tuple[nn.Module, int]:
        with torch.device(device), torch.no_grad():
            fuser = _build_fuser(system, variant)
            a, b = (torch.zeros(1, 1, size[1], size[0]) for _ in range(2))
            with FlopCounterMode(display=False) as counter:
                fuser(a, b)
        return fuser, counter.get_total_flops()

    try:
        fuser, total = flops("meta")
    except Exception:  # some networks look at values
        fuser, total = flops("cpu")
    return {"params": sum(p.numel() for p in fuser.parameters()), "macs": total // 2}


def time_fuser(
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
    fuser = _build_fuser(system, variant).to(device=device, dtype=DTYPES[dtype])
    a, b = (torch.rand(1, 1, size[1], size[0]).to(device) for _ in range(2))
    kind = device.partition(":")[0]
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)
    seconds: list[float] = []
    fuse_tensors(fuser, a, b)
    wait()
    least, most = (MIN_CALLS, MAX_CALLS) if calls is None else (calls, calls)
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < ENOUGH_S):
        start = perf_counter()
        fuse_tensors(fuser, a, b)
        wait()
        seconds.append(perf_counter() - start)
    used = next((p.dtype for p in fuser.parameters()), a.dtype)
    return {
        "seconds": seconds,
        "peak_mb": torch.cuda.max_memory_allocated(device) / 1e6 if kind == "cuda" else _resident_mb(),
        "threads": torch.get_num_threads(),
        "dtype": str(used).removeprefix("torch."),
        "machine": torch.cuda.get_device_name(device) if kind == "cuda" else _processor(),
    }


def _resident_mb() -> float | None:
    """Largest resident size of this process so far, in MB.

    Linux keeps two: VmHWM is that of this program, ru_maxrss also that of the one which started it.
    """
    try:
        match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        match = None
    if match is not None:
        return int(match[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _processor() -> str:
    """Name of the processor."""
    try:
        match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()
