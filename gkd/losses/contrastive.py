"""Contrastive representation distillation: with memory banks, or with a queue where banks do not fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, mean_over_rows
from gkd.losses.queues import enqueued, selected_rows
from gkd.losses.registry import module_loss
from gkd.losses.signature import BankLabels, Count, Drawn, Mask, Positive, Range, Share, checked

__all__ = ["CRDLoss", "CRDQueueLoss", "info_nce_loss", "nce_loss"]

# One product with the whole bank replaces gathering K of its rows for every sample while the bank is at most this
# many times K. Gathering took 16 times as long at 3 K on a CPU (benchmarks/losses.py): the break-even is far above.
DENSE_UP_TO = 16


@checked
def nce_loss(scores: Tensor, log_normaliser: Tensor, *, num_samples: Count, mask: Mask = None) -> Tensor:
    """Noise-contrastive estimation: tells the positive of each row from its K noise samples.

    ``mean_b − [ ln P_0 / (P_0 + K/N) + Σ_k ln (K/N) / (P_k + K/N) ]`` with ``P = e^score / Z``.

    Convention: sum over the K + 1 columns, mean over the selected rows, so the value does not scale with B and grows
    with K. The benchmark adds 1e-7 to the denominators; here the logarithms are taken of sigmoids. No row gives a zero
    that keeps the graph.

    Args:
        scores: ``[B, 1 + K]``, the positive first: products of unit vectors, divided by the temperature.
        log_normaliser: 0-dim, ln Z.
        num_samples: N, the samples that noise is drawn from.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision scores.

    Paper:
        Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, equations 10 and 18; Gutmann,
        Hyvärinen 2010.
    """
    scores = upcast(zero_unselected(scores, mask))
    noise = math.log(max(scores.shape[1] - 1, 1) / num_samples)
    odds = scores - (upcast(log_normaliser) + noise)  # ln of P / (K/N)
    # Not softplus, which is linear above 20.
    rows = -F.logsigmoid(odds[:, 0]) - F.logsigmoid(-odds[:, 1:]).sum(1)
    return mean_over_rows(rows, mask)


@checked
def info_nce_loss(scores: Tensor, allowed: Tensor, *, mask: Mask = None) -> Tensor:
    """InfoNCE: the positive of each row among its allowed negatives.

    ``mean_b − ln ( e^score_0 / ( e^score_0 + Σ_{k allowed} e^score_k ) )``.

    Convention: mean over the selected rows; the value grows with the logarithm of the number of negatives, and so of B
    where they come from the batch. A row without a negative, and no row, give a zero that keeps the graph.

    Args:
        scores: ``[B, 1 + K]``, the positive first: products of unit vectors, divided by the temperature.
        allowed: Bool ``[B, K]``, which of the others are negatives.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision scores.

    Paper:
        van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, 2018, equation 4.
    """
    scores = upcast(zero_unselected(scores, mask))
    lowest = torch.finfo(scores.dtype).min / 4
    others = torch.where(allowed, scores[:, 1:], lowest)
    rows = torch.cat([scores[:, :1], others], 1).logsumexp(1) - scores[:, 0]
    return mean_over_rows(rows, mask)


class _Projections(nn.Module):
    """Both sides embedded by a linear layer each, on the unit sphere."""

    def __init__(self, student: Sequence[int], teacher: Sequence[int], dim: int) -> None:
        super().__init__()
        self.student = nn.Linear(math.prod(student), dim)
        self.teacher = nn.Linear(math.prod(teacher), dim)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        check_rows(student, teacher)
        student = zero_unselected(upcast(student).flatten(1), mask)
        teacher = zero_unselected(upcast(teacher.detach()).flatten(1), mask)
        with no_autocast(student):
            return unit_rows(self.student(student)), unit_rows(self.teacher(teacher))


@module_loss("crd", nce_loss, paper="Tian, Krishnan, Isola, ICLR 2020")
class CRDLoss(nn.Module):
    """Contrastive representation distillation with memory banks.

    ``nce(e_S · bank_T / τ) + nce(e_T · bank_S / τ)``: in each, the positive is the sample's own entry of the other
    side's bank, the negatives K entries of samples of other classes; e are both embeddings, projected by a trained
    linear layer to ``dim`` and normalised. After a step in training mode the entries of the batch become
    ``momentum · old + (1 − momentum) · new``, normalised.

    Z of each side is frozen at its mean over the first batch (times N), as in the authors' code. Negatives are drawn on
    the device, anew for every sample and with replacement, where the benchmark draws without where a class leaves
    enough; they use torch's global generator. Where the bank is small against K, one product with all of it
    replaces the gathered rows; the values are the same.

    Args:
        student, teacher: shapes of one sample's embeddings.
        labels: int64 ``[N]``, the classes of the training set in the order of ``index``.
        dim: width of the common space.
        negatives: K.
        temperature: τ.
        momentum: of the banks, 0 to 1.
        negatives_from: samples of ``other-classes``, or any ``other-samples`` (the unsupervised form).

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, index int64 ``[B]`` (each sample's number),
        drawn int64 ``[B, K]`` (the negatives' numbers; None draws them), mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a training set without a negative for every sample, or of fewer than two samples.

    Paper:
        Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, equations 10, 18 and 19.
    """

    first: Tensor
    size: Tensor
    order: Tensor
    place: Tensor
    ready: Tensor
    log_normaliser: Tensor
    student_bank: Tensor
    teacher_bank: Tensor

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        labels: BankLabels,
        dim: Count = 128,
        negatives: Count = 16384,
        temperature: Positive = 0.07,
        momentum: Share = 0.5,
        negatives_from: Literal["other-classes", "other-samples"] = "other-classes",
    ) -> None:
        super().__init__()
        self.num_samples = len(labels)
        groups = labels.cpu() if negatives_from == "other-classes" else torch.arange(self.num_samples)
        counts = torch.bincount(groups) if self.num_samples else groups
        if self.num_samples < 2 or int(counts.max()) == self.num_samples:
            raise UserError(
                f"CRD has no negative for a sample among {self.num_samples} of one class; give it samples of two "
                "classes or more, or negatives_from: other-samples.",
                code="no-negatives",
            )
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.projections = _Projections(student, teacher, dim)
        spread = 1 / math.sqrt(dim / 3)
        for bank in ("student_bank", "teacher_bank"):
            self.register_buffer(bank, torch.empty(self.num_samples, dim).uniform_(-spread, spread))
        self.register_buffer("log_normaliser", torch.zeros(2))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        # Samples sorted by class: all of other classes are those before and after one block of the order.
        order = groups.argsort(stable=True)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("first", (counts.cumsum(0) - counts)[groups], persistent=False)
        self.register_buffer("size", counts[groups], persistent=False)

    @property
    def dense(self) -> bool:
        """Whether one product with the whole bank replaces gathering the negatives' rows."""
        return self.num_samples <= DENSE_UP_TO * self.negatives

    def draw(self, index: Tensor) -> Tensor:
        """int64 ``[B, K]``: for each sample, numbers of K samples of other classes."""
        first, size = self.first[index].unsqueeze(1), self.size[index].unsqueeze(1)
        others = self.num_samples - size
        chance = torch.rand(len(index), self.negatives, device=index.device)
        place = torch.minimum((chance * others).long(), others - 1)
        return self.order[place + size * (place >= first)]

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        index: Tensor,
        *,
        drawn: Drawn = None,
        mask: Mask = None,
    ) -> Tensor:
        self._check_index(student_embedding, index)
        student, teacher = self.projections(student_embedding, teacher_embedding, mask)
        if drawn is None:
            drawn = self.draw(index)
        chosen = torch.cat([index.unsqueeze(1), drawn], 1)
        sides = (
            self._scores(student, self.teacher_bank, chosen),
            self._scores(teacher, self.student_bank, chosen),
        )
        normaliser = self._frozen_normaliser(sides, mask)
        losses = [
            nce_loss(scores, normaliser[side], num_samples=self.num_samples, mask=mask)
            for side, scores in enumerate(sides)
        ]
        if self.training:
            self.student_bank = self._moved(self.student_bank, index, student, mask)
            self.teacher_bank = self._moved(self.teacher_bank, index, teacher, mask)
        return losses[0] + losses[1]

    def _check_index(self, student_embedding: Tensor, index: Tensor) -> None:
        check_rows(student_embedding, index, "index has")
        checkable = index.device.type == "cpu" and len(index) and not torch.compiler.is_compiling()
        if checkable and not 0 <= int(index.min()) <= int(index.max()) < self.num_samples:
            raise UserError(
                f"The index runs from {int(index.min())} to {int(index.max())}, but the banks hold {self.num_samples} "
                "samples; give each row's number in the training set, from 0.",
                code="index-out-of-range",
            )

    def _scores(self, rows: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
        """``[B, 1 + K]``: products with the chosen entries, divided by the temperature."""
        with no_autocast(rows):
            if self.dense:
                products = (rows @ bank.T).gather(1, chosen)
            else:
                products = torch.einsum("bkd,bd->bk", bank[chosen], rows)
        return products / self.temperature

    @torch.no_grad()
    def _frozen_normaliser(self, sides: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """``[2]``: ln Z of both sides, set by the first batch that has a row."""
        rows = torch.ones(len(sides[0]), dtype=torch.bool, device=sides[0].device) if mask is None else mask
        some = rows.any()
        fresh = []
        for scores in sides:
            means = torch.where(rows, scores.logsumexp(1) - math.log(scores.shape[1]), -torch.inf)
            fresh.append(means.logsumexp(0) - rows.sum().clamp_min(1).to(means).log())
        value = torch.stack(fresh) + math.log(self.num_samples)
        value = torch.where(self.ready, self.log_normaliser, torch.where(some, value, 0))
        if self.training:
            self.log_normaliser = value.to(self.log_normaliser.dtype)
            self.ready = self.ready | some
        return value

    @torch.no_grad()
    def _moved(self, bank: Tensor, index: Tensor, rows: Tensor, mask: Tensor | None) -> Tensor:
        """The bank with the batch's entries updated.

        A new tensor after the dense product, whose backward pass reads the old one; else written in place, since the
        gathered rows are copies.
        """
        old = bank[index]
        new = unit_rows(self.momentum * old + (1 - self.momentum) * rows).to(bank.dtype)
        if mask is not None:
            writer = selected_rows(mask)
            index, new = index[writer], torch.where(mask.any(), new, old)[writer]
        return bank.index_copy(0, index, new) if self.dense else bank.index_copy_(0, index, new)


@module_loss("crd_queue", info_nce_loss, paper="ours, after Tian, Krishnan, Isola, ICLR 2020")
class CRDQueueLoss(nn.Module):
    """Contrastive distillation without banks: negatives from the batch and from a queue of past batches.

    ``info_nce(e_S · e_T / τ) + info_nce(e_T · e_S / τ)``: the positive is the other side's embedding of the same
    sample, the negatives those of samples of other classes in the batch and among the last ``queue`` ones; memory is
    O(queue · dim) whatever the size of the training set. The objective is InfoNCE, since noise-contrastive estimation
    needs the number of samples that the noise is drawn from.

    Args:
        student, teacher: shapes of one sample's embeddings.
        dim: width of the common space.
        queue: past embeddings to keep on each side; 0 takes negatives from the batch alone.
        temperature: τ.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, labels int64 ``[B]``, mask Bool ``[B]``
        -> 0-dim.

    Paper:
        ours, after Tian, Krishnan, Isola, ICLR 2020, and He et al.: Momentum Contrast, CVPR 2020 (the queue).
    """

    student_queue: Tensor
    teacher_queue: Tensor
    queue_labels: Tensor
    next_place: Tensor

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        dim: Count = 128,
        queue: Annotated[int, Range(at_least=0)] = 4096,
        temperature: Positive = 0.07,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.projections = _Projections(student, teacher, dim)
        self.register_buffer("student_queue", torch.zeros(queue, dim))
        self.register_buffer("teacher_queue", torch.zeros(queue, dim))
        self.register_buffer("queue_labels", torch.full((queue,), -1))  # -1: a place that is still empty
        self.register_buffer("next_place", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        labels: Tensor,
        *,
        mask: Mask = None,
    ) -> Tensor:
        check_rows(student_embedding, labels, "labels have")
        student, teacher = self.projections(student_embedding, teacher_embedding, mask)
        # -1: neither row nor negative
        batch_labels = labels if mask is None else torch.where(mask, labels, -1)
        columns = torch.cat([batch_labels, self.queue_labels])
        allowed = (columns >= 0).unsqueeze(0) & (columns.unsqueeze(0) != labels.unsqueeze(1))
        loss = student.new_zeros(())
        for rows, others, queue in (
            (student, teacher, self.teacher_queue),
            (teacher, student, self.student_queue),
        ):
            with no_autocast(rows):
                scores = rows @ torch.cat([others, queue.to(rows.dtype)]).T / self.temperature
            positive = (rows * others).sum(1, keepdim=True) / self.temperature
            loss = loss + info_nce_loss(torch.cat([positive, scores], 1), allowed, mask=mask)
        if self.training and len(self.queue_labels) and len(labels):
            queues, self.next_place = enqueued(
                (self.student_queue, self.teacher_queue, self.queue_labels),
                (student, teacher, labels),
                self.next_place,
                mask,
            )
            self.student_queue, self.teacher_queue, self.queue_labels = queues
        return loss
