"""JSON files are whole or as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gkd.storage.json_files import read_json, write_json
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"deep": float("-inf")}]])
def test_no_number_that_json_does_not_have_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "summary.json", {"nll": value})
    assert list(tmp_path.iterdir()) == []


def test_a_file_too_deep_to_read_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("[" * 100_000)
    with refused("file-unreadable"):
        read_json(path, keys=())
