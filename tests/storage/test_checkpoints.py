"""Checkpoints are whole or absent."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gkd.core.errors import UserError
from gkd.storage.checkpoints import latest_checkpoint, save_checkpoint
from gkd.storage.checksums import json_sha256, sha256
from tests.refusals import refused


def save(parent: Path, number: int) -> Path:
    """A checkpoint whose every part depends on its number."""
    return save_checkpoint(
        parent,
        number,
        weights={"distiller": {"w": torch.full((3,), float(number))}, "best": {"w": torch.zeros(2)}},
        state={"optimiser": {"state": {0: {"momentum": torch.full((2,), number)}}}, "names": ["loss"]},
        facts={"global_step": number, "best_metric": None},
    )


def newest(parent: Path) -> int | None:
    """The number of the checkpoint that would be continued from, its parts checked."""
    found = latest_checkpoint(parent)
    if found is None:
        return None
    number = int(found.facts["global_step"])
    assert found.weights["distiller"]["w"].tolist() == [number] * 3
    assert found.state["optimiser"]["state"][0]["momentum"].tolist() == [number] * 2
    return number


def flip_a_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.folder == folder
    assert set(found.weights) == {"distiller", "best"}
    assert found.state["names"] == ["loss"]
    assert found.facts == {"global_step": 5, "best_metric": None}
    assert newest(tmp_path) == 5
    assert latest_checkpoint(tmp_path / "absent") is None


def test_the_last_two_are_kept_and_nothing_else(tmp_path: Path, listing: Any) -> None:
    for number in (1, 2, 30):
        save(tmp_path, number)
    assert listing(tmp_path) == ["000000002", "000000030"]


def test_it_is_synced_whole_before_the_rename_that_makes_it_final(tmp_path: Path, events: list[str]) -> None:
    save(tmp_path, 1)
    files = ["best.safetensors", "distiller.safetensors", "manifest.json", "state.pt"]
    assert sorted(events[:4]) == [f"sync {name}" for name in files]
    assert events[4:] == ["sync .000000001.tmp", "rename 000000001", f"sync {tmp_path.name}"]


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 1)
    assert newest(tmp_path) == 1


@pytest.mark.parametrize("name", ["distiller.safetensors", "best.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "removed"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    size = path.stat().st_size
    if damage == "removed":
        path.unlink()
    elif damage == "flipped":
        flip_a_bit(path, size - 5)
    else:
        os.truncate(path, size // 2 if damage == "truncated" else 0)
    assert newest(tmp_path) == 1


def test_those_that_are_passed_over_are_told(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, number)
    passed: list[Path] = []
    latest_checkpoint(tmp_path, passed.append)
    assert passed == []
    (tmp_path / "000000002" / "best.safetensors").unlink()
    assert latest_checkpoint(tmp_path, passed.append) is not None
    assert passed == [tmp_path / "000000002"]


def test_a_state_that_gkd_did_not_write_is_a_sentence_though_its_sums_are_right(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "state.pt").write_bytes(b"\x80\x02cos\nsystem\n.")
    manifest = json.loads((folder / "manifest.json").read_text())
    content = {
        "files": {**manifest["files"], "state.pt": sha256(folder / "state.pt")},
        "facts": manifest["facts"],
    }
    (folder / "manifest.json").write_text(json.dumps({**content, "sha256": json_sha256(content)}))
    with refused("checkpoint-unreadable"):
        latest_checkpoint(tmp_path)


def test_a_flipped_bit_in_the_facts_is_damage(tmp_path: Path) -> None:
    save(tmp_path, 1)
    manifest = save(tmp_path, 2) / "manifest.json"
    flip_a_bit(manifest, manifest.read_bytes().index(b'"global_step": 2') + len('"global_step": '))
    assert json.loads(manifest.read_text())["facts"]["global_step"] == 3  # still JSON, but wrong
    assert newest(tmp_path) == 1


def test_damaged_ones_do_not_push_out_what_is_saved_after_them(tmp_path: Path) -> None:
    """A run that starts over behind two damaged checkpoints must not lose its own, lower-numbered ones."""
    for number in (10, 20):
        (save(tmp_path, number) / "state.pt").unlink()
    assert newest(tmp_path) is None
    save(tmp_path, 5)
    assert newest(tmp_path) == 5


@pytest.mark.parametrize("where", ["write_safetensors", "torch.save", "sync", "os.replace"])
def test_a_full_disk_leaves_the_checkpoint_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, listing: Any, full_disk: Any
) -> None:
    save(tmp_path, 1)
    monkeypatch.setattr(f"gkd.storage.checkpoints.{where}", full_disk)
    with refused("write-failed"):
        save(tmp_path, 2)
    assert listing(tmp_path) == ["000000001"]  # no temporary folder either
    monkeypatch.undo()
    assert newest(tmp_path) == 1
    save(tmp_path, 2)
    assert newest(tmp_path) == 2


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 4 kB: the writers meet a real error, as on a full disk, halfway through.

    Only around the call itself: pytest's own output may be a file too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("large", ["weights", "state"])
def test_the_writers_own_errors_are_a_sentence(tmp_path: Path, large: str, listing: Any) -> None:
    save(tmp_path, 1)
    much = {"w": torch.zeros(10_000)}
    weights, state = ({"distiller": much}, {}) if large == "weights" else ({}, much)
    with small_files(), pytest.raises(UserError, match=r"Cannot write to .*what was saved before is whole"):
        save_checkpoint(tmp_path, 2, weights=weights, state=state, facts={})
    assert listing(tmp_path) == ["000000001"]
    assert newest(tmp_path) == 1


def test_what_a_kill_left_behind_is_cleared(tmp_path: Path, listing: Any) -> None:
    (tmp_path / ".000000001.tmp").mkdir()
    (tmp_path / ".000000001.tmp" / "state.pt").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    save(tmp_path, 2)
    assert listing(tmp_path) == ["000000002"]
