"""A teacher's outputs on augmented views, computed once and looked up."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.data import AnyBatches
from gkd.distill.chunks import joined
from gkd.distill.output_files import OutputFiles
from gkd.distill.teacher import Teacher
from gkd.methods.spots import MapSpot, Preact


class TeacherViews:
    """A teacher's outputs on the V augmented views of every image: computed once, then looked up.

    Epochs, methods and, where the images are the same, stages share them, because a view is a pure
    function of its address. A view is computed when an epoch first shows it.

    Args:
        teacher: the frozen teacher.
        autocast: the precision in which the teacher runs.
        chunk: images a forward pass.
        limit: the most bytes that all V views may take in memory.
        files: keep the outputs on disk, where other processes find them; None keeps them in memory, as it is done too
            where the disk has no room.
        rounded: keep outputs of float32 in bfloat16.
        name: of the teacher among several: it sees the view of that name, and its outputs are ``Batch.outputs`` under
            it; None: it sees ``Batch.view``, and they are ``Batch.teacher``.

    Raises:
        UserError: at the first view, when V of them would take more than ``limit``.
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        autocast: torch.autocast,
        chunk: int,
        limit: float,
        files: OutputFiles | None = None,
        rounded: bool = False,
        name: str | None = None,
    ) -> None:
        self.teacher = teacher
        self.autocast = autocast
        self.chunk = chunk
        self.limit = limit
        self.files = files
        self.rounded = rounded
        self.name = name
        self.bytes = 0  # of all V views in memory
        self._views: dict[int, Features] = {}
        self._writes = files is not None

    def epoch(
        self,
        epoch: int,
        start: int,
        spots: Collection[MapSpot],
        batches: AnyBatches,
        stream: Iterator[Batch] | None = None,
    ) -> Iterator[Batch]:
        """The batches of an epoch with the teacher's outputs attached.

        Args:
            epoch, start: as in ``Batches.epoch``.
            spots: the maps that a loss reads, counted as in ``Features.maps``; the others are kept empty.
            batches: the stage's batches, of V views; the order of the views differs between stages.
            stream: the batches of the epoch, where another teacher's outputs are attached to them already.
        """
        outputs = self._view(batches.view_of(epoch), epoch, frozenset(spots), batches)
        rows = _rows_on(outputs.logits.device, epoch, start, batches)

        def of(values: Tensor, index: Tensor) -> Tensor:
            chosen = values[index] if values.dim() > 1 else values
            chosen = chosen.to(batches.device, non_blocking=True)
            return chosen.float() if self.rounded and chosen.dtype == torch.bfloat16 else chosen

        for batch in batches.epoch(epoch, start) if stream is None else stream:
            index = batch.numbers if rows is None else next(rows)
            features = Features(
                of(outputs.logits, index),
                of(outputs.embedding, index),
                tuple(of(values, index) for values in outputs.maps),
                tuple(of(values, index) for values in outputs.preact_maps),
                None if outputs.pooled_map is None else of(outputs.pooled_map, index),
            )
            if self.name is None:
                yield replace(batch, teacher=features)
            else:
                yield replace(batch, outputs={**batch.outputs, self.name: features})

    def _view(self, view: int, epoch: int, spots: frozenset[MapSpot], batches: AnyBatches) -> Features:
        for features in self._kept(view, len(batches.images)):
            wanted, stored = _counted_from_first(spots, features), _held(features)
            self._views[view] = features
            if wanted <= stored:
                return features
            spots = frozenset(wanted | stored)
        features = self._computed(view, epoch, spots, batches)
        self._views[view] = features
        return features

    def _kept(self, view: int, num_images: int) -> Iterator[Features]:
        """The outputs on a view that are in use, and then those on disk, where another process may have added maps."""
        if view in self._views:
            yield self._views[view]
        on_disk = self.files.read(view, num_images) if self.files is not None else None
        if on_disk is not None:
            yield on_disk

    def _computed(self, view: int, epoch: int, spots: frozenset[MapSpot], batches: AnyBatches) -> Features:
        assert batches.views is not None
        if self.files is not None and self._writes:
            self._writes = self.files.write(
                view, len(batches.images), self._parts(epoch, spots, batches), views=batches.views
            )
            on_disk = self.files.read(view, len(batches.images)) if self._writes else None
            if on_disk is not None:
                return on_disk
        features = joined(list(self._parts(epoch, spots, batches)))
        pooled = () if features.pooled_map is None else (features.pooled_map,)
        tensors = (features.logits, features.embedding, *features.maps, *features.preact_maps, *pooled)
        self.bytes = batches.views * sum(values.numel() * values.element_size() for values in tensors)
        if self.bytes > self.limit:
            or_disk = "" if self.files is not None else ", or keep them on disk by run.teacher_cache=disk"
            raise UserError(
                f"data.views={batches.views} would keep {self.bytes / 2**30:.1f} GiB of teacher outputs in memory, "
                f"more than run.cache_gb={self.limit / 2**30:g}; use fewer views or raise run.cache_gb{or_disk}.",
                code="cache-too-small",
            )
        return features

    def _parts(self, epoch: int, spots: frozenset[MapSpot], batches: AnyBatches) -> Iterator[Features]:
        """The outputs on the next images of a view, and the next, with those maps."""
        chunks = torch.arange(len(batches.images), device=batches.device).split(self.chunk)
        preact = any(isinstance(spot, Preact) for spot in spots)
        for batch in batches.of(chunks, epoch=epoch):
            with self.autocast:
                features = self.teacher.features(batch.seen_as(self.name), preact=preact)
            chosen = _counted_from_first(spots, features)
            nothing = self._round(features.embedding).new_empty(0)
            maps, before = (
                tuple(
                    self._round(values) if kind(number) in chosen else nothing
                    for number, values in enumerate(of_kind)
                )
                for kind, of_kind in ((int, features.maps), (Preact, features.preact_maps))
            )
            pooled = features.pooled_map if "pooled" in chosen else None
            yield Features(
                self._round(features.logits),
                self._round(features.embedding),
                maps,
                before,
                None if pooled is None else self._round(pooled),
            )

    def _round(self, values: Tensor) -> Tensor:
        return values.bfloat16() if self.rounded and values.dtype == torch.float32 else values


def _counted_from_first(spots: Collection[MapSpot], features: Features) -> set[MapSpot]:
    """The spots of maps by the map's number from 0: -1 and the number of the last one are one."""
    depth = len(features.maps)
    return {
        spot
        if spot == "pooled"
        else Preact(spot.number % depth)
        if isinstance(spot, Preact)
        else spot % depth
        for spot in spots
    }


def _held(features: Features) -> set[MapSpot]:
    """The spots of the maps that outputs hold."""
    maps: set[MapSpot] = {number for number, values in enumerate(features.maps) if values.dim() > 1}
    pooled: set[MapSpot] = set() if features.pooled_map is None else {"pooled"}
    return (
        maps
        | pooled
        | {Preact(number) for number, values in enumerate(features.preact_maps) if values.dim() > 1}
    )


def _rows_on(device: torch.device, epoch: int, start: int, batches: AnyBatches) -> Iterator[Tensor] | None:
    """The sample numbers of an epoch's batches where the outputs are; None where the batches themselves are there.

    They are moved there once an epoch, because a copy of each batch's would wait for the device in every step.
    """
    if device.type == batches.device.type:
        return None
    order = batches.order(epoch).to(device)
    return iter(order.split(batches.batch_size)[start:])
