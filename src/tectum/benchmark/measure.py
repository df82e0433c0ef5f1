"""Cost of a fuser on this machine, now: seconds, memory, parameters, multiply-accumulates.

    round 1: A B C      round 2: A B C      ...        each letter a process of its own, one at a time

A process (`tectum.benchmark.clock`) builds one variant of one system, fuses one pair of one size as `tectum fuse` does
(`fuse_tensors`, sources in memory, nothing read or written), leaves out the first call and times the next ones. So no
variant inherits another's memory, and whatever else the machine does meets all of them alike. Weights are random: they
do not change the time.

*Seconds* are the median and the quartiles over the calls of all rounds. *Memory* is the largest resident size of the
process, Python and torch included, or on CUDA what torch had allocated at most; in MB of 10^6 bytes. *Parameters* are
those of the module. *MACs* are half of what `torch.utils.flop_counter` finds in the plain forward pass: convolutions
and matrix products. What is done element by element is not counted, though it may take most of the time.
"""

import inspect
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tectum.benchmark.clock import run_in_process
from tectum.benchmark.options import BenchOptions
from tectum.console import parse_size, progress_bar
from tectum.errors import UserError, unknown
from tectum.models import SYSTEMS
from tectum.nn.stages import find_device
from tectum.options import takes_options
from tectum.pretrained.loading import DTYPES, build_fuser
from tectum.protocols import System, resolve

_SMALLEST_PX = 16
"""Sides below this say nothing about any image."""


@dataclass(frozen=True)
class Cost:
    """The cost of one variant of a system at one size; a field that is not known is None, in costs added by hand.

    Attributes:
        name: the system, as it was asked for.
        variant: "published" or "repaired" of a system that has both, value of the keyword `variant` of a user's own
            class, else "default".
        params: number of parameters.
        macs: multiply-accumulates of convolutions and matrix products for one pair.
        size: "640x480", width and height in pixels.
        seconds_median: seconds for one pair.
        seconds_iqr: lower and upper quartile.
        peak_mb: peak memory in MB (10^6 bytes), of the process, or on CUDA of torch's allocations; None where the
            operating system does not tell.
        device: "cpu", "cuda", "cuda:1" or "mps".
        threads: processor threads of torch.
        dtype: of the numbers it computed with. What has no parameters computes in the type of the images, float32.
    """

    name: str
    variant: str | None = None
    params: int | None = None
    macs: int | None = None
    size: str | None = None
    seconds_median: float | None = None
    seconds_iqr: tuple[float, float] | None = None
    peak_mb: float | None = None
    device: str | None = None
    threads: int | None = None
    dtype: str | None = None

    def checked(self) -> "Cost":
        """Returns itself if every field is of its type: costs may come from a file that a person wrote.

        Raises:
            TypeError: one is not.
        """
        for field in ("name", "variant", "size", "device", "dtype"):
            text = getattr(self, field)
            if not isinstance(text, str) and (text is not None or field == "name"):
                raise TypeError(f"{field} must be text, got {text!r}")
        for field in ("params", "macs", "seconds_median", "peak_mb", "threads"):
            if not (getattr(self, field) is None or _is_number(getattr(self, field))):
                raise TypeError(f"{field} must be a number, got {getattr(self, field)!r}")
        quartiles = (0, 0) if self.seconds_iqr is None else tuple(self.seconds_iqr)
        if len(quartiles) != 2 or not all(map(_is_number, quartiles)):
            raise TypeError(f"seconds_iqr must be two numbers, got {self.seconds_iqr!r}")
        return self


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < float("inf")


@dataclass(frozen=True)
class _Job:
    """One row of the table."""

    system: str
    variant: str
    size: tuple[int, int]

    def __str__(self) -> str:
        variant = "" if self.variant == "default" else f" ({self.variant})"
        return f"{self.system}{variant} at {self.size[0]}x{self.size[1]}"


