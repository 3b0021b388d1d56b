"""Standard distillation: teacher and student learn the same classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.problems.classes import Classes
from gkd.problems.generations import Generations
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task, TaskOptions


class StandardOptions(TaskOptions):
    """The classes of both sides.

    Attributes:
        classes: some of the data's classes; None takes all, in their natural order. A list is names.
        generations: how many students are trained one after the other, each a run of its own: the first is taught by
            the teacher, every other one by the student before, from other initial weights. A method without a teacher
            has one.
    """

    name: Literal["standard"] = "standard"
    classes: Classes | None = None
    generations: Generations = 1


class Standard(Task):
    """One problem over one label space."""

    Options = StandardOptions
    judges_peers = True
    teacher_classes_key = "task.classes, or with task.name=cross_task in task.teacher_classes"

    def __init__(self, options: StandardOptions) -> None:
        self.options = options

    @staticmethod
    def section(classes: Sequence[str] | None) -> dict[str, Any]:
        """The task section over some classes, or over all of the data's."""
        if classes is None:
            return {"name": "standard"}
        return {"name": "standard", "classes": {"names": list(classes)}}

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        classes = self.options.classes
        relation = LabelRelation(
            classes.select(teacher) if classes else teacher, classes.select(student) if classes else student
        )
        if relation.kind != "same":
            raise UserError(
                f"The standard task needs the same classes on both sides, but they are {relation}; use cross_task.",
                code="other-classes",
            )
        return relation

    def relate(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        raise UserError(
            "The standard task is over the classes of the data on both sides; for a teacher that keeps classes of its "
            "own (teacher.classes, teacher.pretrained), or has none, use task.name=cross_task.",
            code="other-classes",
        )

    def leaves_out_rows(self, *, foreign: bool) -> bool:
        return False

    def taught_by_student(self) -> StandardOptions:
        return self.options

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        relation = self.spaces(teacher.space, student.space)
        yield Problem(
            "student", relation, teacher.restrict(relation.teacher), student.restrict(relation.student)
        )
