"""Losses of incremental steps."""

from __future__ import annotations

import torch
from torch import Tensor

from . import NUM_CLASSES, Inputs, cosine, dot, kl, labels_for, mean, number, random
from .maps import aligned, unit

COLUMNS = 5
# Old and new classes in turn: the losses may not rely on old columns coming first.
FIRST_IS_NEW = torch.tensor([False, True, False, True, False])
FIRST_IS_OLD = ~FIRST_IS_NEW


def make_new(batch: int) -> Inputs:
    return {
        "student_logits": 2 * random(1, batch, COLUMNS),
        "labels": labels_for(batch),
        "known": FIRST_IS_NEW.clone(),
    }


def new_columns(known: Tensor) -> list[int]:
    return [c for c, old in enumerate(known.tolist()) if not old]


def cross_entropy_new_reference(
    student_logits: Tensor, labels: Tensor, known: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    rows, new = [], new_columns(known)
    for z, y in zip(student_logits, labels.tolist(), strict=True):
        if known[y]:
            continue
        log_sum = sum(z[c].exp() for c in new).log()
        uniform = sum(log_sum - z[c] for c in new) / len(new)
        rows.append((1 - label_smoothing) * (log_sum - z[y]) + label_smoothing * uniform)
    return mean(rows, student_logits)


def binary_cross_entropy_reference(student_logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    rows = []
    for z, y in zip(student_logits, labels.tolist(), strict=True):
        answers = [1 / (1 + (-z[c]).exp()) if c == y else 1 / (1 + z[c].exp()) for c in new_columns(known)]
        rows.append(-sum(answer.log() for answer in answers))
    return mean(rows, student_logits)


def binary_kd_reference(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_logits, teacher_logits, strict=True):
        # Bernoulli(sigmoid(z)) is the softmax of (z, 0).
        rows.append(sum(kl([b, b * 0], [a, a * 0]) for a, b in zip(s, t, strict=True)))
    return mean(rows, student_logits)


def make_cosines(batch: int) -> Inputs:
    return {
        "student_cosines": torch.tanh(random(1, batch, COLUMNS)),
        "labels": labels_for(batch),
        "known": FIRST_IS_OLD.clone(),
    }


def margin_ranking_reference(
    student_cosines: Tensor, labels: Tensor, known: Tensor, margin: float = 0.5, hardest: int = 2
) -> Tensor:
    pairs = []
    for s, y in zip(student_cosines, labels.tolist(), strict=True):
        hard = sorted(new_columns(known), key=lambda c: -number(s[c]))[:hardest]
        for c in hard if known[y] else []:
            apart = margin - s[y] + s[c]
            pairs.append(apart if number(apart) > 0 else apart * 0)
    return mean(pairs, student_cosines)


def make_scaled_cosines(batch: int) -> Inputs:
    cosines = torch.tanh(random(1, batch, NUM_CLASSES))
    scale = torch.tensor(3.0, dtype=torch.float64)
    return {"student_cosines": cosines, "student_scale": scale, "labels": labels_for(batch)}


def nca_reference(
    student_cosines: Tensor,
    student_scale: Tensor,
    labels: Tensor,
    margin: float = 0.6,
    margin_form: str = "target",
) -> Tensor:
    rows = []
    for s, y in zip(student_cosines, labels.tolist(), strict=True):
        others = [c for c in range(len(s)) if c != y]
        if margin_form == "target":
            value = sum((student_scale * s[c]).exp() for c in others).log() - student_scale * (s[y] - margin)
            rows.append(value if number(value) > 0 else value * 0)
        else:
            shifted = student_scale * (s - margin) - max(student_scale * (s - margin))
            rows.append((1 + sum(shifted[c].exp() for c in others)).log() - shifted[y])
    return mean(rows, student_cosines)


def pod_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    rows = []
    for s, t in zip(student_map, teacher_map, strict=True):
        pooled = []
        for maps in aligned(s, t):
            of_rows = [dot(line, line) for channel in maps for line in channel]
            of_columns = [dot(line, line) for channel in maps for line in channel.T]
            pooled.append(unit(torch.stack([*of_rows, *of_columns])))
        apart = pooled[0] - pooled[1]
        rows.append(dot(apart, apart).sqrt() if number(dot(apart, apart)) > 0 else apart.sum() * 0)
    return mean(rows, student_map)


def cosine_reference(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    rows = [1 - cosine(s, t) for s, t in zip(student_embedding, teacher_embedding, strict=True)]
    return mean(rows, student_embedding)


def ird_reference(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    student_temperature: float = 0.2,
    teacher_temperature: float = 0.01,
) -> Tensor:
    rows = []
    for i in range(len(student_embedding)):
        others = [j for j in range(len(student_embedding)) if j != i]
        ours = [cosine(student_embedding[i], student_embedding[j]) / student_temperature for j in others]
        theirs = [cosine(teacher_embedding[i], teacher_embedding[j]) / teacher_temperature for j in others]
        rows.append(kl(theirs, ours) if others else student_embedding.sum() * 0)
    return mean(rows, student_embedding)
