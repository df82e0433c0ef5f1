"""Command-line parts shared by all verbs: types of flags, messages on stderr, progress bars, parser of NAME=SPEC."""

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from tectum.errors import UserError, abbreviate, group_by_reason

C = TypeVar("C")
Flag = Annotated[bool, arg(help_behavior_hint="")]


def optional(metavar: str) -> Any:
    """A flag that may be left out, its help without `(default: None)`."""
    return arg(metavar=metavar, help_behavior_hint="")


def option(metavar: str, *, parse: Callable[[str], Any] | None = None, to_text: Callable[[Any], str] = str) -> Any:
    """A flag that must be given, or that shows its default in its help.

    Args:
        metavar: what its help calls the value.
        parse: makes the value of one word, where its type is not enough; a UserError refuses the word.
        to_text: writes the default for the help.
    """
    if parse is None:
        return arg(metavar=metavar)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: not isinstance(value, str),
        str_from_instance=lambda value: [to_text(value)],
    )


def show_metavars(**metavars: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: how `--help` shows the options that a command inherits from a dataclass of options.

    Args:
        metavars: {field: name of its value}; "" for a flag without a value.
    """

    def decorate(command: type[C]) -> type[C]:
        hints = get_type_hints(command, include_extras=True)
        for field in fields(command):  # type: ignore[arg-type]
            if (metavar := metavars.get(field.name)) is not None:
                default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
                hint = "" if default in (None, False) else f"(default: {default})"
                shown = arg(help_behavior_hint=hint) if not metavar else arg(metavar=metavar, help_behavior_hint=hint)
                command.__annotations__[field.name] = Annotated[hints[field.name], shown]
        return command

    return decorate


def sentence(error: BaseException) -> str:
    """Returns the message of an exception as one sentence for a user."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return f"cannot read or write: {error.strerror}; check the disk"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read or write {error.filename}: {error.strerror}; check the path, its permissions and the disk"
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def say(sentence: str) -> None:
    """Print one line on stderr."""
    print(f"tectum: {' '.join(sentence.split())}", file=sys.stderr)


def say_failures(label: str, failures: Mapping[str, str]) -> None:
    """Print a line on stderr for each reason in {name: reason}, with the names that share it.

    Args:
        label: opens each line, such as "not fused".
        failures: {name: reason}.
    """
    for reason, names in group_by_reason(failures).items():
        say(f"{label}: {abbreviate(names)}: {reason}")


def parse_named(text: str, option: str, *, metavar: str = "SPEC") -> tuple[str, str]:
    """Split the value of an option that reads NAME=SPEC, or SPEC alone.

    Args:
        text: the value.
        option: the option, for the message.
        metavar: what SPEC is called in the message.

    Returns:
        (name, spec). Without a name it is the last part of a folder's path, or the system's name or class.

    Raises:
        UserError: one of the two is missing, or the name could not be that of a file.

    >>> parse_named("ours=results/ours", "--fused"), parse_named("results/ours", "--fused")
    (('ours', 'results/ours'), ('ours', 'results/ours'))
    >>> parse_named("tdfusion@run/best.safetensors", "--system"), parse_named("my.module:Fuser", "--system")[0]
    (('tdfusion', 'tdfusion@run/best.safetensors'), 'Fuser')
    """
    name, equals, spec = text.partition("=")
    if not equals:
        spec, system = text, text.partition("@")[0].rpartition(":")[2]
        name = Path(text).name if Path(text).is_dir() else system.rstrip("/").rpartition("/")[2]
    if not spec or not name or any(sign in name for sign in "/\\*?[\0") or name.startswith("."):
        raise UserError(f"{option} must be {metavar} or NAME={metavar} with a plain name, got {text!r}")
    return name, spec


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Returns width and height of a text WIDTHxHEIGHT.

    Args:
        text: the value.
        option: the option, for the message.

    Raises:
        UserError: it reads otherwise.

    >>> parse_size("640x480", "--size")
    (640, 480)
    """
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    if match is None:
        raise UserError(f"{option} must be WIDTHxHEIGHT in pixels, such as 640x480, got {text!r}")
    return int(match[1]), int(match[2])


def progress_bar(
    total: int | None, unit: str, *, quiet: bool = False, label: str | None = None, initial: int = 0, leave: bool = True
) -> Any:
    """Returns a tqdm progress bar on stderr; it is silent where stderr is not a terminal.

    Args:
        total: number of steps, or None if it is not known.
        unit: name of a step ("image", "pair", ...).
        quiet: show nothing.
        label: text in front of the bar.
        initial: steps that were done before.
        leave: whether the bar stays on the screen at the end.
    """
    from tqdm import tqdm

    disable = True if quiet else None  # None: tqdm asks whether stderr is a terminal
    return tqdm(total=total, unit=unit, desc=label, initial=initial, leave=leave, disable=disable, dynamic_ncols=True)


def use_threads(threads: int) -> None:
    """Set the number of processor threads of torch.

    Raises:
        UserError: a number that torch crashes on.
    """
    if not 1 <= threads <= 1024:
        raise UserError(f"--threads must be between 1 and 1024, got {threads}")
    import torch

    torch.set_num_threads(threads)


def command_line() -> str:
    """Returns the command that was given, for the reports."""
    return shlex.join(["tectum", *sys.argv[1:]])
