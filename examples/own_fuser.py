"""A fuser of your own, trained with a loss that is learned: any network (a, b) -> fused will do.

    python examples/own_fuser.py RUN

Nothing here is registered. `tectum train` takes the same recipe by name: `tectum train own_fuser:RECIPE -o RUN`, with
this folder on Python's path.
"""

import sys

import torch
from torch import Tensor, nn

import tectum
from tectum.models.tdfusion import learned_loss
from tectum.protocols import System
from tectum.training.recipes import RECIPES
from tectum.training.recipes.build import build


class SmallFuser(nn.Module):
    """f = sigmoid of three convolutions of the pair: (B,1,H,W), (B,1,H,W) -> (B,1,H,W)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, 1, 3, padding=1),
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(torch.cat([a, b], dim=1)))


SYSTEM = System(fuser=SmallFuser, learned=learned_loss)


RECIPE = RECIPES["tdfusion-street"].change(
    name="own-fuser", system="own_fuser:SYSTEM", steps=60, validate_every=20, meta_steps=10, crop_px=64
)
"""TDFusion's learned loss on synthetic scenes, for this fuser."""

if __name__ == "__main__":
    built = build(RECIPE, None)
    best = tectum.fit(
        built.fuser,
        built.objective,
        built.pairs,
        built.validation,
        run=sys.argv[1],
        schedule=RECIPE.schedule,
        task=built.task,
    )
    print({name: round(value, 3) for name, value in best.items()})
