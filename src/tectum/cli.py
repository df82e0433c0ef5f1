"""The command line: one frozen dataclass per verb, its fields the flags, its `run` the deed.

Exit codes: 0 all done; 1 the run ended but something could not be done (what was done is kept); 2 a mistake in the
command or its files, found before anything was done: one line on stderr; 130 Ctrl-C. An error that is ours, not the
user's, shows its traceback.

Nothing heavy is imported here: torch and OpenCV come in when a verb runs, so that `--help` answers at once.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import tyro

from tectum import __version__
from tectum.benchmark.command import Bench
from tectum.console import say, sentence
from tectum.data.command import Data
from tectum.downstream.command import Downstream
from tectum.errors import UserError, suggest
from tectum.evaluation.command import Eval
from tectum.fusion.command import Fuse
from tectum.registration.command import Align
from tectum.training.command import Train
from tectum.weights.command import Weights


class Verb(Protocol):
    """What `VERBS` holds: a frozen dataclass whose docstring and fields are the help text."""

    def run(self) -> int:
        """Do it and return the exit code."""
        ...


VERBS: dict[str, Callable[..., Verb]] = {
    "fuse": Fuse,
    "align": Align,
    "eval": Eval,
    "bench": Bench,
    "train": Train,
    "downstream": Downstream,
    "data": Data,
    "weights": Weights,
}


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
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # for --system module:Class; a script's own folder is there already
        return parse(argv).run()
    except SystemExit as end:  # --help
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # `tectum ... | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - Python flushes it at exit
        return 0
    except (UserError, OSError) as error:
        say(sentence(error))
        return 2


def overview() -> str:
    """What `tectum --help` says: the verbs with the first line of their docstrings."""
    verbs = "\n".join(f"  {name:8} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items())
    return (
        f"tectum {__version__}: fuse two images of one scene into one picture: infrared and visible, exposures, foci, "
        "medical.\n\n"
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
        hint = suggest(argv[0], VERBS)
        raise UserError(f"a command must come first, got '{argv[0]}';{hint} available: {', '.join(VERBS)}")
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
        raise UserError(_onesentence(complaint.getvalue(), argv)) from None


def _onesentence(complaint: str, argv: Sequence[str]) -> str:
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
    for pattern, clear in (
        (r"Unrecognized options: (.*?) Perhaps you meant: (\S+).*", r"unknown option \1; did you mean \2?"),
        (r"Unrecognized options: (\S+).* Available subcommands: (.*)", rf"{verb} has no '\1', only: \2"),
        (r"Unrecognized options: (.*)", r"unknown option \1"),
        (r"Expected one of \{(.*)\}\.", rf"{verb} needs one of: \1"),
        (r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)\.", r"\2 must be one of \3, got \1"),
        (r"Missing value for argument '(.*)'\..*", r"\1 needs a value"),
        (r"Error parsing (\S+): .*? from \[(.*?)\].*", r"\1 cannot be \2"),
    ):
        words, num = re.subn(pattern, clear, words)
        if num:
            break
    return f"{words.rstrip('. ')}; {see}"
