"""A process that fuses keeps working when it is forked, and keeps its memory when the sizes of its pictures change."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FORKED = """
import multiprocessing, warnings, numpy as np, tectum, torch
warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside threads
visible, infrared = np.full((120, 160, 3), 90, np.uint8), np.arange(160, dtype=np.uint8)[None].repeat(120, 0)
def fuse(_):
    return tectum.fuse(visible, infrared).mean(), torch.get_num_threads()
here = fuse(0)
if __name__ == "__main__":
    for _ in range(3):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for mean, threads in pool.map(fuse, range(4)):
                assert threads == 1 and abs(mean - here[0]) < 0.1, (mean, threads, here)
    assert torch.get_num_threads() == here[1] == 2
"""
SIZES = """
import psutil, numpy as np
from tectum.fusion.options import FuseOptions
from tectum.fusion.pipeline import FusePipeline
pipeline, random, process = FusePipeline(FuseOptions()), np.random.default_rng(0), psutil.Process()
def hold(height, width):
    x = random.integers(0, 255, (height, width), dtype=np.uint8)
    pipeline(*pipeline.read(x, x[::-1]))
    return process.memory_info().rss / 2**20
before = hold(100, 120)
held = [hold(int(random.integers(100, 330)), int(random.integers(100, 500))) for _ in range(24)]
after = hold(100, 120)
assert after < before + 200, (before, after)  # 95 to 120 more, 425 more where nothing is given back
assert max(held) < 700, held  # 530 to 645, and 715 to 790
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: x for name, x in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | {"PYTHONPATH": str(SOURCE)} | environment, timeout=240,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_of_a_process_that_has_fused_answers() -> None:
    done = run_python(FORKED, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told to give memory back")
def test_many_sizes_need_little_more_memory_than_one() -> None:
    done = run_python(SIZES, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
