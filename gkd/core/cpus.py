"""The CPUs of a process."""

from __future__ import annotations

import os

from gkd.core.errors import UserError, shown

_MOST_DIGITS = 6  # of a number of threads or ranks


def available_cpus() -> int:
    """The CPUs that this process may use, shared among the ranks on this machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(allowed // (whole_number("LOCAL_WORLD_SIZE") or 1), 1)


def whole_number(variable: str) -> int | None:
    """A number above 0 in the environment; None where the variable is not set.

    Of a list, which OpenMP takes for nested threads (``4,2``), the first counts.

    Raises:
        UserError: something else.
    """
    stated = os.environ.get(variable, "").strip()
    first = stated.split(",")[0].strip()
    if first.isascii() and first.isdecimal() and len(first) <= _MOST_DIGITS and int(first) > 0:
        return int(first)
    if not stated:
        return None
    raise UserError(
        f"The environment variable {variable} is {shown(stated)}; it is a number such as 4, or unset it.",
        code="environment-variable",
    )
