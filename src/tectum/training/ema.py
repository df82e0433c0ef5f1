"""Exponential moving average (EMA) of a network's weights, which is validated and saved in place of the last weights.

    mean_0 = theta_0        mean_t = d mean_{t-1} + (1 - d) theta_t        after every step of the optimiser

The network itself trains on with theta. Buffers are not averaged: the average is used with the last buffers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of a module's parameters.

    Args:
        module: unchanged, except inside `applied`.
        decay: d in [0,1); 0 averages nothing.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.mean: dict[str, Tensor] = {}

    def start(self) -> None:
        """Take the weights before the first step; later calls change nothing."""
        if self.decay and not self.mean:
            self.mean = {name: p.detach().clone() for name, p in self.module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights after a step."""
        for name, p in self.module.named_parameters() if self.decay else ():
            self.mean[name].mul_(self.decay).add_(p, alpha=1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the module has the averaged weights; its own come back, to the bit."""
        own = {name: p.detach().clone() for name, p in self.module.named_parameters() if name in self.mean}
        try:
            self._copy(self.mean)
            yield
        finally:
            self._copy(own)

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Take the average of a checkpoint, on the module's device."""
        devices = {name: p.device for name, p in self.module.named_parameters()}
        self.mean = {name: x.to(devices[name]) for name, x in mean.items()}

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self.module.named_parameters():
            if name in values:
                p.copy_(values[name])
