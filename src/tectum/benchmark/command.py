"""`tectum bench`: what every system costs on this machine, now."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from tectum.benchmark.options import BenchOptions
from tectum.console import Flag, optional, say, show_metavars
from tectum.io.files import write_json
from tectum.options import option_values
from tectum.report.tables import markdown_table

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost, Measurement


@show_metavars(size="WIDTHxHEIGHT", device="DEVICE", threads="N", rounds="N")
@dataclass(frozen=True, kw_only=True)
class Bench(BenchOptions):
    """Measure time, memory, parameters and MACs of systems and baselines on this machine, now.

    Each variant runs in processes of its own, taking turns, and fuses one pair as `tectum fuse` does, reading and
    writing excluded. The table goes to stdout as Markdown.

    Exit code: 0 all measured, 1 some could not be (the others are printed), 2 a mistake found before the start, 130
    Ctrl-C (what was measured until then is printed and written).
    """

    systems: Annotated[Positional[tuple[str, ...]], arg(metavar="[SYSTEM ...]", help_behavior_hint="")] = ()
    """Systems by name, or your own as package.module:Class; all of tectum's without any."""

    json: Annotated[str | None, optional("FILE")] = None
    """Also write the rows as JSON, e.g. for `tectum eval --costs FILE`."""

    overwrite: Flag = False
    """Replace FILE if it is there."""

    quiet: Flag = False
    """No progress bar."""

    def run(self) -> int:
        if self.json is not None:
            _check_writable(Path(self.json), overwrite=self.overwrite)
        from tectum.benchmark.measure import Measurement

        measurement = Measurement(self.systems, **option_values(self, BenchOptions))
        interrupted = False
        try:
            measurement.run(quiet=self.quiet)
        except KeyboardInterrupt:
            interrupted = True
        costs = measurement.costs()
        if costs:
            print(f"{_describe_conditions(measurement)}\n\n{cost_table(costs)}")
        if costs and self.json is not None:
            write_json(Path(self.json), [asdict(cost) for cost in costs], indent=2)
        for job, reason in measurement.failures.items():
            say(f"not measured: {job}: {reason}")
        if interrupted:
            say(f"interrupted; {len(costs)} of {measurement.num_rows} rows are measured")
        return 130 if interrupted else 1 if measurement.failures else 0


def _check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before minutes of measuring.

    Raises:
        OSError: it cannot, or it is there already.
    """
    if path.is_dir():
        raise IsADirectoryError(f"--json must name a file, and {path} is a folder; add a file name")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name, or add --overwrite")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--json needs a folder that exists, got {path}; make {path.parent} first")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _describe_conditions(measurement: "Measurement") -> str:
    """Date, machine, threads, torch and rounds in a line."""
    import datetime
    import os

    import torch

    costs = measurement.costs()
    threads = f"{costs[0].threads} thread{'s' * (costs[0].threads != 1)} of {os.cpu_count()}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    rounds = measurement.num_rounds
    return (
        f"{datetime.date.today()}, {measurement.machine} ({costs[0].device}), {threads}, torch {torch.__version__}, "
        f"{rounds} round{'s' * (rounds != 1)}{load}"
    )


def cost_table(costs: "Sequence[Cost]") -> str:
    """Returns the costs in Markdown, with columns that also align in a terminal."""
    head = ("system", "variant", "size", "dtype", "parameters", "GMACs", "seconds", "quartiles", "peak, MB")
    rows = [
        (
            cost.name,
            cost.variant or "",
            cost.size or "",
            cost.dtype or "",
            _number(cost.params, ","),
            _number(cost.macs, ".4g", 1e-9),
            _number(cost.seconds_median, ".3g"),
            " - ".join(_number(s, ".3g") for s in cost.seconds_iqr or ()),
            _number(cost.peak_mb, ".0f"),
        )
        for cost in costs
    ]
    return markdown_table(head, rows, num_left=4, padded=True)


def _number(value: float | None, form: str, scale: float = 1) -> str:
    """A number as text; empty where it is not known."""
    return "" if value is None else f"{value * scale if scale != 1 else value:{form}}"
