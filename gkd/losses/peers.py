"""Losses between two students that are trained together."""

from torch import Tensor

from gkd.losses._common import aligned_logits, kl_entries, mean_over_rows
from gkd.losses.registry import loss
from gkd.losses.signature import Mask

__all__ = ["mutual_loss"]


@loss("mutual", paper="Zhang, Xiang, Hospedales, Lu, CVPR 2018")
def mutual_loss(student_logits: Tensor, peer_logits: Tensor, *, mask: Mask = None) -> Tensor:
    """Mutual learning: the student's class probabilities follow those of a student that learns beside it.

    ``mean_i KL( softmax(z_P,i) ‖ softmax(z_S,i) )``

    Convention: no temperature; KL(peer‖student), summed over classes, mean over the selected rows; the value does not
    scale with B. The peer is a constant here: it has the same loss with the roles exchanged. No selected row gives a
    zero that keeps the graph.

    Args:
        student_logits: ``[B, C]``.
        peer_logits: ``[B, C]``, the other student's, of the same classes in the same columns.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: the two have different numbers of rows or columns, or fewer than two columns.

    Paper:
        Zhang, Xiang, Hospedales, Lu: Deep Mutual Learning, CVPR 2018, equations 3 to 5.
    """
    student, peer = aligned_logits(student_logits, peer_logits, mask, other="peer")
    return mean_over_rows(kl_entries(student.log_softmax(1), peer.log_softmax(1)).sum(1), mask)
