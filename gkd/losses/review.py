"""Knowledge review: the student's deeper maps are fused into its shallower ones, which then follow the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.numerics import no_autocast
from gkd.losses._common import mean_over_rows
from gkd.losses.every_map import Shape, alike, both_maps, check_spots
from gkd.losses.registry import module_loss
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Count, Mask, checked

__all__ = ["ReviewLoss", "context_loss"]

_LEVELS = (4, 2, 1)  # sides of the pooled maps, of equation 6's pyramid


@checked
def context_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """Hierarchical context loss: the student's map is the teacher's, as it is and pooled to 4x4, 2x2 and 1x1.

    ``Σ_l w_l · mean ( pool_l(S) − pool_l(T) )² / Σ_l w_l`` with the weights 1, ½, ¼, ⅛ for the map itself and each
    pooled size below that of the map's shorter side; a size that is not below it is left out, and so is its weight.

    Convention: means over B and every entry, so the value scales neither with B nor with the size. The teacher is a
    constant. No row gives a zero that keeps the graph.

    Args:
        student_map: ``[B, C, H, W]``.
        teacher_map: ``[B, C, H, W]``, of the same shape.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different shapes.

    Paper:
        Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, CVPR 2021, section 3.3; levels and weights
        of the authors' code (dvlab-research/ReviewKD, ``hcl``).
    """
    student, teacher = alike(
        student_map, teacher_map, mask, what="the context loss needs", brings="ReviewLoss"
    )
    apart = student - teacher
    if apart.numel() == 0:
        return student.sum()
    # Pooling is linear: the difference of the pooled maps is the pooled difference.
    rows, weight, total = apart.square().mean((1, 2, 3)), 1.0, 1.0
    for side in _LEVELS:
        if side < min(apart.shape[2:]):
            weight /= 2
            total += weight
            rows = rows + weight * F.adaptive_avg_pool2d(apart, side).square().mean((1, 2, 3))
    return mean_over_rows(rows / total, mask)


class Fusion(nn.Module):
    """One step of the review: a map of the student's, joined with what the deeper ones gave.

    A 1x1 convolution with BatchNorm brings the map to the common width. Where a deeper one went before, its result is
    enlarged to this map's size, and the two are added, each times an attention map in (0, 1) that a 1x1 convolution of
    both gives. The sum, in the size of the teacher's map, goes to the next step, and by a 3x3 convolution with
    BatchNorm it is the student's map in the teacher's shape. Sizes change by the nearest neighbour.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample's maps.
        width: channels of the sum.
        fuses: whether a deeper map went before.
    """

    def __init__(self, student: Shape, teacher: Shape, width: int, *, fuses: bool) -> None:
        super().__init__()
        self.size = (int(teacher[1]), int(teacher[2]))
        self.narrow = nn.Sequential(nn.Conv2d(student[0], width, 1, bias=False), nn.BatchNorm2d(width))
        self.attention = nn.Conv2d(2 * width, 2, 1) if fuses else None
        self.widen = nn.Sequential(
            nn.Conv2d(width, teacher[0], 3, padding=1, bias=False), nn.BatchNorm2d(teacher[0])
        )
        for layer in (self.narrow[0], self.widen[0]):
            nn.init.kaiming_uniform_(cast(nn.Conv2d, layer).weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The student's map in the teacher's shape, and the sum for the next step."""
        x = run_layers(self.narrow, x, mask)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            shares = self.attention(torch.cat([x, deeper], 1)).sigmoid()
            x = x * shares[:, :1] + deeper * shares[:, 1:]
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="nearest")
        return run_layers(self.widen, x, mask), x


@module_loss("reviewkd", context_loss, paper="Chen, Liu, Zhao, Jia, CVPR 2021")
class ReviewLoss(nn.Module):
    """Knowledge review: from deep to shallow each map of the student is fused with the deeper ones, and the result
    follows the teacher's map of that depth.

    The sum of :func:`context_loss` over the spots. Spots run from shallow to deep; an ``embedding`` among them, the
    last in the paper, is a map of one position. The teacher's maps are those before their last activation
    (``at.preact: teacher``), since the fused maps can be negative.

    Args:
        student, teacher: shapes of one sample at each spot, ``(C, H, W)`` or ``(D,)``.
        max_width: the common width is that of the student's last spot, but no more than this.

    Shapes:
        student_maps and teacher_maps: lists of ``[B, *shape]``; mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: other numbers of spots on the two sides.

    Paper:
        Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, CVPR 2021, sections 3.2 (residual learning
        framework) and 3.3 (ABF, HCL); layers, widths and initialisation of dvlab-research/ReviewKD, whose tables of
        channels and sizes follow from the shapes here.
    """

    def __init__(self, student: Sequence[Shape], teacher: Sequence[Shape], *, max_width: Count = 512) -> None:
        super().__init__()
        check_spots("reviewkd", student, teacher, embeddings=True)
        as_map = [[(*shape, 1, 1)[:3] for shape in side] for side in (student, teacher)]
        width, last = min(max_width, student[-1][0]), len(student) - 1
        self.steps = nn.ModuleList(
            Fusion(ours, theirs, width, fuses=number < last)
            for number, (ours, theirs) in enumerate(zip(*as_map, strict=True))
        )

    def forward(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, mask: Mask = None
    ) -> Tensor:
        students, teachers = both_maps(student_maps, teacher_maps, len(self.steps), mask)
        deeper, losses = None, []
        with no_autocast(students[0]):
            for number in reversed(range(len(self.steps))):
                fused, deeper = self.steps[number](students[number], deeper, mask)
                losses.append(context_loss(fused, teachers[number], mask=mask))
        return torch.stack(losses).sum()
