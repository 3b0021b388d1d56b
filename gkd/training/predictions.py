"""A network's outputs over an image set, and what is computed from them between epochs."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor, nn

from gkd.core.network import Features
from gkd.data import ImageSet, Look, ordered
from gkd.distill.teacher import Teacher
from gkd.few_shot.classifiers import CENTRED
from gkd.losses import class_centres
from gkd.metrics import accuracy, ncm_accuracy
from gkd.problems.problem import Problem
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
    """``predict`` for a teacher: the pixels that it sees, under its own normalisation."""
    return predict(teacher, images.as_teacher_sees, settings, mean=teacher.mean, std=teacher.std)


def validate(student: nn.Module, problem: Problem, select: str, settings: Settings) -> tuple[str, float]:
    """What chooses a stage's best epoch, and its value in percent: ``select``, or ``episodes`` in a few-shot task."""
    if problem.few_shot is not None:
        return "episodes", _on_validation_episodes(student, problem, settings)
    images = problem.student.validation
    logits, embedding = predict(student, images, settings)
    if select == "accuracy":
        return select, accuracy(logits, images.labels.cpu())
    train = problem.student.train
    _, train_embedding = predict(student, train, settings)
    return select, ncm_accuracy(
        embedding, images.labels.cpu(), train_embedding, train.labels.cpu(), len(images.space)
    )


def _on_validation_episodes(student: nn.Module, problem: Problem, settings: Settings) -> float:
    """The mean accuracy in percent of the first classifier on the validation episodes, over all numbers of shots."""
    few_shot = problem.few_shot
    assert few_shot is not None
    _, embedding = predict(student, few_shot.validation.images, settings)
    first = few_shot.classifiers[:1]
    mean = base_mean(student, problem, settings) if CENTRED in first else None
    accuracies = few_shot.validation.accuracies(embedding, first, mean)
    return fmean(float(values.mean()) for of_setting in accuracies.values() for values in of_setting.values())


def base_mean(network: nn.Module, problem: Problem, settings: Settings) -> Tensor:
    """``[D]``, a network's mean embedding of the training images as the student sees them, un-augmented."""
    _, embedding = predict(network, problem.student.train, settings)
    return embedding.mean(0)


def train_centres(teacher: Teacher, images: ImageSet, settings: Settings) -> Tensor:
    """``[C, D_T]`` centres of the student's classes in the teacher's embedding: once, un-augmented."""
    _, embedding = teacher_predictions(teacher, images, settings)
    centres, _ = class_centres(embedding, images.labels.cpu(), len(images.space))
    return centres
