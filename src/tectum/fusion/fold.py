"""More than two pictures of one scene become one by fusing pairs, and nothing is rounded in between.

    f_2 = F(p_1, p_2),   f_k = F(f_{k-1}, p_k)          the fuser's luminance and the mixed chroma, in float32

Two pictures are fused as they were given. Of more, foci are taken in the order given. Exposures are taken from the
outside in, whatever the order given: the brightest, the darkest, the second brightest, the second darkest, ...; so
the extremes give what only they have, and the middle ones, best exposed, come last and weigh most. At each step the
brighter of the two by mean luminance is the over-exposed one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from tectum.io.image import Picture


class Result(Protocol):
    """What a pair gives: luminance and chroma as in `Picture`, and sentences on the pair."""

    @property
    def y(self) -> Any: ...
    @property
    def chroma(self) -> Any: ...
    @property
    def alpha(self) -> Any: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


R = TypeVar("R", bound=Result)


def fold(pictures: Sequence[Picture], pair: Callable[[Picture, Picture], R], order: str) -> tuple[R, tuple[str, ...]]:
    """The last result, with the alpha of the first, and the notes of all of them once each.

    Args:
        pictures: two or more.
        pair: fuses two, the first in the place of a.
        order: "given" or "brightness"; see the module's description.
    """
    first, second, *rest = in_order(pictures, order)
    fused = pair(first, second)
    alpha, notes = fused.alpha, dict.fromkeys(fused.notes)
    for later in rest:
        so_far = replace(first, y=fused.y, chroma=fused.chroma, alpha=None)  # of all of the view, whatever is shown
        swapped = order == "brightness" and brightness(later) > brightness(so_far)
        fused = pair(later, so_far) if swapped else pair(so_far, later)
        notes |= dict.fromkeys(fused.notes)
    return (replace(fused, alpha=alpha) if rest else fused), tuple(notes)  # type: ignore[type-var]


def in_order(pictures: Sequence[Picture], order: str) -> list[Picture]:
    """The pictures in the order in which they are folded."""
    if order == "given" or len(pictures) == 2:
        return list(pictures)
    left = sorted(pictures, key=brightness, reverse=True)
    return [left.pop(0 if i % 2 == 0 else -1) for i in range(len(pictures))]


def brightness(picture: Picture) -> float:
    """Mean luminance in [0,1]."""
    return float(picture.y.double().mean())
