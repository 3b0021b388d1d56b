"""srrl and cat_kd: the authors' numbers, and what the heads' parameters do."""

from __future__ import annotations

import pytest
import torch

from gkd.losses import SRRLLoss, SRRLMapLoss, cat_kd_loss, srrl_loss
from tests.refusals import refused

from .waves import wave


def answers(embedding: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return embedding @ weight.T + bias


def test_srrl_is_the_benchmarks() -> None:
    """The number is that of DefangChen/SimKD@2b389c3, models/util.py and nn.MSELoss, when run in float64."""
    module = SRRLLoss((4,), (6,)).double()
    with torch.no_grad():
        module.connector[0].weight.copy_(wave(6, 4, phase=0.3))  # type: ignore[operator]
    teacher, weight, bias = wave(5, 6, phase=0.9), wave(3, 6, phase=0.5), wave(3, phase=0.7)
    loss = module(wave(5, 4, phase=0.2), teacher, answers(teacher, weight, bias), weight, bias)
    assert float(loss.detach()) == pytest.approx(2.4911420758693286, rel=1e-12)


def test_maps_of_one_pixel_are_embeddings_to_srrl() -> None:
    by_map, by_embedding = SRRLMapLoss((4,), (6,)).double(), SRRLLoss((4,), (6,)).double()
    with torch.no_grad():
        weight = by_map.connector[0].weight
        assert isinstance(weight, torch.Tensor)
        by_embedding.connector[0].weight.copy_(weight[:, :, 0, 0])  # type: ignore[operator]
    student, teacher = wave(5, 4, phase=0.2), wave(5, 6, phase=0.9)
    head = (wave(5, 3, phase=0.1), wave(3, 6, phase=0.5), wave(3, phase=0.7))
    value = by_map(student[:, :, None, None], teacher, *head)
    torch.testing.assert_close(value, by_embedding(student, teacher, *head))


def test_srrl_refuses_a_student_of_another_width() -> None:
    with refused("other-widths"):
        srrl_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 5), torch.zeros(5, 4), torch.zeros(5))


@pytest.mark.parametrize(
    ("size", "normalise", "expected"), [(2, True, 0.538712677343904), (4, False, 0.7018669497088248)]
)
def test_cat_kd_is_the_authors(size: int, normalise: bool, expected: float) -> None:
    """The numbers are those of GzyAftermath/CAT-KD@4467073, CAT_loss on maps of 1x1 convolutions, in float64."""
    loss = cat_kd_loss(
        wave(3, 4, 5, 5, phase=0.2),
        wave(3, 6, 8, 8, phase=0.9),
        wave(7, 4, phase=0.4),
        wave(7, 6, phase=0.6),
        size=size,
        normalise=normalise,
    )
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_cat_kd_trains_the_students_head_and_not_the_teachers() -> None:
    ours, theirs = (wave(7, width, phase=0.4).requires_grad_() for width in (4, 6))
    cat_kd_loss(wave(3, 4, 5, 5, phase=0.2), wave(3, 6, 8, 8, phase=0.9), ours, theirs).backward()
    assert ours.grad is not None
    assert ours.grad.any()
    assert theirs.grad is None


@pytest.mark.parametrize(
    ("maps", "heads", "code"),
    [
        ((4, 6), ((7, 5), (7, 6)), "other-channels"),
        ((4, 6), ((7, 4), (7, 4)), "other-channels"),
        ((4, 6), ((7, 4), (6, 6)), "other-classes"),
    ],
)
def test_cat_kd_refuses_heads_that_do_not_fit(
    maps: tuple[int, int], heads: tuple[tuple[int, int], tuple[int, int]], code: str
) -> None:
    with refused(code):
        cat_kd_loss(torch.zeros(2, maps[0], 3, 3), torch.zeros(2, maps[1], 3, 3), *map(torch.zeros, heads))
