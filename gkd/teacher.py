"""Teacher: a network with its label space, frozen by construction."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gkd.checkpoint import state_hash
from gkd.data import Batches
from gkd.errors import UserError
from gkd.features import Batch, Features, as_network
from gkd.labels import LabelSpace


class Teacher(nn.Module):
    """Wraps a network so that it cannot change: eval mode for good, no gradient, no optimiser.

    Args:
        network: a trained gkd network (or a ``TappedNetwork``).
        space: its classes, in the order of its columns.
        mean, std: per-channel statistics of the input it was trained on, in [0, 1] pixel units.
        built_as: how the network was built and tapped, where its weights do not tell.

    Raises:
        UserError: a module that is no gkd network, or one with another number of classes.
    """

    def __init__(
        self,
        network: nn.Module,
        space: LabelSpace,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        built_as: str = "",
    ) -> None:
        super().__init__()
        network = as_network(network)
        if network.num_classes != len(space):
            raise UserError(
                f"The teacher network has {network.num_classes} classes, but its label space has {len(space)}; "
                "give the classes it was trained on."
            )
        self.network: Any = network
        self.space = space
        self.mean = mean
        self.std = std
        self.built_as = built_as
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode whatever a parent module asks for."""
        return self

    def state_hash(self) -> str:
        """SHA-256 over all parameters and buffers; equal before and after training."""
        return state_hash(self.network)

    def outputs_key(self) -> str:
        """Names all that decides the outputs for an image, so that they can be kept."""
        return f"{self.state_hash()} {self.mean} {self.std} {self.built_as}"

    # no_grad, not inference_mode: losses save teacher outputs for the student's backward pass.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """``images`` must already carry the teacher's own normalisation (``Batch.teacher_images``)."""
        features: Features = self.network.features(images)
        return features


class TeacherViews:
    """A teacher's outputs on the V augmented views of every image: computed once, then looked up.

    Epochs, methods and, where the images are the same, stages share them, because a view is a pure
    function of its address. A view is computed when an epoch first shows it.

    Args:
        teacher: the frozen teacher.
        autocast: the precision in which the teacher runs.
        chunk: images a forward pass.
        limit: bytes that all V views may take.

    Raises:
        UserError: at the first view, when V of them would take more than ``limit``.
    """

    def __init__(self, teacher: Teacher, *, autocast: torch.autocast, chunk: int, limit: float) -> None:
        self.teacher = teacher
        self.autocast = autocast
        self.chunk = chunk
        self.limit = limit
        self.bytes = 0  # what all V views take
        self._views: dict[int, tuple[frozenset[int], Features]] = {}

    def epoch(self, epoch: int, start: int, spots: Collection[int], batches: Batches) -> Iterator[Batch]:
        """The batches of an epoch with the teacher's outputs attached.

        Args:
            epoch, start: as in ``Batches.epoch``.
            spots: the maps that a loss reads, counted as in ``Features.maps``; the others are kept empty.
            batches: the stage's batches, of V views; each stage shows them in an order of its own.
        """
        kept = self._view(batches.view_of(epoch), epoch, frozenset(spots), batches)
        for batch in batches.epoch(epoch, start):
            features = Features(
                kept.logits[batch.index],
                kept.embedding[batch.index],
                tuple(values[batch.index] if values.dim() > 1 else values for values in kept.maps),
            )
            yield replace(batch, teacher=features)

    def _view(self, view: int, epoch: int, spots: frozenset[int], batches: Batches) -> Features:
        known, features = self._views.get(view, (frozenset(), None))
        if features is not None:  # -1 and the number of the last map are one
            spots = frozenset(spot % len(features.maps) for spot in spots)
        if features is None or not spots <= known:
            spots = spots | known
            features = self._compute(epoch, spots, batches)
            tensors = (features.logits, features.embedding, *features.maps)
            assert batches.views is not None
            self.bytes = batches.views * sum(values.numel() * values.element_size() for values in tensors)
            if self.bytes > self.limit:
                raise UserError(
                    f"data.views={batches.views} would keep {self.bytes / 2**30:.1f} GiB of teacher outputs, "
                    f"more than run.cache_gb={self.limit / 2**30:g}; use fewer views or raise run.cache_gb."
                )
            self._views[view] = (frozenset(spot % len(features.maps) for spot in spots), features)
        return features

    def _compute(self, epoch: int, spots: frozenset[int], batches: Batches) -> Features:
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
