"""CPU-milliseconds of a fused frame, uint8 arrays in and out, beside plain networks of known size.

    python benchmarks/frames.py [--size 640x480 1280x1024] [--rounds 15] [--threads 1]

Rows: tectum's way for frames (`tectum.fusion.frames`) with swift and with what needs no network, the way for pictures
(`FusePipeline`), and two plain stacks of 3x3 convolutions that have the parameters and the multiplications of two small
published networks (MMDRFuse: 113 and 0.03 G, SDNet: 28,705 and 8.78 G at 640x480), network alone, tensors to tensors.
Median and smallest CPU time of the process; the rows take turns, so that a busy machine hits all alike.
"""

import argparse
import datetime
import itertools
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import nn

from tectum.data.synthetic import render
from tectum.fusion.frames import FrameFuser
from tectum.fusion.options import FuseOptions
from tectum.fusion.pipeline import FusePipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", default=["640x480", "1280x1024"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}"
    print(f"{datetime.date.today()}, {versions}, threads: {arguments.threads}\n")
    print("| | size | CPU-ms, median | least |\n|---|---|--:|--:|")
    for size in arguments.size:
        width, height = map(int, size.split("x"))
        calls = list_calls(width, height)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for i in range(arguments.rounds + 2):
            for name, call in calls.items():
                start = time.process_time()
                call()
                if i > 1:  # the first rounds make the buffers and choose the kernels
                    seconds[name].append(time.process_time() - start)
        for name, values in seconds.items():
            print(f"| {name} | {size} | {1e3 * statistics.median(values):.1f} | {1e3 * min(values):.1f} |")


def list_calls(width: int, height: int) -> dict[str, Callable[[], object]]:
    """The rows by name, each on one rendered street."""
    scene = render(2, (height, width))
    visible = (scene.visible.permute(1, 2, 0) * 255).byte().contiguous().numpy()
    infrared = (scene.infrared[0] * 255).byte().numpy()
    a = torch.from_numpy(infrared.astype(np.float32))[None, None] / 255
    pair = torch.cat([a, a], 1)
    frames = {name: FrameFuser(name) for name in ("swift", "maximum")}
    pipelines = {name: FusePipeline(FuseOptions(system=name, infrared_range="full")) for name in ("swift", "average")}
    plain = {"MMDRFuse": stack(4, 0).eval(), "SDNet": stack(32, 3).eval()}

    def run_pipeline(name: str) -> object:
        return pipelines[name](*pipelines[name].read(visible, infrared)).array()

    @torch.inference_mode()
    def run_plain(name: str) -> object:
        return plain[name](pair)

    calls: dict[str, Callable[[], object]] = {}
    for name in frames:
        calls[f"frames, {name}"] = lambda name=name: frames[name](visible, infrared)
    for name in pipelines:
        calls[f"pictures, {name}"] = lambda name=name: run_pipeline(name)
    for name, network in plain.items():
        parameters = sum(p.numel() for p in network.parameters())
        calls[f"plain network of {name}'s size, {parameters:,} parameters"] = lambda name=name: run_plain(name)
    return calls


def stack(width: int, layers: int) -> nn.Sequential:
    """3x3 convolutions: 2 -> width, `layers` of width -> width, width -> 1."""
    widths = [2, *[width] * (layers + 1), 1]
    convolutions: list[nn.Module] = []
    for inner, outer in itertools.pairwise(widths):
        convolutions += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*convolutions[:-1])


if __name__ == "__main__":
    main()
