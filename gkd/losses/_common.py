"""What several losses share: the computing precision, row selection, safe row norms, means over rows."""

import math
from typing import Any

import torch
from torch import Tensor

from gkd.errors import UserError, unknown

# Option -> its least and its greatest value; None: no bound. Where the least is OPEN, it must be larger than 0.
OPEN = 1e-12
RANGES: dict[str, tuple[float | None, float | None]] = {
    "alpha": (0, None),
    "bandwidth": (OPEN, None),
    "beta": (0, None),
    "degree": (1, None),
    "dim": (1, None),
    "gamma": (0, None),
    "hardest": (1, None),
    "initial_variance": (1e-4, None),
    "label_smoothing": (0, 1),
    "margin": (0, None),
    "momentum": (0, 1),
    "negatives": (1, None),
    "order": (0, None),
    "power": (OPEN, None),
    "queue": (0, None),
    "rate": (OPEN, None),
    "student_temperature": (OPEN, None),
    "teacher_temperature": (OPEN, None),
    "temperature": (OPEN, None),
}


def range_problem(name: str, value: Any) -> str | None:
    """Why a number is no value of an option, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return f"{name}={value!r} is not a finite number"
    least, greatest = RANGES.get(name, (None, None))
    if least is not None and value < least:
        return f"{name}={value!r} is {'not above 0' if least == OPEN else f'below {least:g}'}"
    if greatest is not None and value > greatest:
        return f"{name}={value!r} is above {greatest:g}"
    return None


def check_numbers(**options: float) -> None:
    """Refuses numbers outside the range of the option of their name."""
    for name, value in options.items():
        problem = range_problem(name, value)
        if problem is not None:
            raise UserError(f"{problem}; choose another value.")


def check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses a word that an option does not know."""
    if value not in allowed:
        raise UserError(unknown(name, value, allowed))


def upcast(x: Tensor) -> Tensor:
    """Half-precision values in float32; float32 and float64 stay what they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on x's device keep the precision of their inputs."""
    return torch.autocast(x.device.type, enabled=False)


def zero_unselected(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x [B, ...]`` with zeros in the rows outside the mask, whatever stood there (NaN too)."""
    if mask is None:
        return x
    # A zero of x's own type: with a Python number torch converts entry by entry, at three times the cost.
    return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, x.new_zeros(()))


def mean_over_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of ``values [B]`` over the selected rows; a zero that keeps the graph where none is."""
    if mask is None:
        return values.sum() / max(values.shape[0], 1)
    return zero_unselected(values, mask).sum() / mask.sum().clamp_min(1)


def unit_rows(x: Tensor) -> Tensor:
    """The rows of ``x [N, D]`` divided by their L2 norm; a zero row stays zero with a finite gradient."""
    # The direction does not depend on the row's scale; without it squares overflow or vanish.
    x = safe_divide(x, torch.linalg.vector_norm(x.detach(), torch.inf, dim=1, keepdim=True))
    return safe_divide(x, torch.linalg.vector_norm(x, dim=1, keepdim=True))


def safe_divide(x: Tensor, by: Tensor) -> Tensor:
    """``x / by``, and x itself where ``by`` is 0."""
    return x / torch.where(by == 0, 1, by)


def self_products(rows: Tensor) -> Tensor:
    """``rows @ rowsᵀ`` of ``[..., N, D]``, where one product gives the gradient.

    For a symmetric gradient G, that of a product with itself is 2 G · rows: autograd would compute both halves. So
    whatever reads this must be symmetric in the two indices.
    """
    products = rows @ rows.detach().mT
    return 2 * products - products.detach()


def check_rows(student: Tensor, other: Tensor, whose: str = "teacher's") -> None:
    """Refuses sides that do not hold the same samples."""
    if student.shape[0] != other.shape[0]:
        raise UserError(
            f"The student's batch has {student.shape[0]} rows, the {whose} {other.shape[0]}; "
            "give both the same samples in the same order."
        )


def class_means(embeddings: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The mean of the rows ``[N, D]`` of each class ``[C, D]``, zero for a class without one, and their numbers."""
    sums = embeddings.new_zeros(num_classes, embeddings.shape[1]).index_add(0, labels, embeddings)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=embeddings.device)
    counts = counts.index_add(0, labels, torch.ones_like(labels))
    return sums / counts.clamp_min(1).unsqueeze(1), counts


def aligned_logits(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both sides in computing precision, unselected rows zero, the teacher without graph; or a refusal."""
    for side, logits in (("student's", student_logits), ("teacher's", teacher_logits)):
        if logits.dim() != 2:
            raise UserError(f"The {side} logits are {list(logits.shape)}; give [B, C], one row a sample.")
    check_rows(student_logits, teacher_logits)
    columns, teacher_columns = student_logits.shape[1], teacher_logits.shape[1]
    if columns != teacher_columns:
        raise UserError(
            f"The student's logits have {columns} columns, the teacher's {teacher_columns}; "
            "give both the aligned columns of their shared classes."
        )
    if columns < 2:
        raise UserError(
            f"Distilling logits needs at least 2 shared classes, not {columns}; "
            "use a loss on embeddings, such as 'tuples', where the label spaces hardly meet."
        )
    return (
        upcast(zero_unselected(student_logits, mask)),
        upcast(zero_unselected(teacher_logits.detach(), mask)),
    )


def columns_of(labels: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Labels ``[B]``, or distributions ``[B, C]``, that fit the logits; those of unselected rows are 0.

    Raises:
        UserError: another number of rows or classes, or a label that is no column. Values are looked at on the CPU
            alone, where that costs no synchronisation; on a GPU torch's own assertion stops the run.
    """
    check_rows(logits, labels, "labels have")
    labels, columns = zero_unselected(labels, mask), logits.shape[1]
    if labels.dim() == 2 and labels.shape[1] != columns:
        raise UserError(
            f"The labels are distributions over {labels.shape[1]} classes, the logits have {columns}."
        )
    if labels.dim() == 1:
        check_range("labels", labels, columns, f"the logits have {columns} columns")
    return labels


def check_range(name: str, numbers: Tensor, count: int, why: str) -> None:
    """Refuses numbers ``[B]`` outside ``0 .. count − 1``; they are looked at where that costs no synchronisation."""
    looked_at = numbers.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise UserError(
            f"The {name} run from {int(numbers.min())} to {int(numbers.max())}, but {why}; use {name} from 0 to "
            f"{count - 1}."
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
    """Log-softmax ``[B, C]`` over the used columns ``[C]``; what the others hold is finite and to be dropped."""
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
