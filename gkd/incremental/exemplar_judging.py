"""Judging of a finished incremental run's student: by its head, or by the class means of its exemplars."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from gkd.core.class_means import induced_logits
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

    def scores(self, outputs: Outputs, images: Source, *, by_head: bool) -> Tensor:
        """``[N, C]`` of the test images: the head's logits, or cosines to the means of the classes' exemplars."""
        logits, embedding = outputs(images.test)
        if by_head:
            return logits
        samples = self.memory.samples
        _, of_exemplars = outputs(self.step.images.select(samples))
        labels = self.step.images.labels.cpu()[samples]
        means, _ = exemplar_means(of_exemplars, labels, len(self.step.seen))
        return induced_logits(F.normalize(embedding, dim=1), means)
