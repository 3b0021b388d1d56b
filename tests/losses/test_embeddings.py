"""Losses on projected embeddings: the authors' code, and what they say of their values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gkd.core.class_means import class_centres
from gkd.losses import CoSSProjectedLoss, coss_loss, norm_direction_loss, rsd_loss
from tests.refusals import refused

from .waves import wave

STUDENT, TEACHER = wave(6, 4, phase=0.2), wave(6, 4, phase=0.9)


def test_redundancy_suppression_is_the_authors() -> None:
    """VISION-SJTU/RSD@be825ae distillers/rsd.py, re-derived."""

    def standard(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-5)

    correlations = standard(TEACHER).T @ standard(STUDENT) / 6
    squares = (correlations - torch.eye(4)) ** 2
    weights = 0.01 + 0.99 * torch.eye(4)
    torch.testing.assert_close(rsd_loss(STUDENT, TEACHER), (weights * squares).sum())


def test_redundancy_suppression_has_a_floor_where_the_teacher_is_correlated() -> None:
    teacher = torch.cat([TEACHER[:, :2], TEACHER[:, :2]], 1)  # each dimension twice
    assert float(rsd_loss(teacher, teacher)) > 0.03
    assert float(rsd_loss(teacher[:1], teacher[:1])) == 4  # one row: D


def test_redundancy_suppression_ignores_scale_and_shift_of_either_side() -> None:
    moved = rsd_loss(100 * STUDENT + 3, 1000 * TEACHER - 5)
    torch.testing.assert_close(moved, rsd_loss(1e4 * STUDENT, 1e4 * TEACHER), rtol=1e-5, atol=0)


def test_space_similarity_without_a_projector_is_the_plain_loss() -> None:
    module = CoSSProjectedLoss((4,), (4,), projector="none", space=0.5)
    assert not list(module.parameters())
    assert torch.equal(module(STUDENT, TEACHER), coss_loss(STUDENT, TEACHER, space=0.5))


def test_norm_and_direction_are_the_authors() -> None:
    """WangYZ1608/Knowledge-Distillation-via-ND@3b2ff1b CIFAR/utils.py, re-derived; means over the training set."""
    train, train_labels = wave(9, 4, phase=0.5), torch.arange(9) % 3
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    student = torch.linspace(0.1, 3, 6)[:, None] * STUDENT  # some shorter than the teacher, some longer
    total = torch.zeros(()).double()
    for s, t, y in zip(student, TEACHER, labels.tolist(), strict=True):
        centre = train[train_labels == y].mean(0)
        total = total + 1 - torch.dot(s, centre / centre.norm()) / max(s.norm(), t.norm())
    centres, _ = class_centres(train, train_labels, 3)
    torch.testing.assert_close(norm_direction_loss(student, TEACHER, centres, labels), total / 6)
    assert len({bool(s.norm() > t.norm()) for s, t in zip(student, TEACHER, strict=True)}) == 2


def test_a_class_without_a_centre_asks_for_nothing() -> None:
    student = STUDENT[:2].clone().requires_grad_()
    value = norm_direction_loss(student, TEACHER[:2], torch.zeros(3, 4).double(), torch.tensor([0, 2]))
    value.backward()
    assert value == 1
    assert student.grad is not None
    assert not student.grad.any()


def test_a_label_beyond_the_centres_is_refused() -> None:
    with refused("labels-out-of-range"):
        norm_direction_loss(STUDENT, TEACHER, torch.ones(3, 4), torch.arange(6))


@pytest.mark.parametrize("loss", [rsd_loss, norm_direction_loss])
def test_widths_that_differ_are_refused(loss: object) -> None:
    more = (torch.ones(3, 4), torch.zeros(6, dtype=torch.int64)) if loss is norm_direction_loss else ()
    with refused("other-widths"):
        loss(STUDENT[:, :3], TEACHER, *more)  # type: ignore[operator]
