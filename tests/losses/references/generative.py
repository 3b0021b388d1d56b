"""The criteria of masked generation and of N-to-one matching."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Inputs, dot, mean, random


def make_generated(batch: int) -> Inputs:
    return {"student_map": random(1, batch, 3, 2, 2), "teacher_map": random(2, batch, 3, 2, 2)}


def mgd_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    return mean([dot(s - t, s - t) for s, t in zip(student_map, teacher_map, strict=True)], student_map)


def make_copies(batch: int) -> Inputs:
    return {"student_map": random(1, batch, 6, 2, 2), "teacher_map": random(2, batch, 2, 4, 4)}


def matched_copies(inputs: Inputs) -> Inputs:
    same = inputs["teacher_map"][:, :, ::2, ::2]
    return {"student_map": same.repeat(1, 3, 1, 1), "teacher_map": same}


def largest(maps: Tensor, height: int, width: int) -> Tensor:
    """Max-pooling ``[C, H, W]`` to a size, cell by cell; sizes divide."""
    tall, wide = maps.shape[1] // height, maps.shape[2] // width
    rows = [
        torch.stack(
            [
                maps[:, y * tall : (y + 1) * tall, x * wide : (x + 1) * wide].flatten(1).amax(1)
                for x in range(width)
            ],
            1,
        )
        for y in range(height)
    ]
    return torch.stack(rows, 1)


def norm_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        size = [min(s.shape[axis], t.shape[axis]) for axis in (1, 2)]
        s, t = largest(s, *size), largest(t, *size)
        parts = [s[first : first + len(t)] - t for first in range(0, len(s), len(t))]
        rows.append(sum(dot(part, part) / part.numel() for part in parts))
    return mean(rows, student_map)
