"""Batches: an epoch as a pure function of (seed, stage, epoch), from images that live on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.data.addressed_random import PURPOSE_CLASSES, epoch_order, hashed, key_of
from gkd.data.augment.views import Look, Sides
from gkd.data.images import ImageSet
from gkd.data.training_episodes import EpisodePlan, check_episodes, episodes_of_epoch

_NO_ADDRESS = {"seed": 0, "stage": 0, "epoch": 0, "view": 0}  # nothing is drawn


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(
            f"The batch size {batch_size} is below 1; use a positive number.", code="batch-size-out-of-range"
        )


def check_balanced(images: ImageSet, batch_size: int, per_class: int) -> Tensor:
    """Check that balanced batches can be made; returns the columns of classes with images, int64 ``[C']`` on the CPU.

    Raises:
        UserError: a batch that ``per_class`` does not divide, too few classes for it, or a class with too few images.
    """
    counts = images.class_counts()
    present = torch.nonzero(counts).flatten()
    if per_class < 1 or batch_size % per_class:
        raise UserError(
            f"A batch of {batch_size} cannot hold {per_class} images of each of its classes; "
            "choose a number of images that divides the batch size.",
            code="batch-not-divisible",
        )
    if batch_size // per_class > len(present):
        raise UserError(
            f"A balanced batch of {batch_size} with {per_class} images a class needs "
            f"{batch_size // per_class} classes but {images.name} has {len(present)}; use a "
            "smaller batch or more images a class.",
            code="too-few-classes",
        )
    for column in present.tolist():
        if counts[column] < per_class:
            raise UserError(
                f"The class {images.space.names[column]!r} of {images.name} has "
                f"{int(counts[column])} images, fewer than the {per_class} that a balanced batch takes.",
                code="too-few-images",
            )
    return present


class Batches:
    """The training batches of a data set, the same in every run and from whichever batch an epoch is resumed.

    Args:
        images: the data set; pixels in memory are kept on ``device``.
        look: the student's augmentation and normalisation.
        teacher: the teacher's; where it or the teacher's pixels differ from the student's, ``Batch.view`` holds
            the teacher's images, elsewhere it is None.
        named: those of several teachers by name; ``Batch.views`` holds the images of each.
        batch_size: B, the global batch size; not used for episodes.
        seed, stage: of the order and the augmentation.
        device: where the images are kept and the batches made.
        drop_last: leave out an epoch's last samples where they do not fill a batch. A data set smaller
            than one batch gives one smaller batch in any case.
        balanced: k, the images of each class in a batch of B/k classes; None draws over all images.
        episodes: makes each batch an episode, with ``Batch.way`` and ``Batch.support``; None for other batches.
        views: V, the number of augmented views of an image, which epochs take in turn and which stages and
            seeds share (so that a teacher's outputs on them can be kept); None augments anew every epoch.
        first_view: the view of epoch 0, modulo V.
        memory_format: of the images; ``torch.channels_last`` where the network is.
        first: the number of the first sample in ``Batch.index`` and for the augmentation's random numbers, where other
            samples stand before these (:class:`gkd.data.mixed_batches.MixedBatches`).

    Balanced epochs have as many batches as the others, all of full size. The classes come in random rounds
    without replacement, so within an epoch they appear almost equally often, and each class goes through
    its images in random order and starts over at their end.

    Raises:
        UserError: an empty data set, a batch size below 1, an unknown augmentation, statistics that do not
            fit the channels, a file that cannot be decoded; with ``balanced``, a batch that k does not divide,
            too few classes for it, or a class with fewer than k images; with ``episodes``, too few classes or
            images of a class, or ``balanced`` too.
    """

    def __init__(
        self,
        images: ImageSet,
        look: Look,
        *,
        teacher: Look | None = None,
        batch_size: int,
        seed: int,
        stage: int = 0,
        device: torch.device | str = "cpu",
        drop_last: bool = True,
        balanced: int | None = None,
        episodes: EpisodePlan | None = None,
        views: int | None = None,
        first_view: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
        first: int = 0,
        named: Mapping[str, Look] | None = None,
    ) -> None:
        _check_batch_size(batch_size)
        if len(images) == 0:
            raise UserError(f"{images.name} has no image to make a batch of.", code="no-images")
        self.device = torch.device(device)
        self.images = images.to(self.device)
        self.batch_size = batch_size if episodes is None else episodes.size
        self.seed = seed
        self.stage = stage
        self.drop_last = drop_last
        self.balanced = balanced
        self.episodes = episodes
        self.views = views
        self.first_view = first_view
        self._sides = Sides(self.images, look, teacher, self.device, memory_format, first, named)
        if balanced is not None and episodes is not None:
            raise UserError(
                "Batches are class-balanced or episodes; give balanced or episodes, not both.",
                code="balanced-episodes-not-together",
            )
        if balanced is not None:
            self._classes = check_balanced(self.images, batch_size, balanced)
        if episodes is not None:
            self._classes = check_episodes(self.images, episodes)
            self._way, self._support = episodes.way.to(self.device), episodes.support.to(self.device)
        if balanced is not None or episodes is not None:
            self._cpu_labels = self.images.labels.cpu()

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        if self.episodes is not None:
            return self.episodes.count(len(self.images))
        full, rest = divmod(len(self.images), self.batch_size)
        return full if rest == 0 or (self.drop_last and full > 0) else full + 1

    def order(self, epoch: int) -> Tensor:
        """The sample numbers of an epoch in the order of its batches: int64 ``[M]`` on the device.

        Batch number b is ``order[b · batch_size : (b + 1) · batch_size]``.
        """
        if self.balanced is not None:
            return self._balanced_order(epoch, self.balanced)
        if self.episodes is not None:
            address = {"seed": self.seed, "stage": self.stage, "epoch": epoch}
            drawn = episodes_of_epoch(self._cpu_labels, self._classes, self.episodes, **address)
            return drawn.index.flatten().to(self.device)
        order = epoch_order(self.seed, self.stage, epoch, len(self.images), self.device)
        return order[: len(self) * self.batch_size]

    def _balanced_order(self, epoch: int, per_class: int) -> Tensor:
        classes_per_batch = self.batch_size // per_class
        # A round visits the classes in random order and makes as many batches as its classes fill; those
        # left over sit the round out, so that no batch sees a class twice.
        batches_per_round = len(self._classes) // classes_per_batch
        num_rounds = -(-len(self) // batches_per_round)
        key = key_of(PURPOSE_CLASSES, self.seed, self.stage, epoch)
        counter = torch.arange(num_rounds * len(self._classes)).view(num_rounds, -1)
        used = torch.argsort(hashed(key, counter), dim=1)[:, : batches_per_round * classes_per_batch]
        # How often a class was used in the rounds before: its images go on from there.
        uses = torch.zeros(num_rounds, len(self._classes), dtype=torch.int64).scatter_(1, used, 1)
        before = (uses.cumsum(dim=0) - uses).gather(1, used).flatten()
        column = self._classes[used.flatten()]
        # All samples grouped by class, within a class in the epoch's random order.
        samples = epoch_order(self.seed, self.stage, epoch, len(self.images))
        samples = samples[torch.argsort(self._cpu_labels[samples], stable=True)]
        counts = self.images.class_counts()
        first = counts.cumsum(dim=0) - counts
        place = before[:, None] * per_class + torch.arange(per_class)
        chosen = samples[first[column][:, None] + place % counts[column][:, None]].flatten()
        return chosen[: len(self) * self.batch_size].to(self.device)

    def of(self, chunks: Sequence[Tensor], *, epoch: int) -> Iterator[Batch]:
        """Yield batches of the given samples with the augmentation of ``epoch``.

        Args:
            chunks: int64 ``[B]`` sample numbers on the device, for each batch.
            epoch: the epoch, from 0.
        """
        address = {"seed": self.seed, "stage": self.stage, "epoch": epoch, "view": 0}
        if self.views is not None:
            address = {"seed": 0, "stage": 0, "epoch": 0, "view": 1 + self.view_of(epoch)}
        return self._sides.batches(chunks, address)

    def view_of(self, epoch: int) -> int:
        """The number of the view, 0 to V - 1, that an epoch shows."""
        assert self.views is not None
        return (self.first_view + epoch) % self.views

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch number ``start`` on, as a resumed run needs them."""
        order = self.order(epoch)
        size = min(self.batch_size, max(len(order), 1))  # torch knows no number beyond 64 bits
        batches = self.of(order.split(size)[start:], epoch=epoch)
        if self.episodes is None:
            return batches
        return (replace(batch, way=self._way, support=self._support) for batch in batches)


def ordered(
    images: ImageSet,
    look: Look,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[Batch]:
    """Batches of all samples in the order of the data, for evaluation and for class centres.

    The last batch may be smaller; the samples are not moved to the device as a whole. The arguments are those
    of :class:`Batches`; ``look`` should not augment.
    """
    _check_batch_size(batch_size)
    sides = Sides(images, look, None, torch.device(device), memory_format)
    index = torch.arange(len(images), device=images.labels.device)
    return sides.batches(index.split(batch_size), _NO_ADDRESS)
