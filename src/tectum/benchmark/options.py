"""The options of a measurement, for `tectum bench`, `Measurement` and `measure` alike."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How systems are measured. `Measurement` refuses values that nothing can run with.

    Args:
        size: Sizes of the images in pixels, WIDTHxHEIGHT each.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes CUDA, then MPS, then the CPU.
        dtype: Numbers the networks compute with.
        threads: Processor threads to use; torch decides without it.
        rounds: How often everything takes its turn; more make the numbers steadier.
    """

    size: tuple[str, ...] = ("640x480",)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None
    rounds: int = 5
