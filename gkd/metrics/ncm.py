"""Nearest class mean: the accuracy of an embedding without a trained head."""

from __future__ import annotations

from torch import Tensor

from gkd.core.class_means import class_centres, induced_logits


def ncm_accuracy(
    embedding: Tensor, labels: Tensor, train_embedding: Tensor, train_labels: Tensor, num_classes: int
) -> float:
    """Accuracy in percent of argmax_k <e, c_k>, with centres from the training images alone.

    Args:
        embedding: ``[N, D]`` of the judged images; ``labels`` is ``[N]``.
        train_embedding: ``[M, D]`` that the centres L2norm(mean) come from, never the judged images
            (the leak of some published code); ``train_labels`` is ``[M]``.
        num_classes: C; a class without a training image is never predicted.
    """
    centres, counts = class_centres(train_embedding, train_labels, num_classes)
    scores = induced_logits(embedding, centres).masked_fill(counts == 0, -float("inf"))
    return 100.0 * (scores.argmax(dim=1) == labels).double().mean().item()
