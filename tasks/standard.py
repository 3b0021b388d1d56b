"""Standard distillation: teacher and student learn the same classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gkd.labels import LabelRelation, LabelSpace
from gkd.task import Classes, Problem, Source, TaskOptions


class StandardOptions(TaskOptions):
    """``classes`` selects some of the data's classes; None takes all, in their natural order."""

    name: Literal["standard"] = "standard"
    classes: Classes | None = None


class Standard:
    """One problem over one label space."""

    Options = StandardOptions

    def __init__(self, options: StandardOptions) -> None:
        self.options = options

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        classes = self.options.classes
        if classes is None:
            return LabelRelation(teacher, student)
        return LabelRelation(classes.select(teacher), classes.select(student))

    def problems(self, teacher: Source, student: Source) -> Iterator[Problem]:
        relation = self.spaces(teacher.space, student.space)
        yield Problem(
            "student", relation, teacher.restrict(relation.teacher), student.restrict(relation.student)
        )
