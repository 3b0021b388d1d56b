"""The ranges of losses' options."""

from __future__ import annotations

import math
from typing import Any

from gkd.core.errors import UserError, unknown

# Option -> its least and its greatest value; None: no bound. Where the least is OPEN, it must be larger than 0.
OPEN = 1e-12


RANGES: dict[str, tuple[float | None, float | None]] = {
    "alpha": (0, None),
    "bandwidth": (OPEN, None),
    "beta": (0, None),
    "degree": (1, None),
    "dim": (1, None),
    "gamma": (0, None),
    "hardest": (1, None),
    "initial_variance": (1e-4, None),
    "label_smoothing": (0, 1),
    "margin": (0, None),
    "momentum": (0, 1),
    "negatives": (1, None),
    "order": (0, None),
    "power": (OPEN, None),
    "queue": (0, None),
    "rate": (OPEN, None),
    "student_temperature": (OPEN, None),
    "teacher_temperature": (OPEN, None),
    "temperature": (OPEN, None),
}


def range_problem(name: str, value: Any) -> str | None:
    """Why a number is no value of an option, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return f"{name}={value!r} is not a finite number"
    least, greatest = RANGES.get(name, (None, None))
    if least is not None and value < least:
        return f"{name}={value!r} is {'not above 0' if least == OPEN else f'below {least:g}'}"
    if greatest is not None and value > greatest:
        return f"{name}={value!r} is above {greatest:g}"
    return None


def check_numbers(**options: float) -> None:
    """Refuses numbers outside the range of the option of their name."""
    for name, value in options.items():
        problem = range_problem(name, value)
        if problem is not None:
            raise UserError(f"{problem}; choose another value.")


def check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a word that an option does not know."""
    if value not in allowed:
        raise UserError(unknown(name, value, allowed))
