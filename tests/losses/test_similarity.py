"""Similarity-preserving: the authors' verified code, invariances, and the scale with the batch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.losses import sp_loss

from .waves import wave


def verified_form(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """HobbitLong/RepDistiller@b84f547 distiller_zoo/SP.py ("verified by original author"), re-derived."""
    student, teacher = student_map.flatten(1), teacher_map.flatten(1)
    difference = F.normalize(teacher @ teacher.T, dim=1) - F.normalize(student @ student.T, dim=1)
    return difference.pow(2).mean()


def test_equals_the_verified_code() -> None:
    student, teacher = wave(5, 3, 2, 2, phase=0.2), wave(5, 4, 3, 3, phase=0.9)
    loss = sp_loss(student, teacher)
    torch.testing.assert_close(loss, verified_form(student, teacher))
    assert float(loss) == pytest.approx(0.021916603959750224, rel=1e-12)  # that code, when run


def test_does_not_change_with_the_scale_of_a_network() -> None:
    student, teacher = wave(5, 3, 2, 2, phase=0.2), wave(5, 4, 3, 3, phase=0.9)
    torch.testing.assert_close(sp_loss(1e3 * student, 1e-3 * teacher), sp_loss(student, teacher))


def test_rows_have_unit_l2_norm_and_not_l1() -> None:
    """A known trap: normalising with p = 1 makes the loss about B times smaller."""
    student, teacher = torch.eye(2).double(), torch.ones(2, 2).double()
    # G_S = identity, G_T = all 1/√2: four entries, (1 − 1/√2)² twice and 1/2 twice, over B² = 4.
    assert float(sp_loss(student, teacher)) == pytest.approx((2 * (1 - 0.5**0.5) ** 2 + 1) / 4)


def test_large_half_precision_maps_do_not_overflow() -> None:
    maps = 4 * torch.rand(4, 256, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = sp_loss(maps.half(), maps.flip(0).half())
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, sp_loss(maps.half().float(), maps.flip(0).half().float()))
