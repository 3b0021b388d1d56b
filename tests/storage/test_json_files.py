"""JSON files are whole or as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gkd.storage.json_files import write_json
from tests.refusals import refused


def test_json_is_written_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: Any, full_disk: Any
) -> None:
    path = tmp_path / "deep" / "summary.json"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert listing(path.parent) == ["summary.json"]
    monkeypatch.setattr("gkd.storage.whole_files.os.replace", full_disk)
    with refused("write-failed"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
