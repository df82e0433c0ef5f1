"""The four kinds of fusion: the roles of the two images of a pair, their folders, and whose colour the result has.

    kind        a                      b                chroma of the result
    infrared    visible                infrared         the visible's
    exposure    over-exposed           under-exposed    mixed, the better exposed leading
    focus       the first focus        the second       mixed, the more saturated leading
    medical     CT, PET or SPECT       MRI              the scan's: PET and SPECT have colour, CT and MRI are grey

`a` is always the colour-bearing one. Published folders use letters of their own; `Kind.sides` maps them. `KINDS[name]`
also takes the short names of publications (IVF or VIF, MEF, MFF, MIF).
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

from tectum.errors import UserError, suggest


@dataclass(frozen=True)
class Kind:
    """One kind of fusion.

    Attributes:
        name: a key of KINDS.
        roles: short names of a and b, for tables and files.
        words: what a and b are called in a sentence: "the over-exposed image".
        sides: folder names that a and b go by, in any letter case, the usual ones first.
        tags: what publications call the kind, and its folder in a tree of several kinds.
        mixes: the two are of one camera, so that both colours are true and are mixed.
        takes_more: more than two images may be given; they are fused at once.
        order: "given", or "brightness" where the brighter image is a.
        thermal: whether a, b are read like infrared images: stretched where deeper than 8 bits, grey if nearly so.
        system: the default fuser.
        network: the fuser that a file of weights belongs to where no system is named.
        objective: the loss that trains without labels, as module:Class; None takes the system's own.
    """

    name: str
    roles: tuple[str, str]
    words: tuple[str, str]
    sides: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]
    mixes: bool = False
    takes_more: bool = False
    order: Literal["given", "brightness"] = "given"
    thermal: tuple[bool, bool] = (False, False)
    system: str = "adasffuse"
    network: str = "adasffuse"
    objective: str | None = None

    def image_names(self, num: int = 2) -> tuple[str, ...]:
        """Returns short names of `num` images: the roles of two, else first, second, third, ...

        >>> KINDS["exposure"].image_names(), KINDS["exposure"].image_names(4)
        (('over', 'under'), ('first', 'second', 'third', '4th'))
        """
        numbers = ("first", "second", "third", *(f"{i}th" for i in range(4, num + 1)))
        return self.roles if num == 2 else numbers[:num]


class _Kinds(dict[str, Kind]):
    """The kinds by name."""

    def __missing__(self, name: str) -> Kind:
        """The kind of a publication's short name, in any letter case; of no other name."""
        for kind in self.values():
            if name.upper() in kind.tags:
                return kind
        available = ", ".join(f"{kind.name} ({' or '.join(kind.tags)})" for kind in self.values())
        raise UserError(f"unknown kind '{name}';{suggest(name.lower(), self)} available: {available}")


_VISIBLE = ("vi", "vis", "visible", "rgb", "color", "colour", "eo")
_INFRARED = ("ir", "infrared", "thermal", "lwir", "tir", "t")
_OBJECTIVE = "tectum.models.adasffuse:AdaSFFuseLoss"

KINDS = _Kinds(
    infrared=Kind(
        "infrared",
        roles=("visible", "infrared"),
        words=("visible", "infrared"),
        sides=tuple(product(_VISIBLE, _INFRARED)),
        tags=("IVF", "VIF"),
        thermal=(False, True),
        system="tdfusion",
        network="tdfusion",
    ),
    exposure=Kind(
        "exposure",
        roles=("over", "under"),
        words=("over-exposed", "under-exposed"),
        sides=(("over", "under"), ("over", "low"), ("b", "a")),
        tags=("MEF",),
        system="exposure-pyramid",
        mixes=True,
        takes_more=True,
        order="brightness",
        objective=_OBJECTIVE,
    ),
    focus=Kind(
        "focus",
        roles=("first", "second"),
        words=("first", "second"),
        sides=(("imageA", "imageB"), ("source_1", "source_2"), ("near", "far"), ("a", "b")),
        tags=("MFF",),
        system="focus-selection",
        mixes=True,
        takes_more=True,
        objective=_OBJECTIVE,
    ),
    medical=Kind(
        "medical",
        roles=("scan", "mri"),
        words=("CT, PET or SPECT", "MRI"),
        sides=(("CT", "MRI"), ("PET", "MRI"), ("SPECT", "MRI"), ("b", "a")),
        tags=("MIF",),
        thermal=(True, True),
        objective=_OBJECTIVE,
    ),
)
"""All kinds by name. `KINDS["MEF"]` is `KINDS["exposure"]`; an unknown name raises a UserError."""
