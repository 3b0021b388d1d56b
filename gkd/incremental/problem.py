"""IncrementalProblem: the problem of one step, with the classes of all steps and the exemplars of old ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet, limit_per_class
from gkd.incremental.accuracy_matrix import images_by_step
from gkd.incremental.checks import (
    check_first_model,
    check_growth,
    check_imprints,
    check_incremental,
    check_taught,
)
from gkd.incremental.exemplar_judging import ExemplarJudging, StepJudging
from gkd.incremental.first_method import without_teacher
from gkd.incremental.memory import Memory
from gkd.incremental.memory_file import read_memory
from gkd.incremental.scenario import Steps, seen_classes, step_of_class
from gkd.incremental.step import Rehearsal, Step, first_exemplars, hold_out
from gkd.methods.method import Method
from gkd.problems.plan import Plan
from gkd.problems.problem import NamedTeacher, Problem, Source
from gkd.storage.run_files import STEPS


@dataclass(frozen=True)
class IncrementalProblem(Problem):
    """One step; the student's training images are those of its new classes and, behind them, the exemplars.

    Attributes:
        step: the step's classes, training images and memory.
    """

    step: Step = field(kw_only=True)

    @property
    def old_classes(self) -> tuple[str, ...]:
        return self.step.seen.names[: self.step.num_old]

    @property
    def old_columns(self) -> Tensor:
        columns = torch.zeros(len(self.step.seen), dtype=torch.bool)
        columns[: self.step.num_old] = True
        return columns

    @property
    def solved_by_teacher(self) -> bool:
        return self.step.number <= self.step.start_from

    @property
    def is_first(self) -> bool:
        return self.step.number == 0

    @property
    def is_last(self) -> bool:
        return self.step.number + 1 == len(self.step.steps)

    @property
    def test_sizes(self) -> list[int]:
        """How many test images each step's classes have; 0 for those to come."""
        labels = self.student.test.labels.cpu()
        sizes: list[int] = images_by_step(labels, step_of_class(self.step.steps)).tolist()
        return sizes

    def uses_teacher(self, method: Method) -> bool:
        """True: the experiment's teacher is the first step's model, whatever the method."""
        return True

    def images(self, data: str, *, seed: int) -> ImageSet:
        if data == "new":
            return self.step.new_images()
        return self.step.seen_images() if data == "seen" else super().images(data, seed=seed)

    def limited(self, per_class: int, *, seed: int) -> Self:
        step = replace(self.step, images=limit_per_class(self.step.images, per_class, seed=seed))
        return replace(self, step=step, student=replace(self.student, train=step.new_images()))

    def remembering(self, memory: Memory) -> Self:
        """The problem with the exemplars of old classes behind the new classes' images."""
        return self._at(self.step.with_memory(memory))

    def without(self, held_out: Tensor) -> Self:
        """The problem without some of the training images, in every stage.

        Args:
            held_out: int64 ``[n]``, their numbers (``gkd.incremental.step.hold_out``).
        """
        return self._at(replace(self.step, held_out=held_out))

    def _at(self, step: Step) -> Self:
        return replace(self, step=step, student=replace(self.student, train=step.rehearsed_images()))

    def check(self, plan: Plan) -> None:
        check_incremental(plan, self.step)
        check_first_model(plan, self.step)

    def check_student(self, student: nn.Module, method: Method) -> None:
        check_growth(method, self.step, student)
        unchecked = True
        for problem, _ in self.as_trained(method):
            if problem.step.number == 0:
                continue
            check_imprints(method, student, problem.step)
            if unchecked:  # later steps are of the same networks
                check_taught(problem, method, student)
                unchecked = False

    def as_trained(self, method: Method) -> Iterator[tuple[IncrementalProblem, Method]]:
        """This step and the later ones, with as many exemplars as there will be, the first ones of each class.

        Raises:
            UserError: a class without an image to remember, or with too few to keep some from training.
        """
        step = self.step
        for number in range(step.number, len(step.steps)):
            each = replace(step, number=number)
            old = each.seen.names[: each.num_old]
            if number == 0:
                yield self, without_teacher(method, tuple(self.teachers))
                continue
            if number > step.number or not len(step.memory):
                each = each.with_memory(first_exemplars(each, old))
            relation = LabelRelation(LabelSpace(old), each.seen)
            later = replace(self, name=f"step-{number + 1}", step=each, relation=relation)
            for name, teacher in self.teachers.items():
                later = later.beside(name, teacher.relation.teacher)
            if method.held_out:
                each = replace(each, held_out=hold_out(each, method.held_out, seed=0))
            yield later._at(each), method

    def finished(self, folder: Path) -> Self:
        memory = read_memory(folder / STEPS / str(len(self.step.steps)), self.step)
        return replace(self, judging=ExemplarJudging(self.step, memory))

    def of_file(self) -> Self:
        return replace(self, judging=StepJudging(self.step))

    def beside(self, name: str, classes: LabelSpace) -> IncrementalProblem:
        """The problem with a named teacher of these classes beside the previous step's model."""
        relation = LabelRelation(classes, self.step.seen)
        return self.with_teacher(name, NamedTeacher(relation, self.student))

    def facts(self) -> dict[str, str]:
        images = self.step.images
        shape = "x".join(map(str, images.image_shape))
        return {
            "steps": f"{', '.join(str(len(names)) for names in self.step.steps)} classes",
            "data": f"{len(images)} train images of {shape}",
        }


def as_incremental(problem: Problem) -> IncrementalProblem:
    """The problem, typed as an incremental step; a TypeError where it is none."""
    if not isinstance(problem, IncrementalProblem):
        raise TypeError(f"the problem {problem.name!r} is no incremental step")
    return problem


def step_problems(
    images: Source,
    steps: Steps,
    *,
    rehearsal: Rehearsal,
    start_from: int = 0,
    fresh: bool = False,
    base_epochs: int | None = None,
) -> Iterator[IncrementalProblem]:
    """One problem a step, without exemplars, which the models of earlier steps choose.

    Args:
        images: of all classes, or more.
        steps: the classes that each step brings.
        rehearsal: budget and selection of exemplars.
        start_from, fresh, base_epochs: as of ``Step``.

    Raises:
        UserError: test images of other classes, or a memory of less than an exemplar a class.
    """
    everything = images.restrict(seen_classes(steps, len(steps) - 1))
    rehearsal.per_class(len(everything.space))  # refuses a memory that is too small in the end
    for number in range(len(steps)):
        step = Step(number, steps, everything.train, rehearsal, start_from, fresh, base_epochs)
        old = seen_classes(steps, max(number - 1, 0))
        student = Source(
            step.new_images(),
            everything.validation.restrict(step.seen),
            everything.test.restrict(step.seen),
        )
        teacher = student if number == 0 else everything.restrict(old)
        relation = LabelRelation(old, step.seen)
        yield IncrementalProblem(f"step-{number + 1}", relation, teacher, student, "all", step=step)
