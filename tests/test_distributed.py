"""Two processes find what one finds, on the same batches; started by torchrun, and by `--devices 2`."""

import atexit
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from conftest import random_images
from small_training import PX, SHORT, Generator, Segmenter, labelled_pairs
from tectum.balance import TaskFusionBalance
from tectum.cli import main
from tectum.data.synthetic import render, save
from tectum.models.tdfusion import TDFusionLoss
from tectum.protocols import System
from tectum.training.checkpoint import FILES
from tectum.training.distributed import World
from tectum.training.loop import fit
from tectum.training.recipes import Recipe
from tectum.training.trainer import Trainer

TESTS = Path(__file__).parent
SCHEDULE = replace(SHORT, swap=True, outer="adam", task_first=2, ema=0.8, dihedral=True, task_mix=0.5)
pytest.importorskip("lightning_fabric", reason="several devices need pip install 'tectum[train]'")


class Plain(nn.Module):
    """A fuser without statistics of a batch and without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(self.hidden(torch.cat([a, b], 1)).tanh()).sigmoid()


class PlainTask(Segmenter):
    def forward(self, fused: Tensor) -> Tensor:
        return self.last(self.first(fused).tanh())

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self(fused), target)


def trained(run: Path, world: World, balance: TaskFusionBalance | None = None) -> None:
    """Two epochs in float64, where rounding is out of the way."""
    torch.manual_seed(world.rank)  # what each process begins with must not matter
    networks = Plain().double(), TDFusionLoss(Generator()).double(), PlainTask().double()
    pairs = [replace(x, a=x.a.double(), b=x.b.double()) for x in labelled_pairs(random_images, 8, size=(PX, PX))]
    fit(*networks[:2], pairs[:6], pairs[6:], run=run, schedule=SCHEDULE, task=networks[2], balance=balance, world=world)


def start(*command: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """A Python command in this folder, one thread each."""
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=os.environ | threads, timeout=280
    )
    assert done.returncode in codes, done.stderr[-3000:]
    return done


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Steps of the task alone, meta phases and fit phases, each image also swapped; some task steps on mixtures."""
    trained(tmp_path / "one", World())
    start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(tmp_path / "two"))
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert (tmp_path / "two" / "ended").read_text() == "True", "threads of the group outlive Python: exit may abort"
    assert [one["state"][name] for name in ("first", "meta", "step")] == [2, 4, 6]
    assert [two["state"][name] for name in ("first", "meta", "step")] == [2, 4, 6]
    for name in (*FILES, "average"):
        assert one[name].keys() == two[name].keys()
        for key, x in one[name].items():
            torch.testing.assert_close(two[name][key], x, rtol=1e-8, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 2, "one process writes"
    for lines in zip(*logs, strict=True):
        one_line, two_line = (json.loads(line) for line in lines)
        del one_line["seconds"], two_line["seconds"]
        assert two_line == pytest.approx(one_line, rel=1e-6), "means over all processes"


def test_two_processes_have_the_same_balance(tmp_path: Path) -> None:
    """It is told the means over both; the one pair that is kept aside is measured by one of them."""
    trained(tmp_path / "one", World(), TaskFusionBalance())
    torchrun = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
    start(*torchrun, __file__, str(tmp_path / "two"), "balance")
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert two["state"]["balance"] == pytest.approx(one["state"]["balance"], rel=1e-8)
    assert one["state"]["balance"]["b"] != 0.2
    for key, x in one["fuser"].items():
        torch.testing.assert_close(two["fuser"][key], x, rtol=1e-8, atol=1e-9)


SYSTEM = System(Plain, TDFusionLoss, lambda: TDFusionLoss(Generator()))


def own() -> Recipe:
    return Recipe(
        "own",
        "test_distributed:SYSTEM",
        "folder",
        task="test_distributed:PlainTask",
        target="masks",
        learned=True,
        schedule=SCHEDULE,
    )


@pytest.mark.slow
def test_the_command_starts_the_second_process_itself(tmp_path: Path) -> None:
    """And ends with the weights that the same command without `--devices` ends with."""
    for seed in range(8):
        save(render(seed, (PX, PX)), tmp_path / "pairs", f"scene-{seed}")
    command = ["train", "test_distributed:own", "--data", str(tmp_path / "pairs"), "--quiet", "--device", "cpu"]
    assert main([*command, "-o", str(tmp_path / "one")]) in (0, 1)
    done = start("-m", "tectum", *command, "-o", str(tmp_path / "two"), "--devices", "2", codes=(0, 1))
    assert done.stdout.count("best.safetensors") == 1, "one process speaks"
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("one", "two"))
    for key, x in one.items():
        torch.testing.assert_close(two[key], x, rtol=1e-3, atol=1e-5)
    (tmp_path / "pairs" / "ir" / "scene-3.png").write_bytes((tmp_path / "pairs" / "ir" / "scene-4.png").read_bytes())
    done = start("-m", "tectum", *command, "-o", str(tmp_path / "two"), "--devices", "2", codes=(2,))
    assert done.stderr.count("tectum: ") == done.stderr.count("other pixels or labels now (scene-3)") == 1
    assert "Traceback" not in done.stderr


def test_parts_of_a_batch() -> None:
    world = World()
    assert world.is_main and world.device is None and range(6)[world.local_part(6)] == range(6)
    world.size, world.rank = 3, 1
    assert range(6)[world.local_part(6)] == range(2, 4)
    with pytest.raises(ValueError, match="must divide evenly over the processes, got 4 for 3; change --batch"):
        world.local_part(4)


def test_one_process_changes_nothing() -> None:
    world, found = World(), {"x": torch.tensor([1.0, 2.0])}
    assert world.average(found) == found and world.average({}) == {}
    assert world.on_main(lambda: 3) == 3


def test_reverse_is_for_one_process() -> None:
    world = World()
    world.size = 2
    with pytest.raises(ValueError, match="several processes learn a loss by method forward or finite, got reverse"):
        Trainer(Plain(), TDFusionLoss(Generator()), PlainTask(), replace(SCHEDULE, method="reverse"), world=world)


@pytest.mark.parametrize(
    ("given", "sentence"), [({"devices": 0}, "1 or more, got 0"), ({"precision": "half"}, "32-true")]
)
def test_devices_that_cannot_be(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        World(**given)  # type: ignore[arg-type]


def ended(run: Path) -> None:
    """The last word of a process: whether its group is gone."""
    (run / "ended").write_text(str(not torch.distributed.is_initialized()))


if __name__ == "__main__":
    atexit.register(ended, Path(sys.argv[1]))
    trained(Path(sys.argv[1]), World(2), TaskFusionBalance() if "balance" in sys.argv else None)
