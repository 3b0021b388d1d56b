"""Losses on projected embeddings, and the normalisations before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import NUM_CLASSES, Inputs, cosine, dot, kl, labels_for, mean, number, random, root
from .affinity import make_embeddings_alike

WIDTH = 4


def make_centres(batch: int) -> Inputs:
    return {
        **make_embeddings_alike(batch),
        "centres": random(3, NUM_CLASSES, WIDTH),
        "labels": labels_for(batch),
    }


def make_queue(batch: int) -> Inputs:
    queue = torch.nn.functional.normalize(random(4, 5, WIDTH))
    queue[3] = 0  # an empty place
    return {**make_embeddings_alike(batch), "queue": queue}


def uncorrelated(inputs: Inputs) -> Inputs:
    """Both sides with uncorrelated dimensions; so large that what is added to σ vanishes."""
    rows, width = inputs["teacher_embedding"].shape
    turns = 2 * math.pi * torch.arange(rows, dtype=torch.float64) / rows
    waves = [
        wave((1 + j // 2) * turns)
        for j, wave in zip(range(width), [torch.cos, torch.sin] * width, strict=False)
    ]
    side = 1e9 * torch.stack(waves, 1)
    return {**inputs, "student_embedding": side, "teacher_embedding": side.clone()}


def to_the_centres(inputs: Inputs) -> Inputs:
    """A student that points to the centres and is longer than its teacher."""
    direction = inputs["centres"][inputs["labels"]]
    return {**inputs, "student_embedding": 2 * direction, "teacher_embedding": direction / 2}


def normalised_rows(rows: Tensor, how: str) -> Tensor:
    """The normalisations one row, or one dimension, at a time; whitening by an iteration for the matrix root."""
    size, width = rows.shape
    if how == "none" or size == 0:
        return rows
    if how == "l2":
        return torch.stack([row / root(dot(row, row)) if number(dot(row, row)) else row for row in rows])
    if how == "layer":
        apart = [row - row.sum() / width for row in rows]
        return torch.stack([row / (dot(row, row) / width + 1e-5).sqrt() for row in apart])
    columns = []
    for column in rows.T:
        column = column - column.sum() / size
        # What rounding alone leaves is no variance.
        columns.append(column * 0 if size == 1 else column)
    if how == "standardise":
        columns = [column / (root(dot(column, column) / size) + 1e-5) for column in columns]
    apart = torch.stack(columns, 1)
    if how != "whiten" or size == 1:
        return apart
    covariance = apart.T @ apart / size
    covariance = covariance + 1e-5 * covariance.trace() / width * torch.eye(width)
    # Denman and Beavers: Y goes to the root, Z to its inverse.
    y, z = covariance, torch.eye(width, dtype=rows.dtype)
    for _ in range(25):
        y, z = (y + torch.linalg.inv(z)) / 2, (z + torch.linalg.inv(y)) / 2
    return apart @ z


def regression_reference(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    distance: str = "cosine",
    beta: float = 1.0,
    student_normalise: str = "none",
    teacher_normalise: str = "none",
) -> Tensor:
    def huber(x: Tensor) -> Tensor:
        return x * x / (2 * beta) if abs(number(x)) < beta else x.abs() - beta / 2

    rows = []
    for s, t in zip(
        normalised_rows(student_embedding, student_normalise),
        normalised_rows(teacher_embedding, teacher_normalise),
        strict=True,
    ):
        if distance == "cosine":
            rows.append(1 - cosine(s, t))
        else:
            entries = [(a - b) ** 2 if distance == "l2" else huber(a - b) for a, b in zip(s, t, strict=True)]
            rows.append(sum(entries, torch.zeros(())) / len(entries))
    return mean(rows, student_embedding)


def rsd_reference(student_embedding: Tensor, teacher_embedding: Tensor, kappa: float = 0.01) -> Tensor:
    size, width = student_embedding.shape
    student = normalised_rows(student_embedding, "standardise")
    teacher = normalised_rows(teacher_embedding, "standardise")
    total = student_embedding.sum() * 0
    for i in range(width):
        for j in range(width):
            correlation = dot(teacher[:, i], student[:, j]) / size
            total = total + ((correlation - 1) ** 2 if i == j else kappa * correlation**2)
    return total


def coss_reference(student_embedding: Tensor, teacher_embedding: Tensor, space: float = 1.0) -> Tensor:
    def apart(one: Tensor, other: Tensor) -> Tensor:
        lengths = (one * one).sum().sqrt() * (other * other).sum().sqrt()
        return 1 - (one * other).sum() / lengths

    size, width = student_embedding.shape
    rows = sum(apart(student_embedding[i], teacher_embedding[i]) for i in range(size))
    columns = sum(apart(student_embedding[:, j], teacher_embedding[:, j]) for j in range(width))
    return torch.as_tensor(rows / size + space * columns / width)


def norm_direction_reference(
    student_embedding: Tensor, teacher_embedding: Tensor, centres: Tensor, labels: Tensor
) -> Tensor:
    rows = []
    for s, t, y in zip(student_embedding, teacher_embedding, labels.tolist(), strict=True):
        direction = centres[y] / root(dot(centres[y], centres[y]))
        lengths = [root(dot(side, side)) for side in (s, t)]
        rows.append(1 - dot(s, direction) / max(lengths, key=number))
    return mean(rows, student_embedding)


def queue_similarity_reference(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    queue: Tensor,
    student_temperature: float = 0.07,
    teacher_temperature: float = 0.07,
    candidates: str = "batch",
) -> Tensor:
    past = [row for row in queue if number(dot(row, row))]
    rows = []
    for s, t in zip(student_embedding, teacher_embedding, strict=True):
        batch = {"batch": list(teacher_embedding), "own": [t], "queue": []}[candidates]
        columns = [*batch, *past]
        if not columns:
            rows.append(s.sum() * 0)
            continue
        rows.append(
            kl(
                [cosine(t, q) / teacher_temperature for q in columns],
                [cosine(s, q) / student_temperature for q in columns],
            )
        )
    return mean(rows, student_embedding)
