"""The comprehensive overhaul of feature distillation: a partial distance to the teacher's maps behind a margin ReLU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gkd.core.numerics import no_autocast
from gkd.losses._common import mean_over_rows
from gkd.losses.every_map import Shape, alike, both_maps, check_spots, depth_factors, pooled_to, smaller
from gkd.losses.registry import module_loss
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Mask, Positive, checked

__all__ = ["OverhaulLoss", "partial_loss"]


@checked
def partial_loss(student_map: Tensor, teacher_map: Tensor, margin: Tensor, *, mask: Mask = None) -> Tensor:
    """Partial L2 behind a margin ReLU: the student is as active as the teacher where that is, and no more elsewhere.

    ``mean_b Σ over entries of ( s − t' )²`` with ``t' = max(t, m_c)``, where an entry with ``s ≤ t' ≤ 0`` counts 0.

    Convention: a sum over channels and positions and a mean over B, so the value grows with the size of the map, and
    the published weight 1e-3 belongs to that sum; it does not scale with B. The maps are those before the last
    activation. Teacher and margin are constants. No row gives a zero that keeps the graph.

    Args:
        student_map: ``[B, C, H, W]``.
        teacher_map: ``[B, C, H, W]``, of the same shape.
        margin: ``[C]``, 0 or below.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different shapes.

    Paper:
        Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation, ICCV 2019, equations 1 to 3;
        reduction of the authors' code (clovaai/overhaul-distillation).
    """
    student, teacher = alike(
        student_map, teacher_map, mask, what="the partial distance needs", brings="OverhaulLoss"
    )
    target = torch.maximum(teacher, margin.detach().to(teacher.dtype).view(1, -1, 1, 1))
    counts = (student > target) | (target > 0)
    # A product, not a choice: where the student is no number, so is the loss.
    return mean_over_rows(((student - target).square() * counts).sum((1, 2, 3)), mask)


class Margin(nn.Module):
    """The margin of each channel, from all of the teacher's maps so far, this one among them.

    Three sums over entries, kept as means: of the negative entries, and of all entries and their squares. They are
    buffers, so that a resumed run goes on with them; in eval mode they stay as they are.

    Args:
        channels: C of the maps.
        kind: see :class:`OverhaulLoss`.
    """

    negatives: Tensor
    entries: Tensor
    negative_mean: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, kind: Literal["negatives", "gaussian"]) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("negatives", torch.zeros(channels, dtype=torch.int64))
        self.register_buffer("negative_mean", torch.zeros(channels))
        self.register_buffer("entries", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        """``[C]``: the margin, after the selected rows of ``maps [B, C, H, W]`` joined."""
        if self.training:
            self._join(maps, mask)
        # A copy: the next step changes the buffer.
        return self.negative_mean.clone() if self.kind == "negatives" else self._of_gaussian()

    def _join(self, maps: Tensor, mask: Tensor | None) -> None:
        over = (0, 2, 3)
        negative = maps < 0 if mask is None else (maps < 0) & mask.view(-1, 1, 1, 1)
        count = negative.sum(over)
        self.negatives.add_(count)
        share = (count / self.negatives.clamp_min(1)).to(maps)
        newer = torch.where(negative, maps, 0).sum(over) / count.clamp_min(1)
        self.negative_mean.lerp_(newer.to(self.negative_mean), share.to(self.negative_mean))
        if self.kind == "negatives":
            return
        rows = torch.tensor(maps.shape[0], device=maps.device) if mask is None else mask.sum()
        count = rows * math.prod(maps.shape[2:])
        self.entries.add_(count)
        share = (count / self.entries.clamp_min(1)).to(maps)
        mean = maps.sum(over) / count.clamp_min(1)  # unselected rows are zero
        apart = maps - mean.view(1, -1, 1, 1)
        if mask is not None:
            apart = torch.where(mask.view(-1, 1, 1, 1), apart, 0)
        variance = apart.square().sum(over) / count.clamp_min(1)
        between = share * (1 - share) * (mean - self.mean.to(maps)).square()
        self.variance.lerp_(variance.to(self.variance), share.to(self.variance)).add_(between)
        self.mean.lerp_(mean.to(self.mean), share.to(self.mean))

    def _of_gaussian(self) -> Tensor:
        """E[x | x < 0] of a Gaussian; -3 standard deviations where less than a thousandth of it is negative."""
        std = self.variance.sqrt()
        tiny = torch.finfo(std.dtype).tiny
        ratio = self.mean / std.clamp_min(tiny)
        below = torch.special.ndtr(-ratio)
        density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
        return torch.where(below > _RARE, self.mean - std * density / below.clamp_min(_RARE), -3 * std)


_RARE = 1e-3  # of the authors' get_margin_from_BN


@module_loss("ofd", partial_loss, paper="Heo, Kim, Yun, Park, Kwak, Choi, ICCV 2019")
class OverhaulLoss(nn.Module):
    """Overhaul of feature distillation: a 1x1 convolution with BatchNorm brings each of the student's maps to the
    teacher's channels, then :func:`partial_loss` with a margin for each channel.

    The sum over the spots, which run from shallow to deep, each times ``growth`` to the power of its distance from the
    last. The spots' maps are those before the last activation on both sides (``at.preact: both``). The larger of two
    maps is average-pooled to the smaller; the student's before its convolution.

    The margin m_c is the expected value of the teacher's negative entries in a channel, which the paper says may be
    computed in training or from the BatchNorm before the ReLU. The authors' code does the latter: it takes the entries
    for Gaussian with that BatchNorm's bias and weight as mean and standard deviation. That holds where a BatchNorm is
    the last thing before the ReLU (WRN, VGG); in a ResNet it is one summand of two, a MobileNetV2's stages end in one
    without a ReLU, and ShuffleNets concatenate, so that mdistiller has no margins for some pairs and those of other
    stages for others. So here both forms are of the maps that the loss reads:

    - ``negatives``, the default, is right for every network: the mean of the negative entries seen so far;
    - ``gaussian`` is the authors' formula with the measured mean and standard deviation in the place of the
      BatchNorm's, which they estimate; with -3 standard deviations where less than a thousandth is negative.

    Both join the teacher's maps of each step before they are used, and are saved with the module.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample at each spot.
        margins: ``negatives`` or ``gaussian``.
        growth: how much more a spot counts than the one before it.

    Shapes:
        student_maps and teacher_maps: lists of ``[B, C, H, W]``; mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map, or other numbers of spots on the two sides.

    Paper:
        Heo, Kim, Yun, Park, Kwak, Choi, ICCV 2019, section 3; connectors, their initialisation and the factors of the
        spots by clovaai/overhaul-distillation. There and in mdistiller the teacher's BatchNorm is in training mode;
        a teacher here is not, and cannot change.
    """

    def __init__(
        self,
        student: Sequence[Shape],
        teacher: Sequence[Shape],
        *,
        margins: Literal["negatives", "gaussian"] = "negatives",
        growth: Positive = 2.0,
    ) -> None:
        super().__init__()
        check_spots("ofd", student, teacher)
        self.sizes = [smaller(ours, theirs) for ours, theirs in zip(student, teacher, strict=True)]
        self.factors = depth_factors(len(student), growth)
        self.connectors = nn.ModuleList(
            _connector(ours[0], theirs[0]) for ours, theirs in zip(student, teacher, strict=True)
        )
        self.margins = nn.ModuleList(Margin(theirs[0], margins) for theirs in teacher)

    def forward(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, mask: Mask = None
    ) -> Tensor:
        students, teachers = both_maps(student_maps, teacher_maps, len(self.sizes), mask)
        losses = []
        with no_autocast(students[0]):
            for number, (size, factor) in enumerate(zip(self.sizes, self.factors, strict=True)):
                teacher = pooled_to(teachers[number], size)
                layers = cast(nn.Sequential, self.connectors[number])
                connected = run_layers(layers, pooled_to(students[number], size), mask)
                margin = self.margins[number](teacher, mask)
                losses.append(factor * partial_loss(connected, teacher, margin, mask=mask))
        return torch.stack(losses).sum()


def _connector(student_width: int, teacher_width: int) -> nn.Sequential:
    """1x1 convolution, its weights normal with variance 2 / out, and BatchNorm."""
    convolution = nn.Conv2d(student_width, teacher_width, 1, bias=False)
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2.0 / teacher_width))
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_width))
