"""Semantic calibration: every map of the student's learns from all of the teacher's, as much as attention says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import mean_over_rows
from gkd.losses.every_map import Shape, alike, both_maps, check_spots, pooled_to, smaller
from gkd.losses.registry import module_loss
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Count, Mask, Positive, checked

__all__ = ["SemanticLoss", "calibrated_loss"]


@checked
def calibrated_loss(
    student_map: Tensor, teacher_map: Tensor, attention: Tensor, *, mask: Mask = None
) -> Tensor:
    """Calibrated hint: the student's map is the teacher's, as far as each sample attends to it.

    ``mean_b a_b · mean over entries of ( s_b − t_b )²``.

    Convention: means over B and every entry of a row, so the value scales neither with B nor with the size. The
    teacher is a constant; the attention is none, so that it is trained by this loss. No row gives a zero that keeps
    the graph.

    Args:
        student_map: ``[B, C, H, W]``.
        teacher_map: ``[B, C, H, W]``, of the same shape.
        attention: ``[B]``, from 0 to 1.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different shapes.

    Paper:
        Chen, Mei, Zhang, Wang, Feng, Chen: Cross-Layer Distillation with Semantic Calibration, AAAI 2021, the loss of
        a pair of layers.
    """
    student, teacher = alike(
        student_map, teacher_map, mask, what="the calibrated loss needs", brings="SemanticLoss"
    )
    apart = student - teacher
    if apart.numel() == 0:
        return student.sum()
    shares = upcast(zero_unselected(attention, mask))
    return mean_over_rows(shares * apart.square().mean((1, 2, 3)), mask)


class Embedding(nn.Module):
    """Two linear layers with a ReLU between, onto the unit sphere: the query or key of a sample's similarities."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * dim)
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, rows: Tensor) -> Tensor:
        return unit_rows(self.out(F.relu(self.hidden(rows))))


@module_loss("semckd", calibrated_loss, paper="Chen, Mei, Zhang, Wang, Feng, Chen, AAAI 2021")
class SemanticLoss(nn.Module):
    """Semantic calibration: :func:`calibrated_loss` of each of the student's maps with every one of the teacher's,
    weighted by attention.

    ``1 / S · Σ_s Σ_t mean_b a_bst · mean ( P_st(F_s) − F_t )²``, the attention ``a_bst`` a softmax over t of
    ``q_bs · k_bt / τ``.
    The query of a sample at the student's map s is an MLP of its similarities to the batch there, the dot products of
    flattened maps; its key at the teacher's map t likewise. The larger of two maps is average-pooled to the smaller;
    P_st is a 1x1, a 3x3 and a 1x1 convolution, with BatchNorm and ReLU between. Attention and projections are trained
    by the loss, and the attention passes its gradient on to the student's maps.

    An MLP reads as many similarities as it was built for. In the authors' code that is the batch size, and smaller
    batches are left out. Here a batch is taken in groups of ``group`` rows in its order, similarities within each;
    a group that is not full has zeros for the rows that it lacks. So any batch will do, the last one of an epoch too,
    and one of ``group`` rows gives the authors' value. Rows outside the mask are in no group. The MLP's weights belong
    to places in the group, so the value depends on the order of the batch, as the authors' does.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample at each spot.
        group: rows of a group; the published batch size is 64.
        temperature: τ of the attention.
        reduction: queries and keys have ``group / reduction`` dimensions, rounded down, and at least one.

    Shapes:
        student_maps and teacher_maps: lists of ``[B, C, H, W]``; mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map, or other numbers of spots on the two sides.

    Paper:
        Chen, Mei, Zhang, Wang, Feng, Chen, AAAI 2021; Wang et al.: SemCKD, TKDE 2022; layers of DefangChen/SimKD
        (models/util.py ``SelfA``, distiller_zoo/SemCKD.py).
    """

    def __init__(
        self,
        student: Sequence[Shape],
        teacher: Sequence[Shape],
        *,
        group: Count = 64,
        temperature: Positive = 1.0,
        reduction: Count = 4,
    ) -> None:
        super().__init__()
        check_spots("semckd", student, teacher)
        self.group, self.temperature, count = group, temperature, len(student)
        dim = max(group // reduction, 1)
        self.queries = nn.ModuleList(Embedding(group, dim) for _ in student)
        self.keys = nn.ModuleList(Embedding(group, dim) for _ in teacher)
        self.sizes = [[smaller(ours, theirs) for theirs in teacher] for ours in student]
        self.projections = nn.ModuleList(
            _projection(ours[0], theirs[0]) for ours in student for theirs in teacher
        )
        self.count = count

    def forward(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, mask: Mask = None
    ) -> Tensor:
        students, teachers = both_maps(student_maps, teacher_maps, self.count, mask)
        with no_autocast(students[0]):
            attention = self.attention(students, teachers, mask)
            losses = []
            for s, ours in enumerate(students):
                for t, theirs in enumerate(teachers):
                    size = self.sizes[s][t]
                    layers = cast(nn.Sequential, self.projections[s * self.count + t])
                    projected = run_layers(layers, pooled_to(ours, size), mask)
                    target = pooled_to(theirs, size)
                    losses.append(calibrated_loss(projected, target, attention[:, s, t], mask=mask))
        return torch.stack(losses).sum() / self.count

    def attention(
        self, students: Sequence[Tensor], teachers: Sequence[Tensor], mask: Tensor | None
    ) -> Tensor:
        """``[B, S, T]``, how much each map of the student's attends to each of the teacher's; rows over T add up to 1.

        Args:
            students, teachers: maps ``[B, C, H, W]`` at each spot, unselected rows zero.
            mask: Bool ``[B]``, the rows that count.
        """
        order = None if mask is None else (~mask).to(torch.uint8).sort(stable=True).indices
        query, key = (
            torch.stack(
                [self._embedded(layer, maps, order) for layer, maps in zip(layers, side, strict=True)], 1
            )
            for layers, side in ((self.queries, students), (self.keys, teachers))
        )
        return (query @ key.mT / self.temperature).softmax(2)

    def _embedded(self, layer: nn.Module, maps: Tensor, order: Tensor | None) -> Tensor:
        """``[B, D]``: of each row, its similarities within its group; selected rows fill the groups first."""
        rows = maps.flatten(1)
        batch = rows.shape[0]
        rows = rows if order is None else rows[order]
        groups = max(-(-batch // self.group), 1)
        rows = F.pad(rows, (0, 0, 0, groups * self.group - batch)).unflatten(0, (groups, self.group))
        embedded: Tensor = layer((rows @ rows.mT).flatten(0, 1))
        embedded = embedded[:batch]
        return embedded if order is None else torch.zeros_like(embedded).index_copy(0, order, embedded)


def _projection(student_width: int, teacher_width: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions without bias by way of twice the teacher's width."""
    between = 2 * teacher_width
    return nn.Sequential(
        nn.Conv2d(student_width, between, 1, bias=False),
        nn.BatchNorm2d(between),
        nn.ReLU(),
        nn.Conv2d(between, between, 3, padding=1, bias=False),
        nn.BatchNorm2d(between),
        nn.ReLU(),
        nn.Conv2d(between, teacher_width, 1, bias=False),
    )