class Measurement:
    """A run of measurements that may be cut short: `run`, and then `costs`, also after a KeyboardInterrupt.

    Args:
        systems: names of `SYSTEMS`, or `package.module:Class`; none given takes all of `SYSTEMS`.
        options: fields of `BenchOptions`.

    Attributes:
        failures: {"SYSTEM at SIZE": why it could not be measured}.
        machine: what the processes ran on, known once one has.
        num_rows: rows of the finished table.

    Raises:
        UserError: an unknown system (the closest is offered) or device, a size or number that nothing can run with.
    """

    def __init__(self, systems: Sequence[str] = (), **options: Any) -> None:
        self.options = BenchOptions(**options)
        dtype, threads = self.options.dtype, self.options.threads
        if dtype not in DTYPES:
            raise UserError(unknown(dtype, DTYPES, noun="dtype"))
        if threads is not None and not 1 <= threads <= 1024:
            raise UserError(f"--threads must be between 1 and 1024, got {threads}")
        if self.options.rounds < 1:
            raise UserError(f"--rounds must be at least 1, got {self.options.rounds}")
        self._settings: dict[str, Any] = {
            "device": find_device(self.options.device),
            "dtype": dtype,
            "threads": threads,
        }
        sizes = dict.fromkeys(map(_check_size, self.options.size))
        if not sizes:
            raise UserError("--size needs at least one size, such as 640x480")
        names = dict.fromkeys(systems or SYSTEMS)
        self._jobs = [_Job(name, variant, size) for name in names for variant in find_variants(name) for size in sizes]
        self._counts: dict[_Job, tuple[int, int]] = {}
        self._runs: dict[_Job, list[dict[str, Any]]] = {job: [] for job in self._jobs}
        self.failures: dict[str, str] = {}
        self.machine = ""
        self.num_rows = len(self._jobs)

    def run(self, *, quiet: bool = True) -> None:
        """Count, then time in turns; what fails once is noted in `failures` and not tried again."""
        turns = 1 + self.options.rounds
        with progress_bar(turns * len(self._jobs), "run", quiet=quiet) as bar:
            for turn in range(turns):
                for job in self._jobs:
                    bar.set_postfix_str(str(job))
                    if str(job) not in self.failures:
                        self._run_process(job, counts=turn == 0)
                    bar.update()

    def _run_process(self, job: _Job, *, counts: bool) -> None:
        """Run one process and store its result."""
        request: dict[str, Any] = {"system": job.system, "variant": job.variant, "size": job.size}
        if counts:
            answer = run_in_process({"count": request})
        else:  # as many calls in every round, so that a slow round counts no less
            calls = len(self._runs[job][0]["seconds"]) if self._runs[job] else None
            answer = run_in_process({"time": request | self._settings | {"calls": calls}})
        if "error" in answer:
            self.failures[str(job)] = answer["error"]
        elif counts:
            self._counts[job] = answer["params"], answer["macs"]
        else:
            self._runs[job].append(answer)
            self.machine = answer["machine"]

    @property
    def num_rounds(self) -> int:
        """Rounds that every row measured so far has been through."""
        return min((len(runs) for runs in self._runs.values() if runs), default=0)

    def costs(self) -> list[Cost]:
        """Returns the rows measured so far, in the order of the systems."""
        return [self._cost(job, runs) for job, runs in self._runs.items() if runs]

    def _cost(self, job: _Job, runs: Sequence[dict[str, Any]]) -> Cost:
        low, median, high = np.percentile([s for run in runs for s in run["seconds"]], (25, 50, 75)).tolist()
        peaks = [run["peak_mb"] for run in runs if run["peak_mb"] is not None]
        return Cost(
            job.system,
            job.variant,
            *self._counts[job],
            size=f"{job.size[0]}x{job.size[1]}",
            seconds_median=median,
            seconds_iqr=(low, high),
            peak_mb=max(peaks, default=None),
            device=self._settings["device"],
            threads=runs[0]["threads"],
            dtype=runs[0]["dtype"],
        )


@takes_options(BenchOptions)
def measure(systems: Sequence[str] = (), *, quiet: bool = True, **options: Any) -> list[Cost]:
    """Measure systems and baselines on this machine.

        measure(["tdfusion", "average"], size=["640x480", "1280x720"], rounds=3)

    Args:
        systems: names of `tectum.models.SYSTEMS`, or `package.module:Class`; none given takes all of `SYSTEMS`.
        quiet: no progress bar.
        options: see `tectum.benchmark.options.BenchOptions`.

    Returns:
        One row for each variant of each system at each size. What could not be measured is left out with a warning.

    Raises:
        UserError: as `Measurement`.
    """
    measurement = Measurement(systems, **options)
    measurement.run(quiet=quiet)
    for job, reason in measurement.failures.items():
        warnings.warn(f"{job} could not be measured: {reason}", stacklevel=2)
    return measurement.costs()


def _check_size(text: str) -> tuple[int, int]:
    """Width and height of a text WIDTHxHEIGHT."""
    width, height = parse_size(text, "--size")
    if min(width, height) < _SMALLEST_PX:
        raise UserError(f"a size must be at least {_SMALLEST_PX}x{_SMALLEST_PX} pixels, got {width}x{height}")
    return width, height


def find_variants(system: str) -> tuple[str, ...]:
    """Returns the variant of a system, or all of a user's own class, ("default",) where there is none.

    >>> find_variants("average")
    ('default',)
    """
    entry = resolve(SYSTEMS, system, noun="system")
    if isinstance(entry, System):
        return (entry.variant or "default",)
    with torch.device("meta"):
        build_fuser(system, entry)
    if "variant" not in inspect.signature(entry).parameters:
        return ("default",)
    hint = inspect.signature(entry, eval_str=True).parameters["variant"].annotation
    names = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return names or ("default",)
