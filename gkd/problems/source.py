"""One side's images before a task selects its classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.data import ImageSet


@dataclass(frozen=True)
class Source:
    """One side's images before a task selects its classes.

    Attributes:
        train, validation, test: images to learn from, to choose the best epoch on, to judge the student on.
        other: the data's own validation images, where they are of classes that it has nowhere else.
        held_out: whether the validation images are kept from training; False where they are those to learn from.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    other: ImageSet | None = None
    held_out: bool = True

    @property
    def space(self) -> LabelSpace:
        return self.train.space

    def seen_by(self, teacher: str) -> Source:
        """The images for one of several teachers alone (``ImageSet.seen_by``)."""
        train, validation, test = (part.seen_by(teacher) for part in (self.train, self.validation, self.test))
        other = None if self.other is None else self.other.seen_by(teacher)
        return replace(self, train=train, validation=validation, test=test, other=other)

    def restrict(self, space: LabelSpace) -> Source:
        """The images of some classes, relabelled by name to that space's columns.

        Raises:
            UserError: classes of which there is no test image, as in few-shot data.
        """
        if not any(name in self.test.space for name in space):
            raise UserError(
                f"The test images of {self.test.name} are of other classes than its training images, which is "
                "few-shot data; this task tests on the classes that it trains on, so use other data.",
                code="other-test-classes",
            )
        train, validation, test = (part.restrict(space) for part in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test, other=None)
