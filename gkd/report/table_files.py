"""Files of a grid's table: Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from gkd.core.text import code_in_markdown, for_csv
from gkd.report.markdown import Row, row_key
from gkd.storage.json_files import write_json
from gkd.storage.whole_files import write_text


def to_csv(rows: Sequence[Row], warnings: Mapping[tuple[str, str], str]) -> str:
    """The rows as CSV, axes as columns."""
    contents = _contents(rows, warnings)
    axes = list(dict.fromkeys(axis for row in rows for axis in row.axes))
    keys = list(dict.fromkeys(key for row in contents for key in row if key not in ("axes", "empty_batches")))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(for_csv, [*axes, *keys]))
    for row, content in zip(rows, contents, strict=True):
        cells = [*(row.axes.get(axis) for axis in axes), *(content.get(key) for key in keys)]
        writer.writerow(map(for_csv, cells))
    return out.getvalue()


def write_table(
    folder: Path, rows: Sequence[Row], text: str, *, command: str, warnings: Mapping[tuple[str, str], str]
) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json`` into a folder.

    Args:
        folder: where to.
        rows: of the table.
        text: the table as Markdown.
        command: the command line that makes it.
        warnings: row, as ``row_key`` has it -> what its column ``warning`` says; without any there is no such column.
    """
    write_text(folder / "table.md", f"{text}\nRegenerate with {code_in_markdown(command)}.\n")
    write_text(folder / "table.csv", to_csv(rows, warnings))
    write_json(folder / "table.json", {"command": command, "rows": _contents(rows, warnings)})


def _contents(rows: Sequence[Row], warnings: Mapping[tuple[str, str], str]) -> list[dict[str, object]]:
    """The rows by column, each with its warning where it has one."""
    keys = map(row_key, rows)
    return [
        row.content() | ({"warning": warnings[key]} if key in warnings else {})
        for row, key in zip(rows, keys, strict=True)
    ]
