"""Losses on logits: cross-entropy with the labels, and Hinton's distillation."""

from torch import Tensor
from torch.nn import functional as F

from gkd.errors import UserError
from gkd.losses._common import kl_entries, mean_over_rows, upcast, zero_unselected


def cross_entropy_loss(
    student_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the student's logits with the labels.

    ``mean_i −Σ_c q_ic · log softmax(z_i)_c`` with ``q_i = (1 − ε) onehot(y_i) + ε / C``.

    Convention: natural logarithm, mean over the selected rows; the value does not scale with B.
    No selected row gives a zero that keeps the graph. Labels of unselected rows are not read.

    Args:
        student_logits: ``[B, C]``.
        labels: int64 ``[B]``, columns of the logits.
        label_smoothing: ε, the share of the target that is spread over all C classes.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Paper:
        Label smoothing: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    logits = zero_unselected(upcast(student_logits), mask)
    targets = zero_unselected(labels, mask)
    rows = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    return mean_over_rows(rows, mask)


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """Hinton's distillation: the student's softened class probabilities follow the teacher's.

    ``T² · mean_i KL( softmax(z_T,i / T) ‖ softmax(z_S,i / T) )``

    Convention: both sides are divided by the temperature and T² is applied; KL(teacher‖student),
    summed over classes, mean over the selected rows; the value does not scale with B. The teacher is
    a constant. No selected row gives a zero that keeps the graph. Over label spaces that only
    overlap, hand over the columns of the shared classes, aligned: the softmax renormalises them.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        temperature: T.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: the two have different numbers of columns, or fewer than two.

    Paper:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
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
    student = zero_unselected(upcast(student_logits), mask)
    teacher = zero_unselected(upcast(teacher_logits.detach()), mask)
    entries = kl_entries((student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1))
    return temperature**2 * mean_over_rows(entries.sum(1), mask)
