"""Losses that own parameters: hints, variational information, factor transfer, and embedded forms of others.

Each module is built from the shapes of one sample on both sides, holds what is trained with the student, and
calls a pure function.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, mean_over_rows
from gkd.losses.maps import aligned, attention, check_map, ickd_loss
from gkd.losses.registry import module_loss
from gkd.losses.regressors import Regressor, run_layers
from gkd.losses.signature import Count, Mask, Positive, Range, checked
from gkd.losses.similarity import cc_neighbour_loss

__all__ = [
    "CCNeighbourLoss",
    "FactorTransferLoss",
    "HintLoss",
    "ICKDLoss",
    "VIDLoss",
    "factor_transfer_loss",
    "hint_loss",
    "vid_loss",
]


@checked
def hint_loss(student: Tensor, teacher: Tensor, *, mask: Mask = None) -> Tensor:
    """Hints: the student's regressed output is the teacher's.

    ``mean over all entries of ( h_S − h_T )²``.

    Convention: mean over B and every entry of a row, so the value scales neither with B nor with the size; FitNets
    writes ½ ‖·‖² instead. The teacher is a constant. No row gives a zero that keeps the graph.

    Args:
        student: ``[B, ...]``, of the teacher's shape.
        teacher: ``[B, ...]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision inputs.

    Raises:
        UserError: sides of different shapes.

    Paper:
        Romero et al.: FitNets: Hints for Thin Deep Nets, ICLR 2015, equation 3; reduction of RepDistiller.
    """
    check_rows(student, teacher)
    if student.shape != teacher.shape:
        raise UserError(
            f"The student's output is {list(student.shape[1:])}, the teacher's {list(teacher.shape[1:])}: hints need "
            "the same shape; use HintLoss, which brings the student there.",
            code="other-shapes",
        )
    student = upcast(zero_unselected(student, mask))
    teacher = upcast(zero_unselected(teacher.detach(), mask))
    if student.numel() == 0:
        return student.sum()
    return mean_over_rows((student - teacher).square().flatten(1).mean(1), mask)


@module_loss("fitnet", hint_loss, paper="Romero et al., ICLR 2015")
class HintLoss(nn.Module):
    """FitNets: a regressor brings the student's output to the teacher's, then :func:`hint_loss`.

    Args:
        student, teacher: shapes of one sample at the spots, ``(C, H, W)`` or ``(D,)``.
        relu: a ReLU ends the regressor of a map, as in RepDistiller; off where the teacher's map can be negative.

    Shapes:
        student ``[B, *student]``, teacher ``[B, *teacher]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: shapes that no regressor joins.

    Paper:
        Romero et al., ICLR 2015, equation 3; the regressor of RepDistiller, trained with the student from the start.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], *, relu: bool = True) -> None:
        super().__init__()
        self.regressor = Regressor(student, teacher, relu=relu)

    def forward(self, student: Tensor, teacher: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student, teacher)
        return hint_loss(self.regressor(student, mask), teacher, mask=mask)


@checked
def vid_loss(student_map: Tensor, teacher_map: Tensor, variance: Tensor, *, mask: Mask = None) -> Tensor:
    """Variational information: the teacher's map is likely under Gaussians around the student's.

    ``mean over all entries of ½ [ (μ_c − t_c)² / σ_c² + ln σ_c² ]`` with μ the student's regressed map.

    Convention: the mean runs over B, channels and positions, so the value scales with none of them; the constant
    ½ ln 2π is left out, so it can be negative. The teacher is a constant. No row gives a zero that keeps the graph.
    The larger of two maps is average-pooled to the smaller.

    Args:
        student_map: ``[B, C, H, W]``, the predicted means.
        teacher_map: ``[B, C, ...]``.
        variance: ``[C]``, above 0.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different batch sizes or channels.

    Paper:
        Ahn et al.: Variational Information Distillation for Knowledge Transfer, CVPR 2019, equation 6.
    """
    student, teacher = aligned(student_map, teacher_map.detach(), mask)
    if student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"The student's map has {student.shape[1]} channels, the teacher's {teacher.shape[1]}: variational "
            "information needs the same number; use VIDLoss, which brings the student there.",
            code="other-channels",
        )
    if student.numel() == 0:
        return student.sum()
    spread = upcast(variance).view(1, -1, 1, 1)
    entries = ((student - teacher).square() / spread + spread.log()) / 2
    return mean_over_rows(entries.mean((1, 2, 3)), mask)


