"""The CSV files beside a config: a grid's pairs of networks, a row a pair and a column a key; published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gkd.config.section import from_home
from gkd.config.yaml_files import parse_yaml
from gkd.core.errors import UserError
from gkd.storage.csv_files import read_csv

_NAME = "pair"


def place_tables(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same sections, with what a file says in the place of its path in ``compare.pairs``.

    The path in ``compare.published`` is joined to the folder, and read when a table is made.

    Args:
        content: of a config.
        folder: where the config is, which a relative path starts from.
    """
    compare = content.get("compare")
    if not isinstance(compare, Mapping):
        return dict(content)
    placed = dict(compare)
    if isinstance(compare.get("published"), str):
        placed["published"] = str(_beside(compare["published"], folder, "published"))
    if isinstance(compare.get("pairs"), str):
        placed["pairs"] = read_pairs(_beside(compare["pairs"], folder, "pairs"))
    return {**content, "compare": placed}


def _beside(text: str, folder: Path, key: str) -> Path:
    """The path of a file, which starts where the config is."""
    try:
        return folder / from_home(Path(text))
    except ValueError as error:
        raise UserError(f"compare.{key}: {error}.", code="no-home-folder") from None


def read_pairs(path: Path) -> dict[str, dict[str, Any]]:
    """Name of each pair -> dotted key -> value; an empty cell sets nothing.

    Raises:
        UserError: no such file, no column ``pair``, a row without a name, or a name that stands twice.
    """
    columns, rows = read_csv(path, "compare.pairs")
    if _NAME not in columns:
        raise UserError(
            f"{path} has no column {_NAME!r}, but {', '.join(columns) or 'nothing'}; its first line names the columns, "
            f"as in '{_NAME},teacher.network,student.network'.",
            code="pairs-without-names",
        )
    pairs: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 2):
        name = row[_NAME]
        if not name or name in pairs:
            raise UserError(
                f"{path}, line {number} has the pair {name!r}; give each line a name of its own.",
                code="wrong-pair",
            )
        pairs[name] = {
            key: parse_yaml(text, f"{path}, line {number}, {key}")
            for key, text in row.items()
            if key != _NAME and text
        }
    return pairs
