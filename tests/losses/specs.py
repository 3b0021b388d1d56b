"""One row per loss for the contract test: inputs, a reference by plain loops, and the exceptions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
NUM_CLASSES = 3


@dataclass(frozen=True)
class Spec:
    """What the contract test knows about a loss.

    Attributes:
        make: inputs by the loss's own parameter names, float64, for a batch size.
        reference: the loss by plain Python loops, with the loss's own signature (without mask).
        matched: the inputs changed so that the student equals the teacher, where the loss must be 0
            without a gradient; None for a loss without a teacher (the exception is then tested).
        options: the hyper-parameters to test, a dict each; the defaults come first.
    """

    make: Callable[[int], Inputs]
    reference: Callable[..., Tensor]
    matched: Callable[[Inputs], Inputs] | None
    options: tuple[dict[str, Any], ...] = ({},)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels_for(batch: int) -> Tensor:
    return torch.arange(batch) % NUM_CLASSES


def kl(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """KL(softmax(teacher)‖softmax(student)) over two lists of logits."""
    teacher_sum = sum((t.exp() for t in teacher), torch.zeros(()))
    student_sum = sum((s.exp() for s in student), torch.zeros(()))
    total = torch.zeros((), dtype=torch.float64)
    for t, s in zip(teacher, student, strict=True):
        total = total + t.exp() / teacher_sum * ((t - teacher_sum.log()) - (s - student_sum.log()))
    return total


def mean(values: list[Tensor], graph: Tensor) -> Tensor:
    return torch.stack(values).mean() if values else graph.sum() * 0


# --- cross-entropy and kd ---------------------------------------------------------------------------


def make_logits_and_labels(batch: int) -> Inputs:
    return {"student_logits": 2 * random(1, batch, NUM_CLASSES), "labels": labels_for(batch)}


def cross_entropy_reference(student_logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    rows = []
    for z, y in zip(student_logits, labels, strict=True):
        log_sum = sum(math.e**value for value in z).log()
        hard = log_sum - z[y]
        uniform = sum(log_sum - value for value in z) / len(z)
        rows.append((1 - label_smoothing) * hard + label_smoothing * uniform)
    return mean(rows, student_logits)


def make_logits(batch: int) -> Inputs:
    return {"student_logits": 2 * random(1, batch, 5), "teacher_logits": 2 * random(2, batch, 5)}


def kd_reference(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    pairs = zip(teacher_logits / temperature, student_logits / temperature, strict=True)
    return temperature**2 * mean([kl(list(t), list(s)) for t, s in pairs], student_logits)


# --- similarity preserving --------------------------------------------------------------------------


def make_maps(batch: int) -> Inputs:
    return {"student_map": random(1, batch, 3, 2, 2), "teacher_map": random(2, batch, 4, 3, 3)}


def sp_reference(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    batch = len(student_map)

    def similarities(activations: Tensor) -> list[list[Tensor]]:
        rows = []
        for i in range(batch):
            row = [(activations[i] * activations[j]).sum() for j in range(batch)]
            norm = sum(value**2 for value in row).sqrt()
            rows.append([value / norm for value in row])
        return rows

    student, teacher = similarities(student_map), similarities(teacher_map)
    total = student_map.sum() * 0
    for i in range(batch):
        for j in range(batch):
            total = total + (teacher[i][j] - student[i][j]) ** 2
    return total / max(batch, 1) ** 2


# --- tuples -----------------------------------------------------------------------------------------


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


# --- the table --------------------------------------------------------------------------------------

SPECS: dict[str, Spec] = {
    "cross_entropy": Spec(
        make=make_logits_and_labels,
        reference=cross_entropy_reference,
        matched=None,
        options=({}, {"label_smoothing": 0.1}),
    ),
    "kd": Spec(
        make=make_logits,
        reference=kd_reference,
        matched=lambda x: {**x, "student_logits": x["teacher_logits"].clone()},
        options=({}, {"temperature": 1.0}),
    ),
    "sp": Spec(
        make=make_maps,
        reference=sp_reference,
        matched=lambda x: {**x, "student_map": x["teacher_map"].clone()},
    ),
    "tuples": Spec(
        make=make_embeddings,
        reference=tuple_reference,
        matched=lambda x: {**x, "student_embedding": x["teacher_embedding"].clone()},
        options=(
            {},
            {"margin": 0.5, "temperature": 0.1},
            {"mining": "facenet"},
            {"mining": "all", "temperature": 1.0},
        ),
    ),
    "induced_classifier": Spec(
        make=make_induced,
        reference=induced_reference,
        matched=induced_matched,
        options=(
            {},
            {"classes": "all"},
            {"teacher_temperature": 2.0, "student_temperature": 0.5, "normalise": True},
        ),
    ),
}