@module_loss("vid", vid_loss, paper="Ahn et al., CVPR 2019")
class VIDLoss(nn.Module):
    """Variational information distillation: a regressor for the mean, a trained variance for each channel.

    The mean: three 1x1 convolutions without bias, ReLU between them, widths C_S -> C_T -> C_T -> C_T. The variance:
    softplus(``raw_variance``) + 1e-5. The larger map is average-pooled to the smaller before the convolutions.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample's maps.
        initial_variance: every channel's variance at the start, 1e-4 or more.

    Shapes:
        student_map ``[B, C_S, H_S, W_S]``, teacher_map ``[B, C_T, H_T, W_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map, or an initial variance that is too small.

    Paper:
        Ahn et al., CVPR 2019, equations 5 and 6; widths and initial variance of the authors' code.
    """

    floor = 1e-5

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        initial_variance: Annotated[float, Range(at_least=1e-4)] = 5.0,
    ) -> None:
        super().__init__()
        check_shapes("vid", student, teacher)
        widths = (student[0], teacher[0], teacher[0], teacher[0])
        convolutions = [
            nn.Conv2d(before, after, 1, bias=False) for before, after in itertools.pairwise(widths)
        ]
        self.regressor = nn.Sequential(
            convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2]
        )
        start = initial_variance - self.floor
        raw = start + math.log(-math.expm1(-start))  # the inverse of softplus, which does not overflow
        self.raw_variance = nn.Parameter(torch.full((teacher[0],), raw))

    @property
    def variance(self) -> Tensor:
        """``[C_T]``, the variance of each channel."""
        return F.softplus(self.raw_variance) + self.floor

    def forward(self, student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
        student, teacher = aligned(student_map, teacher_map.detach(), mask)
        return vid_loss(run_layers(self.regressor, student, mask), teacher, self.variance, mask=mask)


@checked
def factor_transfer_loss(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    of: Literal["energy", "factor"] = "energy",
    mask: Mask = None,
) -> Tensor:
    """Factor transfer: the student's factor points where the teacher's does.

    ``mean over b and entries of | q_S,b − q_T,b |``; ``energy``: ``q = vec(mean_c F_c²) / ‖·‖₂``; ``factor``:
    ``q = vec(F) / ‖·‖₂``.

    Convention: ``energy`` is the benchmark's form, to whose mean over B · H · W entries its weight 200 belongs;
    ``factor`` is the paper's equation 3 with p = 1, as a mean over B · C · H · W entries, and needs equal channels.
    It does not scale with B. The larger of two maps is average-pooled to the smaller. The teacher is a constant.
    No row gives a zero that keeps the graph.

    Args:
        student_map: ``[B, C_S, H_S, W_S]``, the student's factor.
        teacher_map: ``[B, C_T, H_T, W_T]``, the teacher's.
        of: what is compared.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, of different batch sizes, or other channels with ``of='factor'``.

    Paper:
        Kim, Park, Kwak: Paraphrasing Complex Network, NeurIPS 2018, equation 3; RepDistiller for ``energy``.
    """
    student, teacher = aligned(student_map, teacher_map.detach(), mask)
    if of == "factor" and student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"The student's factor has {student.shape[1]} channels, the teacher's {teacher.shape[1]}: of='factor' "
            "needs the same number; use of='energy'.",
            code="other-channels",
        )
    if student.numel() == 0:
        return student.sum()

    def direction(factor: Tensor) -> Tensor:
        return attention(factor, 2.0) if of == "energy" else unit_rows(factor.flatten(1))

    return mean_over_rows((direction(student) - direction(teacher)).abs().mean(1), mask)


def _paraphraser_first(options: dict[str, Any]) -> dict[str, Any] | None:
    return {"phase": "paraphraser", "rate": options["rate"]} if options["phase"] == "transfer" else None


