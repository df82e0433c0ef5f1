"""`tectum fuse`: two images, or two folders of them; of exposures and foci more than two."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from tectum.console import Flag, check_path_exists, optional, say, say_failures, use_threads
from tectum.errors import UserError, abbreviate

if TYPE_CHECKING:
    from tectum.fusion.pipeline import Fused, FuseOptions
    from tectum.fusion.stream import Outcome
    from tectum.io.folders import Matches


@dataclass(frozen=True)
class Fuse:
    """Fuse a visible and an infrared image, or two folders of them, into one picture each; other kinds too.

    --kind exposure: the OVER-exposed and the UNDER-exposed image; three or more in any order, they are folded from the
    brightest and the darkest inward. --kind focus: two or more foci, folded in the order given. --kind medical: a CT,
    PET or SPECT scan and an MRI. Infrared and medical pairs keep the colour of the first image, the others mix theirs.

    Files: OUT is a file name (.png .jpg .webp .bmp .tif), or a folder if it exists or ends in a slash.
    Folders, or quoted patterns ('vi/*.png'): images are matched by name without the extension and written to
    OUT/NAME.png; what is finished is passed over, so the same command continues a run that was cut short.

    Exit code: 0 all pairs done, 1 some failed (the others are kept), 2 a mistake found before the start, 130 Ctrl-C.
    """

    visible: Annotated[Positional[str], arg(metavar="VISIBLE")]
    """Visible image, folder or quoted pattern; of another kind the first: over-exposed, first focus, or scan."""

    infrared: Annotated[Positional[str], arg(metavar="INFRARED")]
    """Infrared image, folder or quoted pattern; of another kind the second: under-exposed, second focus, or MRI."""

    out: Annotated[str, arg(aliases=["-o"], metavar="OUT")]
    """Where the result goes."""

    more: Annotated[Positional[tuple[str, ...]], arg(metavar="[MORE ...]", help_behavior_hint="")] = ()
    """More exposures or foci of the same scene: images, folders or quoted patterns."""

    kind: Annotated[str, arg(metavar="KIND")] = "infrared"
    """What the images are: infrared, exposure, focus or medical (or IVF, MEF, MFF, MIF)."""

    system: Annotated[str | None, optional("NAME")] = None
    """Which fuser: tdfusion, tomiff, sfofusion, adasffuse, average, maximum, laplacian, or your own as
    package.module:Class; the kind's own without it (infrared: tdfusion)."""

    weights: Annotated[str | None, optional("NAME|FILE")] = None
    """Packaged weights or a .safetensors file; the system's own without it."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes CUDA, then MPS, then the CPU."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers the network computes with; bfloat16 is faster where hardware has it, and less exact."""

    tile: Annotated[int | None, optional("N")] = None
    """Fuse in tiles of N x N pixels: for images that do not fit in memory; slower, same result."""

    output: Literal["colour", "grey", "both"] = "colour"
    """colour keeps the sources' colour, grey is the fused luminance. both: NAME.png and NAME-grey.png, or the folders
    OUT/colour and OUT/grey."""

    stretch: Literal["none", "minmax"] = "none"
    """minmax spreads each result over the whole brightness range (a sequence then flickers)."""

    bits: Literal[8, 16] = 8
    """Bits per channel of the result; 16 for PNG and TIFF."""

    resize: Flag = False
    """Bring the infrared to the visible's size: one view in two resolutions."""

    align: Flag = False
    """Register the infrared to the visible, each pair by itself; refused where that went badly."""

    rig: Annotated[str | None, optional("FILE")] = None
    """Register with a file of `tectum align`: one transform, one infrared range, no flicker."""

    visible_range: Annotated[str, arg(metavar="RANGE")] = "auto"
    """Raw values that become black and white in the first image: auto, full, LOW,HIGH or percentiles pLOW,pHIGH."""

    infrared_range: Annotated[str, arg(metavar="RANGE")] = "auto"
    """The same for the infrared, or the second image and those after it; auto takes percentiles 0.1 and 99.9 of each
    16-bit or float image that is infrared or medical."""

    report: Flag = False
    """Also draw visible | infrared | fused | difference: NAME-report.png, or OUT/report/NAME.png."""

    overwrite: Flag = False
    """Replace results that are already there."""

    quiet: Flag = False
    """No progress bar and no summary; problems are still told."""

    threads: Annotated[int | None, optional("N")] = None
    """Processor threads to use."""

    def run(self) -> int:
        from tectum.kinds import find_kind

        kind = find_kind(self.kind)
        if self.more and not kind.many:
            a, b = (role.upper() for role in kind.roles)
            raise UserError(
                f"fuse takes one {a} and one {b}, got {len(self.more)} paths more; "
                "quote patterns ('vi/*.png') so that the shell leaves them alone"
            )
        if self.more and self.report:
            raise UserError(f"--report shows two sources, got {len(self.sources)} images; leave it out")
        for role, where in zip(kind.words if not self.more else self.roles, self.sources, strict=True):
            check_path_exists(role, where)
        options = self.options()
        from tectum.io import folders

        many = [folders.is_many(where) for where in self.sources]
        if len(set(many)) > 1:
            got = [
                f"{x} (a {'folder' if is_folder else 'file'})" for x, is_folder in zip(self.sources, many, strict=True)
            ]
            raise UserError(f"give two files or two folders, got {' and '.join(got)}")
        if many[0] and len({os.path.realpath(where) for where in self.sources}) < len(self.sources):
            twice = next(x for i, x in enumerate(self.sources) if x in self.sources[:i] or i == len(self.sources) - 1)
            what = f"{kind.words[0]} and {kind.words[1]}" if not self.more else "different"
            raise UserError(f"{what} images are needed, got {twice} for both; name two folders")
        use_threads(self.threads)
        return self._folder(options) if many[0] else self._file(options)

    @property
    def sources(self) -> tuple[str, ...]:
        """All images of a scene, or the folders of them."""
        return self.visible, self.infrared, *self.more

    @property
    def roles(self) -> tuple[str, ...]:
        """What each of them is called."""
        from tectum.kinds import find_kind

        return find_kind(self.kind).named(len(self.sources))

    def options(self) -> "FuseOptions":
        """The part of the flags that says how a pair is fused."""
        from tectum.fusion.pipeline import FuseOptions

        names = FuseOptions.__dataclass_fields__
        return FuseOptions(**{name: getattr(self, name) for name in names})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of output that are written."""
        return ("colour", "grey") if self.output == "both" else (self.output,)

    @property
    def labels(self) -> tuple[str, ...]:
        """Captions of the report picture."""
        from tectum.kinds import find_kind

        return (*find_kind(self.kind).roles, "fused")

    def _file(self, options: "FuseOptions") -> int:
        from tectum.fusion.pipeline import FusePipeline
        from tectum.io.image import check_output, write_image

        files = self.files()
        for file in files.values():
            if any(file.exists() and file.samefile(source) for source in self.sources):
                raise UserError(f"{file} is one of the sources; choose another name with -o")
            if file.exists() and not file.is_dir() and not self.overwrite:
                raise FileExistsError(f"{file} exists already; choose another name, or add --overwrite")
        pipeline = FusePipeline(options)
        pictures = pipeline.read(*self.sources)
        for kind, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            check_output(file, bits=8 if kind == "report" else self.bits)
        fused = pipeline(*pictures)
        for note in fused.notes:
            say(f"warning: {note}")
        for kind, file in files.items():
            write_image(
                file, report_picture(fused, self.labels) if kind == "report" else fused.array(kind, bits=self.bits)
            )
        if not self.quiet:
            print(", ".join(str(file) for file in files.values()))
        return 0

    def files(self) -> dict[str, Path]:
        """The files one pair is written to, by kind; the first kind has the name of OUT."""
        out = Path(self.out)
        if out.is_dir() or self.out.endswith(("/", os.sep)):
            out = out / f"{Path(self.visible).stem}.png"
        files = {kind: out if i == 0 else out.with_stem(f"{out.stem}-{kind}") for i, kind in enumerate(self.kinds)}
        if self.report:
            files["report"] = out.with_name(f"{out.stem}-report.png")
        return files

    def _folder(self, options: "FuseOptions") -> int:
        from tectum.fusion import stream
        from tectum.fusion.pipeline import FusePipeline
        from tectum.io import folders

        matches = folders.match(*self.sources, roles=self.roles)
        results = folders.ResultFolder(Path(self.out), self.kinds, self.report)
        outcome = stream.fuse_folder(
            FusePipeline(options),
            matches,
            results,
            bits=self.bits,
            picture=partial(report_picture, labels=self.labels),
            overwrite=self.overwrite,
            quiet=self.quiet,
        )
        return tell(outcome, matches, self.out, quiet=self.quiet, overwrite=self.overwrite)


def report_picture(fused: "Fused", labels: Sequence[str]) -> Any:
    """The side-by-side picture of a fused pair, the sources under their names."""
    from tectum.io.image import to_array
    from tectum.report.pictures import side_by_side

    visible, infrared = (to_array(source.y, source.chroma) for source in (fused.visible, fused.infrared))
    return side_by_side(visible, infrared, fused.array(), labels=labels)


def tell(outcome: "Outcome", matches: "Matches", out: str, *, quiet: bool, overwrite: bool) -> int:
    """Say what became of a folder run: the summary on stdout, problems on stderr. Returns the exit code."""
    again = "the same command without --overwrite" if overwrite else "the same command"
    if not quiet:
        there = f" ({outcome.num_skipped} were there already)" if outcome.num_skipped else ""
        speed = len(outcome.done) / max(outcome.seconds, 1e-9)
        rate = f" in {outcome.seconds:.1f} s, {speed:.2f} images/s" if outcome.done else ""
        print(f"{len(outcome.done)} of {outcome.num_pairs} pairs fused into {out}{there}{rate}")
    for note, names in outcome.notes.items():
        say(f"warning: {abbreviate(names)}: {note}")
    for role, alone in matches.alone.items():
        if alone:
            others = " or ".join(other for other in matches.alone if other != role)
            say(f"{len(alone)} {role} without {others} of that name, passed over: {abbreviate(alone)}")
    say_failures("not fused", outcome.failures)
    kept = f"{outcome.num_there} of {outcome.num_pairs} pairs are done and kept, {again} continues"
    if outcome.interrupted:
        say(f"interrupted; {kept}")
        return 130
    if outcome.stopped is not None:
        say(f"{outcome.stopped}; {kept}")
        return 1
    return 1 if outcome.failures else 0
