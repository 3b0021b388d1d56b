"""The affinity family, its published combinations, and angles."""

from __future__ import annotations

import itertools
import math

from torch import Tensor

from . import Inputs, cosine, dot, mean, number, random, root, square_distance


def make_maps(batch: int) -> Inputs:
    return {"student_map": random(1, batch, 3, 2, 2), "teacher_map": random(2, batch, 4, 3, 3)}


def make_sides(batch: int) -> Inputs:
    return {"student": random(1, batch, 4), "teacher": random(2, batch, 6)}


def make_embeddings_alone(batch: int) -> Inputs:
    return {"student_embedding": random(1, batch, 4), "teacher_embedding": random(2, batch, 6)}


def make_embeddings_alike(batch: int) -> Inputs:
    return {"student_embedding": random(1, batch, 4), "teacher_embedding": random(2, batch, 4)}


def pair_affinity(name: str, a: Tensor, b: Tensor, bandwidth: float, degree: int, offset: float) -> Tensor:
    if name == "dot":
        return dot(a, b)
    if name in ("cosine", "shifted-cosine"):
        return cosine(a, b) if name == "cosine" else (1 + cosine(a, b)) / 2
    if name == "taylor-rbf":
        powers = range(degree + 1)
        series = sum((2 * bandwidth * cosine(a, b)) ** p / math.factorial(p) for p in powers)
        return math.exp(-2 * bandwidth) * series
    if name == "polynomial":
        return (dot(a, b) + offset) ** degree
    square = square_distance(a, b)
    return {
        "euclid": root(square),
        "squared-euclid": square,
        "rbf": (-bandwidth * square).exp(),
        "student-t": 1 / (1 + square),
    }[name]


Matrix = dict[tuple[int, int], Tensor]


def normalised(name: str, matrix: Matrix, temperature: float, negate: bool) -> Matrix:
    values = list(matrix.values())
    zero = sum(values) * 0

    def rows_of(i: int) -> list[Tensor]:
        return [value for (a, _), value in matrix.items() if a == i]

    def scale(i: int) -> Tensor:
        if name == "row-l2":
            return root(sum(v * v for v in rows_of(i)))
        if name == "row-sum":
            return sum(rows_of(i))
        if name == "mean":
            positive = [v for (a, b), v in matrix.items() if a != b and number(v) > 0]
            return sum(positive) / len(positive) if positive else zero
        if name == "max":
            return max((v.abs() for v in values), key=number)
        return root(sum(v * v for v in values)) if name == "frobenius" else zero + 1

    if name == "row-softmax":
        sign = -1 if negate else 1
        total = {i: sum((sign * v / temperature).exp() for v in rows_of(i)) for i, _ in matrix}
        return {(i, j): (sign * v / temperature).exp() / total[i] for (i, j), v in matrix.items()}
    if name in ("standardise", "row-standardise"):
        result = {}
        for (i, j), v in matrix.items():
            group = values if name == "standardise" else rows_of(i)
            centre = sum(group) / len(group)
            variance = sum((x - centre) ** 2 for x in group) / len(group)
            result[i, j] = (v - centre) / variance.sqrt() if number(variance) > 1e-28 else v * 0
        return result
    return {(i, j): v / scale(i) if number(scale(i)) != 0 else v for (i, j), v in matrix.items()}


def entry_distance(name: str, s: Tensor, t: Tensor) -> Tensor:
    if name == "l2":
        return (s - t) ** 2
    if name == "l1":
        return (s - t).abs()
    if name == "smooth-l1":
        return (s - t) ** 2 / 2 if number((s - t).abs()) < 1 else (s - t).abs() - 0.5
    if number(s) == number(t) == 0:
        return s * t
    if name == "kl":
        return t * (t / s).log()
    m = (s + t) / 2
    return (t * (t / m).log() + s * (s / m).log()) / 2


def affinity_reference(
    student: Tensor,
    teacher: Tensor,
    affinity: str = "cosine",
    normalisation: str = "row-softmax",
    distance: str = "kl",
    diagonal: bool = True,
    per: str = "row",
    temperature: float = 1.0,
    bandwidth: float = 0.4,
    degree: int = 2,
    offset: float = 1.0,
) -> Tensor:
    batch = len(student)
    pairs = [(i, j) for i in range(batch) for j in range(batch) if diagonal or i != j]
    if not pairs:
        return student.sum() * 0

    def side(rows: Tensor) -> Matrix:
        kernel = (bandwidth, degree, offset)
        matrix = {(i, j): pair_affinity(affinity, rows[i], rows[j], *kernel) for i, j in pairs}
        return normalised(normalisation, matrix, temperature, negate="euclid" in affinity)

    ours, theirs = side(student), side(teacher)
    total = sum(entry_distance(distance, ours[pair], theirs[pair]) for pair in pairs)
    columns = (batch if diagonal else batch - 1) if per == "pair" else 1
    return total / (batch * columns)


def sp_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    return affinity_reference(student_map, teacher_map, "dot", "row-l2", "l2", per="pair")


def pkt_reference(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    return affinity_reference(
        student_embedding, teacher_embedding, "shifted-cosine", "row-sum", "kl", per="pair"
    )


def rkd_distance_reference(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    return affinity_reference(student_embedding, teacher_embedding, "euclid", "mean", "smooth-l1", per="pair")


def cc_reference(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    kernel: str = "rbf",
    bandwidth: float = 0.4,
    order: int = 2,
) -> Tensor:
    name = {"rbf": "taylor-rbf", "bilinear": "dot"}[kernel]
    more = {"per": "pair", "bandwidth": bandwidth, "degree": order}
    return affinity_reference(student_embedding, teacher_embedding, name, "none", "l2", **more)


def cc_neighbour_reference(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    errors = [(s - t).abs() for s, t in zip(student_embedding, teacher_embedding, strict=True)]
    return mean([dot(a, b) for a, b in itertools.pairwise(errors)], student_embedding)


def rkd_angle_reference(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    batch = range(len(student_embedding))

    def angle(rows: Tensor, i: int, j: int, k: int) -> Tensor:
        return cosine(rows[i] - rows[j], rows[k] - rows[j])

    losses = []
    for i, j, k in itertools.product(batch, batch, batch):
        ours, theirs = (angle(rows, i, j, k) for rows in (student_embedding, teacher_embedding))
        losses.append(entry_distance("smooth-l1", ours, theirs))
    return mean(losses, student_embedding)
