"""The examples run as they say, from a folder of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, cwd: Path) -> str:
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=cwd, env=quiet, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_learned_loss_beats_the_fixed_one_on_the_task(tmp_path: Path) -> None:
    output = run("learn_a_loss.py", str(tmp_path), cwd=tmp_path)
    scores = {line.split()[0]: float(line.split()[2]) for line in output.splitlines() if " mIoU " in line}
    assert scores["learned"] > scores["fixed"]
    assert (tmp_path / "learned.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["own_fuser.py", "own_task.py"])
def test_a_network_or_a_task_of_ones_own_trains(name: str, tmp_path: Path) -> None:
    output = run(name, str(tmp_path / "run"), cwd=tmp_path)
    assert "weight_deviation" in output
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_every_benchmark_finds_what_it_imports() -> None:
    folder = EXAMPLES.parent / "benchmarks"
    names = sorted(path.stem for path in folder.glob("*.py"))
    assert len(names) > 10
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\nimport {', '.join(names)}"
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([sys.executable, "-c", code], env=quiet, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
