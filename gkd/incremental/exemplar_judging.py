"""Judging of an incremental student beside training: of a finished run, with its exemplars, or of a file alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gkd.incremental.accuracy_matrix import accuracy_by_step, exemplar_means
from gkd.incremental.memory import Memory
from gkd.incremental.scenario import step_of_class
from gkd.incremental.step import Step
from gkd.problems.judging import Judging, Outputs, Verdict
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


@dataclass(frozen=True)
class StepJudging(Judging):
    """Judging of a network in a weight file: by its head, over all classes and over those of each step.

    Attributes:
        step: the last step.
    """

    step: Step

    def judge(self, outputs: Outputs, images: Source) -> Verdict:
        """``step-1``, ...: the accuracy in percent, among all classes, on the test images of each step's classes."""
        logits, _ = outputs(images.test)
        labels, steps = images.test.labels.cpu(), step_of_class(self.step.steps)
        of_steps = accuracy_by_step(logits.argmax(1), labels, steps).tolist()
        return Verdict(
            {f"step-{number}": value for number, value in enumerate(of_steps, 1) if value == value}
        )
