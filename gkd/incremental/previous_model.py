"""The previous step's model: as a network, as a teacher, and checked where it is the experiment's teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from gkd.core.errors import UserError
from gkd.distill.teacher import Teacher
from gkd.experiment.networks import build_side, load_network, options_of, teacher_section
from gkd.experiment.prepare import Prepared
from gkd.experiment.teachers import load_teacher
from gkd.incremental.problem import as_incremental
from gkd.incremental.step import Step
from gkd.models import EXTRACTORS
from gkd.models.load import Loaded
from gkd.storage.weight_metadata import WeightMetadata


@dataclass(frozen=True)
class Before:
    """The previous step's model.

    Attributes:
        weights: its weight file.
        is_given: whether it is the experiment's teacher, built by the teacher section, not a student of this run.
    """

    weights: Path
    is_given: bool = False


def old_network(prepared: Prepared, before: Before, num_classes: int) -> nn.Module:
    """Load the previous step's network as it was saved, on the run's device."""
    return old_model(prepared, before, num_classes).network


def old_model(prepared: Prepared, before: Before, num_classes: int) -> Loaded:
    """Load the previous step's network as it was saved, on the run's device, with its file's metadata and notes."""
    experiment, settings = prepared.experiment, prepared.settings
    section = teacher_section(experiment) if before.is_given else experiment.student
    metadata = WeightMetadata.read(before.weights)
    options_of(section, metadata, before.weights)  # reports another network before other classes
    if metadata.classes is not None and len(metadata.classes) != num_classes:
        raise UserError(
            f"The model {before.weights} has {len(metadata.classes)} classes, but {num_classes} have come by then; "
            "choose task.base and task.start_from to fit it.",
            code="other-classes",
        )
    loaded = load_network(section, before.weights, prepared.problem.student.train, num_classes)
    network = loaded.network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(loaded, network=network)


def input_statistics(prepared: Prepared, before: Before) -> dict[str, tuple[float, ...]]:
    """Input ``mean`` and ``std`` of the previous step's model."""
    settings = prepared.settings
    if not before.is_given:
        return {"mean": settings.mean, "std": settings.std}
    options = teacher_section(prepared.experiment)
    metadata = WeightMetadata.read(before.weights)
    return {
        "mean": options.mean or metadata.mean or settings.mean,
        "std": options.std or metadata.std or settings.std,
    }


def check_given_model(prepared: Prepared, before: Before, step: Step) -> None:
    """Refuse to let a student grow out of the experiment's teacher where networks or input normalisations differ."""
    experiment, weights, settings = prepared.experiment, before.weights, prepared.settings
    of_model = input_statistics(prepared, before)
    of_student = {"mean": settings.mean, "std": settings.std}
    pairs = (zip(of_student[key], of_model[key], strict=True) for key in of_student)
    if any(abs(a - b) > 1e-3 for values in pairs for a, b in values):
        raise UserError(
            f"The model {weights} has its input normalised by {of_model}, and the student that is to grow out of it by "
            f"{of_student}; set data.mean and data.std to those of the model.",
            code="other-normalisation",
        )
    teacher, student = teacher_section(experiment), experiment.student
    options = options_of(teacher, WeightMetadata.read(weights), weights)
    # The saved network may have been expanded.
    options = {key: value for key, value in options.items() if key != EXTRACTORS}
    if (teacher.network, options) != (student.network, student.options):
        raise UserError(
            f"The model of step {step.start_from + 1} is {teacher.network} with the options {options}, and the student "
            f"{student.network} with {student.options}, which cannot grow out of it; make them the same, or set "
            "task.fresh_student=true.",
            code="other-network",
        )


def check_columns(weights: Path, names: tuple[str, ...]) -> None:
    """Refuse a weight file whose columns are not the classes so far, in the order in which they came."""
    columns = WeightMetadata.read(weights).classes
    if columns is None or columns == names:
        return
    odd = next(name for name, expected in zip(columns, names, strict=True) if name != expected)
    column = columns.index(odd)
    raise UserError(
        f"The model {weights} is of another class order: its column {column} is {odd!r}, where the task has "
        f"{names[column]!r}; set task.order to that of the model, or give a model of these classes.",
        code="other-class-order",
    )


def network_of_step(prepared: Prepared, before: Before | None) -> nn.Module:
    """The network that a step's student starts from: a new one, or the previous step's, checked to fit the student.

    Raises:
        UserError: a given model of other classes, of another network than the student, or normalised otherwise.
    """
    experiment, settings, step = prepared.experiment, prepared.settings, as_incremental(prepared.problem).step
    if before is None or step.fresh:
        torch.manual_seed(settings.seed)
        student = build_side(experiment.student, len(step.seen), prepared.problem.student.train)
        return student.to(settings.device, memory_format=torch.channels_last)
    network = old_network(prepared, before, step.num_old)
    if before.is_given:
        check_given_model(prepared, before, step)
        check_columns(before.weights, step.seen.names[: step.num_old])
    return network


def step_teacher(prepared: Prepared, before: Before) -> tuple[Teacher | None, Prepared]:
    """The teacher of a step, and the run with the teacher's classes.

    None where the method needs no teacher, or where a copy of the network that the student starts from teaches.
    """
    settings, problem = prepared.settings, as_incremental(prepared.problem)
    if not prepared.experiment.method.needs_teacher:
        return None, prepared
    if before.is_given:
        return load_teacher(prepared, before.weights)
    if not problem.step.fresh:
        return None, prepared
    network = old_network(prepared, before, len(problem.relation.teacher))
    teacher = Teacher(network, problem.relation.teacher, mean=settings.mean, std=settings.std)
    return teacher.to(settings.device, memory_format=torch.channels_last), prepared  # type: ignore[call-overload]
