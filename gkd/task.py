"""Between whom: what a task adapter is, what it yields, and how adapters are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gkd.data import ImageSet
from gkd.errors import UserError
from gkd.few_shot import FewShot
from gkd.incremental import Step, evened
from gkd.labels import LabelRelation, LabelSpace, fraction, window

# Adapters by name, found through the entry-point group, so that a third party's are found too.
TASKS: dict[str, EntryPoint] = {point.name: point for point in entry_points(group="gkd.tasks")}


class TaskOptions(BaseModel):
    """Base of a task's options: its keys in the ``task`` section of an experiment file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str


# A class order may be written as a number in YAML.
Order = Annotated[str, BeforeValidator(lambda order: str(order) if type(order) is int else order)]


class Classes(BaseModel):
    """A selection of classes: exactly one of names, indices, a window or a random fraction.

    Attributes:
        names: class names, in column order.
        indices: positions in the data's natural (sorted) order.
        size, shift, order: the window ``order[shift : shift + size]``.
        fraction, seed: a random share of the classes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] | None = None
    indices: tuple[int, ...] | None = None
    size: int | None = Field(default=None, ge=1)
    shift: int = Field(default=0, ge=0)
    order: Order = "natural"
    fraction: float | None = Field(default=None, gt=0, le=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_names(cls, data: Any) -> Any:
        """``[cat, dog]`` is short for ``{names: [cat, dog]}``."""
        return {"names": data} if isinstance(data, (list, tuple)) else data

    @model_validator(mode="after")
    def _exactly_one(self) -> Classes:
        given = [key for key in ("names", "indices", "size", "fraction") if getattr(self, key) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of names, indices, size (a window) or fraction; got {got}")
        if self.size is None and (self.shift or self.order != "natural"):
            raise ValueError("shift and order describe a window; give its size too")
        return self

    def select(self, space: LabelSpace) -> LabelSpace:
        """The selected classes of a data set's space."""
        if self.names is not None:
            return space.select(self.names)
        if self.indices is not None:
            return space.select(self.indices)
        if self.size is not None:
            return window(space, size=self.size, shift=self.shift, order=self.order)
        assert self.fraction is not None
        return fraction(space, share=self.fraction, seed=self.seed)


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
        frozen: classifiers (``gkd.metrics.few_shot``) to judge beside the student, on the embedding that it starts
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


class Task(Protocol):
    """A task adapter: the only thing that knows which classes and images each side has.

    One that wants a teacher to be trained in another way than by the standard task over its classes has a method
    ``teacher_task() -> dict`` with the task section of the run that trains it. One whose problems follow from each
    other, the student of one being the teacher of the next, says ``students_teach = True``.
    """

    Options: type[TaskOptions]

    def __init__(self, options: Any) -> None: ...

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        """The relation over the data sets' full spaces; needs no image, so it can refuse early."""
        ...

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        """The problems in the order in which they are solved; ``seed`` is that of the run, for tasks that draw."""
        ...


def students_teach(name: str) -> bool:
    """Whether the students of a task teach the next ones, so that its methods need no other teacher."""
    return bool(getattr(TASKS[name].load(), "students_teach", False))
