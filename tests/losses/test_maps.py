"""Losses on maps: the authors' code, and what is refused.

The numbers are those of HobbitLong/RepDistiller@b84f547 distiller_zoo and of ADLab-AutoDrive/ICKD@403b8d3
Cifar100/distiller_zoo/ICKD.py (without its convolution), when run in float64.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.losses import at_loss, fsp_loss, ickd_loss, nst_loss, simkd_loss
from tests.refusals import refused

from .waves import wave

STUDENT, TEACHER = wave(3, 3, 2, 2, phase=0.2), wave(3, 4, 4, 4, phase=0.9)


def test_at_is_the_benchmarks() -> None:
    def attention(maps: Tensor) -> Tensor:
        return F.normalize(maps.pow(2).mean(1).flatten(1))

    small = F.adaptive_avg_pool2d(TEACHER, 2)
    loss = at_loss(STUDENT, TEACHER)
    torch.testing.assert_close(loss, (attention(STUDENT) - attention(small)).square().mean())
    assert float(loss) == pytest.approx(0.024060212220027983, rel=1e-12)


def test_nst_is_the_benchmarks_without_its_broadcast() -> None:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).square().mean()

    student = F.normalize(STUDENT.flatten(2), dim=2)
    teacher = F.normalize(F.adaptive_avg_pool2d(TEACHER, 2).flatten(2), dim=2)
    expected = kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)
    loss = nst_loss(STUDENT, TEACHER)
    torch.testing.assert_close(loss, expected)
    assert float(loss) == pytest.approx(0.32005852483829567, rel=1e-12)


def test_fsp_is_the_benchmarks_without_its_broadcast() -> None:
    maps = wave(3, 2, 4, 4, phase=0.1), wave(3, 3, 2, 2, phase=0.5)
    theirs = wave(3, 2, 4, 4, phase=1.1), wave(3, 3, 2, 2, phase=1.5)

    def flow(before: Tensor, after: Tensor) -> Tensor:
        before = F.adaptive_avg_pool2d(before, 2).flatten(2)
        return (before.unsqueeze(2) * after.flatten(2).unsqueeze(1)).mean(-1)

    loss = fsp_loss(*maps, *theirs)
    torch.testing.assert_close(loss, (flow(*maps) - flow(*theirs)).square().mean())
    assert float(loss) == pytest.approx(0.015751264736578743, rel=1e-12)


def test_ickd_is_the_authors() -> None:
    student, teacher = wave(3, 3, 2, 2, phase=0.2), wave(3, 3, 3, 3, phase=0.9)

    def correlation(maps: Tensor) -> Tensor:
        flat = maps.flatten(2)
        return F.normalize(flat @ flat.mT, dim=2)

    loss = ickd_loss(student, teacher)
    expected = (correlation(student) - correlation(teacher)).square().sum() / (3 * 3)
    torch.testing.assert_close(loss, expected)
    assert float(loss) == pytest.approx(0.39289918090983267, rel=1e-12)


def test_maps_need_not_be_square() -> None:
    tall, wide = wave(2, 3, 4, 2, phase=0.2), wave(2, 3, 2, 4, phase=0.9)
    pooled = F.adaptive_avg_pool2d(tall, 2), F.adaptive_avg_pool2d(wide, 2)
    for loss in (at_loss, nst_loss):
        torch.testing.assert_close(loss(tall, wide), loss(*pooled))


@pytest.mark.parametrize("loss", [at_loss, nst_loss, ickd_loss])
def test_an_embedding_is_no_map(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with refused("not-a-map"):
        loss(wave(3, 5, phase=0.2), wave(3, 5, phase=0.3))


def test_other_channels_are_refused_where_they_must_be_alike() -> None:
    with refused("other-channels"):
        ickd_loss(STUDENT, TEACHER)
    with refused("other-channels"):
        fsp_loss(STUDENT, STUDENT, TEACHER, TEACHER)
    with refused("other-channels"):
        simkd_loss(STUDENT, TEACHER)
