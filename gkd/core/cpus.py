"""The CPUs of a process."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """The CPUs that this process may use, shared among the ranks on this machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
