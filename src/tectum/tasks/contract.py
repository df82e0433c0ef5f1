"""Checks that all tasks share: of class names, of images, of the kind of target, of weights files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from tectum.errors import UserError
from tectum.io.files import load_state, read_tensors


def check_classes(classes: Sequence[str], channels: int, *, least: int = 1) -> tuple[str, ...]:
    """Returns the class names as a tuple.

    Raises:
        UserError: too few names, one of them twice, or neither 1 nor 3 channels.
    """
    names = tuple(classes)
    if isinstance(classes, str) or len(names) < least or len(set(names)) < len(names):
        raise UserError(f"classes must be {least} or more different names, got {classes!r}; name each class once")
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 (luminance) or 3 (colour), got {channels}")
    return names


def check_image(image: Tensor, channels: int) -> Tensor:
    """Returns the image as the network takes it: a luminance given to a network of 3 channels goes into all three.

    Raises:
        UserError: it is not (B,1,H,W) or (B,channels,H,W), floating and not empty.
    """
    if image.dim() != 4 or image.shape[1] not in (1, channels) or 0 in image.shape:
        raise UserError(
            f"the task looks at images (B,{channels},H,W), got {tuple(image.shape)}; build it with the channels the "
            "images have"
        )
    if not image.is_floating_point():
        raise UserError(f"the task looks at floating point images in [0,1], got {image.dtype}; divide by 255")
    return image.expand(-1, channels, -1, -1)


def check_batch(target: Sequence[Any] | Tensor, batch: int) -> None:
    """Refuse a target that does not have one entry per image."""
    if len(target) != batch:
        raise UserError(f"a target needs one entry per image, got {len(target)} for {batch}")


def pad(image: Tensor, px: int = 1, *, multiple: int = 1) -> Tensor:
    """Returns (B,C,H',W'): the last row and column are repeated until both sides are long enough, and multiples."""
    height, width = (-(-max(side, px) // multiple) * multiple for side in image.shape[2:])
    if (height, width) == image.shape[2:]:
        return image
    return functional.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]), mode="replicate")


def describe(target: Any) -> str:
    """Returns a few words on the type of a wrong target."""
    if isinstance(target, Tensor):
        return f"a {target.dtype} tensor {tuple(target.shape)}"
    if isinstance(target, list | tuple) and target:
        return f"a {type(target).__name__} of {type(target[0]).__name__}"
    return "none" if target is None else f"a {type(target).__name__}"


def load_weights(
    task: nn.Module,
    weights: str | Path,
    num_classes: int,
    *,
    head: str,
    read: Callable[[Path], Mapping[str, Tensor]] = read_tensors,
) -> None:
    """Load a file of weights into a task network.

    Args:
        task: the network.
        weights: the file.
        num_classes: how many the task has.
        head: name of a tensor whose first side is the number of classes.
        read: reads the tensors of the file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged, or holds weights of another network or for another number of classes.
    """
    state = read(Path(weights))
    if state.keys() == task.state_dict().keys() and len(state[head]) != num_classes:
        raise UserError(
            f"{weights} holds weights for {len(state[head])} classes, but the task has {num_classes}; give the classes "
            "it was trained with, or other weights"
        )
    load_state(task, state, weights, advice="choose the task, size and channels it was trained with")
