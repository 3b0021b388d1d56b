"""Singular vectors: how the leading ones of one map lie to those of the next, as in the teacher."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, safe_divide, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, mean_over_rows
from gkd.losses.maps import aligned, check_map
from gkd.losses.registry import loss
from gkd.losses.signature import Count, Mask, Range

__all__ = ["singular_loss"]

_BREADTH = 8.0  # of the kernel: 2 · 2²


@loss("kdsvd", paper="Lee, Kim, Song, ECCV 2018")
def singular_loss(
    student_map: Tensor,
    student_map_after: Tensor,
    teacher_map: Tensor,
    teacher_map_after: Tensor,
    *,
    vectors: Count = 1,
    spare: Annotated[int, Range(at_least=0)] = 3,
    of: Literal["channels", "columns"] = "channels",
    smallest_gap: Annotated[float, Range(above=0, at_most=1)] = 1e-4,
    mask: Mask = None,
) -> Tensor:
    """Singular vectors: the leading ones of a map and of the one after it lie to each other as in the teacher.

    ``mean_b Σ_k Σ_ij ( R_S,ijk − R_T,ijk )²`` with ``R_ijk = exp( −(v_ik − u_jk)² / 8 )``, v the leading right
    singular vectors of the map after, u those of the map. A map is the matrix of its positions by its channels.

    The teacher's ``vectors`` leading ones are taken, of the student's ``spare`` more; each of the teacher's is compared
    with that of the student's which has the largest cosine with it, in absolute value, turned to its side. All are
    multiplied by the teacher's singular values, divided by their norm (1 where ``vectors`` is 1).

    Convention: a sum over the vectors' entries and a mean over B, so the value grows with the numbers of channels; it
    does not scale with B. The teacher is a constant. No row gives a zero that keeps the graph. Memory is
    O(B · C · C' · vectors).

    What a singular value decomposition leaves open is settled here, where published code takes what the library gives:

    - **Signs.** A singular vector is one up to its sign, which libraries choose at will, so that the published value
      can differ between machines. Here the entries of a teacher's vector have a sum that is not negative; the
      student's follow it.
    - **Gradients.** That of a singular vector is a sum over all others, divided by the differences of the squared
      singular values: infinite where two are equal, as those of dead channels are. The authors' code then drops the
      whole map; the ports to PyTorch turn values that are no number to 0, but not gradients, and train on NaN. Here
      two vectors whose squared values differ by no more than ``smallest_gap`` of the largest do not turn into each
      other: that part of the gradient is 0, and the rest exact.
    - **Vanishing values.** A singular value of 0 has no vector of its own: it is a vector of zeros.

    Args:
        student_map: ``[B, C, H, W]``.
        student_map_after: ``[B, C', H', W']``.
        teacher_map: ``[B, C, ...]``.
        teacher_map_after: ``[B, C', ...]``.
        vectors: how many, k; no more than the smallest of the four matrices has.
        spare: how many more of the student's vectors may match; 3 in RepDistiller, 1 in the authors' code.
        of: ``channels``: the authors' matrix of positions by channels, as in RepDistiller, whose vectors have an entry
            a channel, so that both networks need the same; ``columns``: mdistiller's matrix of channels and rows by
            columns, whose vectors have an entry a column: for any channels, the larger map average-pooled to the
            smaller, but not what the authors decompose.
        smallest_gap: relative to the largest squared singular value, above 0, at most 1.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: other channels on the two sides with ``of='channels'``, inputs that are no maps, or of different
            batch sizes.

    Paper:
        Lee, Kim, Song: Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018;
        reduction of HobbitLong/RepDistiller distiller_zoo/KDSVD.py. The authors' code (sseung0703/SSKD_SVD) takes
        √k / 2 times the sum over the batch in the place of the mean.
    """
    for one, other in (
        (student_map, student_map_after),
        (student_map, teacher_map),
        (student_map, teacher_map_after),
    ):
        check_rows(one, other)
    pairs = ((student_map, teacher_map.detach()), (student_map_after, teacher_map_after.detach()))
    before, after = (_sides(ours, theirs, of, mask) for ours, theirs in pairs)
    if before[0].numel() == 0 or after[0].numel() == 0:
        return before[0].sum() + after[0].sum()
    leading = min(vectors, *(side for each in (*before, *after) for side in each.shape[1:]))
    with no_autocast(before[0]):
        kernels = []
        sides = [_matched(*each, leading, spare, smallest_gap) for each in (before, after)]
        for side in (0, 1):
            earlier, later = sides[0][side], sides[1][side]
            apart = later.unsqueeze(2) - earlier.unsqueeze(1)
            kernels.append((-apart.square() / _BREADTH).exp())
    rows = (kernels[0] - kernels[1]).square().sum((1, 2, 3))
    for each in (
        *before,
        *after,
    ):  # a decomposition takes no entry that is no number; the value still shows it
        rows = rows + 0 * each.sum((1, 2))
    return mean_over_rows(rows, mask)


def _sides(ours: Tensor, theirs: Tensor, of: str, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both networks' maps of one depth as ``[B, N, M]``, for each entry of the vectors what it is measured at."""
    for maps in (ours, theirs):
        check_map(maps)
    if of == "columns":
        ours, theirs = aligned(ours, theirs, mask)
        return ours.flatten(1, 2).mT, theirs.flatten(1, 2).mT
    if ours.shape[1] != theirs.shape[1]:
        raise UserError(
            f"The student's map has {ours.shape[1]} channels, the teacher's {theirs.shape[1]}: kdsvd needs "
            "the same number; choose other spots, or of='columns'.",
            code="other-channels",
        )
    ours, theirs = (upcast(zero_unselected(maps, mask)) for maps in (ours, theirs))
    return ours.flatten(2), theirs.flatten(2)


def _matched(ours: Tensor, theirs: Tensor, vectors: int, spare: int, gap: float) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's vectors ``[B, N, k]``, matched, times the teacher's singular values."""
    teacher, values = _leading(theirs, vectors, gap)
    teacher = teacher * torch.where(teacher.sum(1, keepdim=True) < 0, -1, 1)
    student, _ = _leading(ours, vectors + spare, gap)
    cosines = student.mT @ teacher
    best = cosines.detach().abs().argmax(1, keepdim=True)
    side = cosines.detach().gather(1, best).sign()
    student = student.gather(2, best.expand(-1, student.shape[1], -1)) * side
    values = unit_rows(values).unsqueeze(1)
    return student * values, teacher * values


def _leading(matrix: Tensor, count: int, gap: float) -> tuple[Tensor, Tensor]:
    """The leading left singular vectors ``[B, N, k]`` of ``[B, N, M]``, and their values ``[B, k]`` up to a factor."""
    matrix = torch.where(matrix.isfinite(), matrix, 0)
    matrix = safe_divide(
        matrix, matrix.detach().abs().amax((1, 2), keepdim=True)
    )  # of no effect on the vectors
    narrow = matrix.shape[1] <= matrix.shape[2]
    rows = matrix if narrow else matrix.mT
    vectors, squares = _Eigenvectors.apply(rows @ rows.mT, count, gap)
    if not narrow:
        vectors = unit_rows((matrix @ vectors).mT.flatten(0, 1)).unflatten(0, squares.shape).mT
    rounding = torch.finfo(squares.dtype).eps * rows.shape[1]
    there = squares > rounding * squares[:, :1]
    return vectors * there.unsqueeze(1), torch.where(there, squares, 0).sqrt()


class _Eigenvectors(torch.autograd.Function):
    """The eigenvectors ``[B, N, k]`` of the largest eigenvalues of ``[B, N, N]``, and these ``[B, k]``, as constants.

    In the gradient two vectors do not turn into each other whose eigenvalues differ by no more than ``gap`` of the
    largest.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, count: int, gap: float) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        values, vectors = values.flip(1), vectors.flip(2)
        ctx.save_for_backward(values, vectors)
        ctx.gap = gap
        kept = values[:, :count].clamp_min(0)
        ctx.mark_non_differentiable(kept)
        return vectors[:, :, :count].clone(), kept

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        values, vectors = ctx.saved_tensors
        kept = vectors[:, :, : upstream[0].shape[2]]
        apart = values[:, : upstream[0].shape[2]].unsqueeze(1) - values.unsqueeze(2)
        turns = apart.abs() > ctx.gap * values[:, :1, None]
        turning = torch.where(turns, vectors.mT @ upstream[0] / torch.where(turns, apart, 1), 0)
        gradient = vectors @ turning @ kept.mT
        return (gradient + gradient.mT) / 2, None, None
