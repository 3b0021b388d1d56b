"""Losses on pairwise similarities: the authors' code, invariances, and the scale with the batch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.losses import cc_neighbour_loss, pkt_loss, rkd_angle_loss, rkd_distance_loss, sp_loss
from tests.refusals import refused

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


# The numbers below are those of HobbitLong/RepDistiller@b84f547 distiller_zoo, when run in float64.


def test_pkt_is_the_benchmarks_but_for_its_epsilon() -> None:
    student, teacher = wave(6, 4, phase=0.2), wave(6, 5, phase=0.9)
    unit_student, unit_teacher = F.normalize(student), F.normalize(teacher)
    rows = [(1 + x @ x.T) / 2 for x in (unit_student, unit_teacher)]
    ours, theirs = (x / x.sum(1, keepdim=True) for x in rows)
    torch.testing.assert_close(pkt_loss(student, teacher), (theirs * (theirs / ours).log()).mean())
    assert float(pkt_loss(student, teacher)) == pytest.approx(0.025912162515700093, rel=1e-5)


def test_rkd_is_the_benchmarks() -> None:
    student, teacher = wave(6, 4, phase=0.2), wave(6, 5, phase=0.9)

    def distances(x: Tensor) -> Tensor:
        apart = (x.unsqueeze(0) - x.unsqueeze(1)).norm(dim=2)
        return apart / apart[apart > 0].mean()

    def angles(x: Tensor) -> Tensor:
        directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
        return directions @ directions.mT

    distance, angle = rkd_distance_loss(student, teacher), rkd_angle_loss(student, teacher)
    torch.testing.assert_close(distance, F.smooth_l1_loss(distances(student), distances(teacher)))
    torch.testing.assert_close(angle, F.smooth_l1_loss(angles(student), angles(teacher)))
    assert float(distance) == pytest.approx(0.05820691607432227, rel=1e-12)
    assert float(angle) == pytest.approx(0.07106229925680228, rel=1e-12)


def test_collapsed_embeddings_have_a_finite_gradient() -> None:
    """A known trap: inner products cancel where all samples nearly coincide."""
    spread = wave(6, 4, phase=0.2).float()
    teacher = wave(6, 5, phase=0.9).float()
    for loss in (rkd_distance_loss, rkd_angle_loss):
        values = [float(loss(5 + scale * spread, teacher)) for scale in (1.0, 1e-3)]
        assert values[1] == pytest.approx(values[0], rel=1e-2)


def test_neighbour_correlation_is_the_benchmarks_and_follows_the_order() -> None:
    student, teacher = wave(6, 4, phase=0.2), wave(6, 4, phase=0.9)
    delta = (student - teacher).abs()
    torch.testing.assert_close(cc_neighbour_loss(student, teacher), (delta[:-1] * delta[1:]).sum(1).mean())
    assert float(cc_neighbour_loss(student, teacher)) == pytest.approx(1.6236255064499492, rel=1e-12)
    with refused("other-widths"):
        cc_neighbour_loss(student, wave(6, 5, phase=0.9))
