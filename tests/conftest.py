"""What several test files share: a quiet machine, smooth images, weights away from their initial values, real data."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow each other down
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the tests compare bits; device="auto" is the processor

import importlib.util
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


def random_images(height: int, width: int, *, batch: int = 1, seed: int = 0, count: int = 2) -> tuple[Tensor, ...]:
    """Images (batch,1,height,width) in [0,1] with structure at all scales and both ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for _ in range(count):
        image = torch.zeros(batch, 1, height, width)
        for step in (1, 4, 16):
            coarse = torch.randn(batch, 1, -(-height // step), -(-width // step), generator=generator)
            image += coarse.repeat_interleave(step, 2).repeat_interleave(step, 3)[:, :, :height, :width]
        images.append((0.5 + 0.3 * image).clamp(0, 1))
    return tuple(images)


def perturb_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights under which every part matters: no scale is 1, no shift 0, no temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "temperature" in name:
                parameter.copy_(1 + noise.abs() * 3)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + noise * 0.4)
            elif parameter.dim() == 1:
                parameter.copy_(noise * 0.4)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return module.eval()


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Presses Ctrl-C, also where the tests run with SIGINT ignored (in the background of a script)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def images() -> Callable[..., tuple[Tensor, ...]]:
    return random_images


@pytest.fixture(scope="session")
def perturb() -> Callable[..., nn.Module]:
    return perturb_weights


def load_benchmark(name: str) -> ModuleType:
    """A file of benchmarks/ by its name, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def benchmark_module() -> Callable[[str], ModuleType]:
    return load_benchmark


@pytest.fixture(scope="session")
def literal(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    """benchmarks/literal.py: the same network, written as its description reads."""
    return benchmark_module("literal")


@pytest.fixture(scope="session")
def refusion() -> Path:
    """The folder of published weights and outputs, beside the real data."""
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data, with reference/refusion beside it")
    folder = Path(os.environ["TECTUM_DATA"]).parent / "reference" / "refusion"
    if not (folder / "ReFusion_IVIF.npz").is_file():
        pytest.skip(f"the published weights and outputs are not in {folder}")
    return folder


@pytest.fixture
def derivatives(images: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Move the weights of a float64 fuser along a random v: its image as jvp gives it and as it is, then the image's
    derivative by jvp and by a central difference."""

    def both(fuser: nn.Module, step: float = 1e-6) -> tuple[Tensor, ...]:
        a, b = (x.double() for x in images(9, 11))
        theta = {name: p.detach() for name, p in fuser.named_parameters()}
        generator = torch.Generator().manual_seed(5)
        v = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in theta.items()}

        def fused(moved: dict[str, Tensor]) -> Tensor:
            out: Tensor = functional_call(fuser, moved, (a, b))
            return out

        out, u = jvp(fused, (theta,), (v,))
        ahead, behind = (fused({name: p + sign * step * v[name] for name, p in theta.items()}) for sign in (1, -1))
        return out, fused(theta), u, (ahead - behind) / (2 * step)

    return both
