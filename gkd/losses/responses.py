"""Losses on logits: cross-entropy with the labels, Hinton's distillation, and its variants."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.numerics import unit_rows, upcast, zero_unselected
from gkd.losses._common import aligned_logits, centred, columns_of, kl_entries, mean_over_rows, weighted
from gkd.losses.registry import loss
from gkd.losses.signature import Mask, NotNegative, Positive, Share, Weights

__all__ = ["cross_entropy_loss", "dist_loss", "dkd_loss", "kd_loss", "stkd_loss"]


@loss("cross_entropy", paper="label smoothing: Szegedy et al., CVPR 2016", takes_mixed_labels=True)
def cross_entropy_loss(
    student_logits: Tensor, labels: Tensor, *, label_smoothing: Share = 0.0, mask: Mask = None
) -> Tensor:
    """Cross-entropy of the student's logits with the labels.

    ``mean_i −Σ_c q_ic · log softmax(z_i)_c`` with ``q_i = (1 − ε) onehot(y_i) + ε / C``.

    Convention: natural logarithm, mean over the selected rows; the value does not scale with B.
    No selected row gives a zero that keeps the graph. Labels of unselected rows are not read.

    Args:
        student_logits: ``[B, C]``.
        labels: int64 ``[B]``, columns of the logits, or ``[B, C]``, a distribution over them (as mixup gives).
        label_smoothing: ε, the share of the target that is spread over all C classes.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: a label that is no column (checked on the CPU alone).

    Paper:
        Label smoothing: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    logits = upcast(zero_unselected(student_logits, mask))
    targets = columns_of(labels, logits, mask)
    targets = targets if targets.dim() == 1 else targets.to(logits.dtype)
    rows = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    return mean_over_rows(rows, mask)


