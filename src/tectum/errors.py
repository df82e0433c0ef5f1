"""The exception for a user's mistake, and the suggestion of the closest known name."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what a user asked for or gave: one sentence that says what must hold, what came, what to do.

    The command line prints the sentence and returns exit code 2. In Python it is a `ValueError`. A missing file is a
    `FileNotFoundError` instead, as everywhere in Python.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """The hint for a misspelt name, to stand in a message.

    Args:
        name: what was given.
        known: the names there are.

    Returns:
        " did you mean 'CLOSEST'?", or "" where nothing is close.

    >>> suggest("tdfuson", ["tdfusion", "average"])
    " did you mean 'tdfusion'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" did you mean '{close[0]}'?" if close else ""


def unknown(name: str, known: Iterable[str], *, kind: str) -> str:
    """The message for an unknown name: the closest known one, and all there are.

    Args:
        name: what was given.
        known: the names there are.
        kind: what they name ("system", "metric", ...).

    Returns:
        One sentence.

    >>> unknown("tdfuson", {"tdfusion": 1, "average": 2}, kind="system")
    "unknown system 'tdfuson'; did you mean 'tdfusion'? available: average, tdfusion"
    """
    known = sorted(known)
    return f"unknown {kind} '{name}';{suggest(name, known)} available: {', '.join(known) or 'none'}"
