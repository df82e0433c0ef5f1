"""`tectum bench`: what is counted, who takes turns with whom, what is kept, what is refused."""

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tectum.benchmark import clock, measure
from tectum.benchmark.command import cost_table
from tectum.benchmark.measure import Cost, Measurement
from tectum.cli import main

KEYS = ["name", "variant", "params", "macs", "size", "seconds_median", "seconds_iqr", "peak_mb"]
KEYS += ["device", "threads", "dtype"]
OWN = """
from typing import Literal
import torch

class Blend(torch.nn.Module):
    def __init__(self, variant: Literal["narrow", "wide"] = "wide"):
        super().__init__()
        channels = {"narrow": 2, "wide": 5}[variant]
        self.conv, self.back = torch.nn.Conv2d(2, channels, 3, padding=1), torch.nn.Conv2d(channels, 1, 1)

    def forward(self, a, b):
        return self.back(self.conv(torch.cat([a, b], 1))).sigmoid()

class Looks(torch.nn.Module):
    def forward(self, a, b):
        print("a user's module may talk")
        return a if float(a.mean()) > float(b.mean()) else torch.conv2d(a, torch.ones(1, 1, 3, 3), padding=1)

class Breaks(torch.nn.Module):
    def forward(self, a, b):
        raise RuntimeError("no image pleases me\\nand more")

class Wants(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems of a user's own, in a module that can be imported here and in child processes."""
    (tmp_path / "my_own_fusers.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_fusers", raising=False)


# ---- in this process -------------------------------------------------------------------------------------------------


def test_parameters_and_macs_of_known_layers() -> None:
    for variant, channels in (("narrow", 2), ("wide", 5)):
        found = clock.count_fuser("my_own_fusers:Blend", variant, (32, 20))
        assert found == {"params": 18 * channels + channels + channels + 1, "macs": (18 + 1) * channels * 32 * 20}
    assert clock.count_fuser("average", "default", (32, 20)) == {"params": 0, "macs": 0}


def test_a_network_that_looks_at_values_is_counted_for_real() -> None:
    assert clock.count_fuser("my_own_fusers:Looks", "default", (32, 20)) == {"params": 0, "macs": 9 * 32 * 20}


def test_macs_of_tdfusion_are_those_of_the_literal_network_and_its_wider_products(literal: ModuleType) -> None:
    """Ours multiplies all channels with all where the heads of the published network multiply 2 or 4 at a time."""
    from torch.utils.flop_counter import FlopCounterMode

    width, height = 64, 48
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        literal.LiteralTDFusion()(torch.zeros(1, 1, height, width), torch.zeros(1, 1, height, width))
    published = counter.get_total_flops() / 2 / (width * height)
    assert published * 640 * 480 == pytest.approx(18.49e9, rel=1e-3)
    # moments C*C for C*C/8, mixing C*C for C*C/8 and a projection of C*C: six times at 16 channels, twice at 32
    wider = sum(times * (c * c * 2 - c * c * (2 / 8 + 1)) for times, c in ((6, 16), (2, 32)))
    found = clock.count_fuser("tdfusion", "default", (width, height))
    assert found["params"] == 59_856
    border = (width + 2) * (height + 2) / (width * height)  # layers before a 3x3 one see a pixel more on every side
    assert 1 < found["macs"] / (width * height) / (published + wider) < border


def test_a_clock_leaves_out_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(clock, "fuse_tensors", lambda fuser, a, b: calls.append((tuple(a.shape), fuser.training)))
    common: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16", "threads": None}
    found = clock.time_fuser("tdfusion", "default", (32, 20), calls=4, **common)
    assert calls == [((1, 1, 20, 32), False)] * 5 and len(found["seconds"]) == 4
    assert (found["dtype"], found["threads"]) == ("bfloat16", torch.get_num_threads())
    assert found["machine"] and 50 < found["peak_mb"] < 20_000
    calls.clear()
    found = clock.time_fuser("average", "default", (32, 20), calls=None, **common)
    assert len(calls) == 1 + clock.MAX_CALLS and found["dtype"] == "float32"  # images are; nothing else has a type


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("average", ("default",)),
        ("tdfusion", ("repaired",)),
        ("tomiff-published", ("published",)),
        ("my_own_fusers:Blend", ("narrow", "wide")),
    ],
)
def test_variants(system: str, expected: tuple[str, ...]) -> None:
    assert measure.find_variants(system) == expected


