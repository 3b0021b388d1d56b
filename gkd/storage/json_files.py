"""JSON files that are whole or absent."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gkd.core.errors import UserError


def write_json(path: Path, content: object) -> None:
    """Write JSON aside and rename it, so that a reader never sees half of it."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(write_failure(path, error), code="write-failed") from None


def read_json(path: Path, *, keys: Iterable[str]) -> dict[str, Any]:
    """Read a file of ``write_json``: a mapping with at least these keys.

    Raises:
        UserError: the file was cut short or changed by something else.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise damaged(path)
    return content


def damaged(path: Path) -> UserError:
    """The error for a file that was cut short or changed by something else."""
    return UserError(
        f"{path} is damaged. Remove it, and repeat the command that made it, to make it anew.",
        code="file-unreadable",
    )


def write_failure(path: Path, error: Exception) -> str:
    """The sentence for a file or folder that cannot be written."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    reason = "no space left on the device" if full else " ".join(str(error).split())
    return (
        f"Cannot write to {path}: {reason}; what was saved before is whole. "
        "Free some space, or write elsewhere (run.out, or compare.results for tables), and repeat the command."
    )
