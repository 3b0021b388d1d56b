"""Cross-entropy and kd: agreement with torch and with the authors' code, and what is refused."""

import pytest
import torch
from torch.nn import functional as F

from gkd.losses import cross_entropy_loss, dist_loss, dkd_loss, kd_loss
from tests.refusals import refused

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
    with refused("other-shapes"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_kd_refuses_fewer_than_two_classes() -> None:
    with refused("too-few-classes"):
        kd_loss(torch.zeros(2, 1), torch.zeros(2, 1))


def test_standardised_logits_match_shapes_and_not_ranges() -> None:
    """sunshangquan/logit-standardization-KD: (z - mean) / std over the classes, on both sides."""
    student, teacher = 3 * wave(5, 7, phase=0.4), 3 * wave(5, 7, phase=1.1)

    def standard(logits: torch.Tensor) -> torch.Tensor:
        return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True)

    loss = kd_loss(student, teacher, temperature=2.0, standardise=True)
    torch.testing.assert_close(loss, kd_loss(standard(student), standard(teacher), temperature=2.0))
    scaled = kd_loss(10 * student + 3, teacher, temperature=2.0, standardise=True)
    torch.testing.assert_close(scaled, loss)


def test_dkd_is_the_authors() -> None:
    """megvii-research/mdistiller@a08d46f distillers/DKD.py, when run in float64."""
    student, teacher = 2 * wave(5, 4, phase=0.2), 2 * wave(5, 4, phase=0.9)
    loss = dkd_loss(student, teacher, torch.tensor([0, 1, 2, 3, 0]))
    assert float(loss) == pytest.approx(12.311109500516299, rel=1e-12)


def test_dkd_of_equal_parts_is_kd() -> None:
    """KL(p) = KL(b) + (1 - p_T) KL(q): decoupled and put together again."""
    student, teacher = 2 * wave(5, 4, phase=0.2), 2 * wave(5, 4, phase=0.9)
    labels = torch.tensor([0, 1, 2, 3, 0])
    total = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        row = slice(i, i + 1)
        rest = 1 - float((teacher[i] / 4).softmax(0)[labels[i]])
        total += dkd_loss(student[row], teacher[row], labels[row], alpha=1.0, beta=rest) / 5
    torch.testing.assert_close(total, kd_loss(student, teacher))


def test_dkd_of_two_classes_is_its_target_part() -> None:
    """A known trap: there is one other class, and its distribution is certain."""
    student, teacher = wave(6, 2, phase=0.2).float(), wave(6, 2, phase=0.9).float()
    labels = torch.arange(6) % 2
    loss = dkd_loss(student.requires_grad_(), teacher, labels)
    torch.testing.assert_close(loss, kd_loss(student, teacher))
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_dist_is_the_authors_but_for_their_epsilon() -> None:
    """hunto/DIST_KD@2418f18 segmentation/losses/dist_kd.py, when run in float64."""
    student, teacher = 2 * wave(5, 4, phase=0.2), 2 * wave(5, 4, phase=0.9)
    assert float(dist_loss(student, teacher)) == pytest.approx(2.4363976628307906, rel=1e-7)
    assert float(dist_loss(student, teacher, beta=2.0, gamma=0.5)) == pytest.approx(
        3.051253430686415, rel=1e-7
    )


@pytest.mark.parametrize("loss", [dkd_loss, dist_loss])
def test_other_columns_are_refused_by_all(loss) -> None:
    labels = [torch.zeros(3, dtype=torch.int64)] if loss is dkd_loss else []
    with refused("other-shapes"):
        loss(wave(3, 4, phase=0.2), wave(3, 5, phase=0.2), *labels)
