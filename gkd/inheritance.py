"""What an incremental step takes over from the one before: what its student grows out of, and its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gkd.builders import Prepared, build_side, options_of
from gkd.checkpoint import load_weights, read_weights
from gkd.errors import UserError
from gkd.evaluate import predict
from gkd.incremental import Step
from gkd.metrics.incremental import exemplar_means
from gkd.models import EXTRACTORS, CosineHead, ProxyHead, expand, grow_head
from gkd.models.heads import class_proxies
from gkd.task import Problem
from gkd.teacher import Teacher
from gkd.teachers import load_teacher
from gkd.train import State
from gkd.weight_facts import WeightFacts


@dataclass(frozen=True)
class Before:
    """The model of the step before.

    Attributes:
        weights: its file.
        given: whether it is the experiment's teacher, so of its network, rather than a student of this run.
    """

    weights: Path
    given: bool = False


def step_student(prepared: Prepared, before: Before | None) -> nn.Module:
    """The student at the beginning of a step: new, or the old one with columns for the new classes.

    Where the method's growth says so, the old one also has a further extractor.
    """
    experiment, settings = prepared.experiment, prepared.settings
    step, images = prepared.problem.step, prepared.problem.student.train
    assert step is not None
    if before is None or step.fresh:
        torch.manual_seed(settings.seed)
        student = build_side(experiment.student, len(step.seen), images)
        return student.to(settings.device, memory_format=torch.channels_last)
    student = old_network(prepared, before, step.num_old)
    if before.given:
        _check_given_model(prepared, before, step)
        check_columns(before.weights, step.seen.names[: step.num_old])
    growth = experiment.method.growth
    head: Any = student.head
    means = _imprints(student, head, prepared) if growth.new == "imprint" else None
    # Another seed each step, so that the columns of several are not drawn alike.
    torch.manual_seed((settings.seed * 1_000_003 + step.number) % 2**63)
    if growth.extractor == "expand":
        student = expand(student, len(step.new))
        return student.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    grow_head(student, len(step.new), init=growth.new, means=means)
    if growth.old == "frozen":
        grown: Any = student.head
        assert isinstance(grown, CosineHead)  # told before anything is trained
        grown.num_frozen = step.num_old
    return student.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def frozen_columns(student: nn.Module) -> dict[str, Tensor]:
    """The head's frozen rows, by the name of its weight in the student's state; nothing where none is frozen."""
    head: Any = student.head
    if not isinstance(head, CosineHead) or head.num_frozen == 0:
        return {}
    rows = head.weight[: head.num_frozen].detach().clone()
    return {name: rows for name, value in student.state_dict(keep_vars=True).items() if value is head.weight}


def put_back(frozen: Mapping[str, Tensor], *states: State) -> None:
    """Gives frozen rows their lengths back in a student's states.

    Weight decay shortens rows without a gradient too. Their directions, on which alone a cosine depends, stay; but new
    columns are imprinted as long as the old ones are.
    """
    for name, rows in frozen.items():
        for state in states:
            state[name][: len(rows)] = rows


def _imprints(student: nn.Module, head: Any, prepared: Prepared) -> Tensor:
    """What the new columns start from: each class's mean embedding, or proxies of it where a class has several."""
    step = prepared.problem.step
    assert step is not None
    new = step.new_images()
    _, embedding = predict(student, new, prepared.settings)
    labels = new.labels.cpu() - step.num_old
    if not isinstance(head, ProxyHead):
        return exemplar_means(embedding, labels, len(step.new))[0]
    of_classes = [embedding[labels == column] for column in range(len(step.new))]
    return torch.stack(
        [
            class_proxies(rows, num_proxies=head.num_proxies, seed=prepared.settings.seed)
            for rows in of_classes
        ]
    )


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


def _check_given_model(prepared: Prepared, before: Before, step: Step) -> None:
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