@module_loss(
    "ft", factor_transfer_loss, paper="Kim, Park, Kwak, NeurIPS 2018", prepared_by=_paraphraser_first
)
class FactorTransferLoss(nn.Module):
    """Factor transfer: a paraphraser of the teacher's map, trained first; then a translator of the student's.

    The paraphraser encodes the teacher's map to ``rate`` · C_T channels by three 3x3 convolutions and decodes it by
    three transposed ones, LeakyReLU 0.1 after each; the translator is such an encoder with BatchNorm.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample's maps.
        phase: ``paraphraser`` is the mean squared error of the paraphrased map (the student gets no gradient);
            ``transfer`` is :func:`factor_transfer_loss` of the translator's factor against the paraphraser's, which
            is then a constant. A method has a stage for each, with one term of the same name in both.
        rate: channels of the factor divided by those of the teacher's map.
        of: see :func:`factor_transfer_loss`.

    Shapes:
        student_map ``[B, C_S, H_S, W_S]``, teacher_map ``[B, C_T, H_T, W_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map, or a rate that leaves no channel.

    Paper:
        Kim, Park, Kwak, NeurIPS 2018, sections 3.1 to 3.3; layers of RepDistiller.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        phase: Literal["transfer", "paraphraser"] = "transfer",
        rate: Positive = 0.5,
        of: Literal["energy", "factor"] = "energy",
    ) -> None:
        super().__init__()
        check_shapes("ft", student, teacher)
        width, factor = teacher[0], int(teacher[0] * rate)
        if factor < 1:
            raise UserError(
                f"rate={rate} leaves no channel of the teacher's {width}; use 0.5.",
                code="option-out-of-range",
            )
        self.of: Literal["energy", "factor"] = of
        self.phase = phase
        self.encoder = _coder(nn.Conv2d, (width, width, factor, factor), norm=False)
        self.decoder = _coder(nn.ConvTranspose2d, (factor, factor, width, width), norm=False)
        self.translator = _coder(nn.Conv2d, (student[0], student[0], factor, factor), norm=True)
        for part in (self.encoder, self.decoder) if phase == "transfer" else (self.translator,):
            part.requires_grad_(False)

    def forward(self, student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_map, teacher_map)
        check_map(teacher_map)
        teacher = upcast(zero_unselected(teacher_map.detach(), mask))
        factor = run_layers(self.encoder, teacher, mask)
        if self.phase == "paraphraser":
            zero = 0 * upcast(zero_unselected(student_map, mask)).sum()  # keeps the student's graph
            return zero + hint_loss(run_layers(self.decoder, factor, mask), teacher, mask=mask)
        check_map(student_map)
        student = run_layers(self.translator, upcast(zero_unselected(student_map, mask)), mask)
        return factor_transfer_loss(student, factor, of=self.of, mask=mask)


def _coder(
    layer: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: Sequence[int], *, norm: bool
) -> nn.Sequential:
    """3x3 layers from width to width, each with LeakyReLU 0.1, and BatchNorm before it where asked."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers.append(layer(before, after, kernel_size=3, stride=1, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


@module_loss("ickd", ickd_loss, paper="Liu et al., ICCV 2021")
class ICKDLoss(nn.Module):
    """Inter-channel correlation of a student with other channels: 1x1 convolution, BatchNorm, :func:`ickd_loss`.

    Args:
        student, teacher: shapes ``(C, H, W)`` of one sample's maps.

    Shapes:
        student_map ``[B, C_S, H_S, W_S]``, teacher_map ``[B, C_T, H_T, W_T]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: a spot that is no map.

    Paper:
        Liu et al., ICCV 2021, equations 2 to 4; the projection of the authors' CIFAR-100 code.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__()
        check_shapes("ickd", student, teacher)
        self.projection = nn.Sequential(
            nn.Conv2d(student[0], teacher[0], 1, bias=False), nn.BatchNorm2d(teacher[0])
        )

    def forward(self, student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_map, teacher_map)
        check_map(student_map)
        student = run_layers(self.projection, upcast(zero_unselected(student_map, mask)), mask)
        return ickd_loss(student, teacher_map, mask=mask)


@module_loss("cc_neighbour", cc_neighbour_loss, paper="RepDistiller, after Peng et al., ICCV 2019")
class CCNeighbourLoss(nn.Module):
    """The CIFAR-100 benchmark's CC: both sides embedded by a trained linear layer, :func:`cc_neighbour_loss`.

    Args:
        student, teacher: shapes ``(D,)`` of one sample's embeddings.
        dim: width of the common space.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, mask Bool ``[B]`` -> 0-dim.

    Paper:
        RepDistiller distiller_zoo/CC.py, after Peng et al., ICCV 2019.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], *, dim: Count = 128) -> None:
        super().__init__()
        self.student_projection = nn.Linear(math.prod(student), dim)
        self.teacher_projection = nn.Linear(math.prod(teacher), dim)

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        student = zero_unselected(upcast(student_embedding).flatten(1), mask)
        teacher = zero_unselected(upcast(teacher_embedding.detach()).flatten(1), mask)
        with no_autocast(student):
            apart = self.student_projection(student) - self.teacher_projection(teacher)
        # The loss reads |h_S − h_T| alone and detaches its teacher; like this both projections are trained.
        return cc_neighbour_loss(apart, torch.zeros_like(apart), mask=mask)


def check_shapes(loss: str, student: Sequence[int], teacher: Sequence[int]) -> None:
    """Refuse shapes of one sample that are not maps ``(C, H, W)``."""
    for side, shape in (("student", student), ("teacher", teacher)):
        if len(shape) != 3:
            raise UserError(
                f"The {side}'s spot for {loss!r} gives {list(shape)} a sample; the loss reads maps [C, H, W], so name "
                "a spot that is one (0, 1, ... or -1).",
                code="not-a-map",
            )
