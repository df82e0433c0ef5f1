"""The two fusers without parameters: the average and the maximum of the sources.

    average: f = (a + b) / 2          maximum: f = max(a, b)

They are the rows every table needs beside a network: by some standard metrics the maximum beats every learned
method, which says more about the metrics than about the picture.
"""

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """The mean of both sources, (B,1,H,W) in [0,1].

    >>> float(Average()(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))
    0.5
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / 2


class Maximum(nn.Module):
    """The brighter source at each pixel, (B,1,H,W) in [0,1].

    >>> float(Maximum()(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))
    1.0
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b)
