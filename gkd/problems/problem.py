"""Problem: one distillation to solve, whose classes, on which images; Source: one side's images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.few_shot.judging import FewShot
from gkd.incremental.step import Step, evened


@dataclass(frozen=True)
class Source:
    """One side's images before a task selects its classes.

    Attributes:
        train, validation, test: images to learn from, to choose the best epoch on, to judge the student on.
        other: the data's own validation images, where they are of classes that it has nowhere else.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    other: ImageSet | None = None

    @property
    def space(self) -> LabelSpace:
        return self.train.space

    def restrict(self, space: LabelSpace) -> Source:
        """The images of some classes, relabelled by name to that space's columns.

        Raises:
            UserError: classes of which there is no test image, as in few-shot data.
        """
        if not any(name in self.test.space for name in space):
            raise UserError(
                f"The test images of {self.test.name} are of other classes than its training images, which is "
                "few-shot data; this task tests on the classes that it trains on, so use other data."
            )
        return Source(self.train.restrict(space), self.validation.restrict(space), self.test.restrict(space))


@dataclass(frozen=True)
class Problem:
    """One distillation to solve: whose classes, which images, between whom.

    Attributes:
        name: names the problem within its task, such as ``student`` or ``step-3``.
        relation: teacher against student classes.
        teacher: images over the teacher's classes, where a teacher is trained here.
        student: images over the student's classes.
        rows: which rows a loss on the teacher's logits sees where the method does not say.
        measured: the images that normalise the input where data.mean is not given; None takes all training images of
            the data, which classes that are kept apart must not be among.
        few_shot: episodes over other classes, where the task judges embeddings on them.
        frozen: classifiers (``gkd.few_shot.classifiers``) to judge beside the student, on the embedding that it starts
            from; the classes then have equally many images each, one class after the other.
        leak: classes kept from training that the teacher knows all the same, as ``allow_leak`` has it.
        step: which step of an incremental run this is; then the student's training images are those of its new classes
            and, behind them, the exemplars of old ones.
    """

    name: str
    relation: LabelRelation
    teacher: Source
    student: Source
    rows: Literal["known", "all"] = "known"
    measured: ImageSet | None = None
    few_shot: FewShot | None = None
    frozen: tuple[str, ...] = ()
    leak: tuple[str, ...] = ()
    step: Step | None = None

    @property
    def has_old_classes(self) -> bool:
        """Whether the student knew some of its classes before, with or without a teacher."""
        return self.step is not None and self.step.number > 0

    def images(self, data: str, *, seed: int) -> ImageSet:
        """The images of a stage (``Stage.data``); ``seed`` draws where it takes fewer than there are."""
        if data == "held-out":
            return self.student.validation
        if data == "balanced-memory":
            return evened(self.student.train, seed=seed)
        if self.step is not None and data in ("new", "seen"):
            return self.step.new_images() if data == "new" else self.step.seen_images()
        return self.student.train
