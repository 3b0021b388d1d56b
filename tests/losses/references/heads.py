"""Losses that read the parameters of linear heads."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Inputs, dot, kl, mean, random
from .maps import pooled, unit


def make_srrl(batch: int) -> Inputs:
    return {
        "student_embedding": random(1, batch, 4),
        "teacher_embedding": random(2, batch, 4),
        "teacher_logits": random(3, batch, 3),
        "teacher_weight": random(4, 3, 4),
        "teacher_bias": random(5, 3),
    }


def srrl_reference(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    teacher_logits: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor,
    features: float = 1.0,
    answers: float = 1.0,
    compared: str = "logits",
) -> Tensor:
    rows = []
    for p, t, z in zip(student_embedding, teacher_embedding, teacher_logits, strict=True):
        said = [dot(w, p) + b for w, b in zip(teacher_weight, teacher_bias, strict=True)]
        if compared == "logits":
            apart = sum((a - b) ** 2 for a, b in zip(said, z, strict=True)) / len(said)
        else:
            apart = kl(list(z), said)
        rows.append(features * dot(p - t, p - t) / len(p) + answers * apart)
    return mean(rows, student_embedding)


def make_attention(batch: int) -> Inputs:
    return {
        "student_pooled_map": random(1, batch, 2, 4, 3),
        "teacher_pooled_map": random(2, batch, 2, 3, 5),
        "student_weight": random(3, 3, 2),
        "teacher_weight": random(4, 3, 2),
    }


def matched_attention(inputs: Inputs) -> Inputs:
    return {
        **inputs,
        "student_pooled_map": inputs["teacher_pooled_map"].clone(),
        "student_weight": inputs["teacher_weight"].clone(),
    }


def cat_kd_reference(
    student_pooled_map: Tensor,
    teacher_pooled_map: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    size: int = 2,
    normalise: bool = True,
) -> Tensor:
    """The head before the pooling, as the authors have it, class by class."""

    def attention(features: Tensor, weight: Tensor) -> list[Tensor]:
        maps = []
        for of_class in weight:
            whole = sum((w * channel for w, channel in zip(of_class, features, strict=True)), 0 * features[0])
            small = pooled(whole[None], size, size).flatten()
            maps.append(unit(small) if normalise else small)
        return maps

    rows = []
    for s, t in zip(student_pooled_map, teacher_pooled_map, strict=True):
        apart = zip(attention(s, student_weight), attention(t, teacher_weight), strict=True)
        classes = [dot(a - b, a - b) / size**2 for a, b in apart]
        rows.append(torch.stack(classes).mean())
    return mean(rows, student_pooled_map)
