"""The steps that a dry run tries, with networks that are not trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from gkd.distill.teacher import Teacher
from gkd.experiment.networks import build_side
from gkd.experiment.prepare import Prepared, problems_of
from gkd.experiment.teachers import check_checksum
from gkd.incremental.growing import step_student
from gkd.incremental.loop import remembering, without_teacher
from gkd.incremental.memory import Memory, choose_exemplars
from gkd.incremental.previous_model import Before, check_columns, old_network
from gkd.methods.method import Method
from gkd.models import EXTRACTORS
from gkd.problems.problem import Problem


@dataclass(frozen=True)
class Rehearsed:
    """A step as a dry run tries it, with networks that are not trained."""

    problem: Problem
    method: Method
    epochs: dict[str, int]
    student: nn.Module
    teacher: Teacher | None


def rehearse_steps(prepared: Prepared) -> Iterator[Rehearsed]:
    """The first step to train and, where that has no teacher, the one after it."""
    experiment, settings = prepared.experiment, prepared.settings
    method, epochs = experiment.method, experiment.run.epochs
    for problem in problems_of(experiment, settings.caches):
        step = problem.step
        assert step is not None
        if step.number == 0 and experiment.teacher is None:
            alone = without_teacher(method)
            own = alone.epochs(step.base_epochs or epochs)
            yield Rehearsed(problem, alone, own, prepared.student, None)
        elif step.number == step.start_from + 1:
            per_class = step.rehearsal.per_class(len(problem.relation.teacher))
            old = list(problem.relation.teacher)
            exemplars = choose_exemplars(step.images, old, per_class, selection="random") if per_class else {}
            problem = remembering(problem, Memory(exemplars))
            images = problem.student.train
            options = experiment.student.options | (
                {EXTRACTORS: 2} if method.growth.extractor == "expand" else {}
            )
            student = build_side(experiment.student, len(problem.student.space), images, options)
            before = build_side(experiment.teacher or experiment.student, len(old), images)
            if experiment.teacher is not None and experiment.teacher.checkpoint is not None:
                before = _given_network(replace(prepared, problem=problem), experiment.teacher.checkpoint)
            teacher = Teacher(before, problem.relation.teacher, mean=settings.mean, std=settings.std)
            for network in (student, teacher):
                network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            yield Rehearsed(
                problem, method, method.epochs(epochs), student, teacher if method.needs_teacher else None
            )
            return


def _given_network(prepared: Prepared, weights: Path) -> nn.Module:
    """The given model, where it is one that this run can start from."""
    step, options = prepared.problem.step, prepared.experiment.teacher
    assert step is not None
    assert options is not None
    check_checksum(options, weights)
    before = Before(weights, given=True)
    if not step.fresh:
        step_student(prepared, before)  # refuses what the student cannot grow out of
    network = old_network(prepared, before, step.num_old)
    check_columns(weights, step.seen.names[: step.num_old])
    return network
