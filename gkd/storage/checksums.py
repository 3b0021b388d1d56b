"""SHA-256 of files and of JSON content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(content: Any) -> str:
    """SHA-256 of JSON content, in hex, whatever the order of its keys and its line breaks."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
