"""Every loss by plain Python loops, and inputs for it: what the contract test compares with."""

from __future__ import annotations

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
NUM_CLASSES = 3


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels_for(batch: int) -> Tensor:
    return torch.arange(batch) % NUM_CLASSES


def kl(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """KL(softmax(teacher)‖softmax(student)) over two lists of logits."""
    teacher_sum = sum((t.exp() for t in teacher), torch.zeros(()))
    student_sum = sum((s.exp() for s in student), torch.zeros(()))
    total = torch.zeros((), dtype=torch.float64)
    for t, s in zip(teacher, student, strict=True):
        total = total + t.exp() / teacher_sum * ((t - teacher_sum.log()) - (s - student_sum.log()))
    return total


def mean(values: list[Tensor], graph: Tensor) -> Tensor:
    return torch.stack(values).mean() if values else graph.sum() * 0


def dot(a: Tensor, b: Tensor) -> Tensor:
    return sum((x * y for x, y in zip(a.flatten(), b.flatten(), strict=True)), a.sum() * 0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    norm = dot(a, a) * dot(b, b)
    return norm * 0 if number(norm) == 0 else dot(a, b) / norm.sqrt()


def square_distance(a: Tensor, b: Tensor) -> Tensor:
    return dot(a - b, a - b)


def number(x: Tensor) -> float:
    return float(x.detach())


def root(x: Tensor) -> Tensor:
    return x.sqrt() if number(x) > 0 else x * 0
