"""A network's outputs over an image set, and a teacher's class centres."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, in_eval_mode
from gkd.data import ImageSet, Look, ordered
from gkd.distill.teacher import Teacher
from gkd.losses import class_centres
from gkd.losses.phi_s import Balance, phi_s
from gkd.problems.judging import Outputs
from gkd.training.meter import Diverged
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
    """Logits ``[N, C]`` and embeddings ``[N, D]`` in float32 on the CPU, in eval mode, un-augmented.

    Args:
        network: in eval mode for the time of the call.
        images: un-augmented.
        settings: of the batches, and of the normalisation where none is given.
        mean, std: the input's normalisation.

    Raises:
        Diverged: an output that is not finite, of which no accuracy can be told.
    """
    logits, embedding = [], []
    batches = ordered(
        images,
        Look(mean or settings.mean, std or settings.std),
        batch_size=settings.evaluate_batch_size,
        device=settings.device,
        memory_format=torch.channels_last,
    )
    with in_eval_mode(network):
        for batch in batches:
            with settings.autocast():
                features: Features = network.features(batch.images)  # type: ignore[operator]
            logits.append(features.logits.float().cpu())
            embedding.append(features.embedding.float().cpu())
    outputs = torch.cat(logits), torch.cat(embedding)
    for name, values in zip(("logits", "embedding"), outputs, strict=True):
        bad = int((~torch.isfinite(values)).any(1).sum())
        if bad:
            raise Diverged(
                f"The network's {name} of {bad} of {len(values)} images are not finite: its training diverged, and no "
                "such state was judged. Lower optimiser.lr or set optimiser.clip_norm; of a weight file, use an "
                "earlier one.",
                code="outputs-not-finite",
            )
    return outputs


def teacher_predictions(teacher: Teacher, images: ImageSet, settings: Settings) -> tuple[Tensor, Tensor]:
    """``predict`` for a teacher: on the pixels that it sees, under its own normalisation."""
    try:
        return predict(teacher, images.as_teacher_sees, settings, mean=teacher.mean, std=teacher.std)
    except Diverged:
        raise UserError(
            f"The teacher's outputs on {images.name} are not finite: its weights, or teacher.mean and teacher.std, are "
            "not those that it was trained with; use others.",
            code="outputs-not-finite",
        ) from None


def student_outputs(student: nn.Module, settings: Settings) -> Outputs:
    """``predict`` of a student under its input normalisation, as the function that judging calls."""
    return partial(predict, student, settings=settings)


def remembered(outputs: Outputs) -> Outputs:
    """Outputs that are computed once for each image set, for a network that does not change meanwhile."""
    known: dict[int, tuple[ImageSet, tuple[Tensor, Tensor]]] = {}

    def of(images: ImageSet) -> tuple[Tensor, Tensor]:
        if id(images) not in known:
            known[id(images)] = images, outputs(images)  # with the set, so that no other one gets its id
        return known[id(images)][1]

    return of


def train_centres(teacher: Teacher, images: ImageSet, settings: Settings) -> Tensor:
    """``[C, D_T]`` centres of the student's classes in the teacher's embedding of the un-augmented images."""
    _, embedding = teacher_predictions(teacher, images, settings)
    centres, _ = class_centres(embedding, images.labels.cpu(), len(images.space))
    return centres


def train_balance(teacher: Teacher, images: ImageSet, settings: Settings) -> Balance:
    """The map that gives all dimensions of a teacher's embedding of the un-augmented images the same variance."""
    _, embedding = teacher_predictions(teacher, images, settings)
    return phi_s(embedding)
