"""Files are whole or absent, synced, in the mode of the umask, and only where a regular file may stand."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gkd.core.errors import UserError
from gkd.storage.json_files import write_json
from gkd.storage.weights import save_weights
from gkd.storage.whole_files import (
    append_text,
    check_place,
    clear_strays,
    copy_whole,
    open_lock,
    write_text,
    write_whole,
)
from tests.refusals import refused

WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: write_json(path, {"new": 1}),
    "weights": lambda path: save_weights(path, {"w": torch.zeros(2)}),
    "lines": lambda path: append_text(path, "new\n"),
    "copy": lambda path: copy_whole(Path(__file__), path),
    "lock": lambda path: open_lock(path).close(),
}
every_writer = pytest.mark.parametrize("writer", WRITERS)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@every_writer
def test_the_mode_is_that_of_the_umask(tmp_path: Path, umask: None, writer: str) -> None:
    WRITERS[writer](tmp_path / "file.out")
    assert stat.S_IMODE((tmp_path / "file.out").stat().st_mode) == 0o640


@every_writer
@pytest.mark.parametrize("kind", ["a link", "a dangling link", "a pipe", "a folder"])
def test_only_regular_files_are_written_to(tmp_path: Path, writer: str, kind: str) -> None:
    place, victim = tmp_path / "file.out", tmp_path / "victim"
    victim.write_text("precious")
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a folder":
        place.mkdir()
    else:
        place.symlink_to(victim if kind == "a link" else tmp_path / "nowhere")
    with pytest.raises(UserError) as caught:
        WRITERS[writer](place)
    assert caught.value.code == "not-a-regular-file"
    assert f"is {kind.replace('dangling ', '')}, and gkd writes only" in str(caught.value)
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.out", "victim"]


def test_a_device_is_told() -> None:
    with refused("not-a-regular-file"):
        check_place(Path("/dev/null"))
    check_place(Path("/nowhere/at/all"))


def test_what_is_written_is_synced_before_and_its_folder_after_the_rename(
    tmp_path: Path, events: list[str]
) -> None:
    path = tmp_path / "summary.json"
    for write in (lambda: write_json(path, {}), lambda: save_weights(path, {"w": torch.zeros(1)})):
        events.clear()
        write()
        assert events[0].startswith("sync .gkd-")
        assert events[1:] == ["rename summary.json", f"sync {tmp_path.name}"]
    events.clear()
    append_text(tmp_path / "metrics.jsonl", "{}\n")
    assert events == ["sync metrics.jsonl"]


@pytest.mark.parametrize("where", ["replace", "fsync", "writer"])
def test_what_was_there_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, listing: Any, full_disk: Any
) -> None:
    path = tmp_path / "table.md"
    write_text(path, "old")
    if where != "writer":
        monkeypatch.setattr(f"gkd.storage.whole_files.os.{where}", full_disk)
    with refused("write-failed"):
        write_whole(path, full_disk if where == "writer" else lambda aside: aside.write_text("new"))
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["table.md"]


def test_writers_of_one_file_at_once_do_not_meet(tmp_path: Path, listing: Any) -> None:
    path, errors = tmp_path / "cell.json", []

    def write(number: int) -> None:
        try:
            for _ in range(30):
                write_json(path, {"number": number, "rest": [number] * 300})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_text().endswith("]\n}\n")
    assert listing(tmp_path) == ["cell.json"]


def test_strays_of_killed_writers_are_cleared_and_those_of_living_ones_are_not(
    tmp_path: Path, listing: Any
) -> None:
    stray = tmp_path / ".gkd-0123456789abcdef.tmp.json"
    others = [".hidden.tmp", ".gkd-notes.tmp", "a.tmp"]
    for name in (stray.name, *others):
        (tmp_path / name).write_text("half")
    os.symlink(tmp_path / "a.tmp", tmp_path / ".gkd-ffffffffffffffff.tmp")

    def write(aside: Path) -> None:
        assert stray.name not in listing(tmp_path)
        clear_strays(tmp_path)  # as another process would
        assert aside.is_file()
        aside.write_text("whole")

    write_whole(tmp_path / "summary.json", write)
    assert listing(tmp_path) == sorted([*others, ".gkd-ffffffffffffffff.tmp", "summary.json"])
    assert (tmp_path / "summary.json").read_text() == "whole"


def test_the_suffix_of_what_is_written_aside_can_be_chosen(tmp_path: Path) -> None:
    seen = []
    write_whole(tmp_path / "model.bin", lambda aside: seen.append(aside.suffix), suffix=".onnx")
    write_whole(tmp_path / "model.bin", lambda aside: seen.append(aside.suffix))
    assert seen == [".onnx", ".bin"]
    assert (tmp_path / "model.bin").read_bytes() == b""
