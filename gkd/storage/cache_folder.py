"""Where gkd keeps what it can compute or fetch again, and what it calls some of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

OUTPUTS = "teacher_outputs"  # the folder of teachers' outputs
NAMES = "class_names"  # the folder of what text towers say to class names
OUTPUT_FILE = re.compile(r"[0-9a-f]{32}-[0-9]+\.safetensors")


def cache_folder() -> Path:
    """The folder of gkd's caches and downloads: ``GKD_CACHE`` or ``~/.cache/gkd``."""
    return Path(os.environ.get("GKD_CACHE") or Path.home() / ".cache" / "gkd").expanduser()
