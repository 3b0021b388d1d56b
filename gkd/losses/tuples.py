"""Relationship matching over tuples (REFILLED, stage 1), exactly and in O(B² log B).

The definition costs one softmax per (anchor, positive) pair over all its negatives: O(B³ / C) for C
classes. Here an anchor's row of the distance matrix is sorted once. The negatives of every positive
are then one interval of that row, and KL over an interval,

    KL(P_T‖P_S) = Σ_j P_T(j) (t_j − s_j) − log Z_T + log Z_S,

needs only prefix sums of e^s, e^t and e^t (t − s), where s and t are minus the distances over the
temperature. Its gradient is

    ∂KL / ∂s_j = P_S(j) − P_T(j) = e^{s_j} / Z_S − e^{t_j} / Z_T,

so a negative's gradient sums 1 / Z over the positives whose interval covers it: prefix sums again.
Everything between the embeddings and the result is float64, because differences of prefix sums
cancel and because the mined tuples must not depend on rounding. Anchors are processed in chunks, so
that the extra memory does not grow with B².
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import WithGradient, check_rows
from gkd.losses.registry import counted_form, loss
from gkd.losses.signature import Mask, NotNegative, Positive

__all__ = ["tuple_loss", "tuple_loss_and_count"]

Mining = Literal["semi-hard", "facenet", "all"]

# Unit vectors closer than this are one vector (distance 0), and distances closer than TIE are equal:
# far above the rounding of a float64 inner product, far below that of a float32 embedding.
SAME_VECTOR = 1e-6
TIE = 1e-9
# Elements of one [anchors, B] work matrix of float64, and the fewest anchors in it. About twenty of
# them live at once: on a CPU they should fit into its caches, elsewhere few launches count more.
CHUNK_ELEMENTS_CPU = 2**16
CHUNK_ELEMENTS = 2**21
CHUNK_ANCHORS = 64
# A prefix sum of terms e^x keeps x within this range to a relative 1e-9; see `_interval_sums`.
BAND = 16.0
# Below this temperature e^{−2/τ}, the smallest term, leaves the range of float64.
MIN_TEMPERATURE = 0.003


@loss("tuples", paper="Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022")
def tuple_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    labels: Tensor,
    *,
    temperature: Positive = 4.0,
    margin: NotNegative = 0.2,
    mining: Mining = "semi-hard",
    mask: Mask = None,
) -> Tensor:
    """Relationship matching: within tuples hard for the student, its similarities follow the teacher's.

    ``mean over (a, p) of KL( P_T(a,p) ‖ P_S(a,p) )`` with
    ``P_M(a,p) = softmax( [ −D_M[a,p], −D_M[a,n_1], …, −D_M[a,n_K] ] / τ )`` and D_M the Euclidean (not
    squared) distance between L2-normalised embeddings. A tuple is an anchor a, a positive p ≠ a of
    a's class, and all the negatives N(a,p) of other classes that the mining selects; a pair without
    a negative is no tuple.

    - ``"semi-hard"``: ``0 < D_S[a,n] − D_S[a,p] ≤ margin`` (TPAMI 2022).
    - ``"facenet"``: one negative, the nearest of those farther than the positive; where there is
      none, the farthest of all (CVPR 2020). Of equally distant negatives any one.
    - ``"all"``: every negative (ours).

    Convention: one temperature for both sides, no τ²; KL(teacher‖student), summed over a tuple, mean
    over tuples, so the value does not scale with B. It is small: at τ = 4 the logits lie in
    [−0.5, 0], hence the papers' weight of 1000; changing τ changes the value by about 1/τ². Mining
    uses the student's distances and has no gradient; the teacher is a constant. No tuple, or no
    selected row, gives a zero that keeps the graph. Only the first derivative is available.

    Precision: float64 inside, the result in the student's precision (float32 for halves). Vectors
    closer than 1e-6 count as identical, with distance 0 and no gradient between them; distances
    within 1e-9 count as equal. Sums stay accurate to about B · 1e-9 at every allowed temperature;
    the work grows as ⌈1 / (8 τ)⌉, which is 1 for τ ≥ 0.125.

    Args:
        student_embedding: ``[B, D_S]``.
        teacher_embedding: ``[B, D_T]``; the widths may differ.
        labels: int64 ``[B]``; only their equality counts.
        temperature: τ, at least 0.003.
        margin: of the semi-hard mining.
        mining: ``"semi-hard"``, ``"facenet"`` or ``"all"``.
        mask: Bool ``[B]``, the rows that can be anchor, positive or negative; None means all.

    Returns:
        A 0-dim tensor.

    Raises:
        UserError: an unknown mining, a temperature that is too small, or inputs of different batch sizes.

    Paper:
        Ye, Lu, Zhan: Distilling Cross-Task Knowledge via Relationship Matching, CVPR 2020, section
        4.1; Generalized Knowledge Distillation via Relationship Matching, TPAMI 2022.
    """
    return tuple_loss_and_count(
        student_embedding,
        teacher_embedding,
        labels,
        temperature=temperature,
        margin=margin,
        mining=mining,
        mask=mask,
    )[0]


@counted_form("tuples")
def tuple_loss_and_count(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    labels: Tensor,
    *,
    temperature: Positive = 4.0,
    margin: NotNegative = 0.2,
    mining: Mining = "semi-hard",
    mask: Mask = None,
) -> tuple[Tensor, Tensor]:
    """`tuple_loss`, and how many tuples it is the mean of (0-dim int64).

    A count of 0 means that the batch has no gradient: late in training a clustered embedding may have
    no semi-hard tuple. Arguments, errors and paper as for `tuple_loss`.
    """
    if not temperature >= MIN_TEMPERATURE:
        raise UserError(
            f"The temperature is {temperature}; the tuple loss needs {MIN_TEMPERATURE} or more.",
            code="option-out-of-range",
        )
    check_rows(student_embedding, teacher_embedding)
    check_rows(student_embedding, labels, "labels have")
    student = unit_rows(zero_unselected(student_embedding, mask).double())
    wants_gradient = student.requires_grad
    with torch.no_grad(), no_autocast(student):
        teacher = unit_rows(zero_unselected(teacher_embedding, mask).double())
        selected = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        batch = _Batch(student.detach(), teacher, labels, selected)
        rule = _Rule(temperature, margin, mining)
        value, gradient, count = _match(batch, rule, wants_gradient)
    loss = WithGradient.apply(student, value, gradient) if wants_gradient else value
    return loss.to(upcast(student_embedding).dtype), count


class _Batch(NamedTuple):
    student: Tensor  # [B, D_S] float64, unit rows
    teacher: Tensor  # [B, D_T] float64, unit rows
    labels: Tensor  # [B]
    selected: Tensor  # [B] Bool


class _Rule(NamedTuple):
    temperature: float
    margin: float
    mining: Mining

    @property
    def num_bands(self) -> int:
        """How many ranges of width BAND cover the logits' [−2/τ, 0]."""
        return math.ceil(2 / (self.temperature * BAND))


