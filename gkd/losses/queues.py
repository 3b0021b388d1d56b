"""Queues of past rows: the newest over the oldest, without a Python branch on what the mask selects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def selected_rows(mask: Tensor) -> Tensor:
    """int64 ``[B]``: each selected row itself, and the first of them for the others; row 0 where none is."""
    return torch.where(mask, torch.arange(len(mask), device=mask.device), mask.int().argmax())


@torch.no_grad()
def enqueued(
    queues: Sequence[Tensor], rows: Sequence[Tensor], next_place: Tensor, mask: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """Queues with the selected rows of a batch over their oldest places, and the place that comes next.

    New tensors, because the backward pass reads the old ones. Of more rows than places the first enter.

    Args:
        queues: each ``[Q, ...]`` with the same Q, 1 or more.
        rows: what enters each of them, ``[B, ...]``, B 1 or more.
        next_place: int64, 0-dim, the oldest place.
        mask: Bool ``[B]``, the rows that enter; None means all.
    """
    size = len(queues[0])
    if mask is None:
        mask = torch.ones(len(rows[0]), dtype=torch.bool, device=rows[0].device)
    entering = mask & (mask.cumsum(0) <= size)
    writer = selected_rows(entering)
    places = ((next_place + entering.cumsum(0) - 1) % size)[writer]
    written = []
    for queue, each in zip(queues, rows, strict=True):
        new = torch.where(entering.any(), each.to(queue.dtype), queue[places])[writer]
        written.append(queue.index_copy(0, places, new))
    return written, (next_place + entering.sum()) % size
