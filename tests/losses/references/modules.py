"""The pure functions inside the losses that own parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import Inputs, mean, number, random
from .maps import aligned, unit


def make_hints(batch: int) -> Inputs:
    return {"student": random(1, batch, 3, 2, 2), "teacher": random(2, batch, 3, 2, 2)}


def hint_reference(student: Tensor, teacher: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student, teacher, strict=True):
        entries = [(a - b) ** 2 for a, b in zip(s.flatten(), t.flatten(), strict=True)]
        rows.append(sum(entries) / len(entries))
    return mean(rows, student)


def make_variational(batch: int) -> Inputs:
    return {
        "student_map": random(1, batch, 3, 2, 2),
        "teacher_map": random(2, batch, 3, 4, 4),
        "variance": 0.5 + torch.arange(3, dtype=torch.float64),
    }


def vid_reference(student_map: Tensor, teacher_map: Tensor, variance: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        ours, theirs = aligned(s, t)
        channels = [
            ((a - b) ** 2 / spread + spread.log()).mean() / 2
            for a, b, spread in zip(ours, theirs, variance, strict=True)
        ]
        rows.append(sum(channels) / len(channels))
    return mean(rows, student_map)


def factor_transfer_reference(student_map: Tensor, teacher_map: Tensor, of: str = "energy") -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        sides = [unit((x**2).mean(0).flatten() if of == "energy" else x.flatten()) for x in aligned(s, t)]
        rows.append(sum((a - b).abs() for a, b in zip(*sides, strict=True)) / len(sides[0]))
    return mean(rows, student_map)


def make_scores(batch: int) -> Inputs:
    return {"scores": random(1, batch, 6), "log_normaliser": torch.tensor(0.7, dtype=torch.float64)}


def nce_reference(scores: Tensor, log_normaliser: Tensor, num_samples: int) -> Tensor:
    rows = []
    for row in scores:
        noise = (len(row) - 1) / num_samples
        chances = [value.exp() / math.exp(number(log_normaliser)) for value in row]
        told_apart = [(noise / (chance + noise)).log() for chance in chances[1:]]
        rows.append(-((chances[0] / (chances[0] + noise)).log() + sum(told_apart)))
    return mean(rows, scores)


def make_allowed(batch: int) -> Inputs:
    return {"scores": random(1, batch, 6), "allowed": random(2, batch, 5) > -1}


def info_nce_reference(scores: Tensor, allowed: Tensor) -> Tensor:
    rows = []
    for row, may in zip(scores, allowed, strict=True):
        others = [value.exp() for value, taken in zip(row[1:], may, strict=True) if taken]
        rows.append(-(row[0].exp() / (row[0].exp() + sum(others))).log())
    return mean(rows, scores)
