"""The command line: one frozen dataclass per command; its docstring and fields are the help text, `run()` executes it.

Exit codes: 0 all done; 1 the run ended but something could not be done (what was done is kept); 2 a mistake in the
command or its files, found before anything was done: one line on stderr; 130 Ctrl-C. An error that is ours, not the
user's, shows its traceback. Ctrl-C stays ignored where it is ignored at the start (`tectum ... &` in a script).

Nothing heavy is imported here: torch and OpenCV come in when a command runs, so that `--help` answers at once.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_args, get_type_hints

import tyro
from tyro import _errors as refusals  # private in tyro, therefore the upper bound of its version in pyproject.toml

from tectum import __version__
from tectum.benchmark.command import Bench
from tectum.console import say, sentence
from tectum.data.command import CheckData, ExtractData, ListData
from tectum.downstream.command import Downstream
from tectum.errors import UserError, abbreviate, closest, suggest
from tectum.evaluation.command import Eval
from tectum.fusion.command import Fuse
from tectum.pretrained.command import ConvertWeights, ListWeights
from tectum.registration.command import Align
from tectum.training.command import Train


class Command(Protocol):
    """A frozen dataclass: its fields are the flags, `run()` executes the command and returns the exit code."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def run(self) -> int: ...


COMMANDS: dict[str, type[Command]] = {
    "fuse": Fuse,
    "align": Align,
    "eval": Eval,
    "bench": Bench,
    "train": Train,
    "downstream": Downstream,
    "data list": ListData,
    "data check": CheckData,
    "data extract": ExtractData,
    "weights list": ListWeights,
    "weights convert": ConvertWeights,
}
_GROUPS = {name.split()[0] for name in COMMANDS if " " in name}


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
        group = " ".join(word for word in argv if word not in ("-h", "--help"))
        if not group or (group in _GROUPS and len(argv) > 1):
            print(_overview(group))
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


def parse(argv: Sequence[str]) -> Command:
    """Read a command line into its command, with the options filled in.

    Raises:
        UserError: the command line is wrong, in one sentence.
        SystemExit: help was asked for and printed.
    """
    name = " ".join(argv[: 2 if argv[0] in _GROUPS else 1])
    if name not in COMMANDS:
        known = [command for command in COMMANDS if command.startswith(argv[0])] if argv[0] in _GROUPS else COMMANDS
        raise UserError(f"a command must come first, got '{name}';{suggest(name, known)} available: {', '.join(known)}")
    command, words = COMMANDS[name], argv[len(name.split()) :]
    _check_options(name, command, words)

    def refuse(event: refusals.ParseErrorEvent) -> None:
        error = sys.exception() if isinstance(event, refusals.InstantiationFailure) else None
        for mistake in (error, error and error.__context__):
            if isinstance(mistake, UserError):  # a value's own parser, or the command's own check
                raise mistake
        if sentence := _refusal(name, event, words):  # of anything else tyro says what it is; the exit code is 2 too
            raise UserError(f"{sentence}; see tectum {name} --help")

    with refusals.on_parse_error(refuse):
        return tyro.cli(command, prog=f"tectum {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,))


def _check_options(name: str, command: type[Command], words: Sequence[str]) -> None:
    """Refuse an option that the command does not have, before tyro takes it for a value."""
    options = ["-h", "--help", *("--" + field.name.replace("_", "-") for field in fields(command))]
    details = [x for hint in get_type_hints(command, include_extras=True).values() for x in get_args(hint)[1:]]
    options += [alias for x in details for alias in getattr(x, "aliases", None) or ()]
    for option in re.findall(r"^(--[\w-]+|-[a-z])", "\n".join(words), re.MULTILINE):
        if option.replace("_", "-") not in options:
            close = closest(option[2:], (known[2:] for known in options))
            hint = f"did you mean --{close}? " if close else ""
            raise UserError(f"unknown option {option}; {hint}see tectum {name} --help")


def _refusal(name: str, event: refusals.ParseErrorEvent, words: Sequence[str]) -> str | None:
    """Sentence for what tyro found wrong with the words after the command's name."""
    match event:
        case refusals.MissingArgs(missing_arguments=missing):
            flags = ["" if m.arg.is_positional() else f"{m.arg.lowered.name_or_flags[0]} " for m in missing]
            usages = [f"{flag}{m.arg.lowered.metavar}" for flag, m in zip(flags, missing, strict=True)]
            return f"{name} needs {' '.join(usages)}"
        case refusals.UnrecognizedArgs(tokens=extra):
            unquoted = all(Path(word).exists() for word in extra)
            hint = "; quote patterns ('vi/*.png') so that the shell leaves them alone" if unquoted else ""
            return f"{name} does not take {abbreviate(extra)}{hint}"
        case refusals.InvalidChoice(argument=arg, value=value, choices=choices):
            names = ", ".join(repr(choice) for choice in choices if choice != "None")
            return f"{arg.display_name()} must be one of {names}, got '{value}'"
        case refusals.BadValue(argument=arg):
            return f"{arg.display_name()} needs a value"
        case refusals.InstantiationFailure(argument=arg) if arg is not None:
            split = [part for word in words for part in word.split("=", 1)]
            value = next((b for a, b in pairwise(split) if a in arg.lowered.name_or_flags), "that")
            return f"{arg.display_name()} cannot be '{value}'"
    return None


def _overview(group: str) -> str:
    """The commands with the first line of their docstrings; of `data` or `weights` only, if group says so."""
    commands = {name: command.__doc__ or "" for name, command in COMMANDS.items() if name.startswith(group)}
    lines = "\n".join(f"  {name:15} {text.splitlines()[0]}" for name, text in commands.items())
    if group:
        return f"usage: tectum {group} COMMAND ...      tectum {group} COMMAND --help\n\n{lines}"
    return f"""\
tectum {__version__}: fuse two images of one scene into one picture: infrared and visible, exposures, foci, medical.

usage: tectum COMMAND ...      tectum COMMAND --help      tectum --version

{lines}

examples:
  tectum fuse visible.png infrared.png -o fused.png
  tectum fuse visible_folder infrared_folder -o results"""
