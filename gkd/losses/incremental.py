"""Losses of incremental steps: over the new classes alone, on sigmoids, and on the cosines of a head.

The teacher of a step is the network before it. ``known [C]`` marks the student's columns that it has too: the old
classes; the others are new. In a first step without a teacher it is all False, and every class is new.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import upcast, zero_unselected
from gkd.losses._common import aligned_logits, columns_of, log_softmax_over, mean_over_rows
from gkd.losses.registry import loss
from gkd.losses.signature import Count, Mask, NotNegative, Share

__all__ = [
    "binary_cross_entropy_loss",
    "binary_kd_loss",
    "cross_entropy_new_loss",
    "margin_ranking_loss",
    "nca_loss",
]


@loss("cross_entropy_new", paper="Li, Hoiem, ECCV 2016")
def cross_entropy_new_loss(
    student_logits: Tensor,
    labels: Tensor,
    known: Tensor,
    *,
    label_smoothing: Share = 0.0,
    mask: Mask = None,
) -> Tensor:
    """Cross-entropy among the new classes: the old columns are left out of the softmax.

    ``mean_i −Σ_{c new} q_ic · log softmax(z_i over the new columns)_c`` with ``q_i = (1 − ε) onehot(y_i) + ε / C_new``.

    Convention: natural logarithm, mean over the selected rows whose class is new (rows of old classes, such as
    rehearsed ones, are left out); the value does not scale with B. With no known class it is the cross-entropy. No
    such row gives a zero that keeps the graph.

    Args:
        student_logits: ``[B, C]``.
        labels: int64 ``[B]``, columns of the logits; not read in unselected rows.
        known: Bool ``[C]``, the old classes.
        label_smoothing: ε, the share of the target that is spread over the new classes.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: labels of another number of rows, a label that is no column (checked on the CPU alone), or a
            ``known`` of another number of columns.

    Paper:
        Li, Hoiem: Learning without Forgetting, ECCV 2016, equation 1: the new task's own outputs; in
        class-incremental form as LAMDA-CL/PyCIL trains finetune and LwF.
    """
    _check_known(known, student_logits)
    labels = columns_of(labels, student_logits, mask)
    logits, new = upcast(zero_unselected(student_logits, mask)), ~known
    counted = new[labels] if mask is None else mask & new[labels]
    log_probabilities = log_softmax_over(logits, new)
    target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    smoothed = (1 - label_smoothing) * target + label_smoothing / new.sum().clamp_min(1).to(logits.dtype)
    rows = -torch.where(new, smoothed * log_probabilities, 0).sum(1)
    return mean_over_rows(rows, counted)


@loss("binary_cross_entropy", paper="Rebuffi et al., CVPR 2017")
def binary_cross_entropy_loss(
    student_logits: Tensor, labels: Tensor, known: Tensor, *, mask: Mask = None
) -> Tensor:
    """Binary cross-entropy on each new class: iCaRL's classification part.

    ``mean_i Σ_{c new} −[ t_ic · log σ(z_ic) + (1 − t_ic) · log(1 − σ(z_ic)) ]`` with ``t_i = onehot(y_i)``.

    Convention: natural logarithm, sum over the new columns, mean over the selected rows, those of old classes among
    them, whose targets are all 0; the value does not scale with B and grows with the number of new classes.
    With `binary_kd_loss` over the old columns the sum is iCaRL's loss but for a constant; the authors' code takes the
    mean over 100 columns, seen or not, so its learning rates belong to the weight 0.01. No selected row, or no new
    class, gives a zero that keeps the graph.

    Args:
        student_logits: ``[B, C]``.
        labels: int64 ``[B]``, columns of the logits; not read in unselected rows.
        known: Bool ``[C]``, the old classes.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: labels of another number of rows, a label that is no column (checked on the CPU alone), or a
            ``known`` of another number of columns.

    Paper:
        Rebuffi, Kolesnikov, Sperl, Lampert: iCaRL, CVPR 2017, algorithm 3; srebuffi/iCaRL for the reduction.
    """
    _check_known(known, student_logits)
    labels = columns_of(labels, student_logits, mask)
    logits = upcast(zero_unselected(student_logits, mask))
    target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    entries = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return mean_over_rows(torch.where(known, 0, entries).sum(1), mask)


@loss("binary_kd", paper="Rebuffi et al., CVPR 2017")
def binary_kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, mask: Mask = None) -> Tensor:
    """Binary distillation: on each old class the student's sigmoid follows the teacher's (iCaRL).

    ``mean_i Σ_c KL( Bernoulli(σ(z_T,ic)) ‖ Bernoulli(σ(z_S,ic)) )``.

    Convention: no temperature; KL(teacher‖student), summed over the columns, mean over the selected rows; the value
    does not scale with B and grows with C. iCaRL writes a cross-entropy, which is larger by the teacher's entropy and
    has the same gradient. The teacher is a constant. No selected row gives a zero that keeps the graph. Over label
    spaces that only overlap, hand over the aligned columns of the shared classes.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, or fewer than two columns.

    Paper:
        Rebuffi, Kolesnikov, Sperl, Lampert: iCaRL, CVPR 2017, algorithm 3.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask)
    # log σ(z_T) − log σ(z_S) + (1 − σ(z_T)) (z_S − z_T): exactly 0 where the logits are equal.
    entries = F.logsigmoid(teacher) - F.logsigmoid(student) + torch.sigmoid(-teacher) * (student - teacher)
    return mean_over_rows(entries.sum(1), mask)


