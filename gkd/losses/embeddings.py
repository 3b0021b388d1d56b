"""Losses on projected embeddings: their correlations over a batch, their space, and their classes' centres."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, safe_divide, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_range, check_rows, mean_over_rows
from gkd.losses.projectors import Projector, ProjectorKind, normalised
from gkd.losses.registry import module_loss
from gkd.losses.signature import Count, Mask, NotNegative, checked
from gkd.losses.similarity import coss_loss

__all__ = ["CoSSProjectedLoss", "NormDirectionLoss", "RSDLoss", "norm_direction_loss", "rsd_loss"]


@checked
def rsd_loss(
    student_embedding: Tensor, teacher_embedding: Tensor, *, kappa: NotNegative = 0.01, mask: Mask = None
) -> Tensor:
    """Redundancy suppression: each dimension correlates with the teacher's same one, and with no other.

    ``Σ_i (R_ii − 1)² + κ Σ_{i≠j} R_ij²`` with ``R = z(t)ᵀ z(s) / B`` and ``z(x) = (x − μ) / (σ + 1e-5)`` in each
    dimension over the batch, σ with denominator B.

    Convention: a sum over the D² entries of R, not a mean, so the value grows with D, and is about D where nothing
    correlates; the correlations run over the selected rows, so the value does not scale with B. It is 0 only where the
    teacher's own dimensions are uncorrelated; elsewhere it has a floor above 0 that says nothing about the student. The
    teacher is a constant. One row, or equal rows, have no variance: the value is D, without a gradient. No row gives a
    zero that keeps the graph.

    Args:
        student_embedding: ``[B, D]``, of the teacher's width.
        teacher_embedding: ``[B, D]``.
        kappa: κ, the weight of the correlations between different dimensions.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths.

    Paper:
        Zhang et al.: Cross-Architecture Distillation Made Simple with Redundancy Suppression, ICCV 2025, arXiv
        2507.21844; as in VISION-SJTU/RSD.
    """
    _check_widths(student_embedding, teacher_embedding, "RSDLoss")
    student = normalised(student_embedding, "standardise", mask)
    teacher = normalised(teacher_embedding.detach(), "standardise", mask).to(student.dtype)
    if student.shape[0] == 0:
        return student.sum()
    count = student.shape[0] if mask is None else mask.sum().clamp_min(1)
    with no_autocast(student):
        correlations = teacher.mT @ student / count
    same = torch.eye(student.shape[1], dtype=torch.bool, device=student.device)
    squares = (correlations - same.to(correlations)).square()
    value = torch.where(same, squares, kappa * squares).sum()
    return value if mask is None else value * mask.any()


@module_loss("rsd", rsd_loss, paper="Zhang et al., ICCV 2025")
class RSDLoss(nn.Module):
    """Redundancy suppression distillation: the student's embedding behind a projector, then :func:`rsd_loss`.

    Args:
        student, teacher: shapes of one sample's embeddings.
        projector: the kind of the `Projector`; the paper's is ``mlp``.
        expansion: of the hidden layer of ``mlp``, times the student's width.
        kappa: see :func:`rsd_loss`.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: ``projector: none`` between different widths.

    Paper:
        Zhang et al., ICCV 2025; projector of VISION-SJTU/RSD.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        projector: ProjectorKind = "mlp",
        expansion: Count = 2,
        kappa: NotNegative = 0.01,
    ) -> None:
        super().__init__()
        self.projector = Projector(student, teacher, projector=projector, expansion=expansion)
        self.kappa = kappa

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        student = self.projector(student_embedding, mask)
        return rsd_loss(student, teacher_embedding.flatten(1), kappa=self.kappa, mask=mask)


