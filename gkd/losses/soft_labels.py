"""Losses on logits that change the teacher's answer, or how much each answer counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.losses._common import aligned_logits, columns_of, kl_entries, mean_over_rows, weighted
from gkd.losses.registry import loss
from gkd.losses.signature import Mask, NotNegative, Positive, Weights

__all__ = ["nkd_loss", "ttm_loss", "wsld_loss"]


@loss("ttm", paper="Zheng, Yang, ICLR 2024")
def ttm_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Positive = 10.0,
    weighted_by_power_sum: bool = False,
    standardise: bool = False,
    mask: Mask = None,
    weights: Weights = None,
) -> Tensor:
    """Transformed teacher matching: the student's probabilities, at temperature 1, follow the teacher's softened ones.

    ``mean_i u_i w_i KL( softmax(z_T,i / T) ‖ softmax(z_S,i) )`` with u = 1, or, for the weighted form (WTTM), the sum
    ``u_i = Σ_c softmax(z_T,i)_c^(1/T)``, which is larger the smoother the teacher's answer is.

    Convention: the teacher alone is divided by the temperature (the paper's power γ is 1 / T) and no T² is applied;
    KL(teacher‖student), summed over classes, mean over the selected rows; the value does not scale with B. The teacher
    is a constant. No selected row gives a zero that keeps the graph. Over label spaces that only overlap, hand over the
    columns of the shared classes, aligned: both softmaxes renormalise them.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        temperature: T, of the teacher.
        weighted_by_power_sum: whether u counts (WTTM).
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does.
        mask: Bool ``[B]``, the rows that count; None means all.
        weights: ``[B]``, w, a factor on each row's part; None means 1. The mean is over rows, not over weights.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: the two have different numbers of columns, or fewer than two, or a temperature that is not above 0.

    Paper:
        Zheng, Yang: Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, sections 3
        (TTM) and 4 (WTTM); zkxufo/TTM@fe457b3.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    rows = kl_entries(student.log_softmax(1), (teacher / temperature).log_softmax(1)).sum(1)
    if weighted_by_power_sum:
        rows = rows * (teacher.log_softmax(1) / temperature).exp().sum(1)
    return mean_over_rows(weighted(rows, weights), mask)


@loss("nkd", paper="Yang et al., ICCV 2023")
def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    gamma: NotNegative = 1.5,
    temperature: Positive = 1.0,
    standardise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """Normalised distillation: the target weighted by the teacher's belief in it, and the others among themselves.

    ``− mean_i [ p_T,i(y) log p_S,i(y) + γ T² Σ_{c≠y} q_T,i(c) log q_S,i(c) ]`` with ``p = softmax(z)`` over all classes
    and ``q = softmax(z / T)`` over those other than y.

    Convention: the temperature divides the non-target part alone, on both sides, and T² is applied there; natural
    logarithm, mean over the selected rows; the value does not scale with B. Both parts are cross-entropies, as
    published, so the value is not 0 where the student equals the teacher, and the target's part pulls there too. The
    teacher is a constant. With two classes q has one entry and its part is 0. No selected row gives a zero that
    keeps the graph. Over label spaces that only overlap, hand over the aligned columns of the shared classes, labels as
    columns of those, and rows whose class is shared.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        labels: int64 ``[B]``, columns of the logits; not read in unselected rows.
        gamma: γ, weight of the others' part.
        temperature: T, of the others' part.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, fewer than two columns, or a label that is
            no column (checked on the CPU alone).

    Paper:
        Yang, Zeng, Yuan, Li: From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
        Normalized Loss and Customized Soft Labels, ICCV 2023; yzd-v/cls_KD@1e5d48f.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    target = F.one_hot(columns_of(labels, student, mask), student.shape[1]).bool()

    def others(logits: Tensor) -> Tensor:
        """Log-probabilities among the classes other than the target (far below all at the target)."""
        return torch.where(target, torch.finfo(logits.dtype).min / 4, logits / temperature).log_softmax(1)

    hit = torch.where(target, teacher.softmax(1) * student.log_softmax(1), 0).sum(1)
    rest = torch.where(target, 0, others(teacher).exp() * others(student)).sum(1)
    return -mean_over_rows(hit + gamma * temperature**2 * rest, mask)


@loss("wsld", paper="Zhou et al., ICLR 2021")
def wsld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Positive = 4.0,
    epsilon: NotNegative = 1e-7,
    standardise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """Weighted soft labels: distillation that counts little where the student already knows the label as its teacher.

    ``T² · mean_i u_i KL( softmax(z_T,i / T) ‖ softmax(z_S,i / T) )`` with ``u_i = 1 − exp(−CE(z_S,i) / (CE(z_T,i) +
    ε))``, the cross-entropies with the label at temperature 1.

    Convention: both sides of the divergence are divided by the temperature and T² is applied; mean over the selected
    rows; the value does not scale with B. The teacher and u are constants. The paper writes the cross-entropy
    with the teacher in place of KL, which has the same gradient and is larger by the constant ``T² mean_i u_i H_i``. ε
    is of the authors' code, and counts where both sides are sure of the label; at ε = 0, as the paper has it, a
    certain teacher gives u = 1, or 0 where the student is certain, too. No selected row gives a zero that keeps the
    graph. Over label spaces that only overlap, hand over the aligned columns of the shared classes, labels as columns
    of those, and rows whose class is shared.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        labels: int64 ``[B]``, columns of the logits; not read in unselected rows.
        temperature: T.
        epsilon: ε, added to the teacher's cross-entropy.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does; u is of
            the logits as they are.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, fewer than two columns, or a label that is
            no column (checked on the CPU alone).

    Paper:
        Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang: Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
        Tradeoff Perspective, ICLR 2021; bellymonster/Weighted-Soft-Label-Distillation@67820dd.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask)
    labels = columns_of(labels, student, mask)
    of_student = F.cross_entropy(student.detach(), labels, reduction="none")
    of_teacher = F.cross_entropy(teacher, labels, reduction="none")
    # Without ε a certain teacher's 0 becomes the smallest number, so that the ratio is 0 or so large that u is 1.
    smallest = torch.finfo(of_teacher.dtype).tiny
    unlearnt = -torch.expm1(-of_student / (of_teacher + epsilon).clamp_min(smallest))
    if standardise:
        student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=True)
    entries = kl_entries((student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1))
    return temperature**2 * mean_over_rows(unlearnt * entries.sum(1), mask)