@loss("kd", paper="Hinton, Vinyals, Dean 2015")
def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Positive = 4.0,
    standardise: bool = False,
    mask: Mask = None,
    weights: Weights = None,
) -> Tensor:
    """Hinton's distillation: the student's softened class probabilities follow the teacher's.

    ``T² · mean_i w_i KL( softmax(z_T,i / T) ‖ softmax(z_S,i / T) )``

    Convention: both sides are divided by the temperature and T² is applied; KL(teacher‖student),
    summed over classes, mean over the selected rows; the value does not scale with B. The teacher is
    a constant. No selected row gives a zero that keeps the graph. Over label spaces that only
    overlap, hand over the columns of the shared classes, aligned: the softmax renormalises them, and
    ``standardise`` standardises over them alone.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        temperature: T.
        standardise: first subtract from each row its mean and divide by its standard deviation (C − 1), so
            that the student need not match the teacher's range. A constant row becomes zero.
        mask: Bool ``[B]``, the rows that count; None means all.
        weights: ``[B]``, w, a factor on each row's part; None means 1. The mean is over rows, not over weights.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: the two have different numbers of columns, or fewer than two, or a temperature that is not above 0.

    Paper:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2. Standardised:
        Sun et al.: Logit Standardization in Knowledge Distillation, CVPR 2024, algorithm 1.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    entries = kl_entries((student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1))
    return temperature**2 * mean_over_rows(weighted(entries.sum(1), weights), mask)


@loss("dkd", paper="Zhao et al., CVPR 2022")
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: NotNegative = 1.0,
    beta: NotNegative = 8.0,
    temperature: Positive = 4.0,
    standardise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """Decoupled distillation: the target's probability and the others' distribution, weighted separately.

    ``T² · mean_i [ α KL(b_T,i ‖ b_S,i) + β KL(q_T,i ‖ q_S,i) ]`` with ``p = softmax(z / T)``,
    ``b = (p_y, 1 − p_y)`` and q the softmax over the classes other than y.

    Convention: both sides are divided by the temperature and T² is applied; KL(teacher‖student), natural
    logarithm, mean over the selected rows; the value does not scale with B. The teacher is a constant.
    With two classes q has one entry and its part is 0. No selected row gives a zero that keeps the graph.
    Over label spaces that only overlap, hand over the aligned columns of the shared classes, labels as
    columns of those, and rows whose class is shared: others have no target here.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        labels: int64 ``[B]``, columns of the logits; not read in unselected rows.
        alpha: weight of the target's part.
        beta: weight of the others' part; 1 to 8 in the paper, depending on the pair of networks.
        temperature: T.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, fewer than two columns, or a label that is
            no column (checked on the CPU alone).

    Paper:
        Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022, equation 7.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    labels = columns_of(labels, student, mask)
    target = F.one_hot(labels, student.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (target, the rest), and of the others alone (far below all at the target)."""
        logits = logits / temperature
        others = torch.where(target, torch.finfo(logits.dtype).min / 4, logits)
        rest = others.logsumexp(1)
        hit = torch.where(target, logits, 0).sum(1)
        return torch.stack([hit, rest], 1).log_softmax(1), others - rest.unsqueeze(1)

    (student_binary, student_others), (teacher_binary, teacher_others) = parts(student), parts(teacher)
    binary = kl_entries(student_binary, teacher_binary).sum(1)
    others = torch.where(target, 0, kl_entries(student_others, teacher_others)).sum(1)
    return temperature**2 * mean_over_rows(alpha * binary + beta * others, mask)


@loss("stkd", paper="ours, after Zhao, Gong, Sun, Dong, Yu 2021", takes_mixed_labels=True)
def stkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Positive = 4.0,
    true_classes: Literal["kept", "left-out"] = "kept",
    standardise: bool = False,
    mask: Mask = None,
    weights: Weights = None,
) -> Tensor:
    """Similarity transfer: on a mixture of images, the student's class distribution follows the teacher's.

    ``T² · mean_i w_i KL( q_T,i ‖ q_S,i )`` with ``q = softmax(z / T)`` over all classes (``kept``: :func:`kd_loss` on
    virtual samples), or over those that no image of the mixture belongs to (``left-out``).

    Convention: both sides are divided by the temperature and T² is applied; KL(teacher‖student), summed over classes,
    mean over the selected rows; the value does not scale with B. The teacher is a constant. A row without two
    classes to compare gives 0; no row gives a zero that keeps the graph. Over label spaces that only overlap,
    hand over the aligned columns of the shared classes and the labels over those.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        labels: int64 ``[B]``, or ``[B, C]`` a distribution, whose columns above 0 are the true classes.
        temperature: T.
        true_classes: whether the true classes' columns are matched.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does.
        mask: Bool ``[B]``, the rows that count; None means all.
        weights: ``[B]``, w, a factor on each row's part; None means 1. The mean is over rows, not over weights.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, fewer than two columns, or a label that is
            no column (checked on the CPU alone).

    Paper:
        Zhao, Gong, Sun, Dong, Yu: Similarity Transfer for Knowledge Distillation, arXiv 2103.10047, 2021. The formulas
        were not read: this is a reconstruction from the abstract; ``left-out`` is ours.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    labels = columns_of(labels, student, mask)
    true = labels > 0 if labels.dim() == 2 else F.one_hot(labels, student.shape[1]).bool()
    if true_classes == "kept":
        true = torch.zeros_like(true)

    def log_probabilities(logits: Tensor) -> Tensor:
        return torch.where(true, torch.finfo(logits.dtype).min / 4, logits / temperature).log_softmax(1)

    entries = kl_entries(log_probabilities(student), log_probabilities(teacher))
    return temperature**2 * mean_over_rows(weighted(torch.where(true, 0, entries).sum(1), weights), mask)


@loss("dist", paper="Huang et al., NeurIPS 2022")
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: NotNegative = 1.0,
    gamma: NotNegative = 1.0,
    temperature: Positive = 1.0,
    standardise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """Relations instead of values: predictions correlate with the teacher's, in each row and each column.

    ``T² · ( β mean_i [1 − ρ(p_S,i, p_T,i)] + γ mean_c [1 − ρ(p_S,·c, p_T,·c)] )`` with
    ``p = softmax(z / T)`` and Pearson's ρ.

    Convention: both sides are divided by the temperature and T² is applied; the first mean runs over the
    selected rows, the second over the classes; the value does not scale with B. The teacher is a constant.
    A row or column that is constant on either side has no correlation: ρ is 0 there, with a zero gradient, so
    one row gives γ T² for the second part. (The authors add 1e-8 to the product of the norms.) No
    selected row gives a zero that keeps the graph. Over label spaces that only overlap, hand over the aligned
    columns of the shared classes: the softmax renormalises them.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        beta: weight of the relations between classes (rows).
        gamma: weight of the relations within a class (columns).
        temperature: T.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, or fewer than two columns.

    Paper:
        Huang, You, Wang, Qian, Xu: Knowledge Distillation from a Stronger Teacher, NeurIPS 2022,
        equations 8 to 10.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    if len(student) == 0:
        return student.sum()
    student, teacher = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    between = mean_over_rows(1 - _correlation(student, teacher), mask)
    counted = None if mask is None else mask.unsqueeze(0)
    within = (1 - _correlation(student.T, teacher.T, counted)).mean()
    if mask is not None:
        within = within * mask.any()
    return temperature**2 * (beta * between + gamma * within)


def _correlation(one: Tensor, other: Tensor, counted: Tensor | None = None) -> Tensor:
    """Pearson's correlation of each row of one with the same row of other, over the counted columns."""
    return (unit_rows(centred(one, counted)) * unit_rows(centred(other, counted))).sum(1)
