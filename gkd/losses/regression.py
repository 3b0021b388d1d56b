"""Regression from one side's embedding to the other's: no classes, no pairs, a trained projector between the widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, mean_over_rows
from gkd.losses.projectors import Normalisation, Projector, ProjectorKind, normalised
from gkd.losses.registry import module_loss
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Count, Mask, Positive, Range, checked

__all__ = ["InvertedProjectionLoss", "RegressionLoss", "regression_loss"]

Distance = Literal["cosine", "l2", "smooth-l1"]


@checked
def regression_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    *,
    distance: Distance = "cosine",
    beta: Positive = 1.0,
    student_normalise: Normalisation = "none",
    teacher_normalise: Normalisation = "none",
    mask: Mask = None,
) -> Tensor:
    """Regression of embeddings: every sample's embedding is where the teacher's is.

    ``mean_i d( n_S(s_i), n_T(t_i) )``; ``cosine``: ``d = 1 − cos(a, b)``; ``l2``: ``d = mean_j (a_j − b_j)²``;
    ``smooth-l1``: ``d = mean_j h(a_j − b_j)`` with ``h(x) = x² / 2β`` where ``|x| < β`` and ``|x| − β/2`` elsewhere.

    Convention: mean over the selected rows, and for ``l2`` and ``smooth-l1`` over the D entries of each, so the value
    scales neither with B nor with D; ``‖a − b‖²`` is D times the value of ``l2``. The normalisations are those of
    `normalised`; ``centre``, ``standardise`` and ``whiten`` take the selected rows of the batch, so that under them a
    row depends on the others. The teacher is a constant. A zero row has the cosine 0, with a finite gradient. No row
    gives a zero that keeps the graph.

    Args:
        student_embedding: ``[B, D]``, of the teacher's width.
        teacher_embedding: ``[B, D]``.
        distance: what is measured between two rows.
        beta: β of ``smooth-l1``, where the square becomes linear.
        student_normalise, teacher_normalise: what is done to each side first.
        mask: Bool ``[B]``, the rows that count; the others enter no mean and no covariance.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths.

    Paper:
        cosine: Chen et al.: Improved Feature Distillation via Projector Ensemble (PEFD), NeurIPS 2022; l2: Zhang et
        al.: Accessing Vision Foundation Models via ImageNet-1K (Proteus), ICLR 2025; smooth-l1 with a normalised
        teacher: Wei et al.: Feature Distillation, arXiv 2205.14141 (β = 2), and Miles, Elezi, Deng: VkD, CVPR 2024
        (β = 1).
    """
    teacher = teacher_embedding.detach()
    return _regression(student_embedding, teacher, distance, beta, student_normalise, teacher_normalise, mask)


def _regression(
    student: Tensor,
    teacher: Tensor,
    distance: Distance,
    beta: float,
    student_normalise: Normalisation,
    teacher_normalise: Normalisation,
    mask: Tensor | None,
) -> Tensor:
    """:func:`regression_loss` with gradients on both sides."""
    check_rows(student, teacher)
    if student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"The student's embedding has {student.shape[1]} entries, the teacher's {teacher.shape[1]}: regression "
            "compares them entry by entry and needs the same number; use RegressionLoss, which projects the student.",
            code="other-widths",
        )
    student = normalised(student, student_normalise, mask)
    teacher = normalised(teacher, teacher_normalise, mask).to(student.dtype)
    if distance == "cosine":
        rows = 1 - (unit_rows(student) * unit_rows(teacher)).sum(1)
    elif distance == "l2":
        rows = (student - teacher).square().mean(1)
    else:
        rows = F.smooth_l1_loss(student, teacher, reduction="none", beta=beta).mean(1)
    return mean_over_rows(rows, mask)


@module_loss("regression", regression_loss, paper="Chen et al., NeurIPS 2022; Wei et al. 2022")
class RegressionLoss(nn.Module):
    """Regression of the teacher's embedding from the student's, through a trained projector; then `regression_loss`.

    ``regression(P(n_I(s)), t)`` with P a `Projector`, and n_I a normalisation of what it reads.

    The papers' settings: PEFD is ``projectors: 3, relu: true, distance: cosine``; VkD ``projector: orthogonal,
    teacher_normalise: layer, distance: smooth-l1``; Feature Distillation ``teacher_normalise: layer, distance:
    smooth-l1, beta: 2``; Proteus's head of LayerNorm and a linear layer ``input_normalise: layer, distance: l2``, since
    the linear layer takes up the scale and shift that its LayerNorm has.

    Args:
        student, teacher: shapes of one sample's embeddings.
        projector: the kind of the projector (`Projector`).
        projectors: how many of them are averaged.
        relu: whether a ReLU follows each of them.
        expansion: of the hidden layer of ``projector: mlp``.
        input_normalise: what is done to the student's embedding before the projector.
        distance, beta, student_normalise, teacher_normalise: of :func:`regression_loss`; the student's side is the
            projector's output.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: ``projector: none`` between different widths.

    Paper:
        as in :func:`regression_loss`.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        projector: ProjectorKind = "linear",
        projectors: Count = 1,
        relu: bool = False,
        expansion: Count = 2,
        input_normalise: Normalisation = "none",
        distance: Distance = "cosine",
        beta: Positive = 1.0,
        student_normalise: Normalisation = "none",
        teacher_normalise: Normalisation = "none",
    ) -> None:
        super().__init__()
        self.projector = Projector(
            student, teacher, projector=projector, projectors=projectors, relu=relu, expansion=expansion
        )
        self.input_normalise = input_normalise
        self.distance, self.beta = distance, beta
        self.student_normalise, self.teacher_normalise = student_normalise, teacher_normalise

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        student = normalised(student_embedding.flatten(1), self.input_normalise, mask)
        return regression_loss(
            self.projector(student, mask),
            teacher_embedding.flatten(1),
            distance=self.distance,
            beta=self.beta,
            student_normalise=self.student_normalise,
            teacher_normalise=self.teacher_normalise,
            mask=mask,
        )


