"""JSON files that are whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gkd.core.errors import UserError
from gkd.storage.whole_files import write_text


def write_json(path: Path, content: object) -> None:
    """Write JSON as ``write_whole`` does; a number that is not finite, which JSON has no word for, is a ValueError."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *, keys: Iterable[str]) -> dict[str, Any]:
    """Read a file of ``write_json``: a mapping with at least these keys.

    Raises:
        Damaged: the file was cut short or changed by something else.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise damaged(path)
    return content


class Damaged(UserError):
    """A file was cut short or changed by something else, or is gone.

    Attributes:
        fact: the part of the sentence that says so.
    """

    def __init__(self, fact: str, remedy: str = "", *, code: str | None = None) -> None:
        super().__init__(f"{fact}. {remedy}." if remedy else fact, code=code)
        self.fact = fact


def damaged(path: Path) -> Damaged:
    """The error for a file that was cut short or changed by something else."""
    return Damaged(
        f"{path} is damaged",
        "Remove it, and repeat the command that made it, to make it anew",
        code="file-unreadable",
    )
