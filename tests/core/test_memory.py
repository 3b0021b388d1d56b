"""The memory that is free: of the machine, its container and the process, whichever has least."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from gkd.core import memory
from tests.refusals import refused


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 4 GiB, 3 of which are free, without a container."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(
        "MemTotal: 4194304 kB\nMemFree: 12 kB\nMemAvailable: 3145728 kB\n"
    )
    (tmp_path / "proc" / "self" / "statm").write_text("262144 1 1 1 0 1 0\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    return tmp_path


def contained(folder: Path, limit: str, used: str, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")


def test_the_least_of_machine_container_and_process(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.available_memory() == 3 * 2**30
    second = ("memory.max", "memory.current")
    contained(machine / "cgroup", "max", str(2**30), second)
    assert memory.available_memory() == 3 * 2**30
    contained(machine / "cgroup", str(2 * 2**30), str(2**30), second)
    assert memory.available_memory() == 2**30
    (machine / "cgroup" / "memory.stat").write_text(f"anon 1\ninactive_file {2**29}\nactive_file {2**28}\n")
    assert memory.available_memory() == 2**30 + 2**29 + 2**28
    for name in second:
        (machine / "cgroup" / name).unlink()
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    contained(machine / "cgroup" / "memory", str(2 * 2**30), str(2 * 2**30), first)
    assert memory.available_memory() == 0
    for name in first:
        (machine / "cgroup" / "memory" / name).unlink()
    page = resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (262144 * page + 2**20, resource.RLIM_INFINITY))
    assert memory.available_memory() == 2**20


def test_what_takes_more_is_refused(machine: Path) -> None:
    memory.check_memory(3 * 2**30, "A list", "make it shorter")
    with refused("memory-missing"):
        memory.check_memory(3 * 2**30 + 1, "A list", "make it shorter")


def test_a_system_that_says_nothing_refuses_nothing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "proc" / "meminfo").unlink()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert memory.available_memory() is None
    memory.check_memory(2**60, "A list", "make it shorter")
