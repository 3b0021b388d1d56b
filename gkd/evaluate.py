"""A network's outputs over an image set, and what is computed from them between epochs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gkd.data import ImageSet, Look, ordered
from gkd.features import Features
from gkd.losses import class_centres
from gkd.metrics import accuracy, ncm_accuracy
from gkd.settings import Settings
from gkd.task import Problem
from gkd.teacher import Teacher


@torch.no_grad()
def predict(
    network: nn.Module,
    images: ImageSet,
    settings: Settings,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits ``[N, C]`` and embeddings ``[N, D]`` in float32 on the CPU, in eval mode, un-augmented."""
    was_training = network.training
    network.eval()
    logits, embedding = [], []
    batches = ordered(
        images,
        Look(mean or settings.mean, std or settings.std),
        batch_size=settings.evaluate_batch_size,
        device=settings.device,
        memory_format=torch.channels_last,
    )
    for batch in batches:
        with settings.autocast():
            features: Features = network.features(batch.images)  # type: ignore[operator]
        logits.append(features.logits.float().cpu())
        embedding.append(features.embedding.float().cpu())
    network.train(was_training)
    return torch.cat(logits), torch.cat(embedding)


def teacher_predictions(teacher: Teacher, images: ImageSet, settings: Settings) -> tuple[Tensor, Tensor]:
    """``predict`` for a teacher: the pixels that it sees, under its own normalisation."""
    return predict(teacher, images.as_teacher_sees, settings, mean=teacher.mean, std=teacher.std)


def validate(student: nn.Module, problem: Problem, select: str, settings: Settings) -> float:
    """The metric in percent that chooses a stage's best epoch."""
    images = problem.student.validation
    logits, embedding = predict(student, images, settings)
    if select == "accuracy":
        return accuracy(logits, images.labels.cpu())
    train = problem.student.train
    _, train_embedding = predict(student, train, settings)
    return ncm_accuracy(
        embedding, images.labels.cpu(), train_embedding, train.labels.cpu(), len(images.space)
    )


def train_centres(teacher: Teacher, images: ImageSet, settings: Settings) -> Tensor:
    """``[C, D_T]`` centres of the student's classes in the teacher's embedding: once, un-augmented."""
    _, embedding = teacher_predictions(teacher, images, settings)
    centres, _ = class_centres(embedding, images.labels.cpu(), len(images.space))
    return centres
