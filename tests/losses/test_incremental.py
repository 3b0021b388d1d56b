"""Losses of incremental steps: each method's on a batch whose value is worked out by hand, and the authors' code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.losses import (
    binary_cross_entropy_loss,
    binary_kd_loss,
    cosine_loss,
    cross_entropy_loss,
    cross_entropy_new_loss,
    ird_loss,
    kd_loss,
    margin_ranking_loss,
    nca_loss,
    pod_loss,
)
from tests.refusals import refused

from .waves import wave

LN3 = math.log(3)


def test_finetune_by_hand() -> None:
    """The old column holds the largest logit and is left out: softmax over (0, ln 3) is (1/4, 3/4)."""
    logits = torch.tensor([[9.0, 0.0, LN3], [9.0, 0.0, LN3], [5.0, 1.0, 1.0]]).double()
    known = torch.tensor([True, False, False])
    labels = torch.tensor([2, 1, 0])  # the last row is of an old class, which the sum leaves out
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert float(cross_entropy_new_loss(logits, labels, known)) == pytest.approx(expected)


def test_without_an_old_class_it_is_the_cross_entropy() -> None:
    logits, labels = wave(8, 5, phase=0.3), torch.arange(8) % 5
    for label_smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            cross_entropy_new_loss(
                logits, labels, torch.zeros(5, dtype=torch.bool), label_smoothing=label_smoothing
            ),
            cross_entropy_loss(logits, labels, label_smoothing=label_smoothing),
        )


def test_lwf_as_pycil_weights_it() -> None:
    """CE(z_new) + 3 · KD_2(z_old) without T² has the gradient of 0.75 times ours, which has it."""
    logits = (2 * wave(6, 5, phase=0.2)).requires_grad_()
    teacher, labels = 2 * wave(6, 3, phase=0.9), torch.tensor([3, 4, 3, 4, 4, 3])
    known = torch.arange(5) < 3
    soft = -((teacher / 2).softmax(1) * (logits[:, :3] / 2).log_softmax(1)).sum(1).mean()
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits[:, 3:], labels - 3) + 3 * soft, logits)
    loss = cross_entropy_new_loss(logits, labels, known)
    loss = loss + 0.75 * kd_loss(logits[:, :3], teacher, temperature=2.0)
    (ours,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(ours, theirs)


def test_icarl_by_hand() -> None:
    """σ(ln 3) = 3/4, σ(0) = 1/2: two questions on new classes, each right with 3/4; two on old ones."""
    student = torch.tensor([[0.0, 0.0, LN3, -LN3]]).double()
    teacher, known = torch.tensor([[LN3, 0.0]]).double(), torch.tensor([True, True, False, False])
    new = binary_cross_entropy_loss(student, torch.tensor([2]), known)
    assert float(new) == pytest.approx(2 * math.log(4 / 3))
    rehearsed = binary_cross_entropy_loss(student, torch.tensor([0]), known)
    assert float(rehearsed) == pytest.approx(math.log(4) + math.log(4 / 3))  # no and no: 1/4 and 3/4
    old = binary_kd_loss(student[:, :2], teacher)
    assert float(old) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_icarl_is_the_authors_mean_over_all_columns() -> None:
    """srebuffi/iCaRL: one binary cross-entropy, targets one-hot on new columns and σ(z°) on old ones, their mean."""
    student = (2 * wave(6, 5, phase=0.2)).requires_grad_()
    teacher, labels, known = 2 * wave(6, 3, phase=0.9), torch.tensor([3, 0, 4, 1, 4, 3]), torch.arange(5) < 3
    targets = torch.cat([teacher.sigmoid(), F.one_hot(labels, 5)[:, 3:].double()], 1)
    theirs = F.binary_cross_entropy_with_logits(student, targets)
    ours = (binary_cross_entropy_loss(student, labels, known) + binary_kd_loss(student[:, :3], teacher)) / 5
    entropy = F.binary_cross_entropy_with_logits(teacher, teacher.sigmoid(), reduction="sum") / (6 * 5)
    torch.testing.assert_close(ours + entropy, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, student)[0], torch.autograd.grad(theirs, student)[0])


def test_ucir_less_forget_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    assert float(cosine_loss(student, teacher)) == pytest.approx((1 - 0.6) / 2)
    torch.testing.assert_close(
        cosine_loss(student, teacher), F.cosine_embedding_loss(student, teacher, torch.ones(2))
    )


def test_ucir_margin_by_hand() -> None:
    """Of an old class at 0.7 the two hardest new ones are 0.5 and 0.4: 0.5 − 0.7 + 0.5 and 0.5 − 0.7 + 0.4."""
    cosines = torch.tensor([[0.7, 0.9, 0.5, -0.2, 0.4], [0.0, 0.0, 0.1, 0.9, 0.9]])
    known = torch.tensor([True, True, False, False, False])
    labels = torch.tensor([0, 2])  # the second is of a new class, which does not count
    assert float(margin_ranking_loss(cosines, labels, known)) == pytest.approx((0.3 + 0.2) / 2)
    three = margin_ranking_loss(cosines, labels, known, hardest=9)  # there are no more than three
    assert float(three) == pytest.approx((0.3 + 0.2 + 0.0) / 3)


def test_ucir_margin_is_torchs() -> None:
    cosines, labels, known = wave(7, 6, phase=0.4), torch.arange(7) % 4, torch.arange(6) < 4
    own = cosines.gather(1, labels[:, None]).expand(7, 2)
    hard = cosines[:, 4:].topk(2, 1).values
    expected = F.margin_ranking_loss(own, hard, torch.ones(7, 2), margin=0.5)
    torch.testing.assert_close(margin_ranking_loss(cosines, labels, known), expected)


def test_podnet_spatial_by_hand() -> None:
    """One spot in a 2×2 map: rows (1, 0) and columns (1, 0), over √2."""
    corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[None, None]
    beside, opposite = corner.flip(3), corner.flip(2, 3)
    assert float(pod_loss(3 * corner, corner)) == 0
    assert float(pod_loss(corner, beside)) == pytest.approx(1)  # two of four entries differ by 1/√2
    assert float(pod_loss(corner, opposite)) == pytest.approx(math.sqrt(2))
    assert float(pod_loss(torch.cat([corner, corner]), torch.cat([corner, beside]))) == pytest.approx(0.5)


def test_podnet_spatial_is_the_authors() -> None:
    """arthurdouillard/incremental_learning.pytorch@0621230: squares, both sums, unit length, Frobenius, mean."""
    student, teacher = wave(3, 4, 2, 3, phase=0.2), wave(3, 4, 2, 3, phase=0.9)

    def pooled(maps: Tensor) -> Tensor:
        maps = maps.pow(2)
        return F.normalize(torch.cat([maps.sum(3).flatten(1), maps.sum(2).flatten(1)], 1), dim=1)

    torch.testing.assert_close(
        pod_loss(student, teacher), (pooled(student) - pooled(teacher)).norm(dim=1).mean()
    )


def test_podnet_refuses_other_channels() -> None:
    with refused("other-channels"):
        pod_loss(wave(2, 3, 2, 2, phase=0.1), wave(2, 4, 2, 2, phase=0.1))


COSINES, SCALE, LABEL = (
    torch.tensor([[0.5, 0.25, 0.0]]).double(),
    torch.tensor(2.0).double(),
    torch.tensor([0]),
)


def test_podnet_nca_by_hand() -> None:
    rest = math.log(math.exp(0.5) + 1)
    assert float(nca_loss(COSINES, SCALE, LABEL)) == pytest.approx(rest - 2 * (0.5 - 0.6))
    assert float(nca_loss(COSINES, SCALE, LABEL, margin=0.0)) == pytest.approx(max(rest - 1, 0))
    far = nca_loss(torch.tensor([[1.0, -1.0, -1.0]]), torch.tensor(9.0), LABEL)
    assert float(far) == 0  # right by more than the margin


def test_podnets_margin_counts_in_our_form_and_cancels_in_the_published_one() -> None:
    cosines, labels = wave(6, 4, phase=0.7), torch.arange(6) % 4
    ours = [float(nca_loss(cosines, SCALE, labels, margin=margin)) for margin in (0.0, 0.6)]
    assert ours[1] > ours[0] + 0.5
    published = [
        nca_loss(cosines, SCALE, labels, margin=margin, margin_form="shift") for margin in (0.0, 0.6, 5.0)
    ]
    torch.testing.assert_close(published[0], published[1])
    torch.testing.assert_close(published[0], published[2])


def test_the_published_nca_is_a_cross_entropy_whose_target_counts_as_the_largest() -> None:
    """arthurdouillard/incremental_learning.pytorch@12bc48f, additive_margin_softmax_ce: re-derived."""
    cosines, labels = wave(6, 4, phase=0.7), torch.arange(6) % 4
    scores = 2 * (cosines - 0.6)
    scores = scores - scores.max(1, keepdim=True).values
    own = scores[torch.arange(6), labels]
    left_out = scores - F.one_hot(labels, 4) * own[:, None]
    expected = -(own - left_out.exp().sum(1).log()).mean()
    torch.testing.assert_close(nca_loss(cosines, SCALE, labels, margin_form="shift"), expected)


def test_ncas_scale_is_learnt() -> None:
    scale = SCALE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda eta: nca_loss(COSINES, eta, LABEL, margin=0.0), scale)
    assert torch.autograd.grad(nca_loss(COSINES, scale, LABEL), scale)[0] != 0


def test_a_margin_is_no_reason_to_shrink_ncas_scale() -> None:
    """With η δ in the gradient a learnt η falls below 0, where the loss is 0 and nothing is told apart."""
    scale, cosines = torch.tensor(2.0, requires_grad=True), torch.tensor([[0.3, 0.2, 0.25]])
    without, within = (
        torch.autograd.grad(nca_loss(cosines, scale, LABEL, margin=margin), scale)[0] for margin in (0.0, 0.6)
    )
    assert without < 0
    assert within == without
    shift = nca_loss(cosines, scale, LABEL, margin_form="shift")
    assert torch.autograd.grad(shift, scale)[0] != within


def test_co2l_by_hand() -> None:
    """The teacher sees three equal samples, (1/2, 1/2) for each; the student one apart: e/(1 + e) for its like."""
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]).double()
    teacher = torch.ones(3, 4).double()
    loss = ird_loss(student, teacher, student_temperature=1.0, teacher_temperature=1.0)
    assert float(loss) == pytest.approx(2 / 3 * (math.log((1 + math.e) / 2) - 0.5))


def test_co2l_is_the_authors_cross_entropy_without_the_teachers_entropy() -> None:
    """chaht01/Co2L@bbe99e7 main.py: softmaxes over the others, temperatures 0.2 and 0.01."""
    student, teacher = wave(6, 4, phase=0.2).requires_grad_(), wave(6, 3, phase=0.9)
    apart = ~torch.eye(6, dtype=torch.bool)

    def closeness(rows: Tensor, temperature: float) -> Tensor:
        unit = F.normalize(rows)
        return (unit @ unit.T / temperature)[apart].view(6, 5).softmax(1)

    ours, theirs = closeness(student, 0.2), closeness(teacher, 0.01)
    expected = (-theirs * ours.log()).sum(1).mean()
    entropy = torch.special.entr(theirs).sum(1).mean()
    loss = ird_loss(student, teacher)
    torch.testing.assert_close(loss + entropy, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, student)[0], torch.autograd.grad(expected, student)[0]
    )


def test_known_must_be_of_the_columns() -> None:
    logits, labels = wave(2, 4, phase=0.2), torch.tensor([0, 1])
    for loss in (cross_entropy_new_loss, binary_cross_entropy_loss, margin_ranking_loss):
        with refused("other-shapes"):
            loss(logits, labels, torch.zeros(3, dtype=torch.bool))


def test_directions_of_other_widths_are_refused() -> None:
    with refused("other-widths"):
        cosine_loss(wave(2, 3, phase=0.1), wave(2, 4, phase=0.1))
