"""REFILLED's two losses."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Inputs, kl, labels_for, mean, random


def make_embeddings(batch: int) -> Inputs:
    return {
        "student_embedding": random(1, batch, 4),
        "teacher_embedding": random(2, batch, 6),
        "labels": labels_for(batch),
    }


def mined(positive: float, negatives: dict[int, float], mining: str, margin: float) -> list[int]:
    """The negatives of one pair from the student's distances, by the definition."""
    if mining == "semi-hard":
        return [n for n, distance in negatives.items() if 0 < distance - positive <= margin]
    if mining == "all":
        return list(negatives)
    farther = {n: distance for n, distance in negatives.items() if distance > positive}
    if farther:
        return [min(farther, key=farther.__getitem__)]
    return [max(negatives, key=negatives.__getitem__)] if negatives else []


def tuples_of(
    student_embedding: Tensor, labels: Tensor, mining: str, margin: float
) -> list[tuple[int, int, list[int]]]:
    """All ``(anchor, positive, negatives)`` by the definition."""
    unit = [e / e.norm() for e in student_embedding.detach().double()]
    batch, found = len(unit), []
    for a in range(batch):
        distance = [float((unit[a] - unit[j]).norm()) for j in range(batch)]
        negatives = {n: distance[n] for n in range(batch) if labels[n] != labels[a]}
        for p in range(batch):
            if p != a and labels[p] == labels[a]:
                chosen = mined(distance[p], negatives, mining, margin)
                if chosen:
                    found.append((a, p, chosen))
    return found


def tuple_reference(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    margin: float = 0.2,
    mining: str = "semi-hard",
) -> Tensor:
    student = [e / e.norm() for e in student_embedding.double()]
    teacher = [e / e.norm() for e in teacher_embedding.double()]
    divergences = []
    for a, p, negatives in tuples_of(student_embedding, labels, mining, margin):
        members = [p, *negatives]
        divergences.append(
            kl(
                [-(teacher[a] - teacher[j]).norm() / temperature for j in members],
                [-(student[a] - student[j]).norm() / temperature for j in members],
            )
        )
    return mean(divergences, student_embedding)


# --- induced classifier -----------------------------------------------------------------------------


def make_induced(batch: int) -> Inputs:
    """Five columns: three classes in a full batch, one never there, and one without a centre."""
    centres = random(3, 5, 6)
    centres /= centres.norm(dim=1, keepdim=True)
    centres[1] = 0  # a class of the batch without a centre
    return {
        "student_logits": 2 * random(1, batch, 5),
        "teacher_embedding": 2 * random(2, batch, 6),
        "centres": centres,
        "labels": torch.tensor([0, 1, 3])[labels_for(batch)],
    }


def induced_reference(
    student_logits: Tensor,
    teacher_embedding: Tensor,
    centres: Tensor,
    labels: Tensor,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
    classes: str = "batch",
    normalise: bool = False,
) -> Tensor:
    used = [
        k
        for k in range(len(centres))
        if float(centres[k].norm()) > 0 and (classes == "all" or k in labels.tolist())
    ]
    rows = []
    for z, f in zip(student_logits, teacher_embedding, strict=True):
        f = f / f.norm() if normalise else f
        teacher = [sum(x * c for x, c in zip(f, centres[k], strict=True)) for k in used]
        student = [z[k] / student_temperature for k in used]
        if used:
            rows.append(kl([t / teacher_temperature for t in teacher], student))
    return mean(rows, student_logits)


def induced_matched(inputs: Inputs) -> Inputs:
    return {**inputs, "student_logits": inputs["teacher_embedding"] @ inputs["centres"].T}
