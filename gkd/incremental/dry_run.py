"""The steps that a dry run tries, with networks that are not trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from gkd.config import schema
from gkd.config.teacher_sections import named_teachers_read
from gkd.distill.teacher import Teacher
from gkd.experiment.networks import build_side, teacher_section
from gkd.experiment.prepare import Prepared
from gkd.experiment.teacher_classes import of_named
from gkd.experiment.teachers import check_checksum, load_teacher
from gkd.experiment.trial import Trial
from gkd.incremental.first_method import without_teacher
from gkd.incremental.growing import grow_student
from gkd.incremental.memory import Memory, choose_exemplars
from gkd.incremental.previous_model import Before, check_columns, network_of_step, old_network
from gkd.incremental.problem import IncrementalProblem, as_incremental
from gkd.methods.term_checks import PREVIOUS
from gkd.models import EXTRACTORS


def step_trials(prepared: Prepared) -> Iterator[Trial]:
    """The first step to train and, where that has no teacher, the one after it."""
    experiment = prepared.experiment
    beside: dict[str, Teacher] = {}
    for name in named_teachers_read(experiment):
        alone = prepared.of_teacher(name)
        with of_named(name):
            beside[name], _ = load_teacher(alone, teacher_section(alone.experiment).checkpoint)
    for each in prepared.sides.problems():
        problem = as_incremental(each)
        for name, teacher in beside.items():
            problem = problem.beside(name, teacher.space)
        step = problem.step
        if step.number == 0 and experiment.teacher is None:
            method = without_teacher(experiment.method, tuple(beside))
            epochs = method.epochs(step.base_epochs or experiment.run.epochs)
            yield Trial("step 1", problem, method, epochs, prepared.student, beside or None)
        elif step.number == step.start_from + 1:
            yield _with_old_classes(prepared, problem, beside)
            return


def _with_old_classes(
    prepared: Prepared, problem: IncrementalProblem, beside: Mapping[str, Teacher]
) -> Trial:
    """The first step that has old classes: random exemplars of them, a student of all classes, a teacher of the old."""
    experiment, settings, step = prepared.experiment, prepared.settings, problem.step
    method, space = experiment.method, problem.relation.teacher
    per_class = step.rehearsal.per_class(len(space))
    exemplars = {}
    if per_class:
        exemplars = choose_exemplars(step.images, list(space), per_class, selection="random")
    problem = problem.remembering(Memory(exemplars))
    images = problem.student.train
    extractors = {EXTRACTORS: 2} if method.growth.extractor == "expand" else {}
    student = build_side(
        experiment.student, len(problem.student.space), images, experiment.student.options | extractors
    )
    before = build_side(experiment.teacher or experiment.student, len(space), images)
    if experiment.teacher is not None and experiment.teacher.checkpoint is not None:
        weights = experiment.teacher.checkpoint
        before = _load_given_model(prepared.with_problem(problem), experiment.teacher, weights)
    teacher = Teacher(before, space, mean=settings.mean, std=settings.std)
    for network in (student, teacher):
        network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trial(
        f"step {step.number + 1}",
        problem,
        method,
        method.epochs(experiment.run.epochs),
        student,
        ({PREVIOUS: teacher, **beside} if beside else teacher) if method.needs_teacher else None,
        times=len(step.steps) - step.start_from - 1,  # later steps are much like the first with a teacher
    )


def _load_given_model(prepared: Prepared, teacher: schema.Teacher, weights: Path) -> nn.Module:
    """Load the given model; refuse one that this run cannot start from."""
    step = as_incremental(prepared.problem).step
    check_checksum(teacher, weights)
    before = Before(weights, is_given=True)
    if not step.fresh:  # refuses a model that the student cannot grow out of
        network = network_of_step(prepared, before)
        grow_student(network, step, prepared.experiment.method.growth, prepared.settings)
    network = old_network(prepared, before, step.num_old)
    check_columns(weights, step.seen.names[: step.num_old])
    return network
