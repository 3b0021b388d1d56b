"""Activation boundaries: the student's units are active for the same inputs as the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gkd.core.numerics import no_autocast
from gkd.losses._common import mean_over_rows
from gkd.losses.every_map import Shape, alike, both_maps, check_spots, depth_factors
from gkd.losses.registry import module_loss
from gkd.losses.regressors import Regressor
from gkd.losses.signature import Mask, Positive, checked

__all__ = ["BoundaryLoss", "boundary_loss"]


@checked
def boundary_loss(
    student_map: Tensor, teacher_map: Tensor, *, margin: Positive = 1.0, mask: Mask = None
) -> Tensor:
    """Activation boundary: each unit is on the side of zero on which the teacher's is, by a margin.

    ``mean_b Σ over entries of max(0, m − y · s)²`` with y = 1 where the teacher's entry is above 0, else −1.

    Convention: a sum over channels and positions and a mean over B, so the value grows with the size of the map, and
    the published weight 3e-3 belongs to that sum; it does not scale with B. The maps are those before the last
    activation. Of the teacher the signs alone are read. A student equal to its teacher is still pulled where its
    entries are within the margin. No row gives a zero that keeps the graph.

    Args:
        student_map: ``[B, C, H, W]``.
        teacher_map: ``[B, C, H, W]``, of the same shape.
        margin: m.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different shapes.

    Paper:
        Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons,
        AAAI 2019, the alternative loss; reduction of the authors' code (bhheo/AB_distillation).
    """
    student, teacher = alike(
        student_map, teacher_map, mask, what="activation boundaries need", brings="BoundaryLoss"
    )
    # An entry that is no number is on neither side, and stays none.
    side = torch.where(teacher > 0, 1, torch.where(teacher <= 0, -1, teacher))
    return mean_over_rows((margin - side * student).clamp_min(0).square().sum((1, 2, 3)), mask)


@module_loss("ab", boundary_loss, paper="Heo, Lee, Yun, Choi, AAAI 2019")
class BoundaryLoss(nn.Module):
    """Activation boundaries at several depths: connectors bring the student's maps to the teacher's shape, then
    :func:`boundary_loss`.

    The sum over the spots, which run from shallow to deep, each times ``growth`` to the power of its distance from the
    last. A connector is none where the shapes are equal, else a :class:`~gkd.losses.Regressor` without ReLU: a
    convolution with BatchNorm. The spots' maps are those before the last activation on both sides (``at.preact:
    both``). The paper trains the student by this loss alone first, then by the labels.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample at each spot.
        margin: see :func:`boundary_loss`.
        growth: how much more a spot counts than the one before it.

    Shapes:
        student_maps and teacher_maps: lists of ``[B, C, H, W]``; mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map, other numbers of spots on the two sides, or sizes that no layer joins.

    Paper:
        Heo, Lee, Yun, Choi, AAAI 2019; factors of the spots by bhheo/AB_distillation, whose connectors for equal sizes
        are 1x1 convolutions with BatchNorm, as here; those for other sizes by RepDistiller models/util.py.
    """

    def __init__(
        self,
        student: Sequence[Shape],
        teacher: Sequence[Shape],
        *,
        margin: Positive = 1.0,
        growth: Positive = 2.0,
    ) -> None:
        super().__init__()
        check_spots("ab", student, teacher)
        self.margin = margin
        self.factors = depth_factors(len(student), growth)
        self.connectors = nn.ModuleList(
            nn.Identity() if tuple(ours) == tuple(theirs) else Regressor(ours, theirs, relu=False)
            for ours, theirs in zip(student, teacher, strict=True)
        )

    def forward(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, mask: Mask = None
    ) -> Tensor:
        students, teachers = both_maps(student_maps, teacher_maps, len(self.factors), mask)
        losses = []
        with no_autocast(students[0]):
            for number, (factor, connector) in enumerate(zip(self.factors, self.connectors, strict=True)):
                student = students[number]
                if isinstance(connector, Regressor):
                    student = connector(student, mask)
                losses.append(
                    factor * boundary_loss(student, teachers[number], margin=self.margin, mask=mask)
                )
        return torch.stack(losses).sum()
