"""Small networks, and a router between two of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.tapped import output_shapes
from gkd.distill.router import Router
from gkd.distill.teacher import Teacher
from gkd.methods.routing import Routing
from gkd.models import build_network


def network(name: str, num_classes: int = 5, *, seed: int = 0, channels: int = 3) -> nn.Module:
    """Weights and statistics that are all different from their defaults."""
    torch.manual_seed(seed)
    options = {"pool": "mean"} if name.startswith("conv4") else {}
    net = build_network(name, num_classes=num_classes, in_channels=channels, **options)
    for entry in net.state_dict().values():
        if entry.is_floating_point() and entry.dim() == 1:
            entry.uniform_(0.5, 1.5)
    return net


def teacher_of(name: str, classes: str = "abcde", *, seed: int = 1) -> Teacher:
    return Teacher(
        network(name, len(classes), seed=seed), LabelSpace([*classes]), mean=(0.5,) * 3, std=(0.25,) * 3
    )


def router_of(
    student: nn.Module,
    teacher: Teacher,
    pairs: list[Any],
    *,
    size: int = 32,
    classes: str = "abcde",
    **options: Any,
) -> Router:
    shapes = (output_shapes(student, (3, size, size)), output_shapes(teacher.network, (3, size, size)))
    relation = LabelRelation(teacher.space, LabelSpace([*classes]))
    return Router(student, teacher, pairs, Routing(policy="adaptive", **options), shapes, relation)


def pictures(size: int = 32, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))
