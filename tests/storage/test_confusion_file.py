"""Confusion matrices as CSV files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from gkd.storage.confusion_file import CORNER, write_confusion
from tests.refusals import refused


def test_rows_are_true_and_columns_predicted_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run" / "confusion.csv"
    write_confusion(path, ["ant", "bee, or wasp", "=cmd()"], torch.tensor([[5, 1, 0], [0, 7, 2], [3, 0, 4]]))
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        [CORNER, "ant", "bee, or wasp", "'=cmd()"],  # which a spreadsheet does not run
        ["ant", "5", "1", "0"],
        ["bee, or wasp", "0", "7", "2"],
        ["'=cmd()", "3", "0", "4"],
    ]
    assert [each.name for each in path.parent.iterdir()] == ["confusion.csv"]  # nothing is left beside it


def test_names_that_show_nothing_are_escapes(tmp_path: Path) -> None:
    write_confusion(tmp_path / "c.csv", ["a\x1b[31m", "b\nc"], torch.eye(2, dtype=torch.int64))
    text = (tmp_path / "c.csv").read_text()
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "c.csv").symlink_to(tmp_path / "elsewhere")
    with refused("not-a-regular-file"):
        write_confusion(tmp_path / "c.csv", ["a"], torch.ones(1, 1, dtype=torch.int64))
    assert not (tmp_path / "elsewhere").exists()


def test_a_thousand_classes_are_a_matter_of_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written in one piece, however many classes there are."""
    calls = []
    monkeypatch.setattr("gkd.storage.confusion_file.write_text", lambda path, text: calls.append(text))
    write_confusion(
        tmp_path / "c.csv", [str(n) for n in range(1000)], torch.zeros(1000, 1000, dtype=torch.int64)
    )
    (text,) = calls
    assert text.count("\n") == 1001
    assert len(text) < 2_100_000
