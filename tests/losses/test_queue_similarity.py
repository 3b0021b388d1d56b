"""Similarity to a queue: the authors' codes, and how the queue fills."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gkd.losses import QueueSimilarityLoss, queue_similarity_loss
from tests.refusals import refused

from .references import random
from .waves import wave

STUDENT, TEACHER, QUEUE = wave(5, 4, phase=0.2), wave(5, 4, phase=0.9), F.normalize(wave(7, 4, phase=1.4))
UNIT_STUDENT, UNIT_TEACHER = F.normalize(STUDENT), F.normalize(TEACHER)


def kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    return F.kl_div(student_logits.log_softmax(1), teacher_logits.softmax(1), reduction="batchmean")


def test_the_whole_batch_beside_the_queue_is_lightly_trains() -> None:
    """lightly-ai/lightly-train@004229f distillation.py and its loss, re-derived: the batch enters before the loss."""
    entered = torch.cat([UNIT_TEACHER, QUEUE])
    expected = kl(UNIT_STUDENT @ entered.T / 0.07, UNIT_TEACHER @ entered.T / 0.07)
    torch.testing.assert_close(queue_similarity_loss(STUDENT, TEACHER, QUEUE), expected)


def test_the_queue_alone_is_compress_with_one_queue() -> None:
    """UMBCvision/CompRess@cf33bab nn/compress_loss.py (CompReSSA), re-derived: the batch enters after the loss."""
    expected = kl(UNIT_STUDENT @ QUEUE.T / 0.04, UNIT_TEACHER @ QUEUE.T / 0.04)
    options = {"student_temperature": 0.04, "teacher_temperature": 0.04, "candidates": "queue"}
    torch.testing.assert_close(queue_similarity_loss(STUDENT, TEACHER, QUEUE, **options), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("teacher_temperature", [1e-4, 0.07])
def test_the_sample_beside_the_queue_is_seed_but_for_the_teachers_entropy(teacher_temperature: float) -> None:
    """jacobswan1/SEED@81ff933 seed/builder.py with a cross-entropy, re-derived."""

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([(rows * UNIT_TEACHER).sum(1, keepdim=True), rows @ QUEUE.T], 1)

    leaf = STUDENT.clone().requires_grad_()
    target = (logits(UNIT_TEACHER) / teacher_temperature).softmax(1)
    crossed = -(target * (logits(F.normalize(leaf)) / 0.2).log_softmax(1)).sum(1).mean()
    entropy = -torch.special.xlogy(target, target).sum(1).mean()
    mine = STUDENT.clone().requires_grad_()
    value = queue_similarity_loss(
        mine,
        TEACHER,
        QUEUE,
        student_temperature=0.2,
        teacher_temperature=teacher_temperature,
        candidates="own",
    )
    torch.testing.assert_close(value, crossed - entropy)
    torch.testing.assert_close(torch.autograd.grad(value, mine), torch.autograd.grad(crossed, leaf))


def test_empty_places_are_no_candidates() -> None:
    padded = torch.cat([QUEUE, torch.zeros(3, 4).double()])
    torch.testing.assert_close(
        queue_similarity_loss(STUDENT, TEACHER, padded), queue_similarity_loss(STUDENT, TEACHER, QUEUE)
    )
    assert queue_similarity_loss(STUDENT, TEACHER, padded[-3:], candidates="queue") == 0
    assert queue_similarity_loss(STUDENT, TEACHER, padded[-3:], candidates="own") == 0


def test_widths_that_differ_are_refused() -> None:
    with refused("other-widths"):
        queue_similarity_loss(STUDENT[:, :3], TEACHER, QUEUE)


def test_the_queue_fills_and_forgets_the_oldest() -> None:
    module = QueueSimilarityLoss((3,), (4,), queue=8).double()
    batches = [random(step, 3, 4) for step in range(4)]
    for number, teacher in enumerate(batches, 1):
        module(random(9, 3, 3), teacher)
        assert int((module.queue != 0).any(1).sum()) == min(3 * number, 8)
    rows = F.normalize(torch.cat(batches))  # 12 rows through 8 places
    torch.testing.assert_close(module.queue, torch.cat([rows[8:], rows[4:8]]))
    assert int(module.next_place) == 4


def test_centred_rows_are_compared_and_kept() -> None:
    """Of rows that share a large part, as behind a ReLU, the cosines tell little; of centred ones they tell all."""
    term = QueueSimilarityLoss([4], [4], projector="none", queue=7, teacher_normalise="centre").double()
    shared = TEACHER + 10
    centred = shared - shared.mean(0)
    value = term(STUDENT, shared)
    torch.testing.assert_close(value, queue_similarity_loss(STUDENT, centred, torch.zeros(7, 4).double()))
    torch.testing.assert_close(term.queue[:5], F.normalize(centred))


def test_of_a_batch_larger_than_the_queue_the_first_selected_rows_enter() -> None:
    module = QueueSimilarityLoss((3,), (4,), queue=2).double()
    teacher, mask = random(1, 6, 4), torch.tensor([False, True, False, False, True, True])
    module(random(9, 6, 3), teacher, mask=mask)
    torch.testing.assert_close(module.queue, F.normalize(teacher[[1, 4]]))