@module_loss("inverted_projection", regression_loss, paper="Auty, Miles, Kolbeinsson, Mikolajczyk, BMVC 2024")
class InvertedProjectionLoss(nn.Module):
    """The teacher's embedding is projected to the student's: what the student cannot use is left out.

    ``regression(s, P(t))`` with P linear from D_T to D_S, trained with the student; with ``rank`` it is a product of
    two: D_T to ``rank`` without bias, ``rank`` to D_S.

    Beside it stands a loss on labels: a student and a projector that are both zero, or constant, make it 0, and
    nothing in it forbids them. A normalisation over the batch on both sides does.

    Of the paper only its abstract and a description were at hand, no code: that the teacher is the projected side, and
    ends at low rank. Distance, normalisations and a bound on the rank are options; their defaults are ours.

    Args:
        student, teacher: shapes of one sample's embeddings.
        rank: of the projection; 0 bounds it by the widths alone.
        distance, beta, student_normalise, teacher_normalise: of :func:`regression_loss`; the teacher's side is the
            projection's output.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, mask Bool ``[B]`` -> 0-dim.

    Paper:
        Auty, Miles, Kolbeinsson, Mikolajczyk: Learning to Project for Cross-Task Knowledge Distillation, BMVC 2024,
        arXiv 2403.14494.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        rank: Annotated[int, Range(at_least=0)] = 0,
        distance: Distance = "l2",
        beta: Positive = 1.0,
        student_normalise: Normalisation = "none",
        teacher_normalise: Normalisation = "none",
    ) -> None:
        super().__init__()
        before, after = math.prod(teacher), math.prod(student)
        self.projection = (
            nn.Sequential(nn.Linear(before, rank, bias=False), nn.Linear(rank, after))
            if rank
            else nn.Sequential(nn.Linear(before, after))
        )
        self.distance, self.beta = distance, beta
        self.student_normalise, self.teacher_normalise = student_normalise, teacher_normalise

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        teacher = upcast(zero_unselected(teacher_embedding.detach().flatten(1), mask))
        return _regression(
            student_embedding.flatten(1),
            run_layers(self.projection, teacher, mask),
            self.distance,
            self.beta,
            self.student_normalise,
            self.teacher_normalise,
            mask,
        )
