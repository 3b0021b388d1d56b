"""Suggestions: the methods that would work instead of one that cannot, tried on networks with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import nn

from gkd.config import schema
from gkd.core.errors import UserError
from gkd.distill.teacher import Teacher
from gkd.experiment.checks import check_training, plan_of
from gkd.experiment.networks import build_side, options_of
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
            teacher = _untrained_teacher(experiment, problem)
        except UserError:  # which is for the run's own check to say
            return dict(methods)
        return {
            name: method
            for name, method in methods.items()
            if _works(method, experiment, problem, teacher, students)
        }


def _untrained_teacher(experiment: schema.Experiment, problem: Problem) -> Teacher | None:
    section, space = experiment.teacher, problem.relation.teacher
    if section is None:
        return None
    options = section.options
    if section.checkpoint is not None:
        options = options_of(section, WeightMetadata.read(section.checkpoint), section.checkpoint)
    network = build_side(section, len(space), problem.student.train.as_teacher_sees, options)
    return Teacher(network, space)


def _works(
    method: Method,
    experiment: schema.Experiment,
    problem: Problem,
    teacher: Teacher | None,
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
        if not problem.old_classes and teacher is not None:
            check_method(method, students[key], teacher, problem)
    except UserError:
        return False
    return True
