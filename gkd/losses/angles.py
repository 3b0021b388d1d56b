"""Relational distillation of angles, without the B³ tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd.core.numerics import no_autocast, safe_divide, upcast, zero_unselected
from gkd.losses._common import WithGradient, check_rows
from gkd.losses.registry import loss
from gkd.losses.signature import Mask

__all__ = ["rkd_angle_loss"]

# Anchors are taken in chunks whose cosines [A, B, B] fill about this many elements.
CHUNK_ELEMENTS = 2**22


@loss("rkd_angle", paper="Park, Kim, Lu, Cho, CVPR 2019")
def rkd_angle_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
    """Relational distillation of angles: triplets span the angles that they span in the teacher.

    ``(1 / B³) Σ_jik huber( cos∠_S(i, j, k) − cos∠_T(i, j, k) )`` with the angle at sample j:
    ``cos∠(i, j, k) = e_ij · e_kj``, ``e_ij = (h_i − h_j) / ‖h_i − h_j‖₂``, 0 where two of them coincide.

    Convention: Huber with β = 1; mean over all B³ ordered triplets, those with i = j or k = j (cosine 0)
    and i = k (cosine 1 on both sides) among them; the value hardly depends on B and not on the scale of
    either side. The teacher is a constant. No row gives a zero that keeps the graph. Anchors are taken in
    chunks, and the gradient is computed beside the value, so memory is O(B² + B·D + chunk).

    Args:
        student_embedding: ``[B, D_S]``.
        teacher_embedding: ``[B, D_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes.

    Paper:
        Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019, equations 7 to 9; reduction of
        RepDistiller.
    """
    check_rows(student_embedding, teacher_embedding)
    student = zero_unselected(upcast(student_embedding).flatten(1), mask)
    teacher = zero_unselected(upcast(teacher_embedding.detach()).flatten(1), mask)
    if mask is None:
        mask = torch.ones(len(student), dtype=torch.bool, device=student.device)
    with no_autocast(student):
        value, gradient = _angles(student.detach(), teacher, mask, student.requires_grad)
    loss: Tensor = WithGradient.apply(student, value, gradient)
    return loss


def _angles(student: Tensor, teacher: Tensor, mask: Tensor, wants_gradient: bool) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to the student's rows."""
    size, width = len(student), max(student.shape[1], teacher.shape[1])
    total = student.new_zeros(())
    gradient = torch.zeros_like(student)
    chunk = max(1, CHUNK_ELEMENTS // max(size * max(size, width), 1))
    for start in range(0, size, chunk):
        anchors = slice(start, min(start + chunk, size))
        directions, distance = _directions(student, anchors, mask)
        reference, _ = _directions(teacher, anchors, mask)
        difference = directions @ directions.mT - reference @ reference.mT  # of cosines, [A, B, B]
        slope = difference.clamp(-1, 1)  # of the Huber function, whose value is s (d − s / 2)
        total = total + (slope * (difference - slope / 2)).sum()
        if wants_gradient:
            along = 2 * slope @ directions  # symmetric in i and k
            across = along - directions * (directions * along).sum(2, keepdim=True)
            moved = safe_divide(across, distance)
            gradient += moved.sum(0)
            gradient[anchors] -= moved.sum(1)
    triplets = mask.sum().clamp_min(1).to(total.dtype) ** 3
    return total / triplets, gradient / triplets


def _directions(rows: Tensor, anchors: slice, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors ``[A, B, D]`` from each anchor to each sample, 0 where either does not count; distances."""
    away = rows.unsqueeze(0) - rows[anchors].unsqueeze(1)
    away = away * (mask.unsqueeze(0) & mask[anchors].unsqueeze(1)).unsqueeze(2)
    distance = torch.linalg.vector_norm(away, dim=2, keepdim=True)
    return safe_divide(away, distance), distance
