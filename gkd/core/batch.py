"""Batch: the samples of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.core.short_repr import short_repr

NO_LABEL = -1  # the label of a sample that has none


@dataclass
class Batch:
    """One batch on the training device; images and labels are enough where nothing reads the rest.

    Attributes:
        images: ``[B, C, H, W]`` float, normalised for the student.
        labels: ``[B]`` int64 columns of the student's label space, `NO_LABEL` of a sample without; of virtual samples
            distributions over them, ``[B, C]``.
        index: ``[B]`` int64, each sample's number in its data set; losses with memory banks read it.
        view: the teacher's images where they differ from ``images`` (another normalisation, a
            privileged or a cached view); None means the same images.
        shared: whether ``images`` are normalised for the teacher too, where there is no ``view``; a teacher with a mean
            and std of its own warns where nobody says so.
        teacher: the first teacher's outputs on these very pixels, where they were computed before.
        way: in an episode, ``[B]`` int64 from 0, each row's class among the episode's.
        support: in an episode, ``[B]`` Bool, True for a support row and False for a query row.
        views: further teachers' images, by the name in ``TeacherSide.view``.
        labelled: ``[B]`` Bool, the samples that have a label; None where all of them do.
        outputs: the outputs of further teachers on these very pixels, by name, where they were computed before.
    """

    images: Tensor
    labels: Tensor
    index: Tensor | None = None
    view: Tensor | None = None
    teacher: Features | None = None
    way: Tensor | None = None
    support: Tensor | None = None
    views: Mapping[str, Tensor] = field(default_factory=dict)
    shared: bool = False
    labelled: Tensor | None = None
    outputs: Mapping[str, Features] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def teacher_images(self) -> Tensor:
        """The images for a teacher whose view has no name: ``view``, or else ``images``."""
        return self.images if self.view is None else self.view

    @property
    def numbers(self) -> Tensor:
        """Each sample's number in its data set.

        Raises:
            UserError: the batch has none.
        """
        if self.index is None:
            raise UserError(
                "The batch has no index; give each sample's number in its data set, int64 [B].",
                code="index-missing",
            )
        return self.index

    def seen_as(self, view: str | None) -> Tensor:
        """The images of a named view; ``teacher_images`` where the name is None.

        Raises:
            UserError: a view that the batch does not have.
        """
        if view is None:
            return self.teacher_images
        if view not in self.views:
            raise UserError(
                f"The batch has no view {view!r}; it has {', '.join(self.views) or 'none'}.",
                code="unknown-view",
            )
        return self.views[view]
