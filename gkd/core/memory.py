"""The memory that is free, and the check of what an allocation would take before it is made."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gkd.core.errors import UserError

# Of mallopt(3): when the end of the heap goes back to the system, and from which size an allocation is its own mapping.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _NEVER = -1, -3, 2**31 - 1
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what takes more memory than is free.

    Args:
        needed: bytes.
        what: the beginning of the sentence, what takes them.
        remedy: its end, what to do.

    Raises:
        UserError: more bytes than are free.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise UserError(
            f"{what} would take {gigabytes(needed)} of memory, and {gigabytes(free)} are free; {remedy}.",
            code="memory-missing",
        )


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, for those of the next step.

    By default glibc returns every large allocation to the system and asks for it anew, page by page: on a CPU up to a
    tenth of a training step, and a quarter to two thirds of a teacher's pass (``benchmarks/freed_memory.py``). Results
    are the same, and ``available_memory`` returns what is unused before it looks. Does nothing where the C library is
    another.
    """
    libc = _glibc()
    if libc is not None:
        # Before version 2.37 or so 32 MiB is the most that is taken; either call ends glibc's own adapting.
        if not libc.mallopt(_MMAP_THRESHOLD, _NEVER):
            libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def gigabytes(size: int) -> str:
    """Bytes as GiB, to two digits: ``1.2 GiB``."""
    size_in_gigabytes = size / 2**30
    return f"{size_in_gigabytes:.0f} GiB" if size_in_gigabytes >= 10 else f"{size_in_gigabytes:.2g} GiB"


def available_memory() -> int | None:
    """Bytes that this process can still take: of the machine, its container and its own limit the least.

    None where the system says nothing.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    return min((free for free in _limits() if free is not None), default=None)


def _limits() -> Iterator[int | None]:
    yield _of_machine()
    yield _of_container()
    yield _of_process()


def _of_machine() -> int | None:
    try:
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _of_container() -> int | None:
    """What the innermost control group leaves, the files in its page cache counted as free."""
    for limit, used, folder in (
        ("memory.max", "memory.current", _CGROUP),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", _CGROUP / "memory"),
    ):
        try:
            most, now = (int((folder / name).read_text()) for name in (limit, used))
            return max(most - now + _page_cache(folder), 0)
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
    return None


def _page_cache(folder: Path) -> int:
    try:
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(facts.get("inactive_file", 0)) + int(facts.get("active_file", 0))


def _of_process() -> int | None:
    """What ``ulimit -v`` leaves."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int((_PROC / "self" / "statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        used = 0
    return max(limit - used, 0)
