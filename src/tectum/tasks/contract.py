"""What every task does alike: check what it is given, answer in evaluation mode, read its weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tectum.errors import UserError
from tectum.pair import Boxes


def check_classes(classes: Sequence[str], channels: int, *, least: int = 1) -> tuple[str, ...]:
    """The class names as a tuple.

    Raises:
        ValueError: too few names, one of them twice, or neither 1 nor 3 channels.
    """
    names = tuple(classes)
    if isinstance(classes, str) or len(names) < least or len(set(names)) < len(names):
        raise UserError(f"classes must be {least} or more different names, got {classes!r}; name each class once")
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 (luminance) or 3 (colour), got {channels}")
    return names


def check_image(image: Tensor, channels: int) -> Tensor:
    """The image as the network takes it: a luminance given to a network of 3 channels goes into all three.

    Raises:
        ValueError: it is not (B,1,H,W) or (B,channels,H,W), floating and not empty.
    """
    if image.dim() != 4 or image.shape[1] not in (1, channels) or 0 in image.shape:
        raise UserError(
            f"the task looks at images (B,{channels},H,W), got {tuple(image.shape)}; build it with the channels the "
            "images have"
        )
    if not image.is_floating_point():
        raise UserError(f"the task looks at floating point images in [0,1], got {image.dtype}; divide by 255")
    return image.expand(-1, channels, -1, -1)


def at_least(image: Tensor, px: int = 1, *, multiple: int = 1) -> Tensor:
    """The image with its last row and column repeated until both sides are long enough, and multiples."""
    height, width = (-(-max(side, px) // multiple) * multiple for side in image.shape[2:])
    if (height, width) == image.shape[2:]:
        return image
    return functional.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]), mode="replicate")


def check_boxes(target: Any, batch: int, num_classes: int) -> list[Boxes]:
    """The boxes of each image.

    Raises:
        ValueError: not a list of dicts with boxes (N,4) and labels (N,), boxes outside [0,1] or turned, labels that
            are no class.
    """
    if (
        isinstance(target, Tensor)
        or not isinstance(target, Sequence)
        or not all(isinstance(x, Mapping) for x in target)
    ):
        raise UserError(
            f'a detector learns from a list of {{"boxes", "labels"}}, one per image, got {described(target)}; '
            "open the data with boxes as its target"
        )
    if len(target) != batch:
        raise UserError(f"a target needs one entry per image, got {len(target)} for {batch}")
    for i, image in enumerate(target):
        if missing := {"boxes", "labels"} - image.keys():
            raise UserError(f"a target must have boxes and labels, but image {i} lacks {', '.join(sorted(missing))}")
        boxes, labels = image["boxes"], image["labels"]
        if labels.dim() != 1 or boxes.shape != (len(labels), 4) or labels.is_floating_point():
            raise UserError(
                f"a target must have boxes (N,4) and integer labels (N,), got {tuple(boxes.shape)} and {labels.dtype} "
                f"{tuple(labels.shape)} in image {i} of the batch"
            )
        if not len(labels):
            continue
        low, high = (int(x) for x in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise UserError(
                f"labels must be 0 to {num_classes - 1}, got {low if low < 0 else high} in image {i} of the batch; "
                "check the classes and the label files"
            )
        if not bool(((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):  # NaN fails too
            wrong = ((boxes < 0) | (boxes > 1) | boxes.isnan()).any(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
            raise UserError(
                "boxes must be x1 <= x2, y1 <= y2 as parts of the image, in [0,1], got "
                f"{[round(x, 3) for x in boxes[wrong][0].tolist()]} in image {i} of the batch; divide x by the width "
                "and y by the height"
            )
    return list(target)


def described(target: Any) -> str:
    """What a wrong target is, in a few words."""
    if isinstance(target, Tensor):
        return f"a {target.dtype} tensor {tuple(target.shape)}"
    if isinstance(target, list | tuple) and target:
        return f"a {type(target).__name__} of {type(target[0]).__name__}"
    return "none" if target is None else f"a {type(target).__name__}"


def centred(boxes: Tensor, image: Tensor, padded: Tensor) -> Tensor:
    """Corners (N,4) as parts of an image -> centre and size as parts of the image that was enlarged."""
    scale = padded.new_tensor([image.shape[3] / padded.shape[3], image.shape[2] / padded.shape[2]])
    low, high = boxes[:, :2] * scale, boxes[:, 2:] * scale
    return torch.cat([(low + high) / 2, high - low], dim=1)


def as_answer(boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> Boxes:
    """Boxes in pixels of an image (H,W) as parts of it; those that lie outside are left out. Best score first."""
    height, width = size
    relative = (boxes.float() / boxes.new_tensor([width, height, width, height])).clamp(0, 1)
    seen = (relative[:, 2:] > relative[:, :2]).all(1)
    order = scores[seen].argsort(descending=True, stable=True)
    return {"boxes": relative[seen][order], "scores": scores[seen][order], "labels": labels[seen][order].long()}


@contextmanager
def answering(task: nn.Module) -> Iterator[None]:
    """In evaluation mode without gradients; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in task.modules()}
    task.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights must be a file, and {path} is none; check the path")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); train or download it again") from error


def fill(task: nn.Module, state: Mapping[str, Tensor], path: str | Path, *, head: str, num_classes: int) -> None:
    """Load a state into a task, or say in one sentence why it is another's.

    Args:
        task: the network.
        state: its tensors by name.
        path: where they come from, for the message.
        head: name of a tensor whose first side is the number of classes.
        num_classes: how many the task has.

    Raises:
        ValueError: tensors are missing, unknown, of another shape, or not finite.
    """
    own = task.state_dict()
    strange = sorted(own.keys() ^ state.keys())
    shapes = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    name = (strange or shapes or [""])[0]
    if not strange and head in shapes and len(state[head]) != num_classes:
        raise UserError(
            f"{path} holds weights for {len(state[head])} classes, but the task has {num_classes}; give the classes "
            "it was trained with, or other weights"
        )
    if strange:
        what = f"it {'lacks' if name in own else 'has an unknown'} {name}"
    elif shapes:
        what = f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
    elif not all(bool(x.isfinite().all()) for x in state.values()):
        raise UserError(f"{path} holds values that are not finite; take an earlier checkpoint")
    else:
        task.load_state_dict(dict(state))
        return
    more = len(strange) + len(shapes) - 1
    raise UserError(
        f"{path} does not hold weights of this {type(task).__name__}: {what}{f' and {more} more' if more else ''}; "
        "choose the task, size and channels it was trained with"
    )
