"""Losses that read the parameters of linear heads: the teacher's classifier on the student's features, and CAMs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import aligned_logits, check_rows, kl_entries, mean_over_rows
from gkd.losses.maps import check_map
from gkd.losses.registry import loss, module_loss
from gkd.losses.regressors import run_layers
from gkd.losses.signature import Count, Mask, NotNegative, checked

__all__ = ["SRRLLoss", "SRRLMapLoss", "cat_kd_loss", "srrl_loss"]


@checked
def srrl_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    teacher_logits: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor,
    *,
    features: NotNegative = 1.0,
    answers: NotNegative = 1.0,
    compared: Literal["logits", "probabilities"] = "logits",
    mask: Mask = None,
) -> Tensor:
    """Softmax regression representation learning: the teacher's head says of the student's features what it says of its
    own.

    ``mean_i [ λ_f mean_d (p_i − t_i)²_d + λ_a mean_c (W_T p_i + b_T − z_T,i)²_c ]`` with p the student's projected
    embedding, t the teacher's and z_T its logits; the last part is ``λ_a KL(softmax(z_T,i) ‖ softmax(W_T p_i + b_T))``
    where probabilities are compared.

    Convention: mean over the selected rows and over the entries of a row (the divergence is summed over classes), as
    torch's mean squared error; the value does not scale with B. The teacher, its head among it, is a constant. No
    selected row gives a zero that keeps the graph. Over label spaces that only overlap, hand over the head's rows and
    the logits' columns of the shared classes, aligned.

    Args:
        student_embedding: ``[B, D_T]``, projected to the teacher's width.
        teacher_embedding: ``[B, D_T]``.
        teacher_logits: ``[B, C]``.
        teacher_weight: ``[C, D_T]``, of its linear head, row by row the classes of the logits.
        teacher_bias: ``[C]``.
        features: λ_f, weight of the embeddings' part.
        answers: λ_a, weight of the head's part.
        compared: squared differences of the head's logits, as published, or the divergence of its probabilities.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths, or fewer than two classes.

    Paper:
        Yang, Martinez, Bulat, Tzimiropoulos: Knowledge distillation via softmax regression representation learning,
        ICLR 2021, its feature and softmax regression losses; weights of 1 as in jingyang2017/KD_SRRL@d2e802f.
    """
    check_rows(student_embedding, teacher_embedding)
    student = upcast(zero_unselected(student_embedding, mask))
    teacher = upcast(zero_unselected(teacher_embedding.detach(), mask))
    if student.shape != teacher.shape or teacher_weight.shape[1:] != student.shape[1:]:
        raise UserError(
            f"The student's embedding is {list(student.shape[1:])}, the teacher's {list(teacher.shape[1:])}, and its "
            f"head takes {list(teacher_weight.shape[1:])}: srrl needs the same width; use SRRLLoss, which brings the "
            "student there.",
            code="other-widths",
        )
    weight, bias = (upcast(part.detach()) for part in (teacher_weight, teacher_bias))
    with no_autocast(student):
        said = F.linear(student, weight, bias)
    said, own = aligned_logits(said, teacher_logits, mask)
    if compared == "logits":
        apart = (said - own).square().mean(1)
    else:
        apart = kl_entries(said.log_softmax(1), own.log_softmax(1)).sum(1)
    rows = features * (student - teacher).square().mean(1) + answers * apart
    return mean_over_rows(rows, mask)


@module_loss("srrl", srrl_loss, paper="Yang et al., ICLR 2021")
class SRRLLoss(nn.Module):
    """Softmax regression representation learning: a connector brings the embedding to the teacher's, :func:`srrl_loss`.

    The connector: a linear layer without bias (a 1x1 convolution of the pooled features), BatchNorm, ReLU, as in the
    CIFAR-100 benchmarks of SimKD and CTKD. The authors' code for ImageNet connects the map before it is pooled:
    :class:`SRRLMapLoss`. BatchNorm leaves masked rows out.

    Args:
        student, teacher: shapes ``(D,)`` of one sample's embeddings.
        features, answers, compared: see :func:`srrl_loss`.

    Shapes:
        student_embedding ``[B, D_S]``, teacher_embedding ``[B, D_T]``, teacher_logits ``[B, C]``, teacher_weight
        ``[C, D_T]``, teacher_bias ``[C]``, mask Bool ``[B]`` -> 0-dim.

    Paper:
        Yang et al., ICLR 2021; connector of DefangChen/SimKD@2b389c3 models/util.py.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        features: NotNegative = 1.0,
        answers: NotNegative = 1.0,
        compared: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        before, after = math.prod(student), math.prod(teacher)
        self.features, self.answers = features, answers
        self.compared: Literal["logits", "probabilities"] = compared
        self.connector = nn.Sequential(nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU())

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        teacher_logits: Tensor,
        teacher_weight: Tensor,
        teacher_bias: Tensor,
        *,
        mask: Mask = None,
    ) -> Tensor:
        check_rows(student_embedding, teacher_embedding)
        rows = upcast(zero_unselected(student_embedding.flatten(1), mask))
        return srrl_loss(
            run_layers(self.connector, rows, mask),
            teacher_embedding.flatten(1),
            teacher_logits,
            teacher_weight,
            teacher_bias,
            features=self.features,
            answers=self.answers,
            compared=self.compared,
            mask=mask,
        )


