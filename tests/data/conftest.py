"""Every test of the data wing has a cache of its own."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GKD_CACHE", str(folder))
    return folder


@pytest.fixture
def damaged_zip(two_classes: dict[str, bytes], write_zip: Callable[[dict[str, bytes]], Path]) -> Path:
    """A zip of two classes with a flipped byte within one image."""
    root = write_zip(two_classes)
    content = bytearray(root.read_bytes())
    with zipfile.ZipFile(root) as archive:
        info = archive.getinfo("test/cat/01.png")
    content[info.header_offset + 30 + len(info.filename) + 60] ^= 255
    root.write_bytes(content)
    return root
