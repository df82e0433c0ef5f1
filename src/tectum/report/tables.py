"""Tables of text, aligned for a terminal or as Markdown, and numbers as text and as JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Sequence[str]]


def text_table(head: Sequence[str], *groups: Rows) -> str:
    """Returns aligned columns, two spaces apart, the first one to the left; a dashed line between groups of rows.

    >>> print(text_table(["", "EN"], [["ours", "7.1"]], [["average", "6.45"]]))
               EN
    ours      7.1
    -------------
    average  6.45
    """
    groups = tuple(rows for rows in groups if rows)
    widths = _widths([head, *(row for rows in groups for row in rows)])
    blocks = ["\n".join(_align(row, widths, num_left=1, gap="  ") for row in rows) for rows in groups]
    head_line = _align(head, widths, num_left=1, gap="  ")
    return "\n".join([head_line, f"\n{'-' * len(head_line)}\n".join(blocks)] if blocks else [head_line])


def markdown_table(head: Sequence[str], rows: Rows, *, num_left: int = 1, padded: bool = False) -> str:
    r"""Returns a Markdown table.

    Args:
        head, rows: cells; a vertical bar in them is escaped.
        num_left: how many columns, from the first, are aligned to the left; the others to the right.
        padded: fill the cells with spaces, so that the columns also align in a terminal.

    >>> print(markdown_table(["name", "s"], [["a|b", "1.5"]]))
    | name | s |
    | --- | --: |
    | a\|b | 1.5 |
    """
    lines = [[cell.strip().replace("|", "\\|") for cell in row] for row in (head, *rows)]
    rule = [" --- " if i < num_left else " --: " for i in range(len(head))]
    if padded:
        widths = _widths(lines)
        lines = [_align(row, widths, num_left=num_left, gap="\0").split("\0") for row in lines]
        rule = ["-" * (width + 2) if i < num_left else "-" * (width + 1) + ":" for i, width in enumerate(widths)]
    head_line, *body = (f"| {' | '.join(row)} |" for row in lines)
    return "\n".join([head_line, f"|{'|'.join(rule)}|", *body])


def _widths(rows: Rows) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _align(row: Sequence[str], widths: Sequence[int], *, num_left: int, gap: str) -> str:
    cells = zip(row, widths, strict=True)
    return gap.join(cell.ljust(width) if i < num_left else cell.rjust(width) for i, (cell, width) in enumerate(cells))


def number_text(value: float, places: int) -> str:
    """Returns a number for a page: a real minus sign, n/a for NaN.

    >>> number_text(-0.5, 2), number_text(math.nan, 2), number_text(math.inf, 1)
    ('−0.50', 'n/a', '∞')
    """
    if math.isnan(value):
        return "n/a"
    text = "∞" if math.isinf(value) else f"{abs(value):.{places}f}"
    return f"−{text}" if value < 0 and text.strip("0.") else text


def json_ready(x: Any) -> Any:
    """Returns nested dicts and lists with NaN as None and infinity as text: JSON has numbers for neither.

    >>> json_ready({"a": math.nan, "b": [-math.inf, 1.5, 2]})
    {'a': None, 'b': ['-inf', 1.5, 2]}
    """
    if isinstance(x, Mapping):
        return {key: json_ready(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [json_ready(value) for value in x]
    if not isinstance(x, float) or math.isfinite(x):
        return x
    return None if math.isnan(x) else str(float(x))
