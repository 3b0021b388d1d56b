"""Losses within an episode."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Inputs, cosine, dot, kl, mean, random, root, square_distance


def make_episode(batch: int) -> Inputs:
    """Three ways with five support rows first; of each nine rows the last is of a way without support."""
    row = torch.arange(batch)
    return {
        "student_embedding": random(1, batch, 4),
        "way": torch.where(row % 9 == 8, 3, row % 3),
        "support": row < 5,
    }


def make_episode_of_both(batch: int) -> Inputs:
    return {**make_episode(batch), "teacher_embedding": 2 * random(2, batch, 6)}


def one_shot_alike(inputs: Inputs) -> Inputs:
    """One support row a way and rows of one length, where every metric's scores can be the teacher's logits."""
    teacher = inputs["teacher_embedding"]
    teacher = teacher / teacher.norm(dim=1, keepdim=True)
    support = torch.arange(len(teacher)) < 3
    return {**inputs, "teacher_embedding": teacher, "student_embedding": teacher / 2**0.5, "support": support}


def unit(x: Tensor) -> Tensor:
    return x / root(dot(x, x))


def average(rows: list[Tensor]) -> Tensor:
    return sum(rows[1:], rows[0]) / len(rows)


def support_rows(embedding: Tensor, way: Tensor, support: Tensor) -> dict[int, list[Tensor]]:
    rows: dict[int, list[Tensor]] = {}
    for z, k, is_support in zip(embedding, way.tolist(), support.tolist(), strict=True):
        if is_support:
            rows.setdefault(k, []).append(z)
    return rows


def student_scores(z: Tensor, rows: dict[int, list[Tensor]], metric: str) -> list[Tensor]:
    if metric == "euclidean":
        return [-square_distance(z, average(own)) for own in rows.values()]
    return [cosine(z, average([unit(own_row) for own_row in own])) for own in rows.values()]


def prototype_reference(
    student_embedding: Tensor,
    way: Tensor,
    support: Tensor,
    metric: str = "euclidean",
    temperature: float = 1.0,
) -> Tensor:
    rows = support_rows(student_embedding, way, support)
    found = []
    for z, k, is_support in zip(student_embedding, way.tolist(), support.tolist(), strict=True):
        if not is_support and k in rows:
            scores = [score / temperature for score in student_scores(z, rows, metric)]
            total = sum((score.exp() for score in scores), torch.zeros(()))
            found.append(total.log() - scores[list(rows).index(k)])
    return mean(found, student_embedding)


def episode_induced_reference(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    way: Tensor,
    support: Tensor,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
    metric: str = "euclidean",
) -> Tensor:
    rows = support_rows(student_embedding, way, support)
    centres = [unit(average(own)) for own in support_rows(teacher_embedding, way, support).values()]
    found = []
    for i, (k, is_support) in enumerate(zip(way.tolist(), support.tolist(), strict=True)):
        if not is_support and k in rows:
            teacher = [dot(teacher_embedding[i], centre) / teacher_temperature for centre in centres]
            scores = student_scores(student_embedding[i], rows, metric)
            found.append(kl(teacher, [score / student_temperature for score in scores]))
    return mean(found, student_embedding)
