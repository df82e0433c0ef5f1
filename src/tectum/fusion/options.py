"""How pairs are fused: the options, what a kind of pairs fills in, and what decides the pixels of a result."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tectum.errors import UserError
from tectum.kinds import KINDS, Kind, find_kind
from tectum.nn.stages import check_tile
from tectum.weights.loading import Selection, select


@dataclass(frozen=True)
class FuseOptions:
    """How pairs are fused; `tectum fuse --help` and `fuse` explain each field.

    Once made, `kind` has its full name and `system` is the kind's own where none was given.

    Raises:
        ValueError: a value that no pair could be fused with.
    """

    system: str | None = None
    weights: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    tile: int | None = None
    stretch: str = "none"
    resize: bool = False
    align: bool = False
    rig: str | Path | None = None
    visible_range: str = "auto"
    infrared_range: str = "auto"
    kind: str = "infrared"

    def __post_init__(self) -> None:
        one_of("stretch", self.stretch, ("none", "minmax"))
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        check_tile(self.tile)
        if self.resize + self.align + (self.rig is not None) > 1:
            raise UserError("resize, align and rig each bring the infrared to the visible's size; give one of them")
        kind = find_kind(self.kind)
        object.__setattr__(self, "kind", kind.name)
        if self.align or self.rig is not None:
            refuse_registration(kind, "--align" if self.align else "--rig")
        if self.resize and kind.mixes:
            raise UserError(
                f"{kind.name} pairs come from one camera and must share one size; leave out --resize, and register "
                "the images first if the camera moved"
            )
        if self.system is None:
            object.__setattr__(self, "system", select(None, self.weights, kind=kind.name).system)

    @property
    def role(self) -> Kind:
        """The kind itself."""
        return KINDS[self.kind]

    @property
    def selection(self) -> Selection:
        """The fuser that the names lead to."""
        return select(self.system, self.weights, kind=self.kind)


def refuse_registration(kind: Kind, flag: str) -> None:
    if kind.name != "infrared":
        raise UserError(
            f"{flag} brings an infrared camera's view to a visible one's, got {kind.name} pairs; leave it out, and "
            "register the images first if they do not lie on one another"
        )


def settings(options: FuseOptions) -> dict[str, Any]:
    """What decides the pixels of a result, to tell results of different settings apart. JSON types only."""
    kind = {} if options.kind == "infrared" else {"kind": options.kind}  # results of before there were kinds stay valid
    return kind | {
        "system": options.system,
        "weights": options.selection.identity(),
        "dtype": options.dtype,
        "stretch": options.stretch,
        "resize": options.resize,
        "align": options.align,
        "rig": None if options.rig is None else digest(options.rig),
        "visible_range": options.visible_range,
        "infrared_range": options.infrared_range,
    }


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")
