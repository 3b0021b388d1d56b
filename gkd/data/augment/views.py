"""The student's and the teacher's views of the same samples: pixels, augmentation, normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gkd.core.batch import NO_LABEL, Batch
from gkd.core.errors import UserError
from gkd.data.augment.chain import Chain, augmentation
from gkd.data.augment.normalise import normalise, per_channel
from gkd.data.augment.resized_crop import random_boxes
from gkd.data.images import ImageSet, Pixels


@dataclass(frozen=True)
class Look:
    """Augmentation and normalisation of the samples for one side, student or teacher.

    Attributes:
        mean, std: its normalisation, one number a channel (see :func:`gkd.data.augment.normalise.normalise`).
        augment: a chain, as :func:`gkd.data.augment.chain.augmentation` reads it.
        own_draws: draws other random numbers than the student, so that the two crops differ.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "none"
    own_draws: bool = False


class _Side:
    """The pixels of one side, augmented and normalised on the device."""

    def __init__(
        self,
        who: str,
        pixels: Pixels,
        look: Look,
        device: torch.device,
        memory_format: torch.memory_format,
        first: int,
    ) -> None:
        for what, values in (("mean", look.mean), ("std", look.std)):
            if len(values) != pixels.shape[1]:
                raise UserError(
                    f"The {who}'s {what} has {len(values)} numbers but its images have {pixels.shape[1]} channels; "
                    "give one number per channel.",
                    code="other-channels",
                )
        if min(look.std) <= 0:
            raise UserError(
                f"The {who}'s std {tuple(look.std)} holds a number that is not above 0.",
                code="std-out-of-range",
            )
        self.pixels, self.look, self.device = pixels, look, device
        self.memory_format, self.first = memory_format, first
        self.chain = augmentation(look.augment)
        self.chain.check(tuple(pixels.shape[1:]))
        self.statistics = per_channel(look.mean, device), per_channel(look.std, device)

    def augmented(self, chunks: Sequence[Tensor], address: Mapping[str, int]) -> Iterator[Tensor]:
        """Yield the augmented uint8 ``[B, C, H, W]`` on the device for each index of ``chunks``."""
        if self.look.own_draws:
            address = {**address, "view": -1 - address["view"]}
        if isinstance(self.pixels, Tensor):
            for index in chunks:
                yield self.chain(self.pixels[index].to(self.device), self._numbers(index), **address)
            return
        chain, boxes = self.chain, None
        if chain.resized_crop is not None:  # the workers cut the boxes out of the whole images
            options = {**address, **chain.resized_crop.options}
            boxes = partial(_boxes, first=self.first, options=options)
            chain = Chain(chain.steps[1:])
        for index, pixels in zip(chunks, self.pixels.stream(chunks, boxes), strict=True):
            yield chain(pixels.to(self.device, non_blocking=True), self._numbers(index), **address)

    def _numbers(self, index: Tensor) -> Tensor:
        """The numbers of samples, by which random numbers are drawn."""
        index = index.to(self.device)
        return index + self.first if self.first else index

    def normalised(self, pixels: Tensor) -> Tensor:
        return normalise(pixels, *self.statistics, memory_format=self.memory_format)


def _boxes(sizes: Tensor, index: Tensor, *, first: int, options: Mapping[str, Any]) -> Tensor:
    """``random_boxes`` of samples whose numbers begin with ``first``; a worker process unpickles it."""
    return random_boxes(sizes, index + first, **options)


class Sides:
    """Batches for student and teachers; a lone teacher has a view only where it differs from the student's.

    Args:
        images: the samples.
        student: its look.
        teacher: that of the teacher whose view has no name.
        device, memory_format: of the batches.
        first: the number of the first sample, where other samples stand before them.
        named: the looks of teachers whose views have names; a batch has ``Batch.views`` of each.
    """

    def __init__(
        self,
        images: ImageSet,
        student: Look,
        teacher: Look | None,
        device: torch.device,
        memory_format: torch.memory_format,
        first: int = 0,
        named: Mapping[str, Look] | None = None,
    ) -> None:
        self.labels, self.device, self.first = images.labels, device, first
        self.all_labelled = not bool((images.labels == NO_LABEL).any())
        self.student = _Side("student", images.images, student, device, memory_format, first)
        self.teacher: _Side | None = None
        self.shared = True  # one augmented image for both, at most normalised twice
        if teacher is not None and (images.teacher_images is not None or teacher != student):
            pixels = images.images if images.teacher_images is None else images.teacher_images
            self.teacher = _Side("teacher", pixels, teacher, device, memory_format, first)
            self.shared = images.teacher_images is None and not teacher.own_draws
            self.shared = self.shared and teacher.augment == student.augment
        self.named = {}
        for name, look in (named or {}).items():
            of_name = images.views.get(name, images.images)
            self.named[name] = _Side(f"teacher {name}", of_name, look, device, memory_format, first)
        # Of these the augmented pixels are the student's, at most normalised in another way.
        self.alike = {
            name
            for name, side in self.named.items()
            if name not in images.views and not side.look.own_draws and side.look.augment == student.augment
        }

    def batches(self, chunks: Sequence[Tensor], address: Mapping[str, int]) -> Iterator[Batch]:
        """Yield one batch for each index of ``chunks``."""
        teacher_pixels = None
        if self.teacher is not None and not self.shared:
            teacher_pixels = self.teacher.augmented(chunks, address)
        apart = {
            name: side.augmented(chunks, address)
            for name, side in self.named.items()
            if name not in self.alike
        }
        for index, pixels in zip(chunks, self.student.augmented(chunks, address), strict=True):
            view = None
            if self.teacher is not None:
                view = self.teacher.normalised(pixels if teacher_pixels is None else next(teacher_pixels))
            labels = self.labels[index].to(self.device)
            numbers = index.to(self.device) + self.first if self.first else index.to(self.device)
            labelled = None if self.all_labelled else labels != NO_LABEL
            views = {
                name: side.normalised(next(apart[name]) if name in apart else pixels)
                for name, side in self.named.items()
            }
            student = self.student.normalised(pixels)
            yield Batch(student, labels, numbers, view, views=views, shared=True, labelled=labelled)
