"""``write(name, content)``: an experiment as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.config_helpers import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, content)``: an experiment file, of text or of sections over ``TINY``."""

    def make(name: str, content: str | dict[str, Any]) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return make
