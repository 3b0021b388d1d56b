"""Cross-entropy and kd: agreement with torch and with the authors' code, and what is refused."""

import pytest
import torch
from torch.nn import functional as F

from gkd.errors import UserError
from gkd.losses import cross_entropy_loss, kd_loss

from .waves import wave


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(label_smoothing: float) -> None:
    logits, labels = wave(8, 5, phase=0.3), torch.arange(8) % 5
    torch.testing.assert_close(
        cross_entropy_loss(logits, labels, label_smoothing=label_smoothing),
        F.cross_entropy(logits, labels, label_smoothing=label_smoothing),
    )


def test_kd_is_the_benchmarks() -> None:
    """HobbitLong/RepDistiller@b84f547 distiller_zoo/KD.py: the re-derived form, and its value when run."""
    student, teacher = 3 * wave(5, 7, phase=0.4), 3 * wave(5, 7, phase=1.1)
    summed = F.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="sum")
    loss = kd_loss(student, teacher, temperature=4.0)
    torch.testing.assert_close(loss, summed * 16 / 5)
    assert float(loss) == pytest.approx(4.103583419094437, rel=1e-12)


def test_kd_of_shared_columns_is_kd_of_renormalised_probabilities() -> None:
    student, teacher = wave(6, 7, phase=0.4), wave(6, 9, phase=1.1)
    student_index, teacher_index = torch.tensor([5, 0, 2]), torch.tensor([1, 8, 3])
    q_s = student.softmax(1)[:, student_index]
    q_t = teacher.softmax(1)[:, teacher_index]
    q_s, q_t = q_s / q_s.sum(1, keepdim=True), q_t / q_t.sum(1, keepdim=True)
    expected = (q_t * (q_t / q_s).log()).sum(1).mean()
    loss = kd_loss(student[:, student_index], teacher[:, teacher_index], temperature=1.0)
    torch.testing.assert_close(loss, expected)


def test_kd_refuses_different_columns() -> None:
    with pytest.raises(UserError, match="have 3 columns, the teacher's 4"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_kd_refuses_fewer_than_two_classes() -> None:
    with pytest.raises(UserError, match="at least 2 shared classes, not 1"):
        kd_loss(torch.zeros(2, 1), torch.zeros(2, 1))
