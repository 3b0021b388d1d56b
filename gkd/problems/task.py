"""Between whom: what a task adapter is, what it yields, and how adapters are found."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.problems.problem import Problem, Source

# Adapters by name, found through the entry-point group, so that a third party's are found too.
TASKS: dict[str, EntryPoint] = {point.name: point for point in entry_points(group="gkd.tasks")}


class TaskOptions(BaseModel):
    """Base of a task's options: its keys in the ``task`` section of an experiment file.

    Attributes:
        UNPICKLES: dotted keys of the options that name files whose content is unpickled, which is to run it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    UNPICKLES: ClassVar[tuple[str, ...]] = ()

    name: str


class Task(Protocol):
    """A task adapter: the only thing that knows which classes and images each side has.

    One that wants a teacher to be trained in another way than by the standard task over its classes has a method
    ``teacher_task() -> dict`` with the task section of the run that trains it. One whose problems follow from each
    other, the student of one being the teacher of the next, says ``students_teach = True``.
    """

    Options: type[TaskOptions]

    def __init__(self, options: Any) -> None: ...

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation over the data sets' full spaces; needs no image, so it can refuse early."""
        ...

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        """The problems in the order in which they are solved; ``seed`` is that of the run, for tasks that draw."""
        ...


def students_teach(name: str) -> bool:
    """Whether the students of a task teach the next ones, so that its methods need no other teacher."""
    return bool(getattr(TASKS[name].load(), "students_teach", False))
