"""Pair: the registered images of one scene with their target, and batches of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from tectum.color import check_luminances
from tectum.errors import UserError

Boxes = dict[str, Tensor]
"""The things in one image: "boxes" (N,4), x1 y1 x2 y2 as parts of its width and height, and "labels" (N,) int64."""


class Pairs(Protocol):
    """Anything with a length that gives a `Pair` by its index: a list, a dataset.

    Where reading all pairs takes long, a method `fingerprint(index)` may return a hash of a pair's content: a run that
    is resumed compares those instead of the pixels.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> "Pair": ...


@dataclass(frozen=True)
class Pair:
    """Registered images of one scene, checked once when they meet.

    Args:
        a: the colour-bearing modality's luminance (visible), (B,1,H,W), floating, in [0,1].
        b: the other modality (infrared), same shape, dtype and device.
        target: the label that a task learns from, or None: a mask (B,H,W) int64, of any H and W, or a list with one
            `Boxes` per image. A task of your own may take another tensor or list, with one entry per image too.
        name: one name per image, or none.

    Raises:
        ValueError: the shapes, types or devices do not fit each other.

    >>> Pair(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)).swap().a.mean().item()
    1.0
    """

    a: Tensor
    b: Tensor
    target: Any = None
    name: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_luminances(self.a, self.b)
        if self.name and len(self.name) != len(self.a):
            raise UserError(f"a pair needs one name per image, got {len(self.name)} for {len(self.a)}")
        if self.target is not None and len(self.target) != len(self.a):
            raise UserError(f"a target needs one entry per image, got {len(self.target)} for {len(self.a)}")

    def map(self, function: Callable[[Tensor], Tensor]) -> "Pair":
        """Apply a function to both images; the target stays."""
        return replace(self, a=function(self.a), b=function(self.b))

    def swap(self) -> "Pair":
        """Exchange both images; the rest stays."""
        return replace(self, a=self.b, b=self.a)

    def to(self, device: str | torch.device) -> "Pair":
        """Move images and target to `device`."""
        return replace(self, a=self.a.to(device), b=self.b.to(device), target=move_target(self.target, device))

    @staticmethod
    def collate(pairs: Sequence["Pair"]) -> "Pair":
        """Join several pairs into one batch.

        Raises:
            ValueError: some have a target and some have none, or their sizes differ.
        """
        names = tuple(name for pair in pairs for name in pair.name)
        sizes = {tuple(pair.a.shape[2:]) for pair in pairs}
        if len(sizes) > 1:
            raise UserError(f"the images of a batch must share one size, got {sorted(sizes)}; crop or resize them")
        targets = [pair.target for pair in pairs]
        target: Any = None
        if any(t is None for t in targets):
            if not all(t is None for t in targets):
                raise UserError("either all pairs of a batch have a target or none has; complete the labels")
        elif all(isinstance(t, Tensor) for t in targets):
            if len({tuple(t.shape[1:]) for t in targets}) > 1:
                raise UserError("the masks of a batch must share one size; train on images of one size")
            target = torch.cat(targets)
        else:
            target = [entry for t in targets for entry in t]
        return Pair(torch.cat([p.a for p in pairs]), torch.cat([p.b for p in pairs]), target, names)


def move_target(target: Any, device: str | torch.device) -> Any:
    """Move a target to a device: a tensor, or dicts and lists of them."""
    if isinstance(target, Tensor):
        return target.to(device)
    if isinstance(target, Mapping):
        return {key: move_target(value, device) for key, value in target.items()}
    if isinstance(target, list | tuple):
        return [move_target(entry, device) for entry in target]
    return target
