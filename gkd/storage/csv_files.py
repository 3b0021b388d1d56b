"""CSV files that a config names: pairs of networks, published numbers."""

from __future__ import annotations

import csv
from pathlib import Path

from gkd.core.errors import UserError


def read_csv(path: Path, key: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a file, and its lines by column.

    Args:
        path: of the file.
        key: of the config that names it.

    Raises:
        UserError: a file that cannot be read, or a line with more cells than columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            lines, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{key}: {path} cannot be read ({error}); give a CSV file, whose path starts where the config is.",
            code="csv-unreadable",
        ) from None
    for number, line in enumerate(lines, 2):
        if None in line:
            raise UserError(
                f"{path}, line {number} has more cells than there are columns; write a cell with a comma in quotes.",
                code="csv-too-wide",
            )
    return columns, lines
