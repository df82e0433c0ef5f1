"""`tectum align`: one transform and one infrared range for a fixed pair of cameras."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from tectum.console import Flag, optional, progress_bar, say, sentence
from tectum.errors import UserError
from tectum.io.files import check_path_exists

if TYPE_CHECKING:
    from tectum.io.folders import PairFiles


@dataclass(frozen=True)
class Align:
    """Find how two fixed cameras lie to each other: one transform and one infrared range for all their frames.

    Looks at frames spread over two folders (or quoted patterns), writes the rig file that `tectum fuse --rig` takes.
    """

    visible: Annotated[Positional[str], arg(metavar="VISIBLE")]
    """Folder or quoted pattern of visible images."""

    infrared: Annotated[Positional[str], arg(metavar="INFRARED")]
    """Folder or quoted pattern of infrared images, of the same names."""

    out: Annotated[str, arg(aliases=["-o"], metavar="FILE")]
    """The rig file to write, e.g. rig.json."""

    model: Literal["translation", "similarity", "affine", "homography"] = "similarity"
    """What the transform may do; fewer freedoms are steadier."""

    pairs: Annotated[int, arg(metavar="N")] = 30
    """How many pairs to look at, spread evenly over the folders."""

    max_shift: Annotated[float, arg(metavar="PART")] = 0.08
    """How far the corners may lie from plain resizing, as a part of the image's width."""

    infrared_range: Annotated[str, arg(metavar="RANGE")] = "auto"
    """Which raw values of each frame count for the common range, as in `tectum fuse`."""

    nodata: Annotated[str | None, optional("VALUE|none")] = None
    """Raw value of infrared pixels without data (A,B: in both images), or none to guess at no constant borders."""

    overwrite: Flag = False
    """Replace a rig file that is already there."""

    quiet: Flag = False
    """No progress bar and no summary."""

    def run(self) -> int:
        check_path_exists("visible", self.visible)
        check_path_exists("infrared", self.infrared)
        if self.pairs < 3:
            raise UserError(f"--pairs must be at least 3, got {self.pairs}")
        if Path(self.out).exists() and not self.overwrite:
            raise FileExistsError(f"{self.out} exists already; choose another name, or add --overwrite")
        from dataclasses import replace

        from tectum.io.folders import match
        from tectum.registration.align import corner_shifts
        from tectum.registration.camera_rig import common_range, fit_rig
        from tectum.registration.gradient_search import plain_matrix

        matches = match(self.visible, self.infrared)
        num = min(self.pairs, len(matches.pairs))
        pairs = [matches.pairs[i * len(matches.pairs) // num] for i in range(num)]
        ranges: list[tuple[float, float]] = []
        rig = fit_rig(self._read_frames(pairs, ranges), model=self.model, max_shift=self.max_shift)
        if ranges:
            rig = replace(rig, infrared_range=common_range(ranges))
        Path(self.out).parent.mkdir(parents=True, exist_ok=True)
        rig.save(self.out)
        if not self.quiet:
            plain = plain_matrix(rig.visible_size, rig.infrared_size)
            shift = abs(corner_shifts(rig.matrix, plain, rig.visible_size)).max()
            raw = rig.infrared_range
            print(
                f"{self.out}: {rig.num_pairs} of {num} pairs agree within {rig.spread_px:.1f} px (median); corners move"
                f" by {shift:.1f} px at most; edges agree {rig.score_after:.2f}, before {rig.score_before:.2f} of 1"
                + ("" if raw is None else f"; infrared range {raw[0]:g}..{raw[1]:g}")
            )
        return 0

    def _read_frames(
        self, pairs: "Sequence[PairFiles]", ranges: list[tuple[float, float]]
    ) -> "Iterator[tuple[Any, Any]]":
        """Luminance pairs (H,W), read one by one; the raw ranges of radiometric infrared frames go into `ranges`."""
        from tectum.io.image import mark_invalid, parse_nodata, read_image

        nodata = parse_nodata(self.nodata, guess=True)

        with progress_bar(len(pairs), "pair", quiet=self.quiet) as bar:
            for pair in pairs:
                try:
                    visible = read_image(pair.visible, nodata=nodata[0])
                    infrared = read_image(
                        pair.infrared, modality="infrared", value_range=self.infrared_range, nodata=nodata[1]
                    )
                except (ValueError, OSError) as error:
                    say(f"skipped: {sentence(error)}")
                else:
                    if infrared.bits > 8 or self.infrared_range != "auto":
                        ranges.append(infrared.raw_range)
                    yield mark_invalid(visible), mark_invalid(infrared)
                bar.update()
