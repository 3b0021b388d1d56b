"""The student at the beginning of an incremental step, grown out of the previous step's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gkd.experiment.networks import build_side
from gkd.experiment.prepare import Prepared
from gkd.incremental.accuracy_matrix import exemplar_means
from gkd.incremental.previous_model import Before, check_columns, check_given_model, old_network
from gkd.models import CosineHead, ProxyHead, expand, grow_head
from gkd.models.heads import class_proxies
from gkd.training.predictions import predict
from gkd.training.stage_run import State


def step_student(prepared: Prepared, before: Before | None) -> nn.Module:
    """Build the student of a step: new, or the previous step's with columns for the new classes.

    Where the method's growth says so, it also gets a further extractor.
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
        check_given_model(prepared, before, step)
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
    """The head's frozen rows by the name of its weight in the student's state; empty where none is frozen."""
    head: Any = student.head
    if not isinstance(head, CosineHead) or head.num_frozen == 0:
        return {}
    rows = head.weight[: head.num_frozen].detach().clone()
    return {name: rows for name, value in student.state_dict(keep_vars=True).items() if value is head.weight}


def put_back(frozen: Mapping[str, Tensor], *states: State) -> None:
    """Restore the lengths of frozen rows in a student's states.

    Weight decay shortens rows without a gradient too. Their directions, on which alone a cosine depends, stay; but new
    columns are imprinted as long as the old ones are.
    """
    for name, rows in frozen.items():
        for state in states:
            state[name][: len(rows)] = rows


def _imprints(student: nn.Module, head: Any, prepared: Prepared) -> Tensor:
    """Initial weights of the new columns: each class's mean embedding, or proxies where a class has several."""
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
