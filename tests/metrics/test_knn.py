"""Nearest neighbours against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from gkd.metrics import knn_accuracy


@pytest.mark.parametrize("k", [1, 3, 50])
def test_neighbours_vote_by_their_nearness(k: int) -> None:
    draw = torch.Generator().manual_seed(0)
    train, rows = (
        torch.randn(12, 4, generator=draw),
        torch.randn(1500, 4, generator=draw),
    )  # more than one block
    train_labels, labels = torch.arange(12) % 3, torch.randint(3, (1500,), generator=draw)
    right = 0
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        nearness = []
        for other, its in zip(train.tolist(), train_labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(row, other, strict=True))
            nearness.append((dot / math.hypot(*row) / math.hypot(*other), its))
        votes = [0.0, 0.0, 0.0]
        for cosine, its in sorted(nearness, reverse=True)[:k]:
            votes[its] += math.exp(cosine / 0.07)
        right += votes.index(max(votes)) == label
    assert knn_accuracy(rows, labels, train, train_labels, 3, k=k) == pytest.approx(100 * right / 1500)
