"""`tectum bench`: what every system costs on this machine, now."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from tectum.console import Flag, optional, say
from tectum.report.tables import markdown_table

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost, Measurement


@dataclass(frozen=True)
class Bench:
    """Measure time, memory, parameters and MACs of systems and baselines on this machine, now.

    Each variant runs in processes of its own, taking turns, and fuses one pair as `tectum fuse` does, reading and
    writing excluded. The table goes to stdout as Markdown.

    Exit code: 0 all measured, 1 some could not be (the others are told), 2 a mistake found before the start, 130 Ctrl-C
    (what was measured until then is told and written).
    """

    systems: Annotated[Positional[tuple[str, ...]], arg(metavar="SYSTEM", help_behavior_hint="")] = ()
    """Systems by name, or your own as package.module:Class; all of tectum's without any."""

    size: Annotated[tuple[str, ...], arg(metavar="WIDTHxHEIGHT")] = ("640x480",)
    """Sizes of the images in pixels."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes CUDA, then MPS, then the CPU."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers the networks compute with."""

    threads: Annotated[int | None, optional("N")] = None
    """Processor threads to use."""

    rounds: Annotated[int, arg(metavar="N")] = 5
    """How often everything takes its turn; more make the numbers steadier."""

    json: Annotated[str | None, optional("FILE")] = None
    """Also write the rows as JSON, e.g. for `tectum eval --costs FILE`."""

    overwrite: Flag = False
    """Replace FILE if it is there."""

    quiet: Flag = False
    """No progress bar."""

    def run(self) -> int:
        if self.json is not None:
            check_writable(Path(self.json), overwrite=self.overwrite)
        from tectum.benchmark.measure import Measurement

        found = Measurement(
            self.systems,
            sizes=self.size,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            rounds=self.rounds,
        )
        try:
            found.run(quiet=self.quiet)
        except KeyboardInterrupt:
            self.tell(found)
            say(f"interrupted; {len(found.costs())} of {len(found.jobs)} rows are measured")
            return 130
        self.tell(found)
        return 1 if found.failures else 0

    def tell(self, found: "Measurement") -> None:
        """The table, the file, and what could not be measured."""
        costs = found.costs()
        if costs:
            print(f"{conditions(found)}\n\n{table(costs)}")
        if costs and self.json is not None:
            from tectum.io.files import write_whole

            text = json.dumps([asdict(cost) for cost in costs], indent=2) + "\n"
            write_whole(Path(self.json), lambda file: file.write_text(text, encoding="utf-8"))
        for what, why in found.failures.items():
            say(f"not measured: {what}: {why}")


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Find out before minutes of measuring whether a file can be written.

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


def conditions(found: "Measurement") -> str:
    """Where and how it was measured, in a line."""
    import datetime
    import os

    import torch

    costs = found.costs()
    threads = f"{costs[0].threads} thread{'s' * (costs[0].threads != 1)} of {os.cpu_count()}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    rounds = min(len(found.timed[job]) for job in found.jobs if found.timed[job])
    return (
        f"{datetime.date.today()}, {found.machine} ({costs[0].device}), {threads}, torch {torch.__version__}, "
        f"{rounds} round{'s' * (rounds != 1)}{load}"
    )


def table(costs: "Sequence[Cost]") -> str:
    """Markdown with columns that also align in a terminal."""
    head = ("system", "variant", "size", "dtype", "parameters", "GMACs", "seconds", "quartiles", "peak, MB")
    rows = [
        (
            cost.name,
            cost.variant or "",
            cost.size or "",
            cost.dtype or "",
            shown(cost.params, ","),
            shown(cost.macs, ".4g", 1e-9),
            shown(cost.seconds_median, ".3g"),
            " - ".join(shown(s, ".3g") for s in cost.seconds_iqr or ()),
            shown(cost.peak_mb, ".0f"),
        )
        for cost in costs
    ]
    return markdown_table(head, rows, num_left=4, padded=True)


def shown(value: float | None, form: str, scale: float = 1) -> str:
    """A number as text; nothing where it is not known."""
    return "" if value is None else f"{value * scale if scale != 1 else value:{form}}"
