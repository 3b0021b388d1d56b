"""Rows come back with their bits and their memory layout; what is cut short, changed or older is seen."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from gkd.storage import mapped_rows
from gkd.storage.mapped_rows import SPARED, Unusable, read_rows, write_rows

ABOUT = {"key": "k", "view": "3"}


def tensors(num: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "logits": torch.randn(num, 3).bfloat16(),
        "embedding": torch.randn(num, 5, dtype=torch.float64),
        "map0": torch.empty(num, 0),
        "map1": torch.randn(num, 4, 2, 3).contiguous(memory_format=torch.channels_last),
        "map2": torch.randn(num, 4, 1, 1).contiguous(memory_format=torch.channels_last),
        "tokens": torch.randn(5, num, 2).transpose(0, 1),
    }


def in_chunks(whole: dict[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(whole["logits"]), size):
        yield {name: values[start : start + size] for name, values in whole.items()}


def written(path: Path, size: int = 3) -> Path:
    write_rows(path, in_chunks(tensors(), size), 7, ABOUT)
    return path


@pytest.mark.parametrize("size", [1, 3, 7])
def test_rows_come_back_as_torch_would_join_them(tmp_path: Path, size: int) -> None:
    found = read_rows(written(tmp_path / "rows.safetensors", size), 7, ABOUT)
    chunks = list(in_chunks(tensors(), size))
    assert found.keys() == tensors().keys()
    for name, values in found.items():
        joined = torch.cat([chunk[name] for chunk in chunks])
        assert values.dtype == joined.dtype
        assert torch.equal(values, joined), name
        assert values.stride() == joined.stride() or not values.numel(), name
        rows = torch.tensor([5, 0, 5])
        assert values[rows].stride() == joined[rows].stride() or not values.numel()


def test_the_library_of_the_format_reads_it(tmp_path: Path) -> None:
    with safe_open(written(tmp_path / "rows.safetensors"), framework="pt") as file:
        assert file.metadata()["key"] == "k"
        assert torch.equal(file.get_tensor("logits"), tensors()["logits"])


def test_what_is_mapped_outlives_its_file(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.safetensors")
    found = read_rows(path, 7, ABOUT)
    path.unlink()
    assert torch.equal(found["logits"], tensors()["logits"])


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_damaged(tmp_path: Path, part: float) -> None:
    path = written(tmp_path / "rows.safetensors")
    os.truncate(path, int(part * path.stat().st_size))
    with pytest.raises(Unusable, match=r"^damaged$"):
        read_rows(path, 7, ABOUT)


def test_a_bit_flipped_anywhere_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.safetensors")
    content = path.read_bytes()
    for place in [*range(0, len(content), 13), len(content) - 1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(Unusable):
            read_rows(path, 7, ABOUT)
    path.write_bytes(content + b"\0")
    with pytest.raises(Unusable, match=r"^damaged$"):
        read_rows(path, 7, ABOUT)


def test_other_versions_contents_and_rows_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows.safetensors")
    with pytest.raises(Unusable, match=r"^of another content than its name says$"):
        read_rows(path, 7, {**ABOUT, "view": "4"})
    with pytest.raises(Unusable, match=r"^damaged$"):
        read_rows(path, 6, ABOUT)
    monkeypatch.setattr(mapped_rows, "FORMAT", "gkd rows 2")
    with pytest.raises(Unusable, match=r"^of another version$"):
        read_rows(path, 7, ABOUT)
    path.write_bytes(b"\x40" + bytes(7) + json.dumps({"__metadata__": 3}).encode().ljust(64))
    with pytest.raises(Unusable, match=r"^damaged$"):
        read_rows(path, 7, ABOUT)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none", 7, ABOUT)


def test_a_disk_without_room_is_told_before_the_second_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(values.numel() * values.element_size() for values in tensors().values())
    free = 2 * size + SPARED
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))  # type: ignore[attr-defined]
    write_rows(tmp_path / "two", in_chunks(tensors(), 3), 7, ABOUT, copies=2)
    asked: list[int] = []
    chunks = (asked.append(1) or chunk for chunk in in_chunks(tensors(), 3))  # type: ignore[func-returns-value]
    with pytest.raises(OSError, match=r"GiB are needed, and 1 GiB are left") as caught:
        write_rows(tmp_path / "three", chunks, 7, ABOUT, copies=3)
    assert caught.value.errno == errno.ENOSPC
    assert len(asked) == 1
