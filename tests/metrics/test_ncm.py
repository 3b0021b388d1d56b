"""Nearest class mean: centres from the training images alone."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd.metrics import ncm_accuracy


def data(num: int, *, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    return 3 * torch.eye(3, 5)[labels] + torch.randn(num, 5, generator=generator), labels


def test_it_is_a_plain_loop_over_classes() -> None:
    (embedding, labels), (train, train_labels) = data(60, seed=0), data(30, seed=1)
    centres = [train[train_labels == k].mean(dim=0) for k in range(3)]
    chosen = [max(range(3), key=lambda k: float(row @ centres[k] / centres[k].norm())) for row in embedding]
    expected = sum(a == b for a, b in zip(chosen, labels.tolist(), strict=True)) / 60
    assert 0.4 < expected < 1
    assert abs(ncm_accuracy(embedding, labels, train, train_labels, 3) - 100 * expected) < 1e-9


def test_the_judged_images_do_not_move_the_centres() -> None:
    (embedding, labels), (train, train_labels) = data(60, seed=0), data(30, seed=1)
    together = ncm_accuracy(embedding, labels, train, train_labels, 3)
    alone = [
        ncm_accuracy(e[None], y[None], train, train_labels, 3) for e, y in zip(embedding, labels, strict=True)
    ]
    assert abs(together - sum(alone) / 60) < 1e-9
    swapped = ncm_accuracy(embedding, (labels + 1) % 3, train, train_labels, 3)
    assert swapped < 30 < together  # wrong labels are judged wrong: no centre has learnt them


def test_a_class_without_a_training_image_is_never_predicted() -> None:
    train, train_labels = torch.tensor([[-1.0, 0.0]]), torch.tensor([0])
    embedding = torch.tensor([[5.0, 0.0]])  # away from the only centre: a zero centre would win
    assert ncm_accuracy(embedding, torch.tensor([1]), train, train_labels, 2) == 0.0
    assert ncm_accuracy(embedding, torch.tensor([0]), train, train_labels, 2) == 100.0
