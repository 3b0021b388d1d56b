"""Activation boundaries: the authors' numbers, and where there are connectors.

The number is that of HobbitLong/RepDistiller@b84f547 distiller_zoo/AB.py, when run in float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gkd.losses import BoundaryLoss, Regressor, boundary_loss
from tests.refusals import refused

from .waves import wave

SHAPES = [(4, 4, 4), (4, 2, 2)]


def test_it_is_the_benchmarks() -> None:
    students = [wave(3, *shape, phase=phase) for shape, phase in zip(SHAPES, (0.2, 0.3), strict=True)]
    teachers = [wave(3, *shape, phase=phase) for shape, phase in zip(SHAPES, (0.9, 1.1), strict=True)]
    loss = BoundaryLoss(SHAPES, SHAPES)(students, teachers)
    assert 3 / 1000 * float(loss) == pytest.approx(0.21458094078973042, rel=1e-12)


def test_a_connector_stands_where_the_shapes_differ() -> None:
    module = BoundaryLoss([(4, 4, 4), (4, 2, 2)], [(4, 4, 4), (6, 4, 4)])
    kinds = [type(connector) for connector in module.connectors]
    assert kinds == [nn.Identity, Regressor]
    assert not module.connectors[1].relu


def test_units_beyond_the_margin_on_the_teachers_side_are_left_alone() -> None:
    teacher = torch.tensor([2.0, -2.0]).view(1, 2, 1, 1)
    student = torch.tensor([1.5, -1.5]).view(1, 2, 1, 1).requires_grad_()
    loss = boundary_loss(student, teacher)
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()
    assert boundary_loss(-student, teacher) == 2 * 2.5**2


def test_other_shapes_are_refused() -> None:
    with refused("other-shapes"):
        boundary_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
