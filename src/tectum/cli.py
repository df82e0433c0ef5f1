"""The command line: one frozen dataclass per verb, its fields the flags, its `run` the deed.

Exit codes: 0 all done; 1 the run ended but something could not be done (what was done is kept); 2 a mistake in the
command or its files, found before anything was done: one line on stderr; 130 Ctrl-C. An error that is ours, not the
user's, shows its traceback.

Nothing heavy is imported here: torch and OpenCV come in when a verb runs, so that `--help` answers at once.
"""

import contextlib
import difflib
import glob
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import tyro
from tyro.conf import Positional, arg

from tectum import __version__

if TYPE_CHECKING:
    from tectum.inference.folders import Matches, PairFiles
    from tectum.inference.fuse import Fused, FuseOptions
    from tectum.inference.stream import Outcome


Flag = Annotated[bool, arg(help_behavior_hint="")]


def optional(metavar: str) -> Any:
    """A flag that may be left out, its help without `(default: None)`."""
    return arg(metavar=metavar, help_behavior_hint="")


class Verb(Protocol):
    """What `VERBS` holds: a frozen dataclass whose docstring and fields are the help text."""

    def run(self) -> int:
        """Do it and return the exit code."""
        ...


@dataclass(frozen=True)
class Fuse:
    """Fuse a visible and an infrared image, or two folders of them, into one picture each.

    Files: OUT is a file name (.png .jpg .webp .bmp .tif), or a folder if it exists or ends in a slash.
    Folders, or quoted patterns ('vi/*.png'): images are matched by name without the extension and written to
    OUT/NAME.png; what is finished is passed over, so the same command continues a run that was cut short.

    Exit code: 0 all pairs done, 1 some failed (the others are kept), 2 a mistake found before the start, 130 Ctrl-C.
    """

    visible: Annotated[Positional[str], arg(metavar="VISIBLE")]
    """Visible image, folder or quoted pattern."""

    infrared: Annotated[Positional[str], arg(metavar="INFRARED")]
    """Infrared image, folder or quoted pattern."""

    out: Annotated[str, arg(aliases=["-o"], metavar="OUT")]
    """Where the result goes."""

    system: Annotated[str, arg(metavar="NAME")] = "tdfusion"
    """Which fuser: tdfusion, average, maximum, or your own as package.module:Class."""

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
    """Raw values that become black and white: auto, full, LOW,HIGH or percentiles pLOW,pHIGH."""

    infrared_range: Annotated[str, arg(metavar="RANGE")] = "auto"
    """The same for the infrared; auto takes percentiles 0.1 and 99.9 of each 16-bit or float image."""

    report: Flag = False
    """Also draw visible | infrared | fused | difference: NAME-report.png, or OUT/report/NAME.png."""

    overwrite: Flag = False
    """Replace results that are already there."""

    quiet: Flag = False
    """No progress bar and no summary; problems are still told."""

    threads: Annotated[int | None, optional("N")] = None
    """Processor threads to use."""

    def run(self) -> int:
        _check_place("visible", self.visible)
        _check_place("infrared", self.infrared)
        options = self.options()
        from tectum.inference import folders

        many = [folders.is_many(where) for where in (self.visible, self.infrared)]
        if many[0] != many[1]:
            raise ValueError(
                f"give two files or two folders, got {self.visible} (a {'folder' if many[0] else 'file'}) and "
                f"{self.infrared} (a {'folder' if many[1] else 'file'})"
            )
        if many[0] and os.path.realpath(self.visible) == os.path.realpath(self.infrared):
            raise ValueError(f"visible and infrared images are needed, got {self.visible} for both; name two folders")
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        return self._folder(options) if many[0] else self._file(options)

    def options(self) -> "FuseOptions":
        """The part of the flags that says how a pair is fused."""
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {self.threads}")
        from tectum.inference.fuse import FuseOptions

        names = FuseOptions.__dataclass_fields__
        return FuseOptions(**{name: getattr(self, name) for name in names})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of output that are written."""
        return ("colour", "grey") if self.output == "both" else (self.output,)

    def _file(self, options: "FuseOptions") -> int:
        from tectum.inference.fuse import FusePipeline
        from tectum.inference.image import check_output, write_image

        files = self.files()
        for file in files.values():
            if any(file.exists() and file.samefile(source) for source in (self.visible, self.infrared)):
                raise ValueError(f"{file} is one of the sources; choose another name with -o")
            if file.exists() and not file.is_dir() and not self.overwrite:
                raise FileExistsError(f"{file} exists already; choose another name, or add --overwrite")
        pipeline = FusePipeline(options)
        pictures = pipeline.read(self.visible, self.infrared)
        for kind, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            check_output(file, bits=8 if kind == "report" else self.bits)
        fused = pipeline(*pictures)
        for note in fused.notes:
            _say(f"warning: {note}")
        for kind, file in files.items():
            write_image(file, report_picture(fused) if kind == "report" else fused.array(kind, bits=self.bits))
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
        from tectum.inference import folders, stream
        from tectum.inference.fuse import FusePipeline

        matches = folders.match(self.visible, self.infrared)
        results = folders.ResultFolder(Path(self.out), self.kinds, self.report)
        outcome = stream.fuse_folder(
            FusePipeline(options),
            matches,
            results,
            bits=self.bits,
            picture=report_picture,
            overwrite=self.overwrite,
            quiet=self.quiet,
        )
        return tell(outcome, matches, self.out, quiet=self.quiet, overwrite=self.overwrite)


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

    model: Literal["translation", "euclidean", "affine", "homography"] = "affine"
    """What the transform may do; fewer freedoms are steadier."""

    pairs: Annotated[int, arg(metavar="N")] = 30
    """How many pairs to look at, spread evenly over the folders."""

    max_shift: Annotated[float, arg(metavar="PART")] = 0.08
    """How far the corners may lie from plain resizing, as a part of the image's width."""

    infrared_range: Annotated[str, arg(metavar="RANGE")] = "auto"
    """Which raw values of each frame count for the common range, as in `tectum fuse`."""

    overwrite: Flag = False
    """Replace a rig file that is already there."""

    quiet: Flag = False
    """No progress bar and no summary."""

    def run(self) -> int:
        _check_place("visible", self.visible)
        _check_place("infrared", self.infrared)
        if self.pairs < 3:
            raise ValueError(f"--pairs must be at least 3, got {self.pairs}")
        if Path(self.out).exists() and not self.overwrite:
            raise FileExistsError(f"{self.out} exists already; choose another name, or add --overwrite")
        from dataclasses import replace

        from tectum.inference import align, folders

        matches = folders.match(self.visible, self.infrared)
        num = min(self.pairs, len(matches.pairs))
        chosen = [matches.pairs[i * len(matches.pairs) // num] for i in range(num)]
        ranges: list[tuple[float, float]] = []
        rig = align.fit_rig(self.frames(chosen, ranges), model=self.model, max_shift=self.max_shift)
        if ranges:
            rig = replace(rig, infrared_range=align.common_range(ranges))
        Path(self.out).parent.mkdir(parents=True, exist_ok=True)
        rig.save(self.out)
        if not self.quiet:
            plain = align.plain_matrix(rig.visible_size, rig.infrared_size)
            shift = abs(align.corner_shifts(rig.matrix, plain, rig.visible_size)).max()
            raw = rig.infrared_range
            print(
                f"{self.out}: {rig.num_pairs} of {num} pairs agree within {rig.spread_px:.1f} px (median); corners move "
                f"by up to {shift:.1f} px; edges agree {rig.score_after:.2f}, before {rig.score_before:.2f} of 1"
                + ("" if raw is None else f"; infrared range {raw[0]:g}..{raw[1]:g}")
            )
        return 0

    def frames(self, chosen: "Sequence[PairFiles]", ranges: list[tuple[float, float]]) -> "Iterator[tuple[Any, Any]]":
        """Luminance pairs (H,W), read one by one; the raw ranges of radiometric infrared frames go into `ranges`."""
        from tqdm import tqdm

        from tectum.inference.image import read_image

        for pair in tqdm(chosen, unit="pair", disable=self.quiet or not sys.stderr.isatty()):
            try:
                visible = read_image(pair.visible)
                infrared = read_image(pair.infrared, role="infrared", value_range=self.infrared_range)
            except (ValueError, OSError) as error:
                _say(f"passed over: {_sentence(error)}")
                continue
            if infrared.bits > 8 or self.infrared_range != "auto":
                ranges.append(infrared.raw_range)
            yield visible.y[0].numpy(), infrared.y[0].numpy()


def report_picture(fused: "Fused") -> Any:
    """The side-by-side picture of a fused pair."""
    from tectum import report
    from tectum.inference.image import to_array

    visible, infrared = (to_array(source.y, source.chroma) for source in (fused.visible, fused.infrared))
    return report.side_by_side(visible, infrared, fused.array())


def tell(outcome: "Outcome", matches: "Matches", out: str, *, quiet: bool, overwrite: bool) -> int:
    """Say what became of a folder run: the summary on stdout, problems on stderr. Returns the exit code."""
    from tectum.inference.folders import some

    again = "the same command without --overwrite" if overwrite else "the same command"
    if not quiet:
        there = f" ({outcome.num_skipped} were there already)" if outcome.num_skipped else ""
        speed = len(outcome.done) / max(outcome.seconds, 1e-9)
        rate = f" in {outcome.seconds:.1f} s, {speed:.2f} images/s" if outcome.done else ""
        print(f"{len(outcome.done)} of {outcome.num_pairs} pairs fused into {out}{there}{rate}")
    for note, names in outcome.notes.items():
        _say(f"warning: {some(names)}: {note}")
    for role, other in (("visible", "infrared"), ("infrared", "visible")):
        if alone := matches.alone[role]:
            _say(f"{len(alone)} {role} without {other} of that name, passed over: {some(alone)}")
    reasons: dict[str, list[str]] = {}
    for name, reason in outcome.failures.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        _say(f"not fused: {some(names)}: {reason}")
    kept = f"{outcome.num_there} of {outcome.num_pairs} pairs are done and kept, {again} continues"
    if outcome.interrupted:
        _say(f"interrupted; {kept}")
        return 130
    if outcome.stopped is not None:
        _say(f"{outcome.stopped}; {kept}")
        return 1
    return 1 if outcome.failures else 0


VERBS: dict[str, Callable[..., Verb]] = {"fuse": Fuse, "align": Align}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; never raises for a user's mistake.

    >>> main(["--version"])
    tectum 0.1.0
    0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] in (["--version"], ["-V"]):
            print(f"tectum {__version__}")
            return 0
        if argv in ([], ["-h"], ["--help"]):
            print(overview())
            return 0
        return parse(argv).run()
    except SystemExit as end:  # --help
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:  # `tectum ... | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - Python flushes it at exit
        return 0
    except (ValueError, KeyError, OSError) as error:
        if not _is_mistake(error):
            raise
        _say(_sentence(error))
        return 2


def overview() -> str:
    """What `tectum --help` says: the verbs with the first line of their docstrings."""
    verbs = "\n".join(f"  {name:8} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items())
    return (
        f"tectum {__version__}: fuse infrared and visible images into one picture.\n\n"
        "usage: tectum VERB ...      tectum VERB --help      tectum --version\n\n"
        f"{verbs}\n\n"
        "examples:\n"
        "  tectum fuse visible.png infrared.png -o fused.png\n"
        "  tectum fuse visible_folder infrared_folder -o results"
    )


def parse(argv: Sequence[str]) -> Verb:
    """The verb that a command line asks for.

    Raises:
        ValueError: the command line is wrong, in one sentence.
        SystemExit: help was asked for and printed.
    """
    if argv[0] not in VERBS:
        close = difflib.get_close_matches(argv[0], VERBS, n=1)
        hint = f" did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"a command must come first, got '{argv[0]}';{hint} available: {', '.join(VERBS)}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            verb: Verb = tyro.extras.subcommand_cli_from_dict(
                VERBS,
                prog="tectum",
                args=argv,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
            )
        return verb
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ValueError(_one_sentence(complaint.getvalue(), argv)) from None


def _one_sentence(complaint: str, argv: Sequence[str]) -> str:
    """tyro's framed message as one sentence."""
    framed = complaint.partition("For full helptext")[0].splitlines()[1:]  # the first line is the frame with a title
    lines = [line.strip(" │|") for line in framed if re.search(r"\w", line)]
    words = " ".join(lines)
    verb, see = argv[0], f"see tectum {argv[0]} --help"
    if words.startswith("Missing from"):
        names = re.findall(r"(?:^| )(-o \w+|[A-Z]{3,})(?=,| |$)", re.sub(r"--\S+ \S+", "", words))
        return f"{verb} needs {' '.join(dict.fromkeys(names)) or 'more'}; {see}"
    if found := re.match(r"Unrecognized options: ([^-].*)", words):
        extra = [token.strip() for token in found[1].split(",")]
        if all(Path(token).exists() for token in extra):
            return (
                f"{verb} takes one VISIBLE and one INFRARED, got {len(extra)} paths more; "
                "quote patterns ('vi/*.png') so that the shell leaves them alone"
            )
    for pattern, sentence in (
        (r"Unrecognized options: (.*?) Perhaps you meant: (\S+).*", r"unknown option \1; did you mean \2?"),
        (r"Unrecognized options: (\S+).* Available subcommands: (.*)", rf"{verb} has no '\1', only: \2"),
        (r"Unrecognized options: (.*)", r"unknown option \1"),
        (r"Expected one of \{(.*)\}\.", rf"{verb} needs one of: \1"),
        (r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)\.", r"\2 must be one of \3, got \1"),
        (r"Missing value for argument '(.*)'\..*", r"\1 needs a value"),
        (r"Error parsing (\S+): .*? from \[(.*?)\].*", r"\1 cannot be \2"),
    ):
        words, num = re.subn(pattern, sentence, words)
        if num:
            break
    return f"{words.rstrip('. ')}; {see}"


def _is_mistake(error: BaseException) -> bool:
    """True for a sentence to the user: any OSError, and what a `raise` of ours says; not a slip in tectum or below."""
    if isinstance(error, OSError):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(Path(__file__).parent)
    return ours and (last.line or "raise").startswith("raise")


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read or write {error.filename}: {error.strerror}; check the path, its permissions and the disk"
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _say(sentence: str) -> None:
    """One line on stderr."""
    print(f"tectum: {' '.join(sentence.split())}", file=sys.stderr)


def _check_place(role: str, where: str) -> None:
    """A quick answer to a misspelt path, before torch is imported."""
    if not Path(where).exists() and not glob.has_magic(where):
        close = difflib.get_close_matches(Path(where).name, _neighbours(Path(where)), n=1)
        hint = f"did you mean {Path(where).with_name(close[0])}?" if close else "check the path"
        raise FileNotFoundError(f"{role} image or folder {where} does not exist; {hint}")


def _neighbours(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir()]
    except OSError:
        return []
