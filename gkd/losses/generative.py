"""Losses in which a layer on the student's map makes the teacher's map: masked generation, N-to-one matching."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import upcast, zero_unselected
from gkd.losses._common import check_rows, mean_over_rows
from gkd.losses.maps import aligned, check_map
from gkd.losses.modules import check_shapes
from gkd.losses.registry import module_loss
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Count, Kept, Mask, Share, checked

__all__ = ["MGDLoss", "NORMLoss", "mgd_loss", "norm_loss"]


@checked
def mgd_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """Masked generation's criterion: the map that was generated of the student's is the teacher's.

    ``mean_i Σ_chw ( g_i − t_i )²_chw``

    Convention: the sum over channels and positions, as published, so the value grows with the map, to whose size the
    weight belongs; mean over the selected rows. The teacher is a constant. No selected row gives a zero that keeps the
    graph.

    Args:
        student_map: ``[B, C, H, W]``, generated.
        teacher_map: ``[B, C, H, W]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different shapes.

    Paper:
        Yang, Li, Shao, Shi, Yuan, Yuan: Masked Generative Distillation, ECCV 2022; reduction of
        yzd-v/MGD@2c9da0b.
    """
    check_map(student_map)
    check_map(teacher_map)
    check_rows(student_map, teacher_map)
    if student_map.shape != teacher_map.shape:
        raise UserError(
            f"The generated map is {list(student_map.shape[1:])}, the teacher's {list(teacher_map.shape[1:])}: mgd "
            "needs the same shape; use MGDLoss, which brings the student there.",
            code="other-shapes",
        )
    student = upcast(zero_unselected(student_map, mask))
    teacher = upcast(zero_unselected(teacher_map.detach(), mask))
    return mean_over_rows((student - teacher).square().sum((1, 2, 3)), mask)


@module_loss("mgd", mgd_loss, paper="Yang et al., ECCV 2022")
class MGDLoss(nn.Module):
    """Masked generative distillation: two convolutions make the teacher's map of the student's without some channels.

    Where the channels differ, a 1x1 convolution brings the student to the teacher's; of each sample's channels a share
    is set to zero; a 3x3 convolution, ReLU and another 3x3 convolution generate the map for :func:`mgd_loss`. Before,
    the larger of two maps is average-pooled to the smaller. The draws are from torch's generator of the device, whose
    state a checkpoint keeps.

    The authors' code for classification leaves out channels, as here; that for detection and segmentation leaves out
    positions.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample's maps.
        dropped: the probability with which a channel is left out.

    Shapes:
        student_map ``[B, C_S, H_S, W_S]``, teacher_map ``[B, C_T, H_T, W_T]``, kept Bool ``[B, C_T]`` (None draws it),
        mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map.

    Paper:
        Yang et al., ECCV 2022; layers of yzd-v/MGD@2c9da0b cls/mmcls/distillation/losses/mgd.py.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], *, dropped: Share = 0.15) -> None:
        super().__init__()
        check_shapes("mgd", student, teacher)
        before, after = student[0], teacher[0]
        self.dropped = dropped
        self.align = nn.Sequential(*([nn.Conv2d(before, after, 1)] if before != after else []))
        self.generation = nn.Sequential(
            nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1)
        )

    def forward(
        self, student_map: Tensor, teacher_map: Tensor, *, kept: Kept = None, mask: Mask = None
    ) -> Tensor:
        student, teacher = aligned(student_map, teacher_map.detach(), mask)
        student = run_layers(self.align, student, mask)
        if kept is None:
            kept = torch.rand(student.shape[:2], device=student.device) >= self.dropped
        student = torch.where(kept[:, :, None, None], student, 0)
        return mgd_loss(run_layers(self.generation, student, mask), teacher, mask=mask)


@checked
def norm_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """N-to-one representation matching: each of N maps of the student is the teacher's.

    ``Σ_n mean_i mean_chw ( s_i,n − t_i )²_chw`` with the student's N · C channels as N maps of C, one after the other.

    Convention: mean over the selected rows, channels and positions, the sum over the N maps: the authors' mean squared
    error times N. The teacher is a constant. The larger of two maps is max-pooled to the smaller. No selected row gives
    a zero that keeps the graph.

    Args:
        student_map: ``[B, N · C, H_S, W_S]``.
        teacher_map: ``[B, C, H_T, W_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, different batch sizes, or channels of the student that are no multiple.

    Paper:
        Liu, Li, Li, Yao: NORM: Knowledge Distillation via N-to-One Representation Matching, ICLR 2023;
        OSVAI/NORM@c6dfc39 helper/loops.py.
    """
    check_map(student_map)
    check_map(teacher_map)
    check_rows(student_map, teacher_map)
    before, after = student_map.shape[1], teacher_map.shape[1]
    if before % after or before == 0:
        raise UserError(
            f"The student's map has {before} channels, no multiple of the teacher's {after}: norm matches N "
            "maps to one; use NORMLoss, which brings the student there.",
            code="other-channels",
        )
    height, width = (min(student_map.shape[axis], teacher_map.shape[axis]) for axis in (2, 3))

    def pooled(maps: Tensor) -> Tensor:
        maps = upcast(zero_unselected(maps, mask))
        return maps if maps.shape[2:] == (height, width) else F.adaptive_max_pool2d(maps, (height, width))

    student, teacher = pooled(student_map), pooled(teacher_map.detach())
    apart = student.unflatten(1, (before // after, after)) - teacher.unsqueeze(1)
    return mean_over_rows(apart.square().sum(1).mean((1, 2, 3)), mask)


@module_loss("norm", norm_loss, paper="Liu et al., ICLR 2023")
class NORMLoss(nn.Module):
    """N-to-one representation matching: a linear layer widens the student's map to N times the teacher's channels.

    The layer: a 1x1 convolution without bias and BatchNorm, for :func:`norm_loss`.

    This stands beside the student. The authors' lies in its path: their student widens its last map, projects it back
    by a second such layer, adds the map itself and goes on to its head, and the layers, which are linear, are merged
    after training. There the widened map is a part of what the student computes; here it is a projector that is thrown
    away. A term cannot change what its student computes, so the published form cannot be had by a term, and its numbers
    are not those of this one. Nor are the authors' loops expressed by a method file: they train and judge logits that
    are normalised and multiplied by 2.5, and let the term's weight go from 0.1 by 0.5 to 1 and back.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample's maps.
        copies: N.

    Shapes:
        student_map ``[B, C_S, H_S, W_S]``, teacher_map ``[B, C_T, H_T, W_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map.

    Paper:
        Liu et al., ICLR 2023; layer and initialisation of OSVAI/NORM@c6dfc39 models/cifar.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], *, copies: Count = 8) -> None:
        super().__init__()
        check_shapes("norm", student, teacher)
        convolution = nn.Conv2d(student[0], copies * teacher[0], 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.expansion = nn.Sequential(convolution, nn.BatchNorm2d(copies * teacher[0]))

    def forward(self, student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_map, teacher_map)
        check_map(student_map)
        student = run_layers(self.expansion, upcast(zero_unselected(student_map, mask)), mask)
        return norm_loss(student, teacher_map, mask=mask)
