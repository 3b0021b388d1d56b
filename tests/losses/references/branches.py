"""One-for-all's enhanced target."""

from __future__ import annotations

from torch import Tensor

from . import mean
from .responses import log_softmax, sides_of


def ofa_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    power: float = 1.0,
    temperature: float = 1.0,
    standardise: bool = False,
) -> Tensor:
    rows = []
    for (s, t), y in zip(sides_of(student_logits, teacher_logits, standardise), labels, strict=True):
        ours, theirs = (log_softmax([v / temperature for v in z]) for z in (s, t))
        total = ours[0] * 0
        for c, (log_p, log_q) in enumerate(zip(ours, theirs, strict=True)):
            hit = 1.0 if c == int(y) else 0.0
            total = total - ((log_q.exp() + hit) ** power - hit) * log_p
        rows.append(total)
    return mean(rows, student_logits)
