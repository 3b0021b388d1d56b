"""Every test of the data wing has a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GKD_CACHE", str(folder))
    return folder
