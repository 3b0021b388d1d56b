"""Judging: how a problem's student is judged, between epochs and at the end; a task may extend it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from gkd.core.class_means import class_centres, cosines_to_means
from gkd.data import ImageSet
from gkd.metrics import accuracy, ncm_accuracy
from gkd.problems.source import Source
from gkd.storage.judged import VerdictFields
from gkd.storage.records import ACCURACY

# A network over image sets: logits [N, C] and embedding [N, D] in float32 on the CPU, un-augmented.
Outputs = Callable[[ImageSet], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Verdict:
    """Results of one network beside its accuracy on the test images.

    Attributes:
        metrics: name -> number; it stands in the run's summary under ``metrics``.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)

    def results(self, teacher: Verdict | None = None) -> VerdictFields:
        """The results, and those that compare them with the teacher's verdict."""
        return {"metrics": dict(self.metrics)} if self.metrics else {}


class Judging:
    """Judging by accuracy over the problem's classes; the base of a task's other ways of judging.

    Attributes:
        kind: of the run's results; it chooses the table (``gkd.report.tables``).
    """

    kind: ClassVar[str] = ACCURACY

    def validate(self, outputs: Outputs, images: Source, select: str) -> tuple[str, float]:
        """The number in percent that chooses the best epoch, and its name.

        Args:
            outputs: of the student.
            images: the student's.
            select: ``accuracy`` of the head, or ``ncm``, by the nearest class mean of the training images.
        """
        labels = images.validation.labels.cpu()
        logits, embedding = outputs(images.validation)
        if select == "accuracy":
            return select, accuracy(logits, labels)
        train = images.train
        _, train_embedding = outputs(train)
        return select, ncm_accuracy(
            embedding, labels, train_embedding, train.labels.cpu(), len(images.validation.space)
        )

    def scores(self, outputs: Outputs, images: Source, *, by_head: bool) -> Tensor:
        """``[N, C]`` of the test images: the head's logits, or cosines to the means of the training images' classes."""
        logits, embedding = outputs(images.test)
        if by_head:
            return logits
        return cosines_to_means(embedding, self.class_means(outputs, images))

    def class_means(self, outputs: Outputs, images: Source) -> Tensor:
        """``[C, D]``: the class means that ``scores`` compares with where no head answers, at unit length."""
        train = images.train
        _, train_embedding = outputs(train)
        centres, _ = class_centres(train_embedding, train.labels.cpu(), len(train.space))
        return centres

    def before_training(self, outputs: Outputs, images: Source) -> dict[str, Tensor]:
        """Classifier -> Bool ``[N]``: the test images it gets right on the embedding that training starts from."""
        return {}

    def judge(self, outputs: Outputs, images: Source) -> Verdict:
        """Results of a student or a teacher beside its accuracy on the test images."""
        return Verdict()

    def save(self, folder: Path, verdicts: Mapping[str, Verdict]) -> None:
        """Write further results, which tables compare later, into a run's folder.

        Args:
            folder: the run's.
            verdicts: of the students, ``last`` and ``best``, and where there is one of the ``teacher``.
        """


BY_CLASSES = Judging()