class _Rows(NamedTuple):
    """A chunk of anchors; each row of ``[A, B]`` is sorted from the farthest sample to the nearest."""

    order: Tensor  # the samples' positions in the batch
    key: Tensor  # minus the student's distance, ascending
    teacher: Tensor  # logits t = −D_T / τ; the student's are s = key / τ
    difference: Tensor  # t − s
    exp_student: Tensor  # e^s
    exp_teacher: Tensor  # e^t
    positive: Tensor  # Bool
    negative: Tensor  # Bool


class _Pairs(NamedTuple):
    """The tuple of each anchor with its r-th sample as the positive, ``[A, B]``."""

    start: Tensor  # the negatives are columns start … stop − 1 that are negative; both ascend with r
    stop: Tensor
    valid: Tensor  # Bool: the sample is a positive and has negatives
    student_z: Tensor  # the softmaxes' denominators
    teacher_z: Tensor


def _match(batch: _Batch, rule: _Rule, wants_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The mean KL, its gradient with respect to the student's unit rows, and the number of tuples."""
    size = batch.student.shape[0]
    # Not a plain zero: 0 · x is NaN for a non-finite embedding, which mining alone would hide.
    total = 0.0 * (batch.student.sum() + batch.teacher.sum())
    count = torch.zeros((), dtype=torch.int64, device=total.device)
    gradient = torch.zeros_like(batch.student)
    elements = CHUNK_ELEMENTS_CPU if total.device.type == "cpu" else CHUNK_ELEMENTS
    chunk = max(CHUNK_ANCHORS, elements // max(size, 1))
    for start in range(0, size, chunk):
        anchors = slice(start, min(start + chunk, size))
        rows = _sorted_rows(batch, anchors, rule.temperature)
        divergence, pairs = _divergence(rows, rule)
        total = total + divergence
        count = count + pairs.valid.sum()
        if wants_gradient:
            slope = _distance_gradient(rows, pairs, rule)
            student = batch.student[anchors]
            # D = ‖a − b‖ has the gradient (a − b) / D; summed over pairs without forming them.
            gradient[anchors] += slope.sum(dim=1, keepdim=True) * student - slope @ batch.student
            gradient += slope.sum(dim=0).unsqueeze(1) * batch.student - slope.T @ student
    tuples = count.clamp_min(1)
    return total / tuples, gradient / tuples, count


def _distances(anchors: Tensor, samples: Tensor) -> Tensor:
    """Euclidean distances ``[A, B]``; exactly 0 below SAME_VECTOR, where the inner products cancel."""
    square = torch.addmm((samples * samples).sum(dim=1), anchors, samples.T, alpha=-2)
    square += (anchors * anchors).sum(dim=1, keepdim=True)
    return square.masked_fill_(square < SAME_VECTOR**2, 0.0).sqrt_()


def _sorted_rows(batch: _Batch, anchors: slice, temperature: float) -> _Rows:
    key, order = _distances(batch.student[anchors], batch.student).neg_().sort(dim=1)
    teacher = _distances(batch.teacher[anchors], batch.teacher).gather(1, order)
    position = torch.arange(batch.labels.shape[0], device=order.device)[anchors].unsqueeze(1)
    # gather, not labels[order]: a tenth of the time.
    usable = batch.selected.expand_as(order).gather(1, order) & batch.selected[anchors].unsqueeze(1)
    same = batch.labels.expand_as(order).gather(1, order) == batch.labels[anchors].unsqueeze(1)
    student = key / temperature
    teacher = teacher.div_(-temperature)
    return _Rows(
        order=order,
        key=key,
        teacher=teacher,
        difference=teacher - student,
        exp_student=student.exp_(),
        exp_teacher=teacher.exp(),
        positive=same & usable & (order != position),
        negative=~same & usable,
    )


def _intervals(rows: _Rows, rule: _Rule) -> tuple[Tensor, Tensor]:
    """The columns ``[start, stop)`` that hold the negatives of each column taken as the positive."""
    if rule.mining == "all":
        return torch.zeros_like(rows.order), torch.full_like(rows.order, rows.order.shape[1])
    farther = torch.searchsorted(rows.key, rows.key - TIE)
    if rule.mining == "semi-hard":
        return torch.searchsorted(rows.key, rows.key - (rule.margin + TIE)), farther
    # facenet: with k negatives farther than the positive, the k-th of the row; with none, the first.
    rank = rows.negative.cumsum(dim=1)
    wanted = F.pad(rank, (1, 0)).gather(1, farther).clamp_min(1)
    start = torch.searchsorted(rank, wanted).clamp_max(rows.order.shape[1] - 1)
    return start, start + 1


def _interval_sums(
    values: Tensor, start: Tensor, stop: Tensor, exponent: Tensor | None = None, num_bands: int = 1
) -> Tensor:
    """``Σ values[.., start : stop]`` along the last dimension, as a difference of prefix sums.

    The error is rounding relative to the whole prefix, not to the interval. That is harmless where the
    values ascend, or are within e^BAND of each other. Otherwise ``exponent`` (values ~ e^exponent,
    exponent ≤ 0) splits them into bands of that width, each summed by itself, and counted: an
    interval without a member of the band gets exactly 0 from it.
    """
    if num_bands == 1 or exponent is None:
        prefix = F.pad(values, (1, 0)).cumsum(dim=-1)
        return prefix.gather(-1, stop) - prefix.gather(-1, start)
    band = (exponent / -BAND).floor().clamp(0, num_bands - 1)
    total = torch.zeros_like(values)
    for number in range(num_bands):
        inside = (band == number) & (values != 0)
        members = _interval_sums(inside.double(), start, stop)
        part = _interval_sums(torch.where(inside, values, 0.0), start, stop)
        total = total + torch.where(members > 0, part, 0.0)
    return total


def _divergence(rows: _Rows, rule: _Rule) -> tuple[Tensor, _Pairs]:
    """The KL divergences' sum over all tuples of the chunk, and what the gradient needs."""
    start, stop = _intervals(rows, rule)
    negative = rows.negative.double()
    cross = rows.exp_teacher * rows.difference
    valid = rows.positive & (_interval_sums(negative, start, stop) > 0)

    def tuple_sums(values: Tensor, exponent: Tensor | None = None) -> Tensor:
        """Over the members of each tuple: the positive and its negatives."""
        return values + _interval_sums(values * negative, start, stop, exponent, rule.num_bands)

    student_z = tuple_sums(rows.exp_student)  # ascends, so that no bands are needed
    teacher_z = tuple_sums(rows.exp_teacher, rows.teacher)
    divergence = tuple_sums(cross, rows.teacher) / teacher_z + (student_z / teacher_z).log()
    # Rounding can leave −1e-16 where the two agree; a divergence is not negative.
    total = torch.where(valid, divergence.clamp_min(0), 0.0).sum()
    return total, _Pairs(start, stop, valid, student_z, teacher_z)


def _distance_gradient(rows: _Rows, pairs: _Pairs, rule: _Rule) -> Tensor:
    """``∂ΣKL/∂D_S[a,j] / D_S[a,j]``, ``[A, B]`` in the batch's order; 0 where the distance is 0."""
    size = rows.order.shape[1]
    columns = torch.arange(size, device=rows.order.device).expand_as(rows.order).contiguous()
    # start and stop ascend, so the positives whose interval covers a column are themselves an
    # interval [first, last). 1/Z_S descends along the row: sum from its end (hence the flips).
    first = size - torch.searchsorted(pairs.stop, columns, right=True)
    last = size - torch.searchsorted(pairs.start, columns, right=True)
    share_s = torch.where(pairs.valid, 1 / pairs.student_z, 0.0)
    share_t = torch.where(pairs.valid, 1 / pairs.teacher_z, 0.0)
    covered_s = _interval_sums(share_s.flip(1), last, first)
    magnitude = pairs.teacher_z.log().flip(1) if rule.num_bands > 1 else None
    covered_t = _interval_sums(share_t.flip(1), last, first, magnitude, rule.num_bands)
    negative = rows.negative.double()
    slope = rows.exp_student * (share_s + negative * covered_s)
    slope -= rows.exp_teacher * (share_t + negative * covered_t)
    # s = −D/τ = key/τ, so ∂/∂D is −slope/τ; over D that is slope / (τ · key).
    slope = torch.where(rows.key < 0, slope / (rows.key * rule.temperature), 0.0)
    return torch.zeros_like(slope).scatter_(1, rows.order, slope)
