"""Judging of a finished incremental run's student: by its head, or by the class means of its exemplars."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gkd.incremental.accuracy_matrix import exemplar_means
from gkd.incremental.memory import Memory
from gkd.incremental.step import Step
from gkd.problems.judging import Judging, Outputs
from gkd.problems.source import Source


@dataclass(frozen=True)
class ExemplarJudging(Judging):
    """Judging of a finished run.

    Attributes:
        step: the last step.
        memory: the exemplars of all classes.
    """

    step: Step
    memory: Memory

    def class_means(self, outputs: Outputs, images: Source) -> Tensor:
        """``[C, D]``: the means of the classes' exemplars, at unit length."""
        samples = self.memory.samples
        _, of_exemplars = outputs(self.step.images.select(samples))
        labels = self.step.images.labels.cpu()[samples]
        means, _ = exemplar_means(of_exemplars, labels, len(self.step.seen))
        return means
