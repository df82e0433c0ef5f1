"""`tectum fuse`: two images, or two folders of them; of exposures and foci more than two."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from tectum.console import Flag, optional, say, say_failures, show_metavars, use_threads
from tectum.errors import UserError, abbreviate
from tectum.fusion.options import FuseOptions
from tectum.io.files import check_path_exists, is_folder_or_pattern
from tectum.kinds import KINDS

if TYPE_CHECKING:
    from tectum.fusion.pipeline import Fused
    from tectum.fusion.stream import Outcome
    from tectum.io.folders import Matches


@show_metavars(
    system="NAME",
    weights="NAME|FILE",
    variant="NAME",
    device="DEVICE",
    tile="N",
    resize="",
    align="",
    rig="FILE",
    visible_range="RANGE",
    infrared_range="RANGE",
    nodata="VALUE|none",
    kind="KIND",
)
@dataclass(frozen=True, kw_only=True)
class Fuse(FuseOptions):
    """Fuse a visible and an infrared image, or two folders of them, into one picture each; other kinds too.

    --kind exposure: the OVER-exposed and the UNDER-exposed image, or three or more in any order. --kind focus: two or
    more foci. --kind medical: a CT, PET or SPECT scan and an MRI. Infrared and medical pairs keep the colour of the
    first image, the others mix theirs.

    Files: OUT is a file name (.png .jpg .webp .bmp .tif), or a folder if it exists or ends in a slash.
    Folders, or quoted patterns ('vi/*.png'): images are matched by name without the extension and written to
    OUT/NAME.png; finished results are skipped, so the same command resumes a run that was stopped.
    Stacks: with --stack one folder of exposures or foci, or of such folders; each is written to OUT/NAME-OF-FOLDER.png.

    Exit code: 0 all pairs done, 1 some failed (the others are kept), 2 a mistake found before the start, 130 Ctrl-C.
    """

    visible: Annotated[Positional[str], arg(metavar="VISIBLE")]
    """Visible image, folder or quoted pattern; of another kind the first: over-exposed, first focus, or scan."""

    infrared: Annotated[Positional[str], arg(metavar="[INFRARED]", help_behavior_hint="")] = ""
    """Infrared image, folder or quoted pattern; of another kind the second: under-exposed, second focus, or MRI."""

    more: Annotated[Positional[tuple[str, ...]], arg(metavar="[MORE ...]", help_behavior_hint="")] = ()
    """More exposures or foci of the same scene: images, folders or quoted patterns."""

    stack: Flag = False
    """Fuse all exposures or foci of a folder, or of each of its folders, to one picture."""

    out: Annotated[str, arg(aliases=["-o"], metavar="OUT")]
    """Where the result goes."""

    output: Literal["colour", "grey", "both"] = "colour"
    """colour keeps the sources' colour, grey is the fused luminance. both: NAME.png and NAME-grey.png, or the folders
    OUT/colour and OUT/grey."""

    bits: Literal[8, 16] = 8
    """Bits per channel of the result; 16 for PNG and TIFF."""

    report: Flag = False
    """Also draw visible | infrared | fused | difference: NAME-report.png, or OUT/report/NAME.png."""

    overwrite: Flag = False
    """Replace results that are already there."""

    quiet: Flag = False
    """No progress bar and no summary; problems are still told."""

    threads: Annotated[int | None, optional("N")] = None
    """Processor threads to use."""

    def run(self) -> int:
        kind = KINDS[self.kind]
        if self.threads is not None:
            use_threads(self.threads)
        if self.stack:
            return self._fuse_stacks()
        if not self.infrared:
            stacks = ", or --stack for a folder of exposures or foci" if kind.takes_more else ""
            raise UserError(f"fuse takes two images ({' and '.join(kind.words)}), got one; add the other{stacks}")
        sources = (self.visible, self.infrared, *self.more)
        if self.more and not kind.takes_more:
            a, b = (role.upper() for role in kind.roles)
            raise UserError(
                f"fuse takes one {a} and one {b}, got {len(self.more)} more; "
                "quote patterns ('vi/*.png') so that the shell leaves them alone"
            )
        if self.more and self.report:
            raise UserError(f"--report shows two sources, got {len(sources)} images; leave it out")
        for noun, path in zip(kind.words if not self.more else kind.image_names(len(sources)), sources, strict=True):
            check_path_exists(noun, path)
        if kind.name == "medical" and (volumes := self._find_volumes(*sources)):
            return self._fuse_volumes(*volumes)
        are_folders = [is_folder_or_pattern(path) for path in sources]
        if len(set(are_folders)) > 1:
            descriptions = [f"{x} (a {'folder' if f else 'file'})" for x, f in zip(sources, are_folders, strict=True)]
            raise UserError(f"give two files or two folders, got {' and '.join(descriptions)}")
        return self._fuse_folders(*sources) if are_folders[0] else self._fuse_files(*sources)

    def _find_volumes(self, *sources: str) -> Sequence[str]:
        """Both sources if they are volumes (DICOM, NIfTI), none of them if neither is."""
        from tectum.io.volumes import is_volume

        are_volumes = [is_volume(source) for source in sources]
        if any(are_volumes) and not all(are_volumes):
            descriptions = [f"{x} ({'is' if v else 'is not'})" for x, v in zip(sources, are_volumes, strict=True)]
            raise UserError(f"both must be volumes (DICOM or NIfTI) or both pictures, got {' and '.join(descriptions)}")
        return sources if all(are_volumes) else ()

    def _fuse_volumes(self, first: str, second: str) -> int:
        from tectum.fusion.pipeline import FusePipeline
        from tectum.fusion.volumes import fuse_volume_files

        if self.report or self.output == "both":
            option = "--report" if self.report else "--output both"
            raise UserError(f"{option} is for pictures, got volumes; leave it out")
        return fuse_volume_files(
            FusePipeline(self),
            first,
            second,
            self.out,
            output=self.output,
            bits=self.bits,
            overwrite=self.overwrite,
            quiet=self.quiet,
        )

    def _options(self) -> FuseOptions:
        """The options as given; the images of a stack have one range."""
        one_range = self.stack and self.infrared_range == "auto"
        return replace(self, infrared_range=self.visible_range) if one_range else self

    @property
    def _outputs(self) -> tuple[str, ...]:
        return ("colour", "grey") if self.output == "both" else (self.output,)

    @property
    def _labels(self) -> tuple[str, ...]:
        """Captions of the report picture."""
        return (*KINDS[self.kind].roles, "fused")

    def _fuse_files(self, *sources: str) -> int:
        from tectum.fusion.pipeline import FusePipeline
        from tectum.io.image import check_output, write_image

        files = self._output_files()
        for file in files.values():
            if any(file.exists() and file.samefile(source) for source in sources):
                raise UserError(f"{file} is one of the sources; choose another name with -o")
            if file.exists() and not file.is_dir() and not self.overwrite:
                raise FileExistsError(f"{file} exists already; choose another name, or add --overwrite")
        pipeline = FusePipeline(self)
        pictures = pipeline.read(*sources)
        for output, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            check_output(file, bits=8 if output == "report" else self.bits)
        fused = pipeline(*pictures)
        for warning in fused.warnings:
            say(f"warning: {warning}")
        for output, file in files.items():
            if output == "report":
                write_image(file, draw_report(fused, self._labels))
            else:
                write_image(file, fused.array(output, bits=self.bits), metadata=fused.visible.metadata)
        if not self.quiet:
            print(", ".join(str(file) for file in files.values()))
        return 0

    def _output_files(self) -> dict[str, Path]:
        """The files one pair is written to, by output; the first has the name of OUT."""
        out = Path(self.out)
        if out.is_dir() or self.out.endswith(("/", os.sep)):
            out = out / f"{Path(self.visible).stem}.png"
        files = {name: out if i == 0 else out.with_stem(f"{out.stem}-{name}") for i, name in enumerate(self._outputs)}
        if self.report:
            files["report"] = out.with_name(f"{out.stem}-report.png")
        return files

    def _fuse_folders(self, *sources: str) -> int:
        from tectum.io.folders import match

        return self._fuse_matches(match(*sources, roles=KINDS[self.kind].image_names(len(sources))))

    def _fuse_stacks(self) -> int:
        from tectum.io.folders import find_stacks

        if not KINDS[self.kind].takes_more:
            raise UserError(f"--stack is for --kind exposure or focus, got {self.kind}; name the kind of the images")
        if self.infrared or self.report:
            raise UserError(
                "--stack draws no report; leave out --report"
                if self.report
                else f"--stack takes one folder of stacks, got {self.visible} and {self.infrared}; quote a pattern"
            )
        check_path_exists("stack", self.visible)
        return self._fuse_matches(find_stacks(self.visible, results=Path(self.out)))

    def _fuse_matches(self, matches: "Matches") -> int:
        from tectum.fusion.pipeline import FusePipeline
        from tectum.fusion.stream import fuse_folder
        from tectum.io.folders import ResultFolder

        outcome = fuse_folder(
            FusePipeline(self._options()),
            matches,
            ResultFolder(Path(self.out), self._outputs, self.report),
            bits=self.bits,
            draw=partial(draw_report, labels=self._labels),
            overwrite=self.overwrite,
            quiet=self.quiet,
            sort=self.stack,
        )
        return self._say_outcome(outcome, matches)

    def _say_outcome(self, outcome: "Outcome", matches: "Matches") -> int:
        """Print the summary on stdout and problems on stderr. Returns the exit code."""
        noun = "stacks" if self.stack else "pairs"
        again = "the same command without --overwrite" if self.overwrite else "the same command"
        if not self.quiet:
            earlier = f" ({outcome.num_skipped} were there already)" if outcome.num_skipped else ""
            speed = len(outcome.done) / max(outcome.seconds, 1e-9)
            rate = f" in {outcome.seconds:.1f} s, {speed:.2f} images/s" if outcome.done else ""
            print(f"{len(outcome.done)} of {outcome.num_pairs} {noun} fused into {self.out}{earlier}{rate}")
        for warning, names in outcome.warnings.items():
            say(f"warning: {abbreviate(names)}: {warning}")
        for role, lone_names in matches.unmatched.items():
            if lone_names:
                others = " or ".join(other for other in matches.unmatched if other != role)
                say(f"{len(lone_names)} {role} without {others} of that name, skipped: {abbreviate(lone_names)}")
        if unread := matches.unread_warning():
            say(unread)
        say_failures("not fused", outcome.failures)
        state = f"{outcome.num_finished} of {outcome.num_pairs} {noun} are done and kept, {again} continues"
        if outcome.interrupted:
            say(f"interrupted; {state}")
            return 130
        if outcome.write_error is not None:
            say(f"{outcome.write_error}; {state}")
            return 1
        return 1 if outcome.failures else 0


def draw_report(fused: "Fused", labels: Sequence[str]) -> Any:
    """Draw a fused pair as one picture: visible | infrared | fused | difference, the sources under their names."""
    from tectum.io.image import to_array
    from tectum.report.pictures import side_by_side

    visible, infrared = (to_array(source.y, source.chroma) for source in (fused.visible, fused.infrared))
    return side_by_side(visible, infrared, fused.array(), labels=labels)
