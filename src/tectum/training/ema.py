"""A running average of a network's weights, which is validated and kept in place of the weights of the moment.

    mean_0 = theta_0        mean_t = d mean_{t-1} + (1 - d) theta_t        after every step of the optimiser

The network itself goes on with theta. Buffers are not averaged; those of the moment belong to the average too.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningAverage:
    """The average over a module's parameters.

    Args:
        module: stays what it is but for the time inside `shown`.
        decay: d in [0,1); 0 averages nothing.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.mean: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Take the weights as they are before the first step; later calls change nothing."""
        if self.decay and not self.mean:
            self.mean = {name: p.detach().clone() for name, p in self.module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """A step has been taken."""
        for name, p in self.module.named_parameters() if self.decay else ():
            self.mean[name].mul_(self.decay).add_(p, alpha=1 - self.decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The module has the average inside, and its own weights, to the bit, afterwards."""
        own = {name: p.detach().clone() for name, p in self.module.named_parameters() if name in self.mean}
        try:
            self.put(self.mean)
            yield
        finally:
            self.put(own)

    @torch.no_grad()
    def put(self, values: dict[str, Tensor]) -> None:
        for name, p in self.module.named_parameters():
            if name in values:
                p.copy_(values[name])

    def load(self, mean: dict[str, Tensor]) -> None:
        """The average of a checkpoint, on the module's device."""
        places = {name: p.device for name, p in self.module.named_parameters()}
        self.mean = {name: x.to(places[name]) for name, x in mean.items()}
