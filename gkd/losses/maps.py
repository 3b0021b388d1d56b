"""Losses on spatial maps: attention transfer, neuron selectivity, flow between layers, channel correlation,
pooled outputs.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, safe_divide, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, mean_over_rows, self_products
from gkd.losses.registry import loss
from gkd.losses.signature import Mask, Range, checked

__all__ = ["at_loss", "fsp_loss", "ickd_loss", "nst_loss", "pod_loss", "simkd_loss"]


@loss("at", paper="Zagoruyko, Komodakis, ICLR 2017")
def at_loss(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    power: Annotated[float, Range(above=0, at_most=100)] = 2.0,
    mask: Mask = None,
) -> Tensor:
    """Attention transfer: the student looks where the teacher looks.

    ``mean over b and positions of ( q_S,b − q_T,b )²`` with ``q = vec(mean_c |A_c|^p) / ‖·‖₂``.

    Convention: mean over the B · H · W entries of the unit vectors, so the value falls with the size of the
    map, and the benchmark's weight 1000 belongs to that mean; it does not scale with B. The larger of two maps
    is average-pooled to the smaller first. The teacher is a constant. No row gives a zero that keeps the graph;
    so does a map of zeros on the student's side, with a zero gradient. Channels may differ.

    Args:
        student_map: ``[B, C_S, H_S, W_S]``.
        teacher_map: ``[B, C_T, H_T, W_T]``.
        power: p, above 0, at most 100.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different batch sizes.

    Paper:
        Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, equation 2; the authors' code
        for the reduction.
    """
    student, teacher = aligned(student_map, teacher_map.detach(), mask)
    if student.numel() == 0:
        return student.sum()
    return mean_over_rows((attention(student, power) - attention(teacher, power)).square().mean(1), mask)


def attention(maps: Tensor, power: float) -> Tensor:
    """``[B, H·W]``: mean over channels of |map|^power, each row divided by its L2 norm."""
    if power == 2:  # a norm reads the map once, and its gradient writes it once
        return unit_rows((torch.linalg.vector_norm(maps, dim=1).square() / maps.shape[1]).flatten(1))
    # A common factor of a row cancels with its norm; high powers of large entries would overflow.
    largest = maps.detach().abs().amax((1, 2, 3), keepdim=True)
    entries = safe_divide(maps, largest).abs()
    # Below a power of 1 the slope at 0 is infinite: a zero stays zero, with a zero gradient.
    is_zero = entries.detach() < torch.finfo(entries.dtype).tiny
    powers = torch.where(is_zero, 0, torch.where(is_zero, 1, entries).pow(power))
    return unit_rows(powers.mean(1).flatten(1))


@loss("nst", paper="Huang, Wang 2017")
def nst_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """Neuron selectivity transfer: the channels' patterns are distributed as the teacher's.

    Squared maximum mean discrepancy between the unit-norm channels of each image under ``k(a, b) = (a·b)²``:
    ``mean_b [ mean_cc' k(t_c, t_c') + mean_cc' k(s_c, s_c') − 2 mean_cc' k(s_c, t_c') ]``.

    Convention: means over channels and selected rows, so the value does not scale with B. The teacher's own
    part is a constant and counts in the value. The larger of two maps is average-pooled to the smaller first.
    No row gives a zero that keeps the graph; a channel of zeros stays zero. Channels may differ. Computed by
    matrix products between channels, or, where that is less work, between positions: the value is also
    ``mean_b ‖ SᵀS / C_S − TᵀT / C_T ‖_F²``. Memory is O(B · min(C, H · W)²).

    Args:
        student_map: ``[B, C_S, H_S, W_S]``.
        teacher_map: ``[B, C_T, H_T, W_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, or of different batch sizes.

    Paper:
        Huang, Wang: Like What You Like, arXiv 1707.01219, 2017, equation 10 with the polynomial kernel
        (d = 2, c = 0).
    """
    student, teacher = aligned(student_map, teacher_map.detach(), mask)
    if student.numel() == 0:
        return student.sum()
    student, teacher = _unit_channels(student), _unit_channels(teacher)

    channels, other, positions = student.shape[1], teacher.shape[1], student.shape[2]
    with no_autocast(student):
        if positions * (channels + other) < channels**2 + channels * other + other**2:
            apart = self_products(student.mT) / channels - teacher.mT @ teacher / other
            return mean_over_rows(apart.square().sum((1, 2)), mask)
        student_part = self_products(student).square().mean((1, 2))
        teacher_part = (teacher @ teacher.mT).square().mean((1, 2))
        between = (student @ teacher.mT).square().mean((1, 2))
    return mean_over_rows(teacher_part + student_part - 2 * between, mask)


@loss("fsp", paper="Yim, Joo, Bae, Kim, CVPR 2017")
def fsp_loss(
    student_map: Tensor,
    student_map_after: Tensor,
    teacher_map: Tensor,
    teacher_map_after: Tensor,
    *,
    mask: Mask = None,
) -> Tensor:
    """Flow of the solution procedure: how one layer leads to a later one.

    ``mean_b,c,c' ( G_S − G_T )²`` with ``G_cc' = mean over positions of F_c · F'_c'``, F and F' the maps before
    and after.

    Convention: mean over the B · C · C' entries, so the value does not scale with B. The larger of the two
    maps of a network is average-pooled to the smaller. The teacher is a constant. The maps' scale is not
    normalised: the value grows with its fourth power. No row gives a zero that keeps the graph. The networks need
    the same numbers of channels, but not the same spatial sizes.

    Args:
        student_map, student_map_after: ``[B, C, ...]`` and ``[B, C', ...]``.
        teacher_map, teacher_map_after: ``[B, C, ...]`` and ``[B, C', ...]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: other channels on the two sides, inputs that are no maps, or different batch sizes.

    Paper:
        Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation, CVPR 2017, equations 1 and 2.
    """
    check_rows(student_map, teacher_map)
    student = _flow(*aligned(student_map, student_map_after, mask))
    teacher = _flow(*aligned(teacher_map.detach(), teacher_map_after.detach(), mask))
    if student.shape[1:] != teacher.shape[1:]:
        raise UserError(
            f"The student's flow matrix is {list(student.shape[1:])}, the teacher's {list(teacher.shape[1:])}: fsp "
            "needs the same numbers of channels; choose other spots, or a loss such as 'at' that compares any maps.",
            code="other-channels",
        )
    return mean_over_rows((student - teacher).square().mean((1, 2)), mask)


@checked
def ickd_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """Inter-channel correlation: channels correlate with each other as the teacher's channels do.

    ``mean_b (1 / C) ‖ G_S,b − G_T,b ‖_F²`` with ``G = rows of F Fᵀ, each divided by its L2 norm``, F the map
    of an image as ``[C, H·W]``.

    Convention: divided by C and by the selected rows, as in the authors' CIFAR-100 code; it does not scale with
    B. The teacher is a constant. A channel of zeros is a zero row. No row gives a zero that keeps the graph.
    The networks need the same number of channels; the authors project the student by a 1×1 convolution.

    Args:
        student_map: ``[B, C, H_S, W_S]``.
        teacher_map: ``[B, C, H_T, W_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: other channels on the two sides, inputs that are no maps, or different batch sizes.

    Paper:
        Liu et al.: Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation,
        ICCV 2021, equations 2 to 4.
    """
    check_rows(student_map, teacher_map)
    for maps in (student_map, teacher_map):
        check_map(maps)
    if student_map.shape[1] != teacher_map.shape[1]:
        raise UserError(
            f"The student's map has {student_map.shape[1]} channels, the teacher's {teacher_map.shape[1]}: ickd needs "
            "the same number; choose other spots, or a loss such as 'nst' that compares any channels.",
            code="other-channels",
        )
    student = upcast(zero_unselected(student_map, mask))
    teacher = upcast(zero_unselected(teacher_map.detach(), mask))
    if student.numel() == 0:
        return student.sum()

    def correlation(maps: Tensor) -> Tensor:
        flat = maps.flatten(2)
        flat = safe_divide(flat, flat.detach().abs().amax((1, 2), keepdim=True))  # the factor cancels again
        with no_autocast(flat):
            return _unit_channels((flat @ flat.mT).unsqueeze(3))

    rows = (correlation(student) - correlation(teacher)).square().sum((1, 2)) / student.shape[1]
    return mean_over_rows(rows, mask)


@loss("pod", paper="Douillard et al., ECCV 2020")
def pod_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """Pooled outputs: the squared map, summed along rows and along columns, follows the teacher's.

    ``mean_b ‖ q_S,b − q_T,b ‖₂`` with ``q = vec( Σ_w F²_chw ‖ Σ_h F²_chw ) / ‖·‖₂``, the squared map summed over its
    width and over its height, one after the other.

    Convention: the norm is not squared, so the value is at most √2 and does not scale with B or the size of the map;
    PODNet takes the mean over the network's stages, a term here their sum. The teacher is a constant. The larger of
    two maps is average-pooled to the smaller first. No row gives a zero that keeps the graph; a map of zeros stays
    zero, and equal maps give a zero gradient. The networks need the same number of channels.

    Args:
        student_map: ``[B, C, H_S, W_S]``.
        teacher_map: ``[B, C, H_T, W_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: other channels on the two sides, inputs that are no maps, or different batch sizes.

    Paper:
        Douillard, Cord, Ollion, Robert, Valle: PODNet, ECCV 2020, POD-spatial; the authors' code
        (arthurdouillard/incremental_learning.pytorch) for the norm that is not squared.
    """
    student, teacher = aligned(student_map, teacher_map.detach(), mask)
    if student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"The student's map has {student.shape[1]} channels, the teacher's {teacher.shape[1]}: pod needs the same "
            "number; choose other spots, or a loss such as 'at' that compares any maps.",
            code="other-channels",
        )
    if student.numel() == 0:
        return student.sum()

    def pooled(maps: Tensor) -> Tensor:
        squares = maps.square()
        return unit_rows(torch.cat([squares.sum(3).flatten(1), squares.sum(2).flatten(1)], 1))

    return mean_over_rows(torch.linalg.vector_norm(pooled(student) - pooled(teacher), dim=1), mask)


def check_map(maps: Tensor) -> None:
    """Refuse a tensor that is not ``[B, C, H, W]``."""
    if maps.dim() != 4:
        raise UserError(
            f"A loss on maps got a tensor of shape {list(maps.shape)}; it reads maps of [B, C, H, W], so name a spot "
            "that is one (0, 1, ... or -1).",
            code="not-a-map",
        )


@loss("simkd", paper="Chen et al., CVPR 2022")
def simkd_loss(student_pooled_map: Tensor, teacher_pooled_map: Tensor, *, mask: Mask = None) -> Tensor:
    """The map that the student averages into its embedding is the teacher's: mean squared error.

    ``mean over b, c and positions of ( S_bc − T_bc )²``.

    Convention: mean over the B · C · H · W entries of the selected rows, so the value does not scale with B. The
    larger of two maps is average-pooled to the smaller first. The teacher is a constant. No row gives a zero that
    keeps the graph. SimKD puts a projector before the student's map, which is part of the student (``head: teacher``
    of a method).

    Args:
        student_pooled_map: ``[B, C, H_S, W_S]``.
        teacher_pooled_map: ``[B, C, H_T, W_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: other channels on the two sides, inputs that are no maps, or different batch sizes.

    Paper:
        Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022,
        equation 4; the authors' code for the reduction.
    """
    student, teacher = aligned(student_pooled_map, teacher_pooled_map.detach(), mask)
    if student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"The student's map has {student.shape[1]} channels, the teacher's {teacher.shape[1]}; SimKD compares "
            "equal ones: put a projector before the student's, as a method with head: teacher or projected does.",
            code="other-channels",
        )
    if student.numel() == 0:
        return student.sum()
    return mean_over_rows((student - teacher).square().mean((1, 2, 3)), mask)


def aligned(one: Tensor, other: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both maps, the larger average-pooled to the size of the smaller, unselected rows zero."""
    check_rows(one, other)
    for maps in (one, other):
        check_map(maps)
    height, width = (min(one.shape[axis], other.shape[axis]) for axis in (2, 3))

    def pooled(maps: Tensor) -> Tensor:
        maps = upcast(zero_unselected(maps, mask))
        return maps if maps.shape[2:] == (height, width) else F.adaptive_avg_pool2d(maps, (height, width))

    return pooled(one), pooled(other)


def _unit_channels(maps: Tensor) -> Tensor:
    """``[B, C, H·W]``, each channel divided by its L2 norm."""
    flat = maps.flatten(2)
    return unit_rows(flat.flatten(0, 1)).view(flat.shape)


def _flow(before: Tensor, after: Tensor) -> Tensor:
    """``[B, C, C']``: the mean over positions of the products of two maps' channels."""
    with no_autocast(before):
        return before.flatten(2) @ after.flatten(2).mT / max(before[0, 0].numel() if len(before) else 1, 1)
