"""A teacher's outputs on augmented views, computed once and looked up."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.data import AnyBatches
from gkd.distill.teacher import Teacher


class TeacherViews:
    """A teacher's outputs on the V augmented views of every image: computed once, then looked up.

    Epochs, methods and, where the images are the same, stages share them, because a view is a pure
    function of its address. A view is computed when an epoch first shows it.

    Args:
        teacher: the frozen teacher.
        autocast: the precision in which the teacher runs.
        chunk: images a forward pass.
        limit: the most bytes that all V views may take.

    Raises:
        UserError: at the first view, when V of them would take more than ``limit``.
    """

    def __init__(self, teacher: Teacher, *, autocast: torch.autocast, chunk: int, limit: float) -> None:
        self.teacher = teacher
        self.autocast = autocast
        self.chunk = chunk
        self.limit = limit
        self.bytes = 0  # of all V views
        self._views: dict[int, tuple[frozenset[int], Features]] = {}

    def epoch(self, epoch: int, start: int, spots: Collection[int], batches: AnyBatches) -> Iterator[Batch]:
        """The batches of an epoch with the teacher's outputs attached.

        Args:
            epoch, start: as in ``Batches.epoch``.
            spots: the maps that a loss reads, counted as in ``Features.maps``; the others are kept empty.
            batches: the stage's batches, of V views; the order of the views differs between stages.
        """
        outputs = self._view(batches.view_of(epoch), epoch, frozenset(spots), batches)
        for batch in batches.epoch(epoch, start):
            features = Features(
                outputs.logits[batch.numbers],
                outputs.embedding[batch.numbers],
                tuple(values[batch.numbers] if values.dim() > 1 else values for values in outputs.maps),
            )
            yield replace(batch, teacher=features)

    def _view(self, view: int, epoch: int, spots: frozenset[int], batches: AnyBatches) -> Features:
        stored, features = self._views.get(view, (frozenset(), None))
        if features is not None:  # -1 and the number of the last map are one
            spots = frozenset(spot % len(features.maps) for spot in spots)
        if features is None or not spots <= stored:
            spots = spots | stored
            features = self._compute(epoch, spots, batches)
            tensors = (features.logits, features.embedding, *features.maps)
            assert batches.views is not None
            self.bytes = batches.views * sum(values.numel() * values.element_size() for values in tensors)
            if self.bytes > self.limit:
                raise UserError(
                    f"data.views={batches.views} would keep {self.bytes / 2**30:.1f} GiB of teacher outputs, "
                    f"more than run.cache_gb={self.limit / 2**30:g}; use fewer views or raise run.cache_gb.",
                    code="cache-too-small",
                )
            self._views[view] = (frozenset(spot % len(features.maps) for spot in spots), features)
        return features

    def _compute(self, epoch: int, spots: frozenset[int], batches: AnyBatches) -> Features:
        parts: list[Features] = []
        chunks = torch.arange(len(batches.images), device=batches.device).split(self.chunk)
        for batch in batches.of(chunks, epoch=epoch):
            with self.autocast:
                features = self.teacher.features(batch.teacher_images)
            chosen = {spot % len(features.maps) for spot in spots}
            nothing = features.embedding.new_empty(0)
            maps = (values if number in chosen else nothing for number, values in enumerate(features.maps))
            parts.append(Features(features.logits, features.embedding, tuple(maps)))
        return Features(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.embedding for part in parts]),
            tuple(torch.cat([part.maps[i] for part in parts]) for i in range(len(parts[0].maps))),
        )
