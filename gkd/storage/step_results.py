"""Results of an incremental run: of each step, of all of them, and the accuracy matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field

from gkd.storage.judged import RECORD, Judged, NearChance
from gkd.storage.records import INCREMENTAL, VERSION


class WeightsFile(BaseModel):
    """A weight file: its path, relative to the run's folder or to that of all runs, and its checksum."""

    model_config = RECORD

    weights: str
    sha256: str


class GivenModel(BaseModel):
    """A weight file that stands for a step: a ``WeightsFile`` with the hash of the network's state.

    Attributes:
        near_chance: set where its accuracy is no better than chance.
    """

    model_config = RECORD

    weights: str
    sha256: str
    hash: str
    near_chance: NearChance | None = None


class Chosen(BaseModel):
    """The epoch that validation chose in a step before the last, whose chosen student is not judged."""

    model_config = RECORD

    epoch: int
    validation: float | None = None


class StepResult(BaseModel):
    """A finished step as the run's summary has it.

    Attributes:
        step: its number, from 1.
        teacher: the weights of the model of the step before; None of the first.
        teacher_hash: the hash of the teacher's state; None where the method needs none.
        given: the weights of the step's own model, where it is given and not trained.
        rules: rule -> the numbers that it reports.
        memory: the number of exemplars after it.
        last: its student on all classes so far.
        seconds, bookkeeping_seconds: of training; of evaluation and memory.
    """

    model_config = RECORD

    step: int
    teacher: WeightsFile | None = None
    teacher_hash: str | None = None
    given: GivenModel | None = None
    rules: dict[str, dict[str, float]] = {}
    memory: int
    last: Judged
    seconds: float
    bookkeeping_seconds: float = 0.0


class StepSummary(StepResult):
    """``summary.json`` of a finished step; a step without it is unfinished.

    Attributes:
        version, kind: as of a run's summary.
        classes: the classes that the step brings.
        hashes: ``before``, ``last`` and of the final step ``best`` -> hash of a state; empty in early files.
        head_accuracy: of a given model: the accuracy of its head in percent.
        epochs: stage -> its epochs.
        images: how many images training has seen.
        best: the student that validation chose; before the last step its epoch alone; None of a given model.
        rows: classifier -> the step's row of its accuracy matrix.
        test_images: of each step's classes, 0 for those to come.
        correct: ``last`` and ``best`` -> which test images are answered right, packed.
        empty_batches: as of a run's summary.
        parameters: of the student; None in early files.
    """

    version: int = VERSION
    kind: str = INCREMENTAL
    classes: list[str]
    hashes: dict[str, str | None] = {}
    head_accuracy: float | None = None
    epochs: dict[str, int] = {}
    images: int = 0
    best: Annotated[Judged | Chosen | None, Field(union_mode="left_to_right")] = None
    rows: dict[str, list[float | None]]
    test_images: list[int] = []
    correct: dict[str, str] = {}
    empty_batches: dict[str, int] = {}
    parameters: int | None = None

    def result(self) -> StepResult:
        """The part that goes into the run's summary, without the results of single classes."""
        own = set(StepResult.model_fields)
        content = self.model_copy(update={"last": self.last.without_classes()})
        return StepResult.model_validate(content.model_dump(include=own, exclude_unset=True))


class IncrementalResult(BaseModel):
    """The steps in a run's summary.

    Attributes:
        answers: the classifier that is judged, a key of ``Matrices.by_answer``.
        summary: the numbers derived from its matrix.
        steps: one entry a step.
    """

    model_config = RECORD

    answers: str
    summary: dict[str, float | None]
    steps: list[StepResult]


class AnswerMatrix(BaseModel):
    """One accuracy matrix: its rows, the accuracy on all classes so far after each step, and its summary numbers."""

    model_config = RECORD

    rows: list[list[float | None]]
    seen: list[float | None]
    summary: dict[str, float | None]


class Matrices(BaseModel):
    """``matrix.json``: the accuracy matrices of a run.

    Attributes:
        classes: of every step, also of those to come.
        num_classes: how many they are.
        test_images: of every step so far.
        first_step: the step that the first measured row follows.
        classifier: the head's matrix.
    """

    model_config = RECORD

    classes: list[list[str]]
    num_classes: list[int]
    test_images: list[int]
    first_step: int = 1
    classifier: AnswerMatrix
    __pydantic_extra__: dict[str, AnswerMatrix]

    @classmethod
    def of(cls, facts: Mapping[str, object], by_answer: Mapping[str, AnswerMatrix]) -> Matrices:
        """Make them of the fields about the steps and the matrix of each classifier."""
        return cls.model_validate({**facts, **by_answer})

    @property
    def by_answer(self) -> dict[str, AnswerMatrix]:
        """Classifier -> matrix: ``classifier`` (head), ``ncm`` (nearest exemplar mean), each ``_task_aware``."""
        return {"classifier": self.classifier, **self.__pydantic_extra__}
