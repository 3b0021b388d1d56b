"""Similarity-preserving distillation: the batch's pairwise similarities in the two networks."""

import torch
from torch import Tensor

from gkd.losses._common import no_autocast, unit_rows, upcast, zero_unselected


def sp_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Similarity-preserving distillation: pairs alike for the teacher are alike for the student.

    ``(1 / B²) · ‖ G_T − G_S ‖_F²`` with ``G = rows of Q Qᵀ, each divided by its L2 norm`` and Q the
    activation map, flattened to ``[B, C·H·W]`` and not normalised itself.

    Convention: divided by B², B = the number of selected rows. A row's difference is at most 2, so
    the value is O(1/B): the paper's weight 3000 belongs to B = 64. The teacher is a constant. A zero
    row of Q is a zero row of G; one row, or none, gives a zero that keeps the graph. The networks'
    channels and spatial sizes may differ.

    Args:
        student_map: ``[B, ...]``, the last spatial map before pooling in the paper.
        teacher_map: ``[B, ...]``.
        mask: Bool ``[B]``, the rows that count; the others enter neither rows nor columns of G.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Paper:
        Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019, equations 2 to 4.
    """
    difference = _similarities(teacher_map.detach(), mask) - _similarities(student_map, mask)
    if mask is None:
        return difference.square().sum() / max(student_map.shape[0], 1) ** 2
    return difference.square().sum() / mask.sum().clamp_min(1).square()


def _similarities(activations: Tensor, mask: Tensor | None) -> Tensor:
    """G ``[B, B]``; rows and columns of unselected samples are zero."""
    flat = zero_unselected(upcast(activations).flatten(1), mask)
    if flat.numel() == 0:
        return flat.sum() * flat.new_zeros(flat.shape[0], flat.shape[0])
    # G does not change with a common factor; dividing by the largest entry keeps large maps finite.
    largest = flat.detach().abs().amax()
    flat = flat / torch.where(largest == 0, 1, largest)
    with no_autocast(flat):
        return unit_rows(flat @ flat.T)
