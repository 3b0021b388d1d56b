"""The classifier that a teacher's embedding induces over the student's classes (REFILLED, stage 2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gkd.core.class_means import induced_logits
from gkd.core.errors import UserError, unknown
from gkd.core.numerics import unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, columns_of, kl_rows, mean_over_rows
from gkd.losses.registry import loss
from gkd.losses.signature import Mask, Positive, Weights

__all__ = ["induced_classifier_loss", "teacher_confidence"]

CONFIDENCES = ("pseudo-label", "entropy", "max-logit")


@loss("induced_classifier", paper="Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022")
def induced_classifier_loss(
    student_logits: Tensor,
    teacher_embedding: Tensor,
    centres: Tensor,
    labels: Tensor,
    *,
    teacher_temperature: Positive = 1.0,
    student_temperature: Positive = 1.0,
    classes: Literal["batch", "all"] = "batch",
    weights: Weights = None,
    normalise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """The student's logits follow the nearest-centre classifier that the teacher's embedding induces.

    ``mean_i w_i · KL( softmax(z_T,i / τ_T) ‖ softmax(z_S,i / τ_S) )``, both softmaxes over the same
    classes K, with ``z_T = f_T(x) Cᵀ``.

    Convention: each side has its own temperature and no τ² is applied; KL(teacher‖student), summed
    over K, mean over the selected rows (their number, not the sum of the weights); the value does
    not scale with B, but with ``classes="batch"`` K grows with it. The teacher and the weights are
    constants. Classes without a centre (zero row) are never in K; a sample of such a class counts
    like any other. K of one class or none, or no selected row, gives a zero that keeps the graph.

    Args:
        student_logits: ``[B, C]``.
        teacher_embedding: ``[B, D]``, not normalised.
        centres: ``[C, D]``, row k the centre of the student's column k, from `class_centres`.
        labels: int64 ``[B]``, columns of the student's logits; read only for the classes in the batch.
        teacher_temperature: τ_T; 1 in TPAMI, 2 in CVPR.
        student_temperature: τ_S; 1 in TPAMI's code, 2 in CVPR.
        classes: ``"batch"`` (papers): K = the classes among the selected labels; ``"all"``.
        weights: ``[B]`` per-sample w from `teacher_confidence`; None means 1.
        normalise: L2-normalise the teacher's embedding first (ours; logits are then cosines).
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: an unknown ``classes``, not as many centres as student columns, inputs of different batch
            sizes, or a label that is no column (checked on the CPU alone).

    Paper:
        Ye, Lu, Zhan, CVPR 2020, section 4.2; with global centres and weights: Generalized Knowledge
        Distillation via Relationship Matching, TPAMI 2022.
    """
    num_classes = student_logits.shape[1]
    if centres.shape[0] != num_classes:
        raise UserError(
            f"There are {centres.shape[0]} centres for {num_classes} student columns; "
            "give one centre per student class, a zero row where there is none.",
            code="other-classes",
        )
    check_rows(student_logits, teacher_embedding)
    labels = columns_of(labels, student_logits, mask)
    student = upcast(zero_unselected(student_logits, mask))
    embedding = upcast(zero_unselected(teacher_embedding.detach(), mask))
    teacher = induced_logits(unit_rows(embedding) if normalise else embedding, centres.detach())

    used = (centres != 0).any(dim=1)
    if classes == "batch":
        used = used & _present(labels, num_classes, mask)
    rows = kl_rows(student / student_temperature, teacher / teacher_temperature, used)
    if weights is not None:
        rows = rows * zero_unselected(weights.detach().to(rows.dtype), mask)
    return mean_over_rows(rows, mask)


def _present(labels: Tensor, num_classes: int, mask: Tensor | None) -> Tensor:
    """Bool ``[C]``: the classes among the selected labels."""
    member = labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)
    return member.any(dim=0) if mask is None else (member & mask.unsqueeze(1)).any(dim=0)


@torch.no_grad()
def teacher_confidence(teacher_logits: Tensor, kind: str = "pseudo-label", *, mask: Mask = None) -> Tensor:
    """Per-sample weights: how sure the teacher is in its own label space, relative to the batch.

    ``w_i = 2 σ(−ũ_i)`` with ``ũ = (u − min u) / (max u − min u)`` over the batch and u the teacher's
    unsureness: its cross-entropy to its own argmax, its entropy, or minus its largest logit.

    Convention: the surest sample gets 1, the least sure 2σ(−1) = 0.538. Weights of different batches
    are not comparable. Where all samples agree (up to rounding), and for a batch of one, w = 1.

    Args:
        teacher_logits: ``[B, C_teacher]``, the teacher's own logits.
        kind: ``"pseudo-label"`` (the authors' code), ``"entropy"`` or ``"max-logit"``.
        mask: Bool ``[B]``, the rows that set min and max; the weights of the others are 1.

    Returns:
        ``[B]`` without gradient, float32 for half-precision logits.

    Raises:
        UserError: an unknown kind.

    Paper:
        Ye, Lu, Zhan: Generalized Knowledge Distillation via Relationship Matching, TPAMI 2022, the
        adaptive weight (``wgkd`` in the authors' code); the other two signals from its analysis.
    """
    if kind not in CONFIDENCES:
        raise UserError(unknown("confidence", kind, CONFIDENCES), code="unknown-confidence")
    logits = upcast(teacher_logits)
    if kind == "max-logit":
        unsureness = -logits.amax(dim=1)
    else:
        log = logits.log_softmax(1)
        unsureness = -log.amax(dim=1) if kind == "pseudo-label" else -(log.exp() * log).sum(dim=1)
    if unsureness.shape[0] == 0:
        return unsureness
    largest = unsureness if mask is None else torch.where(mask, unsureness, -torch.inf)
    smallest = unsureness if mask is None else torch.where(mask, unsureness, torch.inf)
    high, low = largest.amax(), smallest.amin()
    noise = 10 * torch.finfo(logits.dtype).eps * (1 + high.abs())
    agree = high - low <= noise  # false for NaN, which then stays visible
    weights = 2 * torch.sigmoid((low - unsureness) / torch.where(agree, 1, high - low))
    weights = torch.where(agree, 1, weights)
    return weights if mask is None else torch.where(mask, weights, 1)
