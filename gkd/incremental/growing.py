"""The student at the beginning of an incremental step, grown out of the previous step's network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gkd.incremental.accuracy_matrix import exemplar_means
from gkd.incremental.step import Step
from gkd.methods.method import Growth
from gkd.models import CosineHead, ProxyHead, expand, grow_head
from gkd.models.heads import class_proxies
from gkd.training.predictions import predict
from gkd.training.settings import Settings
from gkd.training.stage_run import State


def grow_student(network: nn.Module, step: Step, growth: Growth, settings: Settings) -> nn.Module:
    """Give the previous step's network columns for the new classes and, where growth says so, a further extractor.

    Args:
        network: the previous step's; changed in place, or a part of the network that is returned.
        step: brings the new classes, whose images new columns may be imprinted from.
        growth: the method's.
        settings: how images are fed; its seed draws new columns.
    """
    head: Any = network.head
    means = _imprints(network, head, step, settings) if growth.new == "imprint" else None
    # Another seed each step, so that steps do not draw the same columns.
    torch.manual_seed((settings.seed * 1_000_003 + step.number) % 2**63)
    if growth.extractor == "expand":
        network = expand(network, len(step.new))
        return network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    grow_head(network, len(step.new), init=growth.new, means=means)
    if growth.old == "frozen":
        grown: Any = network.head  # a cosine head, see gkd.incremental.checks.check_growth
        grown.num_frozen = step.num_old
    return network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


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


def _imprints(network: nn.Module, head: Any, step: Step, settings: Settings) -> Tensor:
    """Initial weights of the new columns: each class's mean embedding, or proxies where a class has several."""
    new = step.new_images()
    _, embedding = predict(network, new, settings)
    labels = new.labels.cpu() - step.num_old
    if not isinstance(head, ProxyHead):
        return exemplar_means(embedding, labels, len(step.new))[0]
    of_classes = [embedding[labels == column] for column in range(len(step.new))]
    return torch.stack(
        [class_proxies(rows, num_proxies=head.num_proxies, seed=settings.seed) for rows in of_classes]
    )
