"""Batches: an epoch as a pure function of (seed, stage, epoch), from images that live on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gkd.data.augment import AUGMENTATIONS, normalise, per_channel
from gkd.data.images import ImageSet
from gkd.data.random import PURPOSE_CLASSES, epoch_order, hashed, key_of
from gkd.errors import UserError, unknown
from gkd.features import Batch

Numbers = Sequence[float]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"The batch size {batch_size} is below 1; use a positive number.")


class _Normaliser:
    """Student's and teacher's normalisation of the same pixels; the second only where it differs."""

    def __init__(
        self,
        channels: int,
        mean: Numbers,
        std: Numbers,
        teacher_mean: Numbers | None,
        teacher_std: Numbers | None,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        teacher_mean = mean if teacher_mean is None else teacher_mean
        teacher_std = std if teacher_std is None else teacher_std
        for what, values in (
            ("mean", mean), ("std", std), ("teacher's mean", teacher_mean), ("teacher's std", teacher_std),
        ):  # fmt: skip
            if len(values) != channels:
                raise UserError(
                    f"The {what} has {len(values)} numbers but the images have {channels} channels; "
                    "give one number per channel."
                )
            if "std" in what and min(values) <= 0:
                raise UserError(f"The {what} {tuple(values)} holds a number that is not above 0.")
        self.memory_format = memory_format
        self.student = per_channel(mean, device), per_channel(std, device)
        self.teacher: tuple[Tensor, Tensor] | None = None
        if (tuple(teacher_mean), tuple(teacher_std)) != (tuple(mean), tuple(std)):
            self.teacher = per_channel(teacher_mean, device), per_channel(teacher_std, device)

    def batch(self, pixels: Tensor, labels: Tensor, index: Tensor) -> Batch:
        """A Batch from uint8 pixels ``[B, C, H, W]``."""
        images = normalise(pixels, *self.student, memory_format=self.memory_format)
        view = None
        if self.teacher is not None:
            view = normalise(pixels, *self.teacher, memory_format=self.memory_format)
        return Batch(images, labels, index, view)


class Batches:
    """The training batches of a data set, the same whoever asks for them and from whichever batch on.

    Args:
        images: the data set; its uint8 images are kept on ``device``.
        batch_size: B, the global batch size.
        augment: a name in :data:`gkd.data.augment.AUGMENTATIONS`.
        mean, std: the student's normalisation, one number per channel (see
            :func:`gkd.data.augment.normalise`).
        seed, stage: of the order and the augmentation.
        device: where the images are kept and the batches made.
        teacher_mean, teacher_std: the teacher's normalisation; where one differs from the student's,
            ``Batch.view`` holds the same augmented pixels under it, elsewhere it is None.
        drop_last: leave out an epoch's last samples where they do not fill a batch. A data set smaller
            than one batch gives one smaller batch in any case.
        balanced: k, the images of each class in a batch of B/k classes; None draws over all images.
        views: V, where an image has only V augmented views, which epochs take in turn and which stages and
            seeds share (so that a teacher's outputs on them can be kept); None augments anew every epoch.
        first_view: the view of epoch 0, modulo V.
        memory_format: of the images; ``torch.channels_last`` where the network is.

    Balanced epochs have as many batches as the others, all of full size. The classes come in random rounds
    without replacement, so within an epoch they appear almost equally often, and each class goes through
    its images in random order and starts over at their end.

    Raises:
        UserError: an empty data set, a batch size below 1, an unknown augmentation, statistics that do not
            fit the channels; with ``balanced``, a batch that k does not divide, too few classes for it, or
            a class with fewer than k images.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        augment: str = "none",
        mean: Numbers,
        std: Numbers,
        seed: int,
        stage: int = 0,
        device: torch.device | str = "cpu",
        teacher_mean: Numbers | None = None,
        teacher_std: Numbers | None = None,
        drop_last: bool = True,
        balanced: int | None = None,
        views: int | None = None,
        first_view: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise UserError(unknown("augmentation", augment, AUGMENTATIONS))
        _check_batch_size(batch_size)
        if len(images) == 0:
            raise UserError(f"{images.name} has no image to make a batch of.")
        self.device = torch.device(device)
        self.images = images.to(self.device)
        self.batch_size = batch_size
        self.seed = seed
        self.stage = stage
        self.drop_last = drop_last
        self.balanced = balanced
        self.views = views
        self.first_view = first_view
        self._augment = AUGMENTATIONS[augment]
        self._normaliser = _Normaliser(
            images.channels, mean, std, teacher_mean, teacher_std, self.device, memory_format
        )
        if balanced is not None:
            self._classes = self._check_balanced(balanced)
            self._cpu_labels = self.images.labels.cpu()

    def _check_balanced(self, per_class: int) -> Tensor:
        """The columns of the classes that have images: int64 ``[C']`` on the CPU."""
        counts = self.images.class_counts()
        present = torch.nonzero(counts).flatten()
        if per_class < 1 or self.batch_size % per_class:
            raise UserError(
                f"A batch of {self.batch_size} cannot hold {per_class} images of each of its classes; "
                "choose a number of images that divides the batch size."
            )
        if self.batch_size // per_class > len(present):
            raise UserError(
                f"A balanced batch of {self.batch_size} with {per_class} images a class needs "
                f"{self.batch_size // per_class} classes but {self.images.name} has {len(present)}; use a "
                "smaller batch or more images a class."
            )
        for column in present.tolist():
            if counts[column] < per_class:
                raise UserError(
                    f"The class {self.images.space.names[column]!r} of {self.images.name} has "
                    f"{int(counts[column])} images, fewer than the {per_class} that a balanced batch takes."
                )
        return present

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full if rest == 0 or (self.drop_last and full > 0) else full + 1

    def order(self, epoch: int) -> Tensor:
        """The sample numbers of an epoch in the order of its batches: int64 ``[M]`` on the device.

        Batch number b is ``order[b · batch_size : (b + 1) · batch_size]``.
        """
        if self.balanced is not None:
            return self._balanced_order(epoch, self.balanced)
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
        # How often a class was used in the rounds before: it goes on where it stopped then.
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

    def batch(self, index: Tensor, *, epoch: int) -> Batch:
        """The batch of the given samples as ``epoch`` augments them.

        Args:
            index: int64 ``[B]`` sample numbers on the device, such as a part of :meth:`order`.
            epoch: the epoch, from 0.
        """
        address = {"seed": self.seed, "stage": self.stage, "epoch": epoch, "view": 0}
        if self.views is not None:
            address = {"seed": 0, "stage": 0, "epoch": 0, "view": 1 + self.view_of(epoch)}
        pixels = self._augment(self.images.images[index], index, **address)
        return self._normaliser.batch(pixels, self.images.labels[index], index)

    def view_of(self, epoch: int) -> int:
        """Which of the V kept views an epoch shows."""
        assert self.views is not None
        return (self.first_view + epoch) % self.views

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch number ``start`` on, as a resumed run needs them."""
        for index in self.order(epoch).split(self.batch_size)[start:]:
            yield self.batch(index, epoch=epoch)


def ordered(
    images: ImageSet,
    *,
    batch_size: int,
    mean: Numbers,
    std: Numbers,
    device: torch.device | str = "cpu",
    teacher_mean: Numbers | None = None,
    teacher_std: Numbers | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[Batch]:
    """All samples in the order of the data, not augmented: for evaluation and for class centres.

    The last batch may be smaller. The arguments are those of :class:`Batches`.
    """
    _check_batch_size(batch_size)
    device = torch.device(device)
    normaliser = _Normaliser(images.channels, mean, std, teacher_mean, teacher_std, device, memory_format)
    for start in range(0, len(images), batch_size):
        pixels = images.images[start : start + batch_size].to(device)
        labels = images.labels[start : start + batch_size].to(device)
        yield normaliser.batch(pixels, labels, torch.arange(start, start + len(labels), device=device))
