"""Similarity to a queue of the teacher's rows: where a sample stands among others, as the teacher sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, kl_rows, mean_over_rows
from gkd.losses.projectors import Normalisation, Projector, ProjectorKind, normalised
from gkd.losses.queues import enqueued
from gkd.losses.registry import module_loss
from gkd.losses.signature import Count, Mask, Positive, checked

__all__ = ["QueueSimilarityLoss", "queue_similarity_loss"]

Candidates = Literal["batch", "own", "queue"]


@checked
def queue_similarity_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    queue: Tensor,
    *,
    student_temperature: Positive = 0.07,
    teacher_temperature: Positive = 0.07,
    candidates: Candidates = "batch",
    mask: Mask = None,
) -> Tensor:
    """Similarity to a queue: each sample is as close to the teacher's past rows as it is for the teacher.

    ``mean_i KL( softmax_q( cos(t_i, q) / τ_T ) ‖ softmax_q( cos(s_i, q) / τ_S ) )`` over the candidates q: the queue,
    and with ``batch`` the teacher's rows of the batch, with ``own`` that of sample i alone, with ``queue`` none.

    Convention: each side has its own temperature and no τ² is applied; KL(teacher‖student), natural logarithm, summed
    over the candidates and averaged over the selected rows, so the value does not scale with B and grows with the
    logarithm of the candidates' number. SEED writes a cross-entropy, which is larger by the teacher's entropy and has
    the same gradient. Teacher and queue are constants. A zero row of the teacher or the queue is no candidate, so an
    empty place of the queue is one; a zero row of the student has the cosine 0 with all. A sample with one candidate
    or none gives 0, and no row a zero that keeps the graph.

    Args:
        student_embedding: ``[B, D]``, of the teacher's width.
        teacher_embedding: ``[B, D]``.
        queue: ``[Q, D]``, the teacher's rows of past batches, of length 1, or zero where a place is empty.
        student_temperature: τ_S; 0.07 in LightlyTrain, 0.2 in SEED, 0.04 in CompRess.
        teacher_temperature: τ_T; 0.07 in LightlyTrain, 1e-4 in SEED (almost the nearest alone), 0.04 in CompRess.
        candidates: which rows of the batch stand beside the queue: ``batch`` in LightlyTrain, ``own`` in SEED,
            ``queue`` in CompRess.
        mask: Bool ``[B]``, the rows that count; the others are no candidates either.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths.

    Paper:
        Abbasi Koohpayegani, Tejankar, Pirsiavash: CompRess, NeurIPS 2020, the form with one queue; Fang et al.: SEED,
        ICLR 2021; as in UMBCvision/CompRess, jacobswan1/SEED and lightly-ai/lightly-train.
    """
    check_rows(student_embedding, teacher_embedding)
    if not student_embedding.shape[1] == teacher_embedding.shape[1] == queue.shape[1]:
        raise UserError(
            f"The student's embedding has {student_embedding.shape[1]} entries, the teacher's "
            f"{teacher_embedding.shape[1]}, the queue's {queue.shape[1]}: similarities to one queue need the same "
            "number; use QueueSimilarityLoss, which projects the student.",
            code="other-widths",
        )
    student = unit_rows(upcast(zero_unselected(student_embedding, mask)))
    teacher = unit_rows(upcast(zero_unselected(teacher_embedding.detach(), mask)))
    past = queue.detach().to(teacher.dtype)
    # Products with batch and queue apart: to join the rows would copy the whole queue.
    columns = [past] if candidates == "queue" else [teacher, past]
    used = torch.cat([(rows != 0).any(1) for rows in columns]).expand(len(student), -1)
    if candidates == "own":
        own = torch.eye(len(teacher), dtype=torch.bool, device=used.device)
        used = used & torch.cat([own, own.new_ones(len(teacher), len(past))], 1)

    def logits(side: Tensor, temperature: float) -> Tensor:
        return torch.cat([side @ rows.to(side.dtype).mT for rows in columns], 1) / temperature

    with no_autocast(student):
        student_logits = logits(student, student_temperature)
        teacher_logits = logits(teacher, teacher_temperature)
    return mean_over_rows(kl_rows(student_logits, teacher_logits, used), mask)


@module_loss(
    "queue_similarity", queue_similarity_loss, paper="CompRess, NeurIPS 2020; SEED, ICLR 2021; LightlyTrain"
)
class QueueSimilarityLoss(nn.Module):
    """Similarity to a queue of past teacher rows; the student's embedding behind a projector, `queue_similarity_loss`.

    After a step in training mode the teacher's rows of the batch, of length 1, take the oldest places of the queue. It
    starts empty, and what is empty is no candidate; the authors start from random rows (CompRess, SEED) or from zeros
    that count (LightlyTrain). LightlyTrain drops the oldest rows before the loss, here they go after it, so that its
    queue of Q is one of Q − B here.

    SEED's head is linear, ReLU, linear, and CompRess's linear; CompRess's other form compares the student with a queue
    of its own past rows from a copy of it that moves slowly, which is not here.

    Args:
        student, teacher: shapes of one sample's embeddings.
        projector: the kind of the `Projector`.
        expansion: of the hidden layer of ``projector: mlp``.
        teacher_normalise: how the teacher's rows of a batch are normalised (`normalised`) before they are compared and
            kept. ``centre`` is for embeddings behind a ReLU, whose cosines are all near 1 (ours).
        queue: past rows of the teacher to keep; its memory is O(queue · D_T).
        student_temperature, teacher_temperature, candidates: of :func:`queue_similarity_loss`.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: ``projector: none`` between different widths.

    Paper:
        as in :func:`queue_similarity_loss`.
    """

    queue: Tensor
    next_place: Tensor

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        projector: ProjectorKind = "linear",
        expansion: Count = 2,
        teacher_normalise: Normalisation = "none",
        queue: Count = 4096,
        student_temperature: Positive = 0.07,
        teacher_temperature: Positive = 0.07,
        candidates: Candidates = "batch",
    ) -> None:
        super().__init__()
        self.projector = Projector(student, teacher, projector=projector, expansion=expansion)
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.candidates, self.teacher_normalise = candidates, teacher_normalise
        self.register_buffer("queue", torch.zeros(queue, math.prod(teacher)))  # a zero row is an empty place
        self.register_buffer("next_place", torch.zeros((), dtype=torch.int64))

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        teacher = normalised(teacher_embedding.detach().flatten(1), self.teacher_normalise, mask)
        loss = queue_similarity_loss(
            self.projector(student_embedding, mask),
            teacher,
            self.queue,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            candidates=self.candidates,
            mask=mask,
        )
        if self.training and len(teacher):
            (self.queue,), self.next_place = enqueued(
                (self.queue,), (unit_rows(teacher),), self.next_place, mask
            )
        return loss
