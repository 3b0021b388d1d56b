"""The previous step's model: as a network, as a teacher, and checked where it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gkd.core.errors import UserError
from gkd.distill.teacher import Teacher
from gkd.experiment.networks import build_side, options_of
from gkd.experiment.prepare import Prepared
from gkd.experiment.teachers import load_teacher
from gkd.incremental.step import Step
from gkd.models import EXTRACTORS
from gkd.problems.problem import Problem
from gkd.storage.weight_metadata import WeightFacts
from gkd.storage.weights import load_weights, read_weights


@dataclass(frozen=True)
class Before:
    """The model of the step before.

    Attributes:
        weights: its file.
        given: whether it is the experiment's teacher, so of its network, rather than a student of this run.
    """

    weights: Path
    given: bool = False


def old_network(prepared: Prepared, before: Before, num_classes: int) -> nn.Module:
    """The network of the step before, as it was saved."""
    experiment, settings = prepared.experiment, prepared.settings
    section = experiment.teacher if before.given else experiment.student
    assert section is not None
    tensors, metadata = read_weights(before.weights)
    facts = WeightFacts.read(metadata, before.weights)
    options = options_of(section, facts, before.weights, "teacher" if before.given else "student")
    network = build_side(section, num_classes, prepared.problem.student.train, options)
    if facts.classes is not None and len(facts.classes) != num_classes:
        raise UserError(
            f"The model {before.weights} has {len(facts.classes)} classes, but {num_classes} have come by then; choose "
            "task.base and task.start_from to fit it."
        )
    load_weights(network, tensors, name=section.network, path=before.weights)
    return network.to(settings.device, memory_format=torch.channels_last)


def input_statistics(prepared: Prepared, before: Before) -> dict[str, tuple[float, ...]]:
    """By what the model of the step before has its input normalised: ``mean`` and ``std``."""
    settings, options = prepared.settings, prepared.experiment.teacher
    if not before.given:
        return {"mean": settings.mean, "std": settings.std}
    assert options is not None
    facts = WeightFacts.read(read_weights(before.weights)[1], before.weights)
    return {
        "mean": options.mean or facts.mean or settings.mean,
        "std": options.std or facts.std or settings.std,
    }


def check_given_model(prepared: Prepared, before: Before, step: Step) -> None:
    """Refuses to let a student grow out of a given model of another kind, or of other input."""
    experiment, weights, settings = prepared.experiment, before.weights, prepared.settings
    theirs = input_statistics(prepared, before)
    ours = {"mean": settings.mean, "std": settings.std}
    if any(abs(a - b) > 1e-3 for key in ours for a, b in zip(ours[key], theirs[key], strict=True)):
        raise UserError(
            f"The model {weights} has its input normalised by {theirs}, and the student that is to grow out of it by "
            f"{ours}; set data.mean and data.std to those of the model."
        )
    teacher, student = experiment.teacher, experiment.student
    assert teacher is not None
    options = options_of(teacher, WeightFacts.read(read_weights(weights)[1], weights), weights, "teacher")
    # It may be expanded already.
    options = {key: value for key, value in options.items() if key != EXTRACTORS}
    if (teacher.network, options) != (student.network, student.options):
        raise UserError(
            f"The model of step {step.start_from + 1} is {teacher.network} with the options {options}, and the student "
            f"{student.network} with {student.options}, which cannot grow out of it; make them the same, or set "
            "task.fresh_student=true."
        )


def check_columns(weights: Path, names: tuple[str, ...]) -> None:
    """Refuses a given model whose columns are not the classes so far, in the order in which they came."""
    known = WeightFacts.read(read_weights(weights)[1], weights).classes
    if known is None or known == names:
        return
    odd = next(name for name, wanted in zip(known, names, strict=True) if name != wanted)
    column = known.index(odd)
    raise UserError(
        f"The model {weights} is of another class order: its column {column} is {odd!r}, where the task has "
        f"{names[column]!r}; set task.order to that of the model, or give a model of these classes."
    )


def step_teacher(prepared: Prepared, before: Before) -> tuple[Teacher, Problem]:
    """The model of the step before as a teacher."""
    if before.given:
        return load_teacher(prepared, before.weights)
    settings, problem = prepared.settings, prepared.problem
    network = old_network(prepared, before, len(problem.relation.teacher))
    teacher = Teacher(network, problem.relation.teacher, mean=settings.mean, std=settings.std)
    return teacher.to(settings.device, memory_format=torch.channels_last), problem  # type: ignore[call-overload]
