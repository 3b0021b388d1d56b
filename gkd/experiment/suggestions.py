"""Suggestions: the methods that would work instead of one that cannot, tried on networks with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import nn

from gkd.config import schema
from gkd.config.teacher_sections import alone_with
from gkd.core.errors import UserError
from gkd.distill.side import Guides
from gkd.distill.teacher import Teacher
from gkd.experiment.checks import check_training, plan_of
from gkd.experiment.networks import build_side, options_of, teacher_section
from gkd.methods.method import Method
from gkd.models import takes_option
from gkd.problems.problem import Problem
from gkd.storage.weight_metadata import WeightMetadata
from gkd.training.loop import check_method


def working_methods(
    methods: Mapping[str, Method], experiment: schema.Experiment, problem: Problem
) -> dict[str, Method]:
    """The methods that pass what is checked before the first step of a run, with the experiment's networks.

    Args:
        methods: those to try, by name.
        experiment: the networks and the images' batches.
        problem: the first to train.
    """
    students: dict[str, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        try:
            teachers = _untrained_teachers(experiment, problem)
        except UserError:  # which is for the run's own check to say
            return dict(methods)
        return {
            name: method
            for name, method in methods.items()
            if _works(method, experiment, problem, teachers, students)
        }


def _untrained_teachers(experiment: schema.Experiment, problem: Problem) -> Guides:
    """The experiment's teachers with random weights."""
    if problem.teachers:
        of_each = (
            (name, alone_with(experiment, name), problem.of_teacher(name)) for name in problem.teachers
        )
        return {name: _untrained_teacher(one, its) for name, one, its in of_each}
    return None if experiment.teacher is None else _untrained_teacher(experiment, problem)


def _untrained_teacher(experiment: schema.Experiment, problem: Problem) -> Teacher:
    section, space = teacher_section(experiment), problem.relation.teacher
    options = section.options
    if section.checkpoint is not None:
        options = options_of(section, WeightMetadata.read(section.checkpoint), section.checkpoint)
    network = build_side(section, len(space), problem.student.train.as_teacher_sees, options)
    return Teacher(network, space)


def _works(
    method: Method,
    experiment: schema.Experiment,
    problem: Problem,
    teachers: Guides,
    students: dict[str, nn.Module],
) -> bool:
    """Whether the checks pass with an untrained student; ``students`` holds those that were built, by their options."""
    section = experiment.student
    own = {key: value for key, value in method.network.items() if takes_option(section.network, key)}
    options = {**own, **section.options}
    key = json.dumps(options, sort_keys=True, default=str)
    changed = experiment.model_copy(update={"method": method})
    try:
        problem.check(plan_of(changed))
        if key not in students:
            students[key] = build_side(section, len(problem.student.space), problem.student.train, options)
        check_training(changed, problem, students[key])
        if not problem.old_classes and teachers is not None:
            check_method(method, students[key], teachers, problem)
    except UserError:
        return False
    return True
