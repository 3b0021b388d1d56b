"""Batches that mix labelled and unlabelled samples by a stated share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.data.addressed_random import PURPOSE_UNLABELLED, hash_order, key_of
from gkd.data.batches import Batches
from gkd.data.images import ImageSet


def unlabelled_rows(batch_size: int, share: float, unlabelled: ImageSet) -> int:
    """U, the rows without a label of a batch of B: the nearest whole number to ``share · B``.

    Args:
        batch_size: B.
        share: of the rows without a label, between 0 and 1.
        unlabelled: the images that they are drawn from.

    Raises:
        UserError: a batch without a row of one kind, or fewer images than its rows.
    """
    rows = round(share * batch_size)
    if not 0 < rows < batch_size:
        raise UserError(
            f"A batch of {batch_size} with a share of {share:g} without labels has {rows} rows without and "
            f"{batch_size - rows} with one; give an unlabelled_share, or a data.batch_size, that leaves one of each at "
            "least.",
            code="share-out-of-range",
        )
    if rows > len(unlabelled):
        raise UserError(
            f"A batch of {batch_size} with a share of {share:g} without labels takes {rows} images of "
            f"{unlabelled.name}, which has {len(unlabelled)}; give a smaller unlabelled_share or data.batch_size.",
            code="too-few-images",
        )
    return rows


class Together:
    """Two image sets whose samples are numbered one after the other, without copying them.

    Args:
        first, second: the sets.
    """

    def __init__(self, first: ImageSet, second: ImageSet) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def seen_by(self, teacher: str) -> Together:
        """The same samples for one of several teachers alone."""
        return Together(self.first.seen_by(teacher), self.second.seen_by(teacher))

    def fingerprint(self) -> str:
        """64 hex digits that both sets decide (:meth:`ImageSet.fingerprint`)."""
        both = f"{self.first.fingerprint()} {self.second.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()


class MixedBatches:
    """Batches of labelled samples and, behind them, unlabelled ones; an epoch is one pass over the labelled ones.

    A batch has as many rows of each kind as the batches that it is made of. Epoch by epoch the unlabelled samples come
    in rounds without replacement, each a random order that depends on seed, stage and the round's number, so that a
    batch is a function of its address like any other. Those left over where a round's samples fill no batch sit it out,
    so that no batch sees a sample twice.

    Args:
        labelled: the batches of labelled samples.
        unlabelled: of the others, of the same seed, stage, device and views, whose ``first`` is the number of labelled
            samples.
    """

    def __init__(self, labelled: Batches, unlabelled: Batches) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.images = Together(labelled.images, unlabelled.images)
        self.device, self.views = labelled.device, labelled.views
        self.view_of = labelled.view_of
        self.batch_size = labelled.batch_size + unlabelled.batch_size
        self._each_round = len(unlabelled.images) // unlabelled.batch_size

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self.labelled)

    def order(self, epoch: int) -> Tensor:
        """The sample numbers of an epoch in the order of its batches: int64 ``[M]`` on the device."""
        labelled = self.labelled.order(epoch).split(self.labelled.batch_size)
        others = [numbers + len(self.labelled.images) for numbers in self.drawn(epoch)]
        return torch.cat([torch.cat(pair) for pair in zip(labelled, others, strict=True)])

    def drawn(self, epoch: int, start: int = 0) -> list[Tensor]:
        """int64 ``[U]``, counted among the unlabelled samples, for each batch of an epoch from number ``start`` on."""
        size, orders, drawn = self.unlabelled.batch_size, {}, []
        for step in range(epoch * len(self) + start, (epoch + 1) * len(self)):
            number, place = divmod(step, self._each_round)
            if number not in orders:
                key = key_of(PURPOSE_UNLABELLED, self.unlabelled.seed, self.unlabelled.stage, number)
                orders[number] = hash_order(key, len(self.unlabelled.images), self.device)
            drawn.append(orders[number][place * size : (place + 1) * size])
        return drawn

    def of(self, chunks: Sequence[Tensor], *, epoch: int) -> Iterator[Batch]:
        """Yield batches of the given samples with the augmentation of ``epoch``; in each the labelled ones stand first.

        Args:
            chunks: int64 ``[B]`` sample numbers on the device, for each batch.
            epoch: the epoch, from 0.
        """
        count = len(self.labelled.images)
        parts = [(chunk[chunk < count], chunk[chunk >= count] - count) for chunk in chunks]
        first = self.labelled.of([labelled for labelled, _ in parts if len(labelled)], epoch=epoch)
        second = self.unlabelled.of([others for _, others in parts if len(others)], epoch=epoch)
        for labelled, others in parts:
            yield joined(next(first) if len(labelled) else None, next(second) if len(others) else None)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch number ``start`` on, as a resumed run needs them."""
        others = self.unlabelled.of(self.drawn(epoch, start), epoch=epoch)
        for labelled, unlabelled in zip(self.labelled.epoch(epoch, start), others, strict=True):
            yield joined(labelled, unlabelled)


def joined(labelled: Batch | None, unlabelled: Batch | None) -> Batch:
    """One batch of the rows of both, the labelled ones first; None stands for no row."""
    parts = [part for part in (labelled, unlabelled) if part is not None]
    has_label = [torch.full_like(part.labels, part is labelled, dtype=torch.bool) for part in parts]
    views = [part.view for part in parts if part.view is not None]
    return replace(
        parts[0],
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        index=torch.cat([part.numbers for part in parts]),
        view=torch.cat(views) if views else None,
        views={name: torch.cat([part.views[name] for part in parts]) for name in parts[0].views},
        labelled=torch.cat(has_label),
    )


AnyBatches = Batches | MixedBatches