@loss("margin_ranking", paper="Hou, Pan, Loy, Wang, Lin, CVPR 2019")
def margin_ranking_loss(
    student_cosines: Tensor,
    labels: Tensor,
    known: Tensor,
    *,
    margin: NotNegative = 0.5,
    hardest: Count = 2,
    mask: Mask = None,
) -> Tensor:
    """Inter-class separation: a sample of an old class is further from the new classes than from its own.

    ``mean over (i of an old class, k among the K new classes with the largest s_ik) of max(0, m − s_i,y_i + s_ik)``.

    Convention: s are cosines, without the head's scale η; mean over the pairs, K of them a row (fewer where there are
    fewer new classes), so the value does not scale with B or K. No selected row of an old class, or no new class,
    gives a zero that keeps the graph.

    Args:
        student_cosines: ``[B, C]`` in [−1, 1], of a head's weights with the embedding.
        labels: int64 ``[B]``, columns of the cosines; not read in unselected rows.
        known: Bool ``[C]``, the old classes.
        margin: m.
        hardest: K.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision cosines.

    Raises:
        UserError: labels of another number of rows, a label that is no column (checked on the CPU alone), or a
            ``known`` of another number of columns.

    Paper:
        Hou, Pan, Loy, Wang, Lin: Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019, section 3.4
        (inter-class separation); hshustc/CVPR19_Incremental_Learning for the mean over K.
    """
    _check_known(known, student_cosines)
    labels = columns_of(labels, student_cosines, mask)
    cosines = upcast(zero_unselected(student_cosines, mask))
    counted = known[labels] if mask is None else mask & known[labels]
    target = cosines.gather(1, labels.unsqueeze(1))
    # A finite fill: old classes, which topk takes where new ones are too few, stay far below every margin.
    others = cosines.masked_fill(known, torch.finfo(cosines.dtype).min / 4)
    picked = others.topk(min(hardest, cosines.shape[1]), dim=1).values
    pairs = (~known).sum().clamp(1, hardest)
    return mean_over_rows((margin - target + picked).clamp_min(0).sum(1) / pairs, counted)


@loss("nca", paper="Douillard et al., ECCV 2020")
def nca_loss(
    student_cosines: Tensor,
    student_scale: Tensor,
    labels: Tensor,
    *,
    margin: NotNegative = 0.6,
    margin_form: Literal["target", "shift"] = "target",
    mask: Mask = None,
) -> Tensor:
    """NCA classification: a sample is nearer to its class than to all others together, by a margin.

    ``target``: ``mean_i [ −η (s_i,y_i − δ) + log Σ_{c ≠ y_i} exp(η s_ic) ]₊``, the paper's. ``shift``: the published
    code's ``mean_i −( u_i,y_i − log(1 + Σ_{c ≠ y_i} exp(u_ic)) )`` with ``u_ic = η (s_ic − δ) − max_c' η (s_ic' − δ)``.

    Convention: natural logarithm, mean over the selected rows; the value does not scale with B. In ``target`` the η of
    the margin is a constant to the gradient: a learnt η would else fall below 0, where every sample keeps the margin
    and the classes are not separated. In ``shift`` δ is taken from every column and cancels, so that the margin does
    nothing, and the class itself, which the sum means to leave out, stays in it as exp(0). The published similarity is
    also 2 s − 2 instead of s, which halves η and δ. No selected row gives a zero that keeps the graph; so does a sample
    without another class.

    Args:
        student_cosines: ``[B, C]``, s, without the head's scale.
        student_scale: 0-dim, η, the head's; it gets a gradient, in ``target`` none through η δ.
        labels: int64 ``[B]``, columns of the cosines; not read in unselected rows.
        margin: δ.
        margin_form: ``target`` takes δ from the sample's own class, ``shift`` is the published code's.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision cosines.

    Raises:
        UserError: an unknown ``margin_form``, labels of another number of rows, or a label that is no column (checked
            on the CPU alone).

    Paper:
        Douillard, Cord, Ollion, Robert, Valle: PODNet, ECCV 2020, local similarity classifier; for ``shift``
        arthurdouillard/incremental_learning.pytorch@12bc48f inclearn/lib/losses/base.py.
    """
    labels = columns_of(labels, student_cosines, mask)
    scale = upcast(student_scale)
    scores = scale * upcast(zero_unselected(student_cosines, mask))
    others = ~F.one_hot(labels, scores.shape[1]).bool()
    if margin_form == "shift":
        scores = scores - scale * margin
        scores = scores - scores.amax(1, keepdim=True)
        target = scores.gather(1, labels.unsqueeze(1))[:, 0]
        return mean_over_rows(torch.where(others, scores, 0).logsumexp(1) - target, mask)
    target = scores.gather(1, labels.unsqueeze(1))[:, 0] - scale.detach() * margin
    rest = scores.masked_fill(~others, torch.finfo(scores.dtype).min / 4).logsumexp(1)
    return mean_over_rows((rest - target).clamp_min(0), mask)


def _check_known(known: Tensor, logits: Tensor) -> None:
    """Refuse a ``known`` that has not one entry for each of the logits' columns."""
    if known.shape != logits.shape[1:]:
        raise UserError(
            f"known is {list(known.shape)}, but the logits have {logits.shape[1]} columns; give one truth value a "
            "column, such as LabelRelation.known.",
            code="other-shapes",
        )
