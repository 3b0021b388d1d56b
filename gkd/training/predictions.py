"""A network's outputs over an image set, and a teacher's class centres."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from gkd.core.network import Features
from gkd.data import ImageSet, Look, ordered
from gkd.distill.teacher import Teacher
from gkd.losses import class_centres
from gkd.problems.judging import Outputs
from gkd.training.settings import Settings


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
    """``predict`` for a teacher: on the pixels that it sees, under its own normalisation."""
    return predict(teacher, images.as_teacher_sees, settings, mean=teacher.mean, std=teacher.std)


def student_outputs(student: nn.Module, settings: Settings) -> Outputs:
    """``predict`` of a student under its input normalisation, as the function that judging calls."""
    return partial(predict, student, settings=settings)


def train_centres(teacher: Teacher, images: ImageSet, settings: Settings) -> Tensor:
    """``[C, D_T]`` centres of the student's classes in the teacher's embedding of the un-augmented images."""
    _, embedding = teacher_predictions(teacher, images, settings)
    centres, _ = class_centres(embedding, images.labels.cpu(), len(images.space))
    return centres