@module_loss("coss_projected", coss_loss, paper="Singh, Wang, ECCV 2024")
class CoSSProjectedLoss(nn.Module):
    """Space similarity of a student of another width: its embedding behind a projector, then `coss_loss`.

    The loss ``coss`` is the same without parameters, for embeddings of one width.

    Args:
        student, teacher: shapes of one sample's embeddings.
        projector: the kind of the `Projector`.
        expansion: of the hidden layer of ``projector: mlp``.
        space: λ of `coss_loss`.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: ``projector: none`` between different widths.

    Paper:
        Singh, Wang: Simple Unsupervised Knowledge Distillation With Space Similarity, ECCV 2024; the projector is ours.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        projector: ProjectorKind = "linear",
        expansion: Count = 2,
        space: NotNegative = 1.0,
    ) -> None:
        super().__init__()
        self.projector = Projector(student, teacher, projector=projector, expansion=expansion)
        self.space = space

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        student = self.projector(student_embedding, mask)
        return coss_loss(student, teacher_embedding.flatten(1), space=self.space, mask=mask)


@checked
def norm_direction_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    centres: Tensor,
    labels: Tensor,
    *,
    mask: Mask = None,
) -> Tensor:
    """Norm and direction: every embedding points to the teacher's centre of its class, no shorter than the teacher's.

    ``mean_i [ 1 − ⟨s_i, ĉ_{y_i}⟩ / max( ‖s_i‖, ‖t_i‖ ) ]`` with ĉ the teacher's class centres, of length 1.

    Convention: mean over the selected rows; the value is in [0, 2] and scales neither with B nor with D. A student
    longer than the teacher is asked for its direction alone; a shorter one grows towards the centre too. The centres
    average the teacher's embeddings of the student's images, not its logits, so the two sides need no class in common.
    Teacher and centres are constants. A class without a centre (zero row) gives 1 without a gradient, and so does a
    row where both sides are zero. No row gives a zero that keeps the graph.

    Args:
        student_embedding: ``[B, D]``, of the teacher's width.
        teacher_embedding: ``[B, D]``, of the same images; only its length is read.
        centres: ``[C, D]``, row k the centre of the student's column k, from `class_centres`.
        labels: int64 ``[B]``, columns of the student.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths, or a label that is no centre (checked on the CPU alone).

    Paper:
        Wang et al.: Improving Knowledge Distillation via Regularizing Feature Direction and Norm (KD++), ECCV 2024,
        arXiv 2305.17007; as in WangYZ1608/Knowledge-Distillation-via-ND.
    """
    _check_widths(student_embedding, teacher_embedding, "NormDirectionLoss")
    check_rows(student_embedding, labels, "labels have")
    labels = zero_unselected(labels, mask)
    check_range("labels", labels, len(centres), f"there are {len(centres)} centres")
    student = upcast(zero_unselected(student_embedding, mask))
    teacher = upcast(zero_unselected(teacher_embedding.detach(), mask)).to(student.dtype)
    direction = unit_rows(upcast(centres.detach()))[labels].to(student.dtype)
    lengths = [torch.linalg.vector_norm(side, dim=1) for side in (student, teacher)]
    along = safe_divide((student * direction).sum(1), torch.maximum(*lengths))
    return mean_over_rows(1 - along, mask)


@module_loss("norm_direction", norm_direction_loss, paper="Wang et al., ECCV 2024 (KD++)")
class NormDirectionLoss(nn.Module):
    """KD++'s loss of norm and direction: the student's embedding behind a projector, then :func:`norm_direction_loss`.

    The authors project only where the widths differ, by BatchNorm, dropout of 0.5 and a linear layer; ``projector:
    none`` is theirs for equal widths.

    Args:
        student, teacher: shapes of one sample's embeddings.
        projector: the kind of the `Projector`.
        expansion: of the hidden layer of ``projector: mlp``.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, centres ``[C, D_T]``, labels int64 ``[B]``, mask
        Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: ``projector: none`` between different widths.

    Paper:
        Wang et al., ECCV 2024; the projector is ours.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        projector: ProjectorKind = "linear",
        expansion: Count = 2,
    ) -> None:
        super().__init__()
        self.projector = Projector(student, teacher, projector=projector, expansion=expansion)

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        centres: Tensor,
        labels: Tensor,
        *,
        mask: Mask = None,
    ) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        student = self.projector(student_embedding, mask)
        return norm_direction_loss(student, teacher_embedding.flatten(1), centres, labels, mask=mask)


def _check_widths(student: Tensor, teacher: Tensor, module: str) -> None:
    check_rows(student, teacher)
    if student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"The student's embedding has {student.shape[1]} entries, the teacher's {teacher.shape[1]}, but the loss "
            f"needs the same number; use {module}, which projects the student.",
            code="other-widths",
        )
