"""Losses on logits at several temperatures, or at a learnt one."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from . import Inputs, dot, kl, mean, number
from .responses import log_softmax, make_logits, sides_of


def probabilities(z: list[Tensor]) -> list[Tensor]:
    return [value.exp() for value in log_softmax(z)]


def mlkd_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    spread: int = 2,
    instances: float = 1.0,
    batches: float = 1.0,
    classes: float = 1.0,
    unsure: str = "all",
    standardise: bool = False,
) -> Tensor:
    count, columns = student_logits.shape
    if count == 0:
        return student_logits.sum() * 0
    sure = [[number(p) for p in probabilities(list(z))] for z in teacher_logits]
    tops, sums = [max(row) for row in sure], [sum(row[c] for row in sure) for c in range(columns)]
    kept = [b for b in range(count) if tops[b] <= statistics.median(tops)]
    low = [c for c in range(columns) if sums[c] <= statistics.median(sums)]
    factors = (len(kept) / count, len(low) / columns) if unsure == "share" else (1.0, 1.0)
    if unsure != "rows":
        kept, low = list(range(count)), list(range(columns))
    total = student_logits.sum() * 0
    sides = sides_of(student_logits, teacher_logits, standardise)
    for heat in (temperature + step for step in range(-spread, spread + 1)):
        cooled = [([v / heat for v in s], [v / heat for v in t]) for s, t in sides]
        parts = [kl(cooled[b][1], cooled[b][0]) for b in kept]
        total = total + instances * factors[0] * heat**2 * sum(parts) / len(kept)
        ours, theirs = (
            torch.stack([torch.stack(probabilities(pair[of])) for pair in cooled]) for of in (0, 1)
        )
        between = [(dot(ours[a], ours[b]) - dot(theirs[a], theirs[b])) ** 2 for a in kept for b in kept]
        within = [
            (dot(ours[:, c], ours[:, d]) - dot(theirs[:, c], theirs[:, d])) ** 2
            for c in low
            for d in range(columns)
        ]
        total = total + batches * factors[0] * sum(between) / len(kept)
        total = total + classes * factors[1] * sum(within) / columns
    return total


def make_learnt(batch: int) -> Inputs:
    return {**make_logits(batch), "temperature_of_rows": torch.tensor(2.7, dtype=torch.float64)}


def ctkd_reference(
    student_logits: Tensor, teacher_logits: Tensor, temperature_of_rows: Tensor, standardise: bool = False
) -> Tensor:
    """KD, sample by sample at its own temperature, which keeps its graph."""
    rows = []
    for s, t, heat in zip(
        student_logits, teacher_logits, temperature_of_rows.expand(len(student_logits)), strict=True
    ):
        ours, theirs = sides_of(s[None], t[None], standardise)[0]
        rows.append(heat**2 * kl([v / heat for v in theirs], [v / heat for v in ours]))
    return mean(rows, student_logits)
