"""Helpers of several losses: checks of shapes and labels, means over rows, KL over chosen columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.numerics import unit_rows, upcast, zero_unselected


def mean_over_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of ``values [B]`` over the selected rows; a zero that keeps the graph where none is."""
    if mask is None:
        return values.sum() / max(values.shape[0], 1)
    return zero_unselected(values, mask).sum() / mask.sum().clamp_min(1)


def weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """``values [B]`` times ``weights [B]``, which get no gradient; None is 1."""
    return values if weights is None else values * weights.detach().to(values.dtype)


def self_products(rows: Tensor) -> Tensor:
    """``rows @ rowsᵀ`` of ``[..., N, D]``, where one product gives the gradient.

    For a symmetric gradient G, that of a product with itself is 2 G · rows: autograd would compute both halves. So
    whatever reads this must be symmetric in the two indices.
    """
    products = rows @ rows.detach().mT
    return 2 * products - products.detach()


def check_rows(student: Tensor, other: Tensor, whose: str = "teacher's") -> None:
    """Refuse sides that do not hold the same samples."""
    if student.shape[0] != other.shape[0]:
        raise UserError(
            f"The student's batch has {student.shape[0]} rows, the {whose} {other.shape[0]}; "
            "give both the same samples in the same order.",
            code="other-batch-sizes",
        )


def aligned_logits(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    *,
    standardise: bool = False,
    other: str = "teacher",
) -> tuple[Tensor, Tensor]:
    """Both sides, checked, in computing precision: unselected rows are zero, the teacher is detached.

    ``other`` is what a message calls the teacher.
    Standardised, each row has mean 0 and standard deviation 1 (C − 1); a constant one is zero.
    """
    for side, logits in (("student's", student_logits), (f"{other}'s", teacher_logits)):
        if logits.dim() != 2:
            raise UserError(
                f"The {side} logits are {list(logits.shape)}; give [B, C], one row a sample.",
                code="not-a-matrix",
            )
    check_rows(student_logits, teacher_logits, f"{other}'s")
    columns, teacher_columns = student_logits.shape[1], teacher_logits.shape[1]
    if columns != teacher_columns:
        raise UserError(
            f"The student's logits have {columns} columns, the {other}'s {teacher_columns}; "
            "give both the aligned columns of their shared classes.",
            code="other-shapes",
        )
    if columns < 2:
        raise UserError(
            f"Distilling logits needs at least 2 shared classes, not {columns}; "
            "use a loss on embeddings, such as 'tuples', where the label spaces hardly meet.",
            code="too-few-classes",
        )
    student = upcast(zero_unselected(student_logits, mask))
    teacher = upcast(zero_unselected(teacher_logits.detach(), mask))
    if standardise:
        scale = (columns - 1) ** 0.5
        return unit_rows(centred(student)) * scale, unit_rows(centred(teacher)) * scale
    return student, teacher


def columns_of(labels: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Labels ``[B]``, or distributions ``[B, C]``, that fit the logits; those of unselected rows are 0.

    Raises:
        UserError: another number of rows or classes, or a label that is no column. Values are checked on the CPU
            alone, where that costs no synchronisation; on a GPU torch's own assertion stops the run.
    """
    check_rows(logits, labels, "labels have")
    labels, columns = zero_unselected(labels, mask), logits.shape[1]
    if labels.dim() == 2 and labels.shape[1] != columns:
        raise UserError(
            f"The labels are distributions over {labels.shape[1]} classes, the logits have {columns}.",
            code="other-classes",
        )
    if labels.dim() == 1:
        check_range("labels", labels, columns, f"the logits have {columns} columns")
    return labels


def check_range(name: str, numbers: Tensor, count: int, why: str) -> None:
    """Refuse numbers ``[B]`` outside ``0 .. count − 1``, where looking costs no synchronisation."""
    checkable = numbers.device.type == "cpu" and not torch.compiler.is_compiling()
    if checkable and len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise UserError(
            f"The {name} run from {int(numbers.min())} to {int(numbers.max())}, but {why}; use {name} from 0 to "
            f"{count - 1}.",
            code=f"{name}-out-of-range",
        )


def centred(rows: Tensor, counted: Tensor | None = None) -> Tensor:
    """Rows minus their mean over the counted columns; zero where that is rounding alone."""
    if counted is None:
        apart = rows - rows.mean(1, keepdim=True)
    else:
        mean = torch.where(counted, rows, 0).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp_min(1)
        apart = torch.where(counted, rows - mean, 0)
    rounding = 8 * torch.finfo(rows.dtype).eps * rows.detach().abs().amax(1, keepdim=True)
    return torch.where((apart.detach().abs() <= rounding).all(1, keepdim=True), 0, apart)


def log_softmax_over(logits: Tensor, used: Tensor) -> Tensor:
    """Log-softmax ``[B, C]`` over the used columns ``[C]``; the others are finite, to be dropped."""
    # A finite fill: with −inf a column, or a whole row, would turn 0 · (−inf) into NaN.
    return logits.masked_fill(~used, torch.finfo(logits.dtype).min / 4).log_softmax(1)


def kl_rows(student: Tensor, teacher: Tensor, used: Tensor) -> Tensor:
    """KL(teacher‖student) of each row ``[B]``, both softmaxes over the used columns ``[C]`` of logits ``[B, C]``."""
    teacher_log = log_softmax_over(teacher, used).to(student.dtype)
    return torch.where(used, kl_entries(log_softmax_over(student, used), teacher_log), 0).sum(1)


def kl_entries(student_log: Tensor, teacher_log: Tensor) -> Tensor:
    """The summands ``p_T (log p_T − log p_S)`` of KL(teacher‖student) from log-probabilities."""
    return teacher_log.exp() * (teacher_log - student_log)


class WithGradient(torch.autograd.Function):
    """A value whose gradient with respect to the embedding was computed beside it."""

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None
