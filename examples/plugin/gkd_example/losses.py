"""A loss: a plain function, whose signature says what it reads, its options and their ranges."""

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from gkd.losses import Range


def gram_loss(
    student_embedding: Tensor, teacher_embedding: Tensor, *, power: Annotated[float, Range(above=0)] = 2.0
) -> Tensor:
    """Mean of |cos(s_i, s_j) - cos(t_i, t_j)|^power over all pairs of a batch; an example, no paper."""
    student, teacher = F.normalize(student_embedding, dim=1), F.normalize(teacher_embedding, dim=1)
    return (student @ student.T - teacher @ teacher.T).abs().pow(power).mean()
