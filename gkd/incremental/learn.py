"""Train one incremental step: networks, images and options in, the student and its memory out; no config."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.distill.side import Guides
from gkd.distill.teacher import Teacher
from gkd.incremental.answers import Answers, step_answers
from gkd.incremental.first_method import without_teacher
from gkd.incremental.growing import frozen_columns, grow_student, put_back
from gkd.incremental.head_rules import RULES, AfterStep
from gkd.incremental.problem import IncrementalProblem
from gkd.incremental.step import hold_out
from gkd.methods.method import Method
from gkd.methods.term_checks import PREVIOUS
from gkd.training.loop import fit
from gkd.training.predictions import predict
from gkd.training.progress import Reporter
from gkd.training.settings import Settings
from gkd.training.stage_run import Position, State


@dataclass(frozen=True)
class Learnt:
    """A step's student after training, with the method's rules applied.

    Attributes:
        problem: as it was trained on; its step has the memory from before, and the held-out images.
        method: as it was applied: in the first step without the terms that need a teacher.
        epochs: stage -> its epochs.
        student: in the state of its last epoch.
        teacher: the one it learnt from; None without a teacher.
        last, best: states after the last epoch and after the one that validation chose, rules not applied.
        position: where training ended.
        rules: rule -> its numbers.
        answers: to the test images, with the memory after the step.
        seconds: time spent beside training.
    """

    problem: IncrementalProblem
    method: Method
    epochs: Mapping[str, int]
    student: nn.Module
    teacher: Teacher | None
    last: State
    best: State
    position: Position
    rules: Mapping[str, Mapping[str, float]]
    answers: Answers
    seconds: float

    def scores(self) -> Tensor:
        """``[N, C]`` of the test images, by the head or the exemplar means, as the method has it."""
        return self.answers.scores(by_head=self.method.judged_by_head)

    def at_best(self, settings: Settings) -> Learnt:
        """The step with the answers of the best epoch's student; puts the student into that state, rules applied."""
        if all(torch.equal(value, self.best[name]) for name, value in self.last.items()):
            return self
        apply_rules(self.student, self.best, self.method, self.problem, settings)
        return replace(self, answers=step_answers(self.student, self.problem, settings, self.answers.memory))


def train_step(
    problem: IncrementalProblem,
    network: nn.Module,
    method: Method,
    settings: Settings,
    *,
    folder: Path | None,
    reporter: Reporter,
    epochs: int | None = None,
    teacher: Teacher | None = None,
    beside: Mapping[str, Teacher] | None = None,
) -> Learnt:
    """Train the student of one step, apply the method's rules, answer the test images and choose exemplars.

    Args:
        problem: the step, with the memory from before it (`IncrementalProblem.remembering`).
        network: of the step before, which grows by the new classes; of the first step, and of one that starts
            afresh (``Step.fresh``), the student itself.
        method: the method.
        settings: how a student is trained, whatever the method.
        folder: for the files of training, which resumes from a checkpoint there; None writes nothing.
        reporter: prints progress.
        epochs: of all stages together; None takes the method's own numbers.
        teacher: of the classes before; None takes a copy of the network as it was before it grew.
        beside: further teachers by name, which ``problem.teachers`` has too, for terms that name them; the one of the
            classes before is then called ``previous``.

    Raises:
        UserError: a step that starts afresh, by a method that needs a teacher, without one; a student that
            cannot grow, or a term that does not fit the networks.
        Interrupted: a signal asked to stop; everything is saved.
    """
    started = time.monotonic()
    step = problem.step
    first = step.number == 0
    method = without_teacher(method, tuple(beside or ())) if first else method
    of_stages = method.epochs((step.base_epochs if first else None) or epochs)
    if method.held_out and not first:
        problem = problem.without(hold_out(step, method.held_out, seed=settings.seed))
    if first or not method.needs_teacher:
        teacher = None
    elif teacher is None and step.fresh:
        raise UserError(
            f"The student of step {step.number + 1} is a new network, which is taught by the one before; give it as "
            "the teacher.",
            code="needs-teacher",
        )
    elif teacher is None:
        teacher = _copy_as_teacher(network, problem, settings)
    student = network if first or step.fresh else grow_student(network, problem.step, method.growth, settings)
    frozen = frozen_columns(student)
    seconds = time.monotonic() - started
    guides: Guides = teacher
    if beside:
        guides = {**({} if teacher is None else {PREVIOUS: teacher}), **beside}
    last, best, position = fit(student, guides, problem, method, of_stages, settings, folder, reporter)
    put_back(frozen, last, best)
    started = time.monotonic()
    rules = apply_rules(student, last, method, problem, settings)
    answers = step_answers(student, problem, settings)
    seconds += time.monotonic() - started
    return Learnt(problem, method, of_stages, student, teacher, last, best, position, rules, answers, seconds)


def _copy_as_teacher(network: nn.Module, problem: IncrementalProblem, settings: Settings) -> Teacher:
    """A copy of the previous step's network, which teaches its classes."""
    teacher = Teacher(copy.deepcopy(network), problem.relation.teacher, mean=settings.mean, std=settings.std)
    return teacher.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def apply_rules(
    student: nn.Module, state: State, method: Method, problem: IncrementalProblem, settings: Settings
) -> dict[str, dict[str, float]]:
    """Load a state into the student and apply the method's rules to it; returns their numbers."""
    student.load_state_dict(state)
    step = problem.step
    if step.num_old == 0:
        return {}

    def held_out() -> tuple[Tensor, Tensor]:
        images = step.chosen(step.held_out)
        return predict(student, images, settings)[0], images.labels.cpu()

    after = AfterStep(student, step.num_old, held_out)
    return {name: RULES[name](after) for name in method.after}
