"""A table on a terminal: aligned columns, and no more of them than fit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gkd.report.markdown import NONE, Table

_GAP = "  "
_SHORTEST = 8  # columns of a cell that is cut
_NUMBER = re.compile(r"[+\-]?\d|\[[+\-]?\d")


def fitted(table: Table, width: int) -> tuple[str, list[str]]:
    """The table's rows in aligned columns, in lines of ``width`` at most.

    Columns are left out until the rest fits: those that the table calls minor, in that order, then from the right.

    Args:
        table: the whole one.
        width: columns of the terminal.

    Returns:
        The lines, and the heads of the columns that were left out.
    """
    rows = [[*row, *[NONE] * (len(table.head) - len(row))] for row in table.rows]
    cells = [[_shown(cell) for cell in row] for row in (table.head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    shown = list(range(len(table.head)))
    left_out = []
    for column in _order(table):
        if len(shown) < 3 or _total(widths, shown) <= width:
            break
        shown.remove(column)
        left_out.append(column)
    while _total(widths, shown) > width and max(widths[column] for column in shown) > _SHORTEST:
        widest = max(shown, key=lambda column: widths[column])  # such as a long label of a row
        widths[widest] = max(widths[widest] - (_total(widths, shown) - width), _SHORTEST)
    right = [any(_NUMBER.match(row[column]) for row in cells[1:]) for column in range(len(widths))]
    lines = []
    for row in cells:
        texts = [_cut(row[column], widths[column]) for column in shown]
        aligned = [
            text.rjust(widths[column]) if right[column] else text.ljust(widths[column])
            for column, text in zip(shown, texts, strict=True)
        ]
        lines.append(_GAP.join(aligned).rstrip())
    lines.insert(1, _GAP.join("-" * widths[column] for column in shown))
    return "\n".join(lines), [cells[0][column] for column in sorted(left_out)]


def fitted_text(table: Table, width: int) -> str:
    """The table as ``fitted`` has it, what was left out, and the notes and the legend below it."""
    text, left_out = fitted(table, width)
    more = [f"Left out here, for it is wide: {', '.join(left_out)}."] if left_out else []
    return "\n\n".join([text, *more, *table.below()]) + "\n"


def _order(table: Table) -> list[int]:
    """The columns in the order in which they are left out."""
    minor = [
        column
        for name in table.minor
        for column in reversed(range(len(table.head)))
        if table.head[column] == name
    ]
    return [*minor, *(column for column in reversed(range(len(table.head))) if column not in minor)]


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[column] for column in shown) + len(_GAP) * (len(shown) - 1)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _shown(cell: str) -> str:
    """A cell without the escapes of Markdown."""
    return re.sub(r"\\([\\`*\[\]<>|~$_])", r"\1", cell).replace("&amp;", "&")
