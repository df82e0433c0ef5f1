"""The exception for a user's mistake, and the parts of messages: the closest known name, and short lists of names."""

import difflib
from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """A mistake in what a user asked for or gave: one sentence that says what must hold, what came, what to do.

    The command line prints the sentence and returns exit code 2. In Python it is a `ValueError`. A missing file is a
    `FileNotFoundError` instead, as everywhere in Python.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns " did you mean 'CLOSEST'?" for a misspelt name, to stand in a message, or "" where nothing is close.

    >>> suggest("tdfuson", ["tdfusion", "average"])
    " did you mean 'tdfusion'?"
    """
    close = closest(name, known)
    return "" if close is None else f" did you mean '{close}'?"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that is spelt most like `name`, in any case, or None where nothing is close."""
    names = {known_name.lower(): known_name for known_name in known}
    return next((names[match] for match in difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)), None)


def unknown(name: str, known: Iterable[str], *, noun: str) -> str:
    """The message for an unknown name: the closest known one, and all there are.

    Args:
        name: the name that came.
        known: the names there are.
        noun: what they name ("system", "metric", ...).

    Returns:
        One sentence.

    >>> unknown("tdfuson", {"tdfusion": 1, "average": 2}, noun="system")
    "unknown system 'tdfuson'; did you mean 'tdfusion'? available: average, tdfusion"
    """
    known = sorted(known)
    return f"unknown {noun} '{name}';{suggest(name, known)} available: {', '.join(known) or 'none'}"


def group_by_reason(failures: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns {reason: names that share it} of {name: reason}, in the order of the names."""
    names: dict[str, list[str]] = {}
    for name, reason in failures.items():
        names.setdefault(reason, []).append(name)
    return names


def abbreviate(names: Iterable[str], num: int = 3) -> str:
    """Returns the first `num` names in alphabetical order, and the number of the others.

    >>> abbreviate(["d", "b", "c", "a"], num=2)
    'a, b, ... and 2 more'
    """
    names = sorted(names)
    more = f", ... and {len(names) - num} more" if len(names) > num else ""
    return ", ".join(names[:num]) + more
