"""Test-set results of one network: a student's, a teacher's, and their correctness image by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from pydantic import BaseModel, ConfigDict

from gkd.storage.run_files import FROZEN, unpack

RECORD = ConfigDict(frozen=True, extra="allow")  # keys that a later version adds are read, and written again


class EpisodeAccuracy(BaseModel):
    """An accuracy over episodes, or the difference of two.

    Attributes:
        accuracy: mean over the episodes, in percent or points.
        interval: half the width of its 95 % interval.
    """

    model_config = RECORD

    accuracy: float
    interval: float


# Setting, such as "5-way 1-shot" -> classifier -> accuracy over the episodes.
EpisodeAccuracies = dict[str, dict[str, EpisodeAccuracy]]


class PackedSetting(BaseModel):
    """The answers to the episodes of one setting.

    Attributes:
        queries: the number of queries in an episode, of all its ways together.
        right: classifier -> the number of right answers in each episode, packed by ``gkd.few_shot.judging.packed``.
        drawn: a checksum of the episodes; None in early files.
    """

    model_config = RECORD

    queries: int
    right: dict[str, str]
    drawn: str | None = None


# Setting -> its answers; of one network.
PackedEpisodes = dict[str, PackedSetting]


class EpisodeAnswers(BaseModel):
    """``episodes.json``: the answers of a run's networks to the novel episodes.

    Attributes:
        last, best: the student of the last epoch, and of the epoch that validation chose.
        teacher: the teacher; None where the method needs none.
    """

    model_config = RECORD

    last: PackedEpisodes
    best: PackedEpisodes
    teacher: PackedEpisodes | None = None


class Judged(BaseModel):
    """A student on the test images.

    Attributes:
        accuracy: in percent.
        accuracy_top5: how often the label is among the five best classes, in percent; None of five classes or fewer,
            and in early files.
        accuracy_per_class: class name -> the accuracy on its images in percent, None of a class without one; empty in
            early files, in the cells of a grid, and in the steps of an incremental run's summary (each step's own has
            it).
        ece: expected calibration error in percent; None where no head answers.
        nll: negative log-likelihood in nats; None where no head answers.
        agreement: percentage of images on which the teacher gives the same class; None where they share none.
        few_shot: accuracy on the novel episodes.
        to_teacher: the differences to the teacher's accuracy on the same episodes.
        epoch: the epoch that validation chose; None of the last one.
        validation: the metric of that epoch on the validation images.
        metrics: name -> value of the metrics that the experiment adds.
    """

    model_config = RECORD

    accuracy: float
    accuracy_top5: float | None = None
    accuracy_per_class: dict[str, float | None] = {}
    ece: float | None = None
    nll: float | None = None
    agreement: float | None = None
    few_shot: EpisodeAccuracies = {}
    to_teacher: EpisodeAccuracies = {}
    epoch: int | None = None
    validation: float | None = None
    metrics: dict[str, float] = {}

    def without_classes(self) -> Judged:
        """The same results but for those of single classes, which are many."""
        return Judged.model_validate(self.model_dump(exclude={"accuracy_per_class"}, exclude_unset=True))


class VerdictFields(TypedDict, total=False):
    """The fields of ``Judged`` that a task's own judging fills in."""

    few_shot: EpisodeAccuracies
    to_teacher: EpisodeAccuracies
    metrics: dict[str, float]


class NearChance(BaseModel):
    """A teacher's accuracy on test images of the classes that it shares with the student, where chance explains it.

    Attributes:
        accuracy: in percent, among the shared classes' columns alone.
        limit: chance and three of its standard errors, in percent; an accuracy from there on is not chance.
        images, classes: how many test images, and shared classes.
    """

    model_config = RECORD

    accuracy: float
    limit: float
    images: int
    classes: int

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.2f} % of the {self.images} test images of the {self.classes} classes that teacher and "
            f"student share, which chance explains (it reaches up to {self.limit:.2f} %)"
        )


class Probe(BaseModel):
    """A teacher's embedding on the student's validation images, whatever its own classes are.

    Attributes:
        nearest_mean, nearest_neighbours: accuracy in percent of the nearest class mean, and of the 20 nearest
            neighbours, among the student's training images.
        images: how many validation images.
    """

    model_config = RECORD

    nearest_mean: float
    nearest_neighbours: float
    images: int

    def __str__(self) -> str:
        return (
            f"its embedding knows the student's classes to {self.nearest_mean:.2f} % by nearest class mean and "
            f"{self.nearest_neighbours:.2f} % by nearest neighbours ({self.images} validation images)"
        )


class RelationFacts(BaseModel):
    """A label relation: its kind, the share of the student's classes that the teacher has, and the sizes."""

    model_config = RECORD

    kind: str
    overlap: float
    shared: int
    teacher_classes: int
    student_classes: int


class TeacherResult(BaseModel):
    """A teacher on the test images.

    Attributes:
        accuracy: in percent, on the images of the teacher's classes; None of a teacher without classes, or that shares
            none of its own with the student.
        shared_accuracy: likewise among the shared classes' columns alone, of a teacher that keeps classes of its own.
        probe: of a teacher that keeps classes of its own, or has none.
        published: the library's weights that it has, with their licence and where they are from.
        induced_accuracy: in percent, of the nearest class mean in its embedding over the student's classes.
        hash: of its state.
        few_shot: accuracy on the novel episodes.
        near_chance: set where its accuracy over the shared classes is no better than chance.
        relation: of its classes to the student's, of one of several teachers.
    """

    model_config = RECORD

    accuracy: float | None
    shared_accuracy: float | None = None
    probe: Probe | None = None
    published: str | None = None
    induced_accuracy: float | None = None
    hash: str | None = None
    few_shot: EpisodeAccuracies = {}
    near_chance: NearChance | None = None
    relation: RelationFacts | None = None

    @property
    def confidence_auc(self) -> dict[str, float]:
        """Kind of confidence -> ROC-AUC of telling shared from new classes, for the kinds that a method weighs by."""
        return {
            key.removeprefix(CONFIDENCE_AUC): value
            for key, value in (self.model_extra or {}).items()
            if key.startswith(CONFIDENCE_AUC) and isinstance(value, float)
        }


CONFIDENCE_AUC = "confidence_auc/"  # key prefix in a teacher's results, before a kind of confidence


class Correctness(BaseModel):
    """Which test images each network gets right, packed by ``gkd.storage.run_files.pack``.

    Attributes:
        count: how many test images there are.
        last, best: of the student of the last epoch, and of the epoch that validation chose.
    """

    model_config = RECORD

    count: int
    last: str
    best: str
    __pydantic_extra__: dict[str, str]  # classifiers on the embedding that the student starts from

    @classmethod
    def of(cls, count: int, packed: Mapping[str, str]) -> Correctness:
        """Make it of packed texts by name: ``last``, ``best`` and those that begin with ``FROZEN``."""
        return cls.model_validate({"count": count, **packed})

    @property
    def frozen(self) -> dict[str, str]:
        """Name -> packed text of each classifier on the embedding that the student starts from."""
        return {name: text for name, text in self.__pydantic_extra__.items() if name.startswith(FROZEN)}

    def right(self, packed: str) -> np.ndarray:
        """Bool ``[count]`` of a packed text."""
        return unpack(packed, self.count)

    def student(self, which: str) -> np.ndarray:
        """Bool ``[count]``: the images that the ``last`` or the ``best`` student gets right."""
        return self.right(self.best if which == "best" else self.last)