# ---- turns, with processes that only pretend -------------------------------------------------------------------------


class Processes:
    """Answers for `run_in_process`; the n-th timing takes n milliseconds a call. `ends` after so many of them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, Any]] = []
        self.ends: int | None = None

    def __call__(self, request: dict[str, dict[str, Any]]) -> dict[str, Any]:
        ((what, job),) = request.items()
        if len(self.asked) == self.ends:
            raise KeyboardInterrupt
        self.asked.append((what, job["system"], job["variant"], job.get("calls")))
        if job["system"] == "my_own_fusers:Breaks":
            return {"error": "no image pleases me"}
        if what == "count":
            return {"params": 7, "macs": 8_000_000_000}
        num = sum(asked[0] == "time" for asked in self.asked)
        return {
            "seconds": [num / 1000] * (job["calls"] or 4),
            "peak_mb": 100.0 + num,
            "threads": 3,
            "dtype": "float32",
            "machine": "an abacus",
        }


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    found = Processes()
    monkeypatch.setattr(measure, "run_in_process", found)
    return found


def test_all_are_counted_then_take_turns(processes: Processes) -> None:
    costs = measure.measure(["my_own_fusers:Blend", "average"], rounds=2, device="cpu")
    names = [("my_own_fusers:Blend", "narrow"), ("my_own_fusers:Blend", "wide"), ("average", "default")]
    turns = [("count", None), ("time", None), ("time", 4)]  # as many calls in every round
    assert processes.asked == [(what, *name, calls) for what, calls in turns for name in names]
    assert [(cost.name, cost.variant) for cost in costs] == names
    wide = costs[1]  # the second and the fifth timing
    assert wide.seconds_median == pytest.approx(0.0035) and wide.seconds_iqr == pytest.approx((0.002, 0.005))
    assert (wide.peak_mb, wide.params, wide.macs, wide.size) == (105.0, 7, 8_000_000_000, "640x480")
    assert (wide.device, wide.threads, wide.dtype) == ("cpu", 3, "float32")


def test_nothing_named_means_everything(processes: Processes) -> None:
    from tectum.models import SYSTEMS

    bench = Measurement(size=("64x48", "32x32", "64X48"))
    bench.run()
    assert {cost.name for cost in bench.costs()} == SYSTEMS.keys()
    assert [cost.size for cost in bench.costs() if cost.name == "average"] == ["64x48", "32x32"]


def test_what_fails_is_told_once_and_the_others_go_on(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="my_own_fusers:Breaks at 640x480 could not be measured: no image pleases me"):
        costs = measure.measure(["my_own_fusers:Breaks", "average"], rounds=3)
    assert [cost.name for cost in costs] == ["average"]
    assert [asked[1] for asked in processes.asked].count("my_own_fusers:Breaks") == 1
    assert main(["bench", "average", "my_own_fusers:Breaks", "--rounds", "1"]) == 1
    told = capsys.readouterr()
    assert "average" in told.out and "Breaks" not in told.out
    assert told.err == "tectum: not measured: my_own_fusers:Breaks at 640x480: no image pleases me\n"


def test_ctrl_c_keeps_what_was_measured(
    processes: Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "costs.json"
    command = ["bench", "average", "maximum", "--rounds", "4", "--json", str(file)]
    processes.ends = 2 + 3
    assert main(command) == 130
    told = capsys.readouterr()
    assert "an abacus" in told.out and "1 round," in told.out and "2 of 2 rows" in told.err
    assert [row["seconds_median"] for row in json.loads(file.read_text())] == [0.002, 0.002]
    assert [row["peak_mb"] for row in json.loads(file.read_text())] == [103.0, 102.0]
    processes.asked.clear()
    processes.ends = 1
    assert main([*command, "--overwrite"]) == 130
    told = capsys.readouterr()
    assert told.out == "" and told.err == "tectum: interrupted; 0 of 2 rows are measured\n"
    assert len(json.loads(file.read_text())) == 2  # nothing new, and nothing lost


def test_the_table_reads_as_markdown() -> None:
    cost = Cost("tdfusion", "default", 59_856, 19_311_832_064, "640x480", 0.65, (0.6, 0.7), None, "cpu", 2, "float32")
    head, rule, *rows = cost_table([cost, cost]).splitlines()
    cells = [cell.strip() for cell in rows[0].split("|")[1:-1]]
    assert cells[:7] == ["tdfusion", "default", "640x480", "float32", "59,856", "19.31", "0.65"] and cells[-1] == ""
    assert len({len(line) for line in (head, rule, *rows)}) == 1 and set(rule) == set("|-:")
    assert {line.count("|") for line in (head, rule, *rows)} == {10}


# ---- processes of their own ------------------------------------------------------------------------------------------


def test_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes: a row whose peak knows nothing of this process, whose network prints, and one that breaks."""
    ballast = np.ones(2**29, np.uint8)  # 512 MiB, touched
    file = tmp_path / "costs.json"
    argv = ["bench", "my_own_fusers:Looks", "my_own_fusers:Breaks", "--size", "40x24", "--rounds", "1"]
    assert main([*argv, "--threads", "1", "--device", "cpu", "--json", str(file)]) == 1
    told = capsys.readouterr()
    (row,) = json.loads(file.read_text())
    assert list(row) == KEYS == [field.name for field in fields(Cost)]
    assert ballast.nbytes > row["peak_mb"] * 1e6 > 50e6
    assert 0 < row["seconds_iqr"][0] <= row["seconds_median"] <= row["seconds_iqr"][1] < 1
    fixed = {"name": "my_own_fusers:Looks", "variant": "default", "params": 0, "macs": 9 * 40 * 24, "size": "40x24"}
    assert row == row | fixed | {"device": "cpu", "threads": 1, "dtype": "float32"}
    assert asdict(Cost(**row)) == row
    assert "1 thread of" in told.out and "| my_own_fusers:Looks | default | 40x24 | float32" in told.out
    assert told.err == "tectum: not measured: my_own_fusers:Breaks at 40x24: RuntimeError: no image pleases me\n"


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["tdfuson"], "unknown system 'tdfuson'; did you mean 'tdfusion'?"),
        (["my_own_fusers:Blent"], "must be importable as module:attribute"),
        (["my_own_fusers:Wants"], "class that needs no arguments"),
        (["--size", "640"], "--size must be WIDTHxHEIGHT in pixels, such as 640x480, got '640'"),
        (["--size", "640x480x3"], "got '640x480x3'"),
        (["--size", "-640x480"], "-640x480"),
        (["--size", "64x15"], "a size must be at least 16x16 pixels, got 64x15"),
        (["--size"], "--size needs"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be between 1 and 1024, got 0"),
        (["--dtype", "float16"], "--dtype must be one of"),
        (["--json", "nowhere/costs.json"], "--json needs a folder that exists, got nowhere/costs.json"),
        (["--json", "."], "is a folder; add a file name"),
        (["--json", "my_own_fusers.py"], "my_own_fusers.py exists already; choose another name, or add --overwrite"),
        (["--json", "my_own_fusers.py/x.json"], "--json needs a folder that exists"),
    ],
)
def test_refused_before_anything_is_measured(
    flags: list[str], words: str, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *flags]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.err.startswith("tectum: ") and told.err.count("\n") == 1 and told.out == ""
    assert processes.asked == [] and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["my_own_fusers.py"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "a name nobody chose")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["bench", "--json", str(tmp_path / "costs.json")]) == 2
    assert f"cannot read or write {tmp_path / 'costs.json'}: Permission denied" in capsys.readouterr().err


def test_a_device_that_is_not_there() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device that the test takes for missing")
    with pytest.raises(ValueError, match="mps was asked for"):
        Measurement(["average"], device="mps")
