"""CSV files that a config names."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd.storage.csv_files import read_csv
from tests.refusals import refused


def test_lines_are_by_column_and_short_ones_are_filled(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,"2, 3"\n4\n')
    assert read_csv(path, "compare.pairs") == (["a", "b"], [{"a": "1", "b": "2, 3"}, {"a": "4", "b": ""}])


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "csv-unreadable"), (b"a,b\n\xff,1\n", "csv-unreadable"), (b"a,b\n1,2,3\n", "csv-too-wide")],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    with refused(code):
        read_csv(path, "compare.pairs")
