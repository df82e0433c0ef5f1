"""Measures that several tests take: parameters and FLOPs of a network, the sentence of an error."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(*modules: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def gflops(fuser: nn.Module, height: int = 480, width: int = 640) -> float:
    """FLOPs / 1e9 of a pair, a multiplication with its addition as two, transforms not counted; on shapes alone."""
    a, b = torch.empty(2, 1, 1, height, width, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        fuser.eval().to("meta")(a, b)
    return float(counter.get_total_flops()) / 1e9


def is_one_sentence(error: BaseException) -> bool:
    """One line that says what is wrong and, after a semicolon, what to do."""
    text = str(error)
    return "\n" not in text and len(text) < 400 and ";" in text
