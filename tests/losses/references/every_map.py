"""Losses on the maps at all of a term's spots: their parts on one pair of maps."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Inputs, mean, number, random
from .maps import aligned, pooled


def make_same_maps(batch: int) -> Inputs:
    return {"student_map": random(1, batch, 2, 5, 4), "teacher_map": random(2, batch, 2, 5, 4)}


def context_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        parts, weights = [(s - t).square().mean()], [1.0]
        for side in (4, 2, 1):
            if side < min(s.shape[1:]):
                parts.append((pooled(s, side, side) - pooled(t, side, side)).square().mean())
                weights.append(weights[-1] / 2)
        rows.append(sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights))
    return mean(rows, student_map)


def make_behind_margin(batch: int) -> Inputs:
    inputs = make_same_maps(batch)
    return {**inputs, "margin": torch.tensor([-0.7, -0.2], dtype=torch.float64)}


def partial_reference(student_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        total = s.sum() * 0
        for channel in range(s.shape[0]):
            for ours, theirs in zip(s[channel].flatten(), t[channel].flatten(), strict=True):
                target = max(number(theirs), number(margin[channel]))
                if not number(ours) <= target <= 0:
                    total = total + (ours - target) ** 2
        rows.append(total)
    return mean(rows, student_map)


def boundary_reference(student_map: Tensor, teacher_map: Tensor, margin: float = 1.0) -> Tensor:
    """The authors' form, with a case for each side."""
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        total = s.sum() * 0
        for ours, theirs in zip(s.flatten(), t.flatten(), strict=True):
            if theirs <= 0 and number(ours) > -margin:
                total = total + (ours + margin) ** 2
            elif theirs > 0 and number(ours) <= margin:
                total = total + (ours - margin) ** 2
        rows.append(total)
    return mean(rows, student_map)


def make_attended(batch: int) -> Inputs:
    inputs = make_same_maps(batch)
    return {**inputs, "attention": random(3, batch).abs()}


def calibrated_reference(student_map: Tensor, teacher_map: Tensor, attention: Tensor) -> Tensor:
    pairs = zip(student_map, teacher_map, attention, strict=True)
    return mean([share * (s - t).square().mean() for s, t, share in pairs], student_map)


def leading(matrix: Tensor, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """The leading right singular vectors of a matrix ``[positions, entries]``, and the singular values."""
    _, values, rows = torch.linalg.svd(matrix, full_matrices=False)
    return list(rows[:count]), list(values[:count])


def singular_reference(
    student_map: Tensor,
    student_map_after: Tensor,
    teacher_map: Tensor,
    teacher_map_after: Tensor,
    vectors: int = 1,
    spare: int = 3,
    of: str = "channels",
    smallest_gap: float = 1e-4,
) -> Tensor:
    """By the library's decomposition and its gradient, which is right where no two values are close."""

    def matched(s: Tensor, t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if of == "columns":
            s, t = (x.flatten(0, 1) for x in aligned(s, t))
        else:
            s, t = s.flatten(1).T, t.flatten(1).T
        theirs, values = leading(t, count)
        norm = sum(value**2 for value in values) ** 0.5
        candidates, _ = leading(s, count + spare)
        ours, turned = [], []
        for vector, value in zip(theirs, values, strict=True):
            vector = vector if number(vector.sum()) >= 0 else -vector
            best = max(candidates, key=lambda x: abs(number(x @ vector)))
            best = best if number(best @ vector) >= 0 else -best
            ours.append(best * value / norm)
            turned.append(vector * value / norm)
        return ours, turned

    count = vectors
    for x in (*aligned(student_map[0], teacher_map[0]), *aligned(student_map_after[0], teacher_map_after[0])):
        if of == "columns":
            count = min(count, x.shape[2], x.shape[0] * x.shape[1])
    rows = []
    for s, after, t, t_after in zip(
        student_map, student_map_after, teacher_map, teacher_map_after, strict=True
    ):
        earlier, later = matched(s, t), matched(after, t_after)
        total = s.sum() * 0
        for k in range(len(earlier[1])):
            for i in range(len(later[0][k])):
                for j in range(len(earlier[0][k])):
                    kernels = [
                        (-((later[side][k][i] - earlier[side][k][j]) ** 2) / 8).exp() for side in (0, 1)
                    ]
                    total = total + (kernels[0] - kernels[1]) ** 2
        rows.append(total)
    return mean(rows, student_map)


def make_wide_flows(batch: int) -> Inputs:
    """Maps with more channels than positions, and with fewer."""
    return {
        "student_map": random(1, batch, 5, 2, 2),
        "student_map_after": random(2, batch, 6, 3, 3),
        "teacher_map": random(3, batch, 5, 3, 3),
        "teacher_map_after": random(4, batch, 6, 2, 2),
    }
