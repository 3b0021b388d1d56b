"""Incremental steps: the classes and training images of each, and the exemplar memory between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.short_repr import short_repr
from gkd.data import ImageSet
from gkd.incremental.memory import Memory, check_selection, choose_exemplars, exemplars_per_class, samples_of
from gkd.incremental.scenario import Steps, seen_classes


@dataclass(frozen=True)
class Rehearsal:
    """Budget and selection of the exemplar memory.

    Attributes:
        memory_total, memory_per_class: the budget, one of them (``gkd.incremental.memory.exemplars_per_class``) or
            none.
        selection: ``herding``, ``closest`` or ``random``.

    Raises:
        UserError: both budgets, one below 1, or an unknown selection.
    """

    memory_total: int | None = None
    memory_per_class: int | None = None
    selection: str = "herding"

    def __post_init__(self) -> None:
        check_selection(self.selection)
        self.per_class(1)

    def per_class(self, num_classes: int) -> int:
        """Exemplars of each class when so many have been seen; 0 without a memory."""
        return exemplars_per_class(
            num_classes, memory_total=self.memory_total, memory_per_class=self.memory_per_class
        )


@dataclass(frozen=True)
class Step:
    """One step of an incremental scenario: its classes, training images and exemplar memory.

    Attributes:
        number: of the step, from 0.
        steps: the classes that each step brings.
        images: the training images of all classes, whose columns are in the order of arrival; the memory's samples
            are numbers of these.
        rehearsal: budget and selection of the memory.
        start_from: the step, from 0, whose model is the experiment's teacher where it has one.
        fresh: the student is a new network, rather than the old one with further classes.
        base_epochs: epochs of step 0 instead of ``run.epochs``.
        memory: exemplars of the classes of the steps before.
        held_out: int64 ``[n]``, numbers of images that no stage trains on (`hold_out`).

    Raises:
        UserError: a number that is none of the steps'.
    """

    number: int
    steps: Steps
    images: ImageSet
    rehearsal: Rehearsal = Rehearsal()
    start_from: int = 0
    fresh: bool = False
    base_epochs: int | None = None
    memory: Memory = field(default_factory=lambda: Memory({}))
    held_out: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not 0 <= self.number < len(self.steps):
            raise UserError(
                f"There is no step {self.number} among {len(self.steps)}, which are numbered from 0.",
                code="no-such-step",
            )

    @property
    def new(self) -> tuple[str, ...]:
        """The classes that this step brings."""
        return self.steps[self.number]

    @property
    def seen(self) -> LabelSpace:
        """All classes so far, in the order of arrival: the student's."""
        return seen_classes(self.steps, self.number)

    @property
    def num_old(self) -> int:
        """How many of them came before this step."""
        return len(self.seen) - len(self.new)

    def chosen(self, samples: Tensor) -> ImageSet:
        """Some of the training images, with the labels of the classes seen so far."""
        return replace(self.images.select(samples), space=self.seen)

    def new_images(self) -> ImageSet:
        """All images of the new classes, but those held out."""
        return self._trained_on(samples_of(self.images, self.new))

    def seen_images(self) -> ImageSet:
        """All images of all classes so far, whatever the memory holds, but those held out."""
        return self._trained_on(samples_of(self.images, self.seen.names))

    def rehearsed_images(self) -> ImageSet:
        """The images of the new classes, ascending, then the exemplars, but those held out."""
        return self._trained_on(torch.cat([samples_of(self.images, self.new), self.memory.samples]))

    def _trained_on(self, samples: Tensor) -> ImageSet:
        return self.chosen(samples[~torch.isin(samples, self.held_out)])

    def lacking(self) -> list[str]:
        """The classes seen so far without an exemplar: the new ones, or all where a model was given."""
        return [name for name in self.seen if name not in self.memory.exemplars]

    def with_memory(self, memory: Memory) -> Step:
        """The step with the exemplars of earlier steps."""
        return replace(self, memory=memory)

    def remembers(self) -> bool:
        """Whether there is a budget for exemplars."""
        return self.rehearsal.per_class(len(self.seen)) > 0


def remember(step: Step, samples: Tensor, embedding: Tensor, *, seed: int) -> Memory:
    """The memory after a step: each class cut to the budget, and new exemplars of the classes without any.

    Args:
        step: with the memory from before it.
        samples: int64 ``[n]``, numbers of images; exemplars are chosen among those of `Step.lacking`'s classes.
        embedding: ``[n, D]`` of ``samples``.
        seed: of a random choice.
    """
    per_class = step.rehearsal.per_class(len(step.seen))
    if per_class == 0:
        return step.memory
    exemplars = choose_exemplars(
        step.images,
        step.lacking(),
        per_class,
        selection=step.rehearsal.selection,
        samples=samples,
        embedding=embedding,
        seed=seed,
    )
    return step.memory.cut(per_class).add(exemplars)


def first_exemplars(step: Step, classes: Sequence[str]) -> Memory:
    """As many exemplars of some classes as the budget allows when a step begins, chosen without a network.

    Raises:
        UserError: a class without an image, of which nothing can be remembered.
    """
    if not step.remembers():
        return Memory({})
    return Memory(
        choose_exemplars(step.images, classes, step.rehearsal.per_class(len(classes)), selection="random")
    )


def num_held_out(share: float, fewest: int) -> int:
    """How many images of each class are kept from training, where the class with the fewest has ``fewest`` exemplars.

    Raises:
        UserError: the class with the fewest would have none left to train on.
    """
    count = max(1, round(share * fewest))
    if count >= fewest:
        raise UserError(
            f"The method keeps {count} of each class's exemplars from training, but a class has {fewest}; use a larger "
            "task.memory_per_class or task.memory_total.",
            code="too-few-exemplars",
        )
    return count


def hold_out(step: Step, share: float, *, seed: int) -> Tensor:
    """Images to keep from training: the last exemplars of each old class, and as many random images of each new one.

    Args:
        step: with its memory.
        share: the fraction of a class's exemplars; at least one image.
        seed: draws the images of the new classes.

    Returns:
        Int64 ``[n]``: their numbers in ``step.images``.

    Raises:
        UserError: a class with a single exemplar, of which none would be left.
    """
    count = num_held_out(share, min(map(len, step.memory.exemplars.values())))
    for name in step.new:
        images = len(samples_of(step.images, (name,)))
        if images <= count:
            raise UserError(
                f"The method keeps {count} images of each class from training (method.held_out={share}), but the class "
                f"{name!r} of step {step.number + 1} has {images}; give it more, or use a smaller "
                "task.memory_per_class, task.memory_total or method.held_out.",
                code="too-few-images",
            )
    old = [samples[-count:] for samples in step.memory.exemplars.values()]
    new = choose_exemplars(step.images, step.new, count, selection="random", seed=seed)
    return torch.cat([*old, *new.values()])
