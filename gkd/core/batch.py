"""Batch: the samples of one step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gkd.core.network import Features


@dataclass
class Batch:
    """One batch on the training device.

    Attributes:
        images: ``[B, C, H, W]`` float, normalised for the student.
        labels: ``[B]`` int64 columns of the student's label space; of virtual samples distributions over them,
            ``[B, C]``.
        index: ``[B]`` int64, each sample's number in its data set.
        view: what the teacher sees where that differs from ``images`` (another normalisation, a
            privileged or a cached view); None means the same images.
        teacher: the teacher's outputs on these very pixels, where they were computed before.
        way, support: of an episode's rows, ``[B]`` int64 from 0: which of its classes; ``[B]`` Bool: support or query.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None
    teacher: Features | None = None
    way: Tensor | None = None
    support: Tensor | None = None

    @property
    def teacher_images(self) -> Tensor:
        return self.images if self.view is None else self.view
