"""The memory that is free: of the machine, its container and the process, whichever has least."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
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


_STEPS = """
import json, resource, sys, torch
from gkd.core.memory import available_memory, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pages():
    return int(open("/proc/self/statm").read().split()[1])

if sys.argv[1] == "kept":
    keep_freed_memory()
sizes = [64, 96, 48, 128]
for size in sizes:
    torch.ones(size * 2**18)
before = faults()
for _ in range(5):
    for size in sizes:
        torch.ones(size * 2**18)
taken, held = faults() - before, pages()
available_memory()
print(json.dumps({"faults": taken, "returned": held - pages()}))
"""


def test_memory_that_is_freed_is_kept_until_somebody_asks_what_is_free() -> None:
    """Large tensors of one step take the pages of the step before."""
    seen = {}
    for how in ("kept", "usual"):
        words = [sys.executable, "-c", _STEPS, how]
        seen[how] = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    assert (
        4 * seen["kept"]["faults"] < seen["usual"]["faults"]
    )  # a thirteenth, or an eighth, as the sizes fall
    assert seen["kept"]["returned"] * resource.getpagesize() > 64 * 2**20