@module_loss("srrl_map", srrl_loss, paper="Yang et al., ICLR 2021")
class SRRLMapLoss(nn.Module):
    """Softmax regression representation learning on maps: the connector, the mean over space, :func:`srrl_loss`.

    The connector: a 1x1 convolution without bias, BatchNorm over rows and positions, ReLU. It reads the map that the
    network averages into its embedding: not its last one where a 1x1 convolution or a BatchNorm stands between.

    Args:
        student, teacher: shapes ``(D,)`` of one sample's embeddings.
        features, answers, compared: see :func:`srrl_loss`.

    Shapes:
        student_pooled_map ``[B, D_S, H, W]``, teacher_embedding ``[B, D_T]``, teacher_logits ``[B, C]``, teacher_weight
        ``[C, D_T]``, teacher_bias ``[C]``, mask Bool ``[B]`` -> 0-dim.

    Raises:
        UserError: an input that is no map.

    Paper:
        Yang et al., ICLR 2021; the authors' code for ImageNet, jingyang2017/KD_SRRL@d2e802f, with its initialisation.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        *,
        features: NotNegative = 1.0,
        answers: NotNegative = 1.0,
        compared: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        before, after = math.prod(student), math.prod(teacher)
        self.features, self.answers = features, answers
        self.compared: Literal["logits", "probabilities"] = compared
        convolution = nn.Conv2d(before, after, 1, bias=False)
        nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / after))
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())

    def forward(
        self,
        student_pooled_map: Tensor,
        teacher_embedding: Tensor,
        teacher_logits: Tensor,
        teacher_weight: Tensor,
        teacher_bias: Tensor,
        *,
        mask: Mask = None,
    ) -> Tensor:
        check_map(student_pooled_map)
        check_rows(student_pooled_map, teacher_embedding)
        maps = upcast(zero_unselected(student_pooled_map, mask))
        return srrl_loss(
            run_layers(self.connector, maps, mask).mean((2, 3)),
            teacher_embedding.flatten(1),
            teacher_logits,
            teacher_weight,
            teacher_bias,
            features=self.features,
            answers=self.answers,
            compared=self.compared,
            mask=mask,
        )


@loss("cat_kd", paper="Guo et al., CVPR 2023")
def cat_kd_loss(
    student_pooled_map: Tensor,
    teacher_pooled_map: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    *,
    size: Count = 2,
    normalise: bool = True,
    mask: Mask = None,
) -> Tensor:
    """Class attention transfer: the student's class activation maps follow the teacher's.

    ``mean over i, c and positions of ( q_S − q_T )²`` with the maps ``a_c = Σ_d w_cd F_d`` of the features F that the
    network averages into its embedding, pooled to size x size, and ``q = a / ‖a_ic‖₂`` where they are normalised.

    Convention: mean over the selected rows, classes and positions, so the value scales with none of them. Each class's
    map is normalised by itself; one of zeros stays zero. The head's bias is in no map: the authors' networks have none,
    and apply the head to the features before they are averaged, which gives the same logits. The student's head gets a
    gradient, the teacher is a constant. A map that is smaller than size is repeated. No selected row gives a zero that
    keeps the graph. Over label spaces that only overlap, hand over both heads' rows of the shared classes, aligned.

    Args:
        student_pooled_map: ``[B, D_S, H_S, W_S]``, whose mean over space is the student's embedding.
        teacher_pooled_map: ``[B, D_T, H_T, W_T]``.
        student_weight: ``[C, D_S]``, of the student's linear head.
        teacher_weight: ``[C, D_T]``, row by row the same classes.
        size: height and width to which the maps are pooled.
        normalise: whether each class's map is divided by its length.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: inputs that are no maps, of other channels than a head takes, different batch sizes, or heads of
            different numbers of classes.

    Paper:
        Guo, Yan, Li, Lin: Class Attention Transfer Based Knowledge Distillation, CVPR 2023;
        GzyAftermath/CAT-KD@4467073.
    """
    for maps, weight, side in (
        (student_pooled_map, student_weight, "student"),
        (teacher_pooled_map, teacher_weight, "teacher"),
    ):
        check_map(maps)
        if maps.shape[1] != weight.shape[1]:
            raise UserError(
                f"The {side}'s map has {maps.shape[1]} channels, its head takes {weight.shape[1]}; give the map whose "
                "mean over space is the embedding.",
                code="other-channels",
            )
    check_rows(student_pooled_map, teacher_pooled_map)
    if len(student_weight) != len(teacher_weight):
        raise UserError(
            f"The student's head has {len(student_weight)} classes, the teacher's {len(teacher_weight)}; give both the "
            "aligned rows of their shared classes.",
            code="other-classes",
        )

    def attention(maps: Tensor, weight: Tensor) -> Tensor:
        maps = F.adaptive_avg_pool2d(upcast(zero_unselected(maps, mask)), size)
        with no_autocast(maps):
            of_classes = torch.einsum("cd,bdhw->bchw", upcast(weight), maps).flatten(2)
        return unit_rows(of_classes.flatten(0, 1)).view(of_classes.shape) if normalise else of_classes

    student = attention(student_pooled_map, student_weight)
    teacher = attention(teacher_pooled_map.detach(), teacher_weight.detach())
    return mean_over_rows((student - teacher).square().mean((1, 2)), mask)
