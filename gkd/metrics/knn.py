"""k nearest neighbours: the accuracy of an embedding without a trained head, by the images around each."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd.core.numerics import unit_rows

_AT_ONCE = 1024  # judged images


def knn_accuracy(
    embedding: Tensor,
    labels: Tensor,
    train_embedding: Tensor,
    train_labels: Tensor,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy in percent of the class of which the k nearest training images weigh most.

    Nearness is the cosine; a neighbour weighs ``exp(cosine / temperature)``.

    Args:
        embedding: ``[N, D]`` of the judged images; ``labels`` is ``[N]``.
        train_embedding: ``[M, D]`` of the training images alone; ``train_labels`` is ``[M]``.
        num_classes: C.
        k: neighbours; all where there are fewer.
        temperature: of the weights.

    Source:
        Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018; k and
        temperature of DINO's evaluation (Caron et al., ICCV 2021).
    """
    neighbours = unit_rows(train_embedding.float())
    right = 0
    for start in range(0, len(embedding), _AT_ONCE):
        rows = unit_rows(embedding[start : start + _AT_ONCE].float())
        nearness, index = (rows @ neighbours.T).topk(min(k, len(neighbours)), dim=1)
        votes = torch.zeros(len(rows), num_classes, device=rows.device)
        votes.scatter_add_(1, train_labels[index], (nearness / temperature).exp())
        right += int((votes.argmax(1) == labels[start : start + _AT_ONCE]).sum())
    return 100.0 * right / max(len(labels), 1)
