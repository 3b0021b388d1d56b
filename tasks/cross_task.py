"""Cross-task distillation: the student's classes are the teacher's, overlap them, or are all new."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from pydantic import Field, model_validator

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.problems.classes import Classes, Order
from gkd.problems.generations import Generations
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task, TaskOptions

from .teacher_options import options_of_each, own_relation


class CrossTaskOptions(TaskOptions):
    """Two windows over one class order, or an explicit selection for each side.

    Attributes:
        order: the class order of the two windows: ``natural``, a number such as ``"1993"`` (the literature's shuffle)
            or a name of ``gkd.core.class_orders.NAMED_ORDERS``.
        size: the classes of each side: the teacher has ``order[0:size]``.
        shift: the student has ``order[shift : shift + size]``: 0 is the same space, ``size`` is disjoint.
        teacher_classes: the teacher's classes, where there are no windows; None takes every class of its data. Of a
            teacher with classes of its own (``teacher.classes``) those that count.
        student_classes: the student's likewise.
        aliases: student name -> teacher name, for two data sets that name one class differently.
        match: a regular expression: two names are one class where its first match in them is equal. WordNet's ids, as
            of ``n01443537`` and ``n01443537_goldfish``, are ``n\\d{8}``.
        generations: how many students are trained one after the other, each a run of its own: the first is taught by
            the teacher, every other one by the student before, which has the same classes, from other initial weights.
            A method without a teacher has one.
    """

    name: Literal["cross_task"] = "cross_task"
    order: Order = "natural"
    size: int | None = Field(default=None, ge=1)
    shift: int = Field(default=0, ge=0)
    teacher_classes: Classes | None = None
    student_classes: Classes | None = None
    aliases: dict[str, str] = Field(default_factory=dict)
    match: str | None = Field(default=None, min_length=1)
    generations: Generations = 1

    @model_validator(mode="after")
    def _windows_or_selections(self) -> CrossTaskOptions:
        if self.size is not None and (self.teacher_classes or self.student_classes):
            raise ValueError(
                "give windows (order, size, shift) or teacher_classes and student_classes, not both"
            )
        if self.size is None and (self.shift or self.order != "natural"):
            raise ValueError("shift and order describe a window; give its size too")
        return self


class CrossTask(Task):
    """One problem whose two sides may have different classes, and different data sets."""

    Options = CrossTaskOptions
    judges_peers = True

    def __init__(self, options: CrossTaskOptions) -> None:
        self.options = options

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        options = self.options
        if options.size is not None:
            of_teacher = Classes(size=options.size, order=options.order).select(teacher)
        else:
            of_teacher = options.teacher_classes.select(teacher) if options.teacher_classes else teacher
        return LabelRelation(of_teacher, self._students(student), options.aliases, options.match)

    def _students(self, student: LabelSpace) -> LabelSpace:
        options = self.options
        if options.size is not None:
            return Classes(size=options.size, order=options.order, shift=options.shift).select(student)
        return options.student_classes.select(student) if options.student_classes else student

    def relate(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        return own_relation(self.options, teacher, student)

    def leaves_out_rows(self, *, foreign: bool) -> bool:
        options = self.options
        chosen = options.teacher_classes is not None and options.teacher_classes != options.student_classes
        return foreign or options.shift > 0 or chosen

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        relation = self.spaces(teacher.space, student.space)
        yield Problem(
            "student", relation, teacher.restrict(relation.teacher), student.restrict(relation.student)
        )

    def of_each(
        self, classes: Mapping[str, LabelSpace], own: Collection[str], *, unread: bool = False
    ) -> dict[str, Task]:
        each = options_of_each(self.options, classes, own, unread=unread)
        return {name: CrossTask(options) for name, options in each.items()}

    def taught_by_student(self) -> CrossTaskOptions:
        options = self.options
        classes = options.student_classes
        if options.size is not None:
            classes = Classes(size=options.size, order=options.order, shift=options.shift)
        return CrossTaskOptions(
            teacher_classes=classes, student_classes=classes, generations=options.generations
        )

    def for_judging(self) -> CrossTaskOptions:
        return self.options.model_copy(update={"teacher_classes": None, "aliases": {}, "match": None})
