"""Middle-shot: fixed small tasks over novel classes, on which a student is trained with a teacher of other classes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet, gather
from gkd.data.episodes import draw_episodes
from gkd.few_shot.classifiers import known_classifiers
from gkd.few_shot.problem import FewShotProblem
from gkd.few_shot.task_judging import FrozenClassifiers
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task

from .splits import (
    ClassSplitOptions,
    check_apart,
    leak,
    novel_among,
    novel_classes,
    of_classes,
    parts_of,
    sides,
    teacher_task,
    validation_classes,
    with_own_teacher,
    without_teacher,
)
from .teacher_options import options_of_each, own_relation


class MiddleShotOptions(ClassSplitOptions):
    """The class split, and the tasks over its novel classes.

    Attributes:
        ways: N classes a task.
        shots: K images of each to train on; the tasks of fewer shots have the first images of those of more.
        most_shots: the largest K that is compared: classes and test images are those of its tasks, for every K.
        queries: Q images of each class to test on.
        tasks: how many there are; ``run.seed`` is the number of the task, from 0.
        draw: seed of all tasks.
        frozen: classifiers on the embedding that the student starts from, judged on the same images.
    """

    name: Literal["middle_shot"] = "middle_shot"
    ways: int = Field(default=5, ge=2)
    shots: int = Field(default=5, ge=1)
    most_shots: int = Field(default=30, ge=1)
    queries: int = Field(default=15, ge=1)
    tasks: int = Field(default=20, ge=1)
    draw: int = Field(default=0, ge=0, lt=2**63)
    frozen: Annotated[tuple[str, ...], AfterValidator(known_classifiers)] = ("nearest-mean", "logistic")


# The novel class of data that names none before its test images are read.
_PLACEHOLDER = "a novel class"


class MiddleShotTask(Task):
    """One problem a seed: N novel classes, K images of each; the teacher knows the base classes alone."""

    Options = MiddleShotOptions

    def __init__(self, options: MiddleShotOptions) -> None:
        self.options = options

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation of the teacher's classes to those of the tasks: disjoint but for what leaks."""
        of_teacher = sides(self.options, teacher, student).teacher
        # Where only the test images name the novel classes, a placeholder stands for them until those are read.
        return LabelRelation(of_teacher, novel_among(self.options, student) or LabelSpace([_PLACEHOLDER]))

    def relate(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        of_base: dict[str, Any] = {"aliases": {}}
        if _PLACEHOLDER in student:
            of_base["match"] = None
        return own_relation(self.options.model_copy(update=of_base), teacher, student)

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        options = self.options
        if seed >= options.tasks:
            raise UserError(
                f"run.seed={seed} is no task: there are {options.tasks}, from 0; raise task.tasks (which draws "
                "others).",
                code="seed-out-of-range",
            )
        relation = sides(options, teacher.space, student.space)
        validation, novel = validation_classes(options, student), novel_classes(options, student)
        check_apart({"base": relation.student, "validation": validation, "novel": novel})
        leaked = leak(options, relation, novel)
        images = gather(parts_of(student), novel)
        most = max(options.most_shots, options.shots)
        drawn = draw_episodes(
            images.labels, count=options.tasks, ways=options.ways, shots=most, queries=options.queries,
            seed=options.draw, classes=novel.names,
        ).with_shots(options.shots)  # fmt: skip
        space = novel.select(drawn.classes[seed].tolist())
        train, test = (_of_task(images, index[seed], space) for index in (drawn.support, drawn.query))
        # Too few images to hold any out: nothing is chosen on these, and the last epoch's student is the result.
        of_student = Source(train, train, test, held_out=False)
        of_task = LabelRelation(relation.teacher, space)  # aliases are of base classes
        of_teacher = of_classes(teacher, relation.teacher)
        measured = student.train.restrict(relation.student)
        judging = FrozenClassifiers(options.frozen)
        yield FewShotProblem(
            "student", of_task, of_teacher, of_student, measured=measured, judging=judging, leak=leaked
        )

    def with_own_teacher(self, problem: Problem, classes: LabelSpace) -> Problem:
        novel = problem.relation.student
        return with_own_teacher(self.options, problem, self.relate(classes, novel), novel)

    def teacher_task(self) -> dict[str, Any] | None:
        return teacher_task(self.options)

    def of_each(
        self, classes: Mapping[str, LabelSpace], own: Collection[str], *, unread: bool = False
    ) -> dict[str, Task]:
        each = options_of_each(self.options, classes, own, unread=unread)
        return {name: MiddleShotTask(options) for name, options in each.items()}

    def for_judging(self) -> MiddleShotOptions:
        return without_teacher(self.options)


def _of_task(images: ImageSet, index: Tensor, space: LabelSpace) -> ImageSet:
    """The images at ``index [N, K]``, one class after the other in the order of ``space``."""
    chosen = images.select(index.flatten())
    columns = torch.arange(len(space)).repeat_interleave(index.shape[1])
    return replace(chosen, labels=columns.to(chosen.labels.device), space=space)
