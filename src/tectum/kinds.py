"""The four kinds of fusion: who the two images of a pair are, where they lie, and whose colour the result has.

    kind        a                      b                chroma of the result
    infrared    visible                infrared         the visible's
    exposure    over-exposed           under-exposed    mixed, the more saturated leading
    focus       the first focus        the second       mixed, the more saturated leading
    medical     CT, PET or SPECT       MRI              the scan's: PET and SPECT have colour, CT and MRI are grey

`a` is always the colour-bearing one. Published folders use letters of their own; `Kind.sides` maps them. The short
names of publications (IVF or VIF, MEF, MFF, MIF) are understood wherever a kind is asked for.
"""

from dataclasses import dataclass
from typing import Literal

from tectum.errors import UserError, suggest


@dataclass(frozen=True)
class Kind:
    """One kind of fusion.

    Attributes:
        name: a key of KINDS.
        roles: short names of a and b, for tables and files.
        words: what a and b are called in a sentence: "the over-exposed image".
        sides: folder names that a and b go by, the usual ones first.
        tags: what publications call the kind, and its folder in a tree of several kinds.
        mixes: the two are of one camera, so that both colours are true and are mixed.
        many: more than two images may be given; they are folded pairwise.
        order: "given", or "brightness" where the images say themselves who is a.
        thermal: whether a, b are read as an infrared image is: stretched where deeper than 8 bits, grey if nearly so.
        system: the fuser without a name.
        weights: the packaged set that goes with it; None takes the system's own.
        objective: what trains without labels, as module:Class; None takes the system's own.
    """

    name: str
    roles: tuple[str, str]
    words: tuple[str, str]
    sides: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]
    mixes: bool = False
    many: bool = False
    order: Literal["given", "brightness"] = "given"
    thermal: tuple[bool, bool] = (False, False)
    system: str = "adasffuse"
    weights: str | None = None
    objective: str | None = None

    def named(self, num: int = 2) -> tuple[str, ...]:
        """Names of so many images: the roles of two, else first, second, third, ...

        >>> KINDS["exposure"].named(), KINDS["exposure"].named(4)
        (('over', 'under'), ('first', 'second', 'third', '4th'))
        """
        return self.roles if num == 2 else tuple(NUMBERS[i] if i < len(NUMBERS) else f"{i + 1}th" for i in range(num))


NUMBERS = ("first", "second", "third")
OBJECTIVE = "tectum.systems.adasffuse:AdaSFFuseLoss"

KINDS: dict[str, Kind] = {
    "infrared": Kind(
        "infrared",
        roles=("visible", "infrared"),
        words=("visible", "infrared"),
        sides=(("vi", "ir"), ("vis", "ir"), ("visible", "infrared")),
        tags=("IVF", "VIF"),
        thermal=(False, True),
        system="tdfusion",
    ),
    "exposure": Kind(
        "exposure",
        roles=("over", "under"),
        words=("over-exposed", "under-exposed"),
        sides=(("over", "under"), ("over", "low"), ("b", "a")),
        tags=("MEF",),
        weights="adasffuse-exposure",
        mixes=True,
        many=True,
        order="brightness",
        objective=OBJECTIVE,
    ),
    "focus": Kind(
        "focus",
        roles=("first", "second"),
        words=("first", "second"),
        sides=(("imageA", "imageB"), ("source_1", "source_2"), ("near", "far"), ("a", "b")),
        tags=("MFF",),
        weights="adasffuse-focus",
        mixes=True,
        many=True,
        objective=OBJECTIVE,
    ),
    "medical": Kind(
        "medical",
        roles=("scan", "mri"),
        words=("CT, PET or SPECT", "MRI"),
        sides=(("CT", "MRI"), ("PET", "MRI"), ("SPECT", "MRI"), ("b", "a")),
        tags=("MIF",),
        weights="adasffuse-medical",
        thermal=(True, True),
        objective=OBJECTIVE,
    ),
}


def find_kind(name: str) -> Kind:
    """The kind of a name, or of a publication's short name in any letter case.

    Raises:
        ValueError: unknown; the closest is offered.

    >>> find_kind("focus").name, find_kind("MEF").name
    ('focus', 'exposure')
    """
    if name in KINDS:
        return KINDS[name]
    tagged = {tag.lower(): kind for kind in KINDS.values() for tag in kind.tags}
    if name.lower() in tagged:
        return tagged[name.lower()]
    known = ", ".join(f"{kind.name} ({' or '.join(kind.tags)})" for kind in KINDS.values())
    raise UserError(f"unknown kind '{name}';{suggest(name.lower(), KINDS)} available: {known}")
