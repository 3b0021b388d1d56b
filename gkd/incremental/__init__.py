"""Incremental learning: steps, exemplar memory, growing heads, accuracy matrices.

From Python: `class_steps` divides classes into steps, a `Step` describes one, `learn_step` trains a network on it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gkd.incremental.from_python import StepOutcome, learn_step
    from gkd.incremental.memory import Memory
    from gkd.incremental.scenario import class_steps, seen_classes
    from gkd.incremental.step import Rehearsal, Step

__all__ = ["Memory", "Rehearsal", "Step", "StepOutcome", "class_steps", "learn_step", "seen_classes"]

_PLACES = {
    "Memory": "gkd.incremental.memory",
    "Rehearsal": "gkd.incremental.step",
    "Step": "gkd.incremental.step",
    "StepOutcome": "gkd.incremental.from_python",
    "class_steps": "gkd.incremental.scenario",
    "learn_step": "gkd.incremental.from_python",
    "seen_classes": "gkd.incremental.scenario",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that importing one module of the package does not import all."""
    if name not in _PLACES:
        raise AttributeError(f"module 'gkd.incremental' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
