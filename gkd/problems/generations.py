"""Generations of students, each taught by the one before: how the options of a task state them.

Born-again networks (Furlanello, Lipton, Tschannen, Itti, Anandkumar; ICML 2018, section 3): the student of generation
k teaches generation k + 1, which starts from other initial weights; the first is taught by the experiment's teacher.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

GENERATIONS = "generations"  # the option's name
MOST_GENERATIONS = 99

# For a task's options: ``generations: Generations = 1``.
Generations = Annotated[int, Field(ge=1, le=MOST_GENERATIONS)]


def refuse_generations(options: Any, task: str, why: str) -> Any:
    """Refuse the key in the options of a task that has no use for it; for a validator of mode ``before``.

    Args:
        options: as they are written.
        task: its name.
        why: the reason, a clause that follows "In the task NAME".

    Raises:
        ValueError: the options have the key.
    """
    if isinstance(options, dict) and GENERATIONS in options:
        raise ValueError(
            f"{GENERATIONS} is of standard and cross_task, whose student teaches another one over the same classes; in "
            f"the task {task} {why}; drop it"
        )
    return options
