"""Losses on maps."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Inputs, dot, mean, number, random, root


def pooled(maps: Tensor, height: int, width: int) -> Tensor:
    """Average pooling ``[C, H, W]`` to a size, cell by cell, over the cells' whole extent."""
    rows = []
    for y in range(height):
        top, bottom = y * maps.shape[1] // height, -(-(y + 1) * maps.shape[1] // height)
        cells = []
        for x in range(width):
            left, right = x * maps.shape[2] // width, -(-(x + 1) * maps.shape[2] // width)
            cells.append(maps[:, top:bottom, left:right].mean((1, 2)))
        rows.append(torch.stack(cells, 1))
    return torch.stack(rows, 1)


def aligned(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    size = (min(one.shape[1], other.shape[1]), min(one.shape[2], other.shape[2]))
    return pooled(one, *size), pooled(other, *size)


def unit(x: Tensor) -> Tensor:
    norm = root(dot(x, x))
    return x / norm if number(norm) > 0 else x


def at_reference(student_map: Tensor, teacher_map: Tensor, power: float = 2.0) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        ours, theirs = (unit(x.abs().pow(power).mean(0).flatten()) for x in aligned(s, t))
        rows.append(dot(ours - theirs, ours - theirs) / len(ours))
    return mean(rows, student_map)


def nst_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        ours, theirs = ([unit(channel) for channel in x] for x in aligned(s, t))

        def kernel(a: list[Tensor], b: list[Tensor]) -> Tensor:
            return sum(dot(x, y) ** 2 for x in a for y in b) / (len(a) * len(b))

        rows.append(kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs))
    return mean(rows, student_map)


def make_pooled(batch: int) -> Inputs:
    return {
        "student_pooled_map": random(1, batch, 3, 4, 4),
        "teacher_pooled_map": random(2, batch, 3, 2, 2),
    }


def simkd_reference(student_pooled_map: Tensor, teacher_pooled_map: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_pooled_map, teacher_pooled_map, strict=True):
        ours, theirs = (x.flatten() for x in aligned(s, t))
        rows.append(dot(ours - theirs, ours - theirs) / len(ours))
    return mean(rows, student_pooled_map)


def make_flows(batch: int) -> Inputs:
    return {
        "student_map": random(1, batch, 2, 4, 4),
        "student_map_after": random(2, batch, 3, 2, 2),
        "teacher_map": random(3, batch, 2, 3, 3),
        "teacher_map_after": random(4, batch, 3, 3, 3),
    }


def fsp_reference(
    student_map: Tensor, student_map_after: Tensor, teacher_map: Tensor, teacher_map_after: Tensor
) -> Tensor:
    def flow(before: Tensor, after: Tensor) -> list[Tensor]:
        before, after = aligned(before, after)
        return [dot(a, b) / a.numel() for a in before for b in after]

    rows = []
    for s, s_after, t, t_after in zip(
        student_map, student_map_after, teacher_map, teacher_map_after, strict=True
    ):
        ours, theirs = flow(s, s_after), flow(t, t_after)
        rows.append(sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(ours))
    return mean(rows, student_map)


def make_maps_alike(batch: int) -> Inputs:
    return {"student_map": random(1, batch, 3, 2, 2), "teacher_map": random(2, batch, 3, 3, 3)}


def ickd_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        ours, theirs = (torch.stack([unit(torch.stack([dot(a, b) for b in x])) for a in x]) for x in (s, t))
        rows.append(dot(ours - theirs, ours - theirs) / len(ours))
    return mean(rows, student_map)
