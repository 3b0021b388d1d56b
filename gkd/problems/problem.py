"""Problem: one distillation to solve: the classes and images of both sides, and how the student is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.core.short_repr import short_repr
from gkd.data import ImageSet, limit_per_class
from gkd.data.fewer_images import evened
from gkd.methods.method import Method
from gkd.methods.stage import WITHOUT_LABELS
from gkd.problems.judging import BY_CLASSES, Judging
from gkd.problems.plan import Plan
from gkd.problems.source import Source

__all__ = ["NamedTeacher", "Problem", "Source"]


@dataclass(frozen=True)
class NamedTeacher:
    """One of several teachers of a problem.

    Attributes:
        relation: its classes against the student's.
        images: of its own classes.
    """

    relation: LabelRelation
    images: Source


@dataclass(frozen=True)
class Problem:
    """One distillation to solve: the classes and images of teacher and student.

    A task whose problems need more extends it, as ``gkd.incremental.problem`` does.

    Attributes:
        name: names the problem within its task, such as ``student`` or ``step-3``.
        relation: teacher against student classes; of several teachers those of the first.
        teacher: images over the teacher's classes, where a teacher is trained here.
        student: images over the student's classes.
        rows: which rows a loss on the teacher's logits sees where the method does not say.
        judging: how the student is judged.
        unlabelled: images without labels, which stages of ``data: unlabelled`` and ``both`` train on; None where there
            are none.
        teachers: those that have a name (``teachers:`` of a config), each of which sees the view of that name.
    """

    name: str
    relation: LabelRelation
    teacher: Source
    student: Source
    rows: Literal["known", "all"] = "known"
    judging: Judging = BY_CLASSES
    unlabelled: ImageSet | None = None
    teachers: Mapping[str, NamedTeacher] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def measured(self) -> ImageSet | None:
        """The images whose mean and std normalise the input where data.mean is not given; None: all to train on."""
        return None

    @property
    def leak(self) -> tuple[str, ...]:
        """Classes kept from training that the teacher knows."""
        return ()

    @property
    def old_classes(self) -> tuple[str, ...]:
        """The student's classes that it knew before this problem, with or without a teacher."""
        return ()

    @property
    def old_columns(self) -> Tensor | None:
        """Bool ``[C]``: the student's columns of ``old_classes``; None where its problems have no order in time."""
        return None

    @property
    def solved_by_teacher(self) -> bool:
        """Whether the experiment's teacher, where there is one, is a student of this problem or of a later one."""
        return False

    def uses_teacher(self, method: Method) -> bool:
        """Whether an experiment's teacher is of use to a run of the method."""
        return method.needs_teacher

    def images(self, data: str, *, seed: int) -> ImageSet:
        """The images of a stage (``Stage.data``); ``seed`` draws where it takes fewer than there are.

        Of a stage on ``both`` they are those with labels.

        Raises:
            UserError: no images without labels for a stage that takes some.
        """
        if data in WITHOUT_LABELS and self.unlabelled is None:
            raise UserError(
                f"data: {data} takes images without labels, and there are none; name their folder or zip by "
                "data.unlabelled.root, or use data: all.",
                code="no-unlabelled-images",
            )
        if data == "unlabelled" and self.unlabelled is not None:
            return self.unlabelled
        if data == "held-out":
            return self.student.validation
        if data == "balanced-memory":
            return evened(self.student.train, seed=seed)
        return self.student.train

    def limited(self, per_class: int, *, seed: int) -> Self:
        """The problem with so many training images of each of the student's classes, drawn by seed."""
        train = limit_per_class(self.student.train, per_class, seed=seed)
        return replace(self, student=replace(self.student, train=train))

    def relation_to(self, teacher: str) -> LabelRelation:
        """The relation of a teacher's classes; ``relation`` where none has that name."""
        return self.teachers[teacher].relation if teacher in self.teachers else self.relation

    def seen_by(self, teacher: str, images: ImageSet) -> ImageSet:
        """Images of the student's with the pixels that a teacher sees as ``as_teacher_sees``."""
        return images.seen_by(teacher) if teacher in self.teachers else images

    def of_teacher(self, teacher: str) -> Self:
        """The problem with one of its named teachers as its only one."""
        one = self.teachers[teacher]
        student = self.student.seen_by(teacher)
        return replace(self, relation=one.relation, teacher=one.images, student=student, teachers={})

    def with_teacher(self, name: str, teacher: NamedTeacher) -> Self:
        """The problem with a named teacher in place of the one of that name, or beside the others."""
        return replace(self, teachers={**self.teachers, name: teacher})

    def with_relation(self, relation: LabelRelation) -> Self:
        """The problem with a teacher whose classes stand in other columns."""
        return replace(self, relation=relation)

    def check(self, plan: Plan) -> None:
        """Refuse a plan that the problem does not allow, before anything is built.

        Raises:
            UserError: a method with rules for incremental steps; a subclass has others.
        """
        method = plan.method
        if method.after:
            raise UserError(
                f"The method {method.name!r} ends every incremental step by {' and '.join(method.after)}, but "
                f"{plan.task} has no steps; use a task that has (from Python: gkd.incremental.learn_step), or do "
                "without by method.after=[].",
                code="needs-steps",
            )

    def check_student(self, student: nn.Module, method: Method) -> None:
        """Refuse a newly built student with which a later problem would fail; here there is no later one."""

    def as_trained(self, method: Method) -> Iterator[tuple[Problem, Method]]:
        """This problem, and the later ones of its run, each with the part of the method that trains on it.

        They are for checks before training: images are chosen where a trained network would choose them.
        """
        yield self, method

    def finished(self, folder: Path) -> Self:
        """The problem as a finished run left it in its folder, to judge its student again."""
        return self

    def of_file(self) -> Self:
        """The problem for judging a network that is no run's, from its weight file alone."""
        return self

    def facts(self) -> dict[str, str]:
        """Lines for a dry run: a label of up to nine letters -> its text."""
        parts = {"train": self.student.train, "validation": self.student.validation}
        counts = ", ".join(f"{len(images)} {part}" for part, images in parts.items())
        shape = "x".join(map(str, self.student.train.image_shape))
        without = "" if self.unlabelled is None else f"{len(self.unlabelled)} unlabelled, "
        return {
            "relation": str(self.relation),
            "data": f"{counts}, {without}{len(self.student.test)} test images of {shape}",
        }
