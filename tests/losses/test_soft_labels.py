"""ttm, nkd and wsld: agreement with the authors' code, and what they become at the ends of their options."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gkd.losses import kd_loss, nkd_loss, ttm_loss, wsld_loss

from .waves import wave

LABELS = torch.tensor([0, 1, 2, 3, 0])


def sides(columns: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * wave(5, columns, phase=0.2), 2 * wave(5, columns, phase=0.9)


def test_ttm_without_softening_is_kd_at_one() -> None:
    student, teacher = sides()
    torch.testing.assert_close(
        ttm_loss(student, teacher, temperature=1.0), kd_loss(student, teacher, temperature=1.0)
    )
    # The powers of probabilities at temperature 1 sum to 1, so that nothing is weighted.
    weighted = ttm_loss(student, teacher, temperature=1.0, weighted_by_power_sum=True)
    torch.testing.assert_close(weighted, kd_loss(student, teacher, temperature=1.0))


def test_wttm_counts_smooth_answers_more() -> None:
    """A certain teacher's powers sum to nearly 1, an unsure one's to C^(1 - 1/T)."""
    student = torch.zeros(1, 4, dtype=torch.float64)
    unsure, sure = torch.zeros_like(student), torch.tensor([[60.0, 0, 0, 0]], dtype=torch.float64)
    for teacher, weight in ((unsure + torch.tensor([1e-6, 0, 0, 0]), 4**0.5), (sure, 1.0)):
        plain = ttm_loss(student, teacher, temperature=2.0)
        weighted = ttm_loss(student, teacher, temperature=2.0, weighted_by_power_sum=True)
        torch.testing.assert_close(
            weighted / plain, torch.tensor(weight, dtype=torch.float64), rtol=1e-5, atol=0
        )


def test_nkd_of_two_classes_is_its_target_part() -> None:
    student, teacher = sides(2)
    labels = LABELS % 2
    expected = -(teacher.softmax(1) * student.log_softmax(1))[range(5), labels].mean()
    torch.testing.assert_close(nkd_loss(student, teacher, labels), expected)


def test_wsld_has_the_gradient_of_the_published_cross_entropy() -> None:
    student, teacher = sides()
    student.requires_grad_()
    ratio = F.cross_entropy(student.detach(), LABELS, reduction="none") / (
        F.cross_entropy(teacher, LABELS, reduction="none") + 1e-7
    )
    soft = F.cross_entropy(student / 4, (teacher / 4).softmax(1), reduction="none")
    (expected,) = torch.autograd.grad((16 * (1 - (-ratio).exp()) * soft).mean(), student)
    (gradient,) = torch.autograd.grad(wsld_loss(student, teacher, LABELS), student)
    torch.testing.assert_close(gradient, expected)


def test_a_certain_teacher_leaves_the_student_what_it_has_not_learnt() -> None:
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    unsure = torch.tensor([[1.0, 0.0, 0.5]])
    label = torch.tensor([0])
    for epsilon in (0.0, 1e-7):
        torch.testing.assert_close(wsld_loss(unsure, sure, label, epsilon=epsilon), kd_loss(unsure, sure))
    other = torch.tensor([[200.0, 0.0, 100.0]])
    assert wsld_loss(sure, other, label, epsilon=0.0) == 0  # it knows the label as its teacher does
