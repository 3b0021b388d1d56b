"""One-for-all distillation: an enhanced target, on the student's logits and on those of branches from its maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, upcast, zero_unselected
from gkd.losses._common import aligned_logits, check_rows, columns_of, mean_over_rows
from gkd.losses.maps import check_map
from gkd.losses.registry import loss, module_loss
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Mask, NumClasses, Positive

__all__ = ["OFABranchesLoss", "ofa_loss"]


@loss("ofa", paper="Hao et al., NeurIPS 2023")
def ofa_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    power: Positive = 1.0,
    temperature: Positive = 1.0,
    standardise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """One-for-all's adapted target enhancement: cross-entropy with the teacher, the label's part enhanced.

    ``− mean_i Σ_c [ (p_T,i(c) + 1_(c=y))^ε − 1_(c=y) ] log p_S,i(c)`` with ``p = softmax(z / T)``.

    Convention: both sides are divided by the temperature and no T² is applied; natural logarithm, mean over the
    selected rows; the value does not scale with B. It is a cross-entropy, as published: at ε = 1 that with the teacher,
    so the value is not 0 where the student equals the teacher; at a larger ε the label pulls there too, and other
    classes count less. The teacher is a constant. No selected row gives a zero that keeps the graph. Over label spaces
    that only overlap, hand over the aligned columns of the shared classes, labels as columns of those, and rows whose
    class is shared.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        labels: int64 ``[B]``, columns of the logits; not read in unselected rows.
        power: ε; 1 to 1.5 in the authors' commands.
        temperature: T.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, fewer than two columns, or a label that is
            no column (checked on the CPU alone).

    Paper:
        Hao, Guo, Han, Tang, Hu, Wang, Xu: One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
        Distillation, NeurIPS 2023; Hao840/OFAKD@f7bb896.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    target = F.one_hot(columns_of(labels, student, mask), student.shape[1]).to(student.dtype)
    enhanced = ((teacher / temperature).softmax(1) + target) ** power - target
    return -mean_over_rows((enhanced * (student / temperature).log_softmax(1)).sum(1), mask)


class Branch(nn.Module):
    """Logits of a map: halved as often as there are spots that follow, widened on the way, averaged, a linear head.

    A halving: depthwise 3x3 convolution of stride 2, 1x1, BatchNorm, ReLU, depthwise 3x3, 1x1, BatchNorm, ReLU, all
    without biases; the first 1x1 keeps the channels, the second doubles them or, in the last halving, leads to
    ``width``. A map that is not halved gets a 1x1 convolution with bias alone.

    Args:
        channels: of the map.
        halvings: how often it is halved.
        width: channels at the end.
        num_classes: columns of the logits.
    """

    def __init__(self, channels: int, halvings: int, width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if halvings else [nn.Conv2d(channels, width, 1)]
        for number in range(halvings):
            after = width if number == halvings - 1 else 2 * channels
            for wide, stride in ((channels, 2), (after, 1)):
                depthwise = nn.Conv2d(
                    channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False
                )
                layers += [
                    depthwise,
                    nn.Conv2d(channels, wide, 1, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU(),
                ]
            channels = after
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        maps = run_layers(self.layers, upcast(zero_unselected(maps, mask)), mask)
        with no_autocast(maps):
            logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


@module_loss("ofa_branches", ofa_loss, paper="Hao et al., NeurIPS 2023")
class OFABranchesLoss(nn.Module):
    """One-for-all's branches: each of the student's maps is brought to logits, to which :func:`ofa_loss` applies.

    The value is the sum over the spots. A map is halved once for each spot that follows it in the list (`Branch`), up
    to the channels of the student's last map of the list or of the teacher's output at its last spot, whichever are
    more; the teacher is read there for its width alone, so name ``embedding`` for it. The authors' networks have four
    stages, and their last map is as wide as the embedding. BatchNorm leaves masked rows out. The branches for a student
    that is a transformer are not built.

    Args:
        student: shapes ``(C, H, W)`` of one sample's maps at the spots.
        teacher: shapes of one sample's outputs at the spots, ``(D,)`` or ``(C, H, W)``.
        power, temperature: see :func:`ofa_loss`.
        num_classes: columns of a branch's logits, the number of shared classes.

    Shapes:
        student_maps a list of ``[B, C_i, H_i, W_i]``, teacher_logits ``[B, C]``, labels int64 ``[B]``, mask Bool
        ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot of the student that is no map.

    Paper:
        Hao et al., NeurIPS 2023; layers and initialisation of Hao840/OFAKD@f7bb896 distillers/ofa.py.
    """

    def __init__(
        self,
        student: Sequence[Sequence[int]],
        teacher: Sequence[Sequence[int]],
        *,
        power: Positive = 1.0,
        temperature: Positive = 1.0,
        num_classes: NumClasses,
    ) -> None:
        super().__init__()
        for shape in student:
            if len(shape) != 3:
                raise UserError(
                    f"A spot of the student for 'ofa_branches' gives {list(shape)} a sample; a branch begins at a map "
                    "[C, H, W], so name spots that are one (0, 1, ... or -1).",
                    code="not-a-map",
                )
        self.power, self.temperature = power, temperature
        last = teacher[-1]
        width = max(student[-1][0], last[0] if len(last) == 3 else math.prod(last))
        self.branches = nn.ModuleList(
            Branch(shape[0], len(student) - number, width, num_classes)
            for number, shape in enumerate(student, start=1)
        )

    def forward(
        self, student_maps: list[Tensor], teacher_logits: Tensor, labels: Tensor, *, mask: Mask = None
    ) -> Tensor:
        total = torch.zeros((), device=teacher_logits.device)
        for branch, maps in zip(self.branches, student_maps, strict=True):
            check_map(maps)
            check_rows(maps, teacher_logits)
            total = total + ofa_loss(
                branch(maps, mask),
                teacher_logits,
                labels,
                power=self.power,
                temperature=self.temperature,
                mask=mask,
            )
        return total
