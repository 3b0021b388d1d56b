"""A record knows whether it, or a file that belongs to it, was changed since it was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from gkd.storage.json_files import Damaged
from gkd.storage.manifest import check_beside_its_run, check_files, files_of
from gkd.storage.records import read_record, write_record
from tests.refusals import refused


class Result(BaseModel):
    accuracy: float
    names: list[str] = []


@pytest.fixture
def record(tmp_path: Path) -> Path:
    names = ["student.safetensors", "correct.json"]
    for name in names:
        (tmp_path / name).write_text(f"content of {name}")
    write_record(
        tmp_path / "summary.json",
        Result(accuracy=71.25, names=["é", "b"]),
        files=["student.safetensors", "correct.json"],
    )
    return tmp_path / "summary.json"


def test_what_was_written_is_read(record: Path) -> None:
    assert read_record(record, Result) == Result(accuracy=71.25, names=["é", "b"])
    files = files_of(record)
    assert files is not None
    assert list(files) == ["correct.json", "student.safetensors"]
    check_files(record, files)
    for name in files:
        check_beside_its_run(record.with_name(name))


def test_its_layout_is_no_part_of_it(record: Path) -> None:
    content = json.loads(record.read_text())
    record.write_text(json.dumps(dict(reversed(content.items()))))
    assert read_record(record, Result).accuracy == 71.25


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    "change",
    [
        replaced("71.25", "79.25"),
        replaced('"b"', '"c"'),
        replaced('"accuracy"', '"acburacy"'),
        replaced('"correct.json"', '"correcu.json"'),
        replaced('"files"', '"filet"'),
        replaced('"manifest": {', '"manifest": [{}], "x": {'),
        lambda text: text[:-20],
        lambda text: "",
        lambda text: "[]",
    ],
)
def test_a_changed_record_is_damaged(record: Path, change: Callable[[str], str]) -> None:
    record.write_text(change(record.read_text()))
    for read in (lambda: read_record(record, Result), lambda: files_of(record)):
        with refused("file-unreadable"):
            read()


@pytest.mark.parametrize("name", ["student.safetensors", "correct.json"])
def test_a_file_that_was_changed_or_is_gone_is_told(record: Path, name: str) -> None:
    path, files = record.with_name(name), files_of(record)
    assert files is not None
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    for check in (lambda: check_files(record, files), lambda: check_beside_its_run(path)):
        with refused("file-damaged"):
            check()
    path.unlink()
    with refused("file-missing") as caught:
        check_files(record, files)
    assert isinstance(caught.value, Damaged)
    assert caught.value.fact == f"{path} is gone, though its run is finished"
    path.write_bytes(content)
    check_files(record, files)


def test_what_an_earlier_gkd_wrote_and_what_lies_elsewhere_is_not_checked(
    record: Path, tmp_path: Path
) -> None:
    record.write_text('{"accuracy": 12.5}')
    assert read_record(record, Result).accuracy == 12.5
    assert files_of(record) is None
    check_beside_its_run(record.with_name("student.safetensors"))
    (tmp_path / "elsewhere").mkdir()
    check_beside_its_run(tmp_path / "elsewhere" / "student.safetensors")
    write_record(record, Result(accuracy=1.0))
    assert files_of(record) == {}
    check_beside_its_run(record.with_name("student.safetensors"))  # no file of the run
