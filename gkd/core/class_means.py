"""Class means of an embedding, and the classifier that they induce."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.numerics import no_autocast, unit_rows, upcast


def class_means(embeddings: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Means ``[C, D]`` of rows ``[N, D]`` by class, zero for a class without rows, and row counts ``[C]``."""
    sums = embeddings.new_zeros(num_classes, embeddings.shape[1]).index_add(0, labels, embeddings)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=embeddings.device)
    counts = counts.index_add(0, labels, torch.ones_like(labels))
    return sums / counts.clamp_min(1).unsqueeze(1), counts


def class_centres(embeddings: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The L2-normalised mean embedding of each class, and the number of samples of each.

    ``c_k = L2norm( mean_{i: y_i = k} f_i )``, the mean over raw, un-normalised embeddings.

    Args:
        embeddings: ``[N, D]``.
        labels: int64 ``[N]`` in ``0 .. num_classes − 1``.
        num_classes: C.

    Returns:
        Centres ``[C, D]``, float32 for half-precision embeddings, with a zero row for a class
        without a sample; counts int64 ``[C]``.

    Paper:
        Ye, Lu, Zhan: Distilling Cross-Task Knowledge via Relationship Matching, CVPR 2020, section 4.2.
    """
    means, counts = class_means(upcast(embeddings), labels, num_classes)
    return unit_rows(means), counts


def cosines_to_means(embedding: Tensor, centres: Tensor) -> Tensor:
    """The scores ``[B, C]`` of the nearest-class-mean classifier: cosines of ``[B, D]`` to ``class_centres``."""
    return induced_logits(F.normalize(embedding, dim=1), centres)


def induced_logits(teacher_embedding: Tensor, centres: Tensor) -> Tensor:
    """The teacher's logits over the student's classes: its embedding, not normalised, times their centres.

    ``z_T = f_T(x) Cᵀ``, so a logit is ``‖f_T(x)‖ · cos(f_T(x), c_k)``; 0 for a class without a centre.

    Args:
        teacher_embedding: ``[B, D]``, not normalised.
        centres: ``[C, D]`` from `class_centres`.

    Returns:
        ``[B, C]``, float32 for half-precision embeddings.

    Paper:
        Ye, Lu, Zhan, CVPR 2020, section 4.2.
    """
    raw = upcast(teacher_embedding)
    with no_autocast(raw):
        return raw @ centres.to(raw.dtype).T
