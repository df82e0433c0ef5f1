"""What is wrong with the images of a scene, and what looks wrong but need not be: sentences in the kind's own words."""

from collections.abc import Sequence

import torch

from tectum.errors import UserError
from tectum.fusion.fold import brightness
from tectum.fusion.options import FuseOptions
from tectum.io.image import Picture, px
from tectum.kinds import Kind

COLOURED = 2 / 255
"""Mean |chroma| above which a picture counts as a colour picture: JPEG leaves less in a grey one."""


def check_num(kind: Kind, num: int) -> None:
    """Two images, or more where the kind folds them."""
    if num < 2 or (num > 2 and not kind.many):
        raise UserError(
            f"{kind.name} pairs are made of a {kind.words[0]} and a {kind.words[1]} image, got {num}; "
            + ("give at least two" if kind.many else "give two (more are folded for the kinds exposure and focus)")
        )


def strange_weights(options: FuseOptions) -> tuple[str, ...]:
    """A note on packaged weights of another kind."""
    used = options.selection
    trained = options.kind if used.card is None else used.card.get("kind", "infrared")
    if trained == options.kind:
        return ()
    return (f"weights {used.weights} were trained on {trained} pairs, not {options.kind}",)


def refuse_sizes(kind: Kind, *sizes: Sequence[int]) -> None:
    """Where nothing can be done here; infrared pairs have ways of their own."""
    if kind.name != "infrared":
        way = "crop or register them first" if kind.mixes else "--resize brings the second to the first's size"
        names = kind.words if len(sizes) == 2 else kind.named(len(sizes))
        got = [f"{px(size)} ({name})" for size, name in zip(sizes, names, strict=True)]
        what = f"of a {kind.name} pair" if len(sizes) == 2 else "of one scene"
        raise UserError(f"the images {what} must share one size, got {', '.join(got[:-1])} and {got[-1]}; {way}")


def notes_on(visible: Picture, infrared: Picture, kind: Kind, *, resize: bool) -> tuple[str, ...]:
    """What looks wrong with a pair but need not be."""
    notes = []
    a, b = kind.words
    if kind.order == "brightness" and brightness(visible) < brightness(infrared):
        notes.append(f"the {a} image is darker than the {b} one; are they swapped?")
    elif kind.mixes:
        pass  # both may have colour
    elif not is_coloured(visible) and is_coloured(infrared):
        notes.append(f"the {b} image has colour and the {a} one has none; are they swapped?")
    elif is_coloured(infrared):
        palette = ", which in a palette of false colours need not follow the temperature; export it in grey (white hot)"
        why = palette if kind.name == "infrared" else "; export it in grey"
        notes.append(f"the {b} image is in colour and only its brightness is used{why} if you can")
    (height, width), (other_height, other_width) = visible.y.shape[-2:], infrared.y.shape[-2:]
    if resize and abs(width * other_height / (height * other_width) - 1) > 0.03:
        meant = "is --align or --rig meant?" if kind.name == "infrared" else "crop one of them first"
        notes.append(f"{a} and {b} differ in proportions, so --resize distorts; {meant}")
    return tuple(notes)


def is_coloured(picture: Picture) -> bool:
    return picture.chroma is not None and float(picture.chroma.abs().mean()) > COLOURED


def out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "not enough memory" in str(error).lower()
        or ("can't allocate memory" in str(error).lower())
    )
