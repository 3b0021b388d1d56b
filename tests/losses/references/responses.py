"""Losses on logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import NUM_CLASSES, Inputs, kl, labels_for, mean, number, random


def make_logits_and_labels(batch: int) -> Inputs:
    return {"student_logits": 2 * random(1, batch, NUM_CLASSES), "labels": labels_for(batch)}


def cross_entropy_reference(student_logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    rows = []
    for z, y in zip(student_logits, labels, strict=True):
        log_sum = sum(math.e**value for value in z).log()
        hard = log_sum - z[y]
        uniform = sum(log_sum - value for value in z) / len(z)
        rows.append((1 - label_smoothing) * hard + label_smoothing * uniform)
    return mean(rows, student_logits)


def make_logits(batch: int) -> Inputs:
    return {"student_logits": 2 * random(1, batch, 5), "teacher_logits": 2 * random(2, batch, 5)}


def make_peers(batch: int) -> Inputs:
    return {"student_logits": 2 * random(1, batch, 5), "peer_logits": 2 * random(2, batch, 5)}


def mutual_reference(student_logits: Tensor, peer_logits: Tensor) -> Tensor:
    rows = [kl(list(p), list(s)) for s, p in zip(student_logits, peer_logits, strict=True)]
    return mean(rows, student_logits)


def make_logits_both(batch: int) -> Inputs:
    return {**make_logits(batch), "labels": labels_for(batch)}


def log_softmax(z: list[Tensor]) -> list[Tensor]:
    total = sum((value.exp() for value in z), torch.zeros((), dtype=torch.float64)).log()
    return [value - total for value in z]


def standardised(z: list[Tensor]) -> list[Tensor]:
    mean_value = sum(z) / len(z)
    square = sum((value - mean_value) ** 2 for value in z)
    if number(square) == 0:
        return [value * 0 for value in z]
    return [(value - mean_value) / (square / (len(z) - 1)).sqrt() for value in z]


def sides_of(
    student_logits: Tensor, teacher_logits: Tensor, standardise: bool
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Each row of the student and of the teacher."""
    sides = [
        [standardised(list(z)) if standardise else list(z) for z in logits]
        for logits in (student_logits, teacher_logits)
    ]
    return list(zip(*sides, strict=True))


def kd_reference(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, standardise: bool = False
) -> Tensor:
    rows = []
    for s, t in sides_of(student_logits, teacher_logits, standardise):
        rows.append(kl([v / temperature for v in t], [v / temperature for v in s]))
    return temperature**2 * mean(rows, student_logits)


def dkd_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    standardise: bool = False,
) -> Tensor:
    rows = []
    for (s, t), y in zip(sides_of(student_logits, teacher_logits, standardise), labels, strict=True):
        target = int(y)
        p_s, p_t = ([v.exp() for v in log_softmax([v / temperature for v in z])] for z in (s, t))
        rest_s, rest_t = sum(p_s) - p_s[target], sum(p_t) - p_t[target]
        binary = p_t[target] * (p_t[target] / p_s[target]).log() + rest_t * (rest_t / rest_s).log()
        others = [c for c in range(len(p_s)) if c != target]
        rest = sum(p_t[c] / rest_t * ((p_t[c] / rest_t) / (p_s[c] / rest_s)).log() for c in others)
        rows.append(alpha * binary + beta * rest)
    return temperature**2 * mean(rows, student_logits)


def pearson(x: list[Tensor], y: list[Tensor]) -> Tensor:
    x, y = [v - sum(x) / len(x) for v in x], [v - sum(y) / len(y) for v in y]
    spread = sum(v * v for v in x) * sum(v * v for v in y)
    if number(spread) < 1e-40:
        return spread * 0
    return sum(a * b for a, b in zip(x, y, strict=True)) / spread.sqrt()


def dist_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    standardise: bool = False,
) -> Tensor:
    rows = sides_of(student_logits, teacher_logits, standardise)
    students, teachers = (
        [[v.exp() for v in log_softmax([v / temperature for v in row[side]])] for row in rows]
        for side in (0, 1)
    )
    if not students:
        return student_logits.sum() * 0
    between = mean([1 - pearson(s, t) for s, t in zip(students, teachers, strict=True)], student_logits)
    columns = range(student_logits.shape[1])
    within = mean(
        [1 - pearson([row[c] for row in students], [row[c] for row in teachers]) for c in columns],
        student_logits,
    )
    return temperature**2 * (beta * between + gamma * within)


def make_mixed(batch: int) -> Inputs:
    """Labels of mixtures: most of the mass on one class, the rest on the next."""
    main = torch.nn.functional.one_hot(labels_for(batch), 5).double()
    return {**make_logits(batch), "labels": 0.7 * main + 0.3 * main.roll(1, 1)}


def stkd_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    true_classes: str = "kept",
    standardise: bool = False,
) -> Tensor:
    rows = []
    for (s, t), y in zip(sides_of(student_logits, teacher_logits, standardise), labels, strict=True):
        true = [bool(mass > 0) for mass in y] if y.dim() else [c == int(y) for c in range(len(s))]
        kept = [c for c in range(len(s)) if true_classes == "kept" or not true[c]]
        rows.append(kl([t[c] / temperature for c in kept], [s[c] / temperature for c in kept]))
    return temperature**2 * mean(rows, student_logits)


def ttm_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 10.0,
    weighted_by_power_sum: bool = False,
    standardise: bool = False,
) -> Tensor:
    """By the power transform that the paper starts from."""
    rows = []
    for s, t in sides_of(student_logits, teacher_logits, standardise):
        powers = [v.exp() ** (1 / temperature) for v in log_softmax(t)]
        total = sum(powers)
        divergence = sum(
            p / total * ((p / total).log() - log_s) for p, log_s in zip(powers, log_softmax(s), strict=True)
        )
        rows.append(total * divergence if weighted_by_power_sum else divergence)
    return mean(rows, student_logits)


def nkd_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
    standardise: bool = False,
) -> Tensor:
    rows = []
    for (s, t), y in zip(sides_of(student_logits, teacher_logits, standardise), labels, strict=True):
        target = int(y)
        hit = log_softmax(t)[target].exp() * log_softmax(s)[target]
        others = [c for c in range(len(s)) if c != target]
        q_s, q_t = (log_softmax([z[c] / temperature for c in others]) for z in (s, t))
        rest = sum(b.exp() * a for a, b in zip(q_s, q_t, strict=True))
        rows.append(-(hit + gamma * temperature**2 * rest))
    return mean(rows, student_logits)


def wsld_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    epsilon: float = 1e-7,
    standardise: bool = False,
) -> Tensor:
    rows = []
    raw = sides_of(student_logits, teacher_logits, False)
    for (s, t), (z_s, z_t), y in zip(
        sides_of(student_logits, teacher_logits, standardise), raw, labels, strict=True
    ):
        ratio = number(log_softmax(z_s)[int(y)]) / (number(log_softmax(z_t)[int(y)]) - epsilon)
        rows.append((1 - math.exp(-ratio)) * kl([v / temperature for v in t], [v / temperature for v in s]))
    return temperature**2 * mean(rows, student_logits)
