"""Regressors from a student's output to its teacher's shape, with BatchNorm that leaves masked rows out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, upcast, zero_unselected

__all__ = ["Regressor"]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class Regressor(nn.Module):
    """A student's output in its teacher's shape: by one convolution or linear layer, BatchNorm, ReLU.

    Maps: 3x3 with stride 2 where the student's is exactly twice as large, a transposed 4x4 with stride 2 where it
    is half as large, else a valid convolution (a transposed one upwards) of kernel 1 + the difference. Embeddings:
    a linear layer alone, without BatchNorm and ReLU.

    Args:
        student, teacher: shapes of one sample, ``(C, H, W)`` or ``(D,)``.
        norm, relu: whether a BatchNorm and a ReLU follow a convolution.

    Raises:
        UserError: a map on one side and an embedding on the other, or sizes that no such layer joins.

    Source:
        RepDistiller models/util.py (ConvReg); the transposed case of SAKD.
    """

    def __init__(
        self, student: Sequence[int], teacher: Sequence[int], *, norm: bool = True, relu: bool = True
    ) -> None:
        super().__init__()
        self.resize = _resize(student, teacher)
        is_map = len(student) == 3
        self.norm = nn.BatchNorm2d(teacher[0]) if norm and is_map else None
        self.relu = relu and is_map

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The student's rows in the teacher's shape; rows outside the mask change no statistics."""
        x = upcast(zero_unselected(x, mask))
        with no_autocast(x):
            return self.joined(x, mask)

    def joined(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The layers alone, in the precision of the input and of autocast."""
        x = self.resize(x)
        if self.norm is not None:
            x = batch_normalise(self.norm, x, mask)
        return F.relu(x) if self.relu else x


def _resize(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    """The one layer that leads from the student's shape to the teacher's."""
    if len(student) == len(teacher) == 1:
        return nn.Linear(student[0], teacher[0])
    if len(student) != 3 or len(teacher) != 3:
        raise UserError(
            f"The student's output {list(student)} and the teacher's {list(teacher)} are not both maps [C, H, W] or "
            "both embeddings [D]; name spots of the same kind on both sides.",
            code="other-kinds-of-output",
        )
    channels, size = (student[0], teacher[0]), tuple(student[1:])
    wanted = tuple(teacher[1:])
    if size == tuple(2 * side for side in wanted):
        return nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
    if wanted == tuple(2 * side for side in size):
        return nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
    differences = [before - after for before, after in zip(size, wanted, strict=True)]
    if min(differences) >= 0:
        return nn.Conv2d(*channels, kernel_size=(1 + differences[0], 1 + differences[1]))
    if max(differences) <= 0:
        return nn.ConvTranspose2d(*channels, kernel_size=(1 - differences[0], 1 - differences[1]))
    raise UserError(
        f"No convolution leads from a map of {size[0]}x{size[1]} to one of {wanted[0]}x{wanted[1]}: one side grows and "
        "the other shrinks; choose other spots.",
        code="no-convolution-fits",
    )


def run_layers(layers: nn.Sequential, x: Tensor, mask: Tensor | None) -> Tensor:
    """``layers(x)``, where BatchNorm sees the selected rows alone."""
    with no_autocast(x):
        for layer in layers:
            x = batch_normalise(layer, x, mask) if isinstance(layer, BatchNorm) else layer(x)
    return x


def batch_normalise(norm: BatchNorm, x: Tensor, mask: Tensor | None) -> Tensor:
    """``norm(x)`` with the statistics of the selected rows of ``x [B, C]`` or ``[B, C, H, W]``.

    One value a channel, or none, has no variance: the running statistics are then used and left as they are.
    """
    if not norm.training:
        return norm(x)
    positions = math.prod(x.shape[2:])
    if mask is None:
        return norm(x) if x.shape[0] * positions > 1 else _normalised_by_running(norm, x)
    others = [0, *range(2, x.dim())]
    column = (1, -1, *[1] * (x.dim() - 2))
    selected = mask.view(-1, *[1] * (x.dim() - 1))
    count = mask.sum() * positions
    several = count > 1
    mean = torch.where(selected, x, 0).sum(others) / count.clamp_min(1)
    apart = x - mean.view(column)
    variance = torch.where(selected, apart, 0).square().sum(others) / count.clamp_min(1)
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        assert norm.num_batches_tracked is not None
        rate = norm.momentum * several
        norm.running_mean.lerp_(mean, rate.to(mean))
        norm.running_var.lerp_(variance * count / (count - 1).clamp_min(1), rate.to(mean))
        norm.num_batches_tracked.add_(several)
    normalised = apart * (variance.view(column) + norm.eps).rsqrt()
    normalised = normalised * norm.weight.view(column) + norm.bias.view(column)
    return torch.where(several, normalised, _normalised_by_running(norm, x))


def _normalised_by_running(norm: BatchNorm, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )
