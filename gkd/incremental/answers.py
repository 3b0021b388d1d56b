"""Answers of a step's student to the test images, by its head and by exemplar means, from two passes over images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gkd.core.class_means import cosines_to_means
from gkd.core.errors import UserError
from gkd.incremental.accuracy_matrix import exemplar_means, matrix_row, matrix_rows
from gkd.incremental.memory import Memory, samples_of
from gkd.incremental.problem import IncrementalProblem
from gkd.incremental.scenario import step_of_class
from gkd.incremental.step import Step, remember
from gkd.training.predictions import predict
from gkd.training.settings import Settings


@dataclass(frozen=True)
class Answers:
    """A student's outputs for the test images, and the memory after its step with the class means."""

    logits: Tensor
    embedding: Tensor
    memory: Memory
    means: Tensor | None
    counts: Tensor | None

    def scores(self, *, by_head: bool) -> Tensor:
        """``[N, C]``: the head's logits, or cosines to the exemplar means.

        Raises:
            UserError: scores by exemplar means without a memory.
        """
        if by_head:
            return self.logits
        if self.means is None:
            raise UserError(
                "The nearest class mean of exemplars answers for the method, but nothing is remembered; set "
                "task.memory_per_class=20, or task.memory_total=2000.",
                code="needs-memory",
            )
        return cosines_to_means(self.embedding, self.means)

    def rows(self, step: Step, labels: Tensor) -> dict[str, list[float | None]]:
        """The step's row of every accuracy matrix."""
        rows = matrix_row(
            self.logits,
            self.embedding,
            labels,
            step_of_class(step.steps),
            step=step.number,
            means=self.means,
            counts=self.counts,
        )
        return {name: matrix_rows(row.unsqueeze(0))[0] for name, row in rows.items()}


def step_answers(
    student: nn.Module,
    problem: IncrementalProblem,
    settings: Settings,
    memory: Memory | None = None,
    statistics: Mapping[str, tuple[float, ...]] | None = None,
) -> Answers:
    """A student's outputs for the test images, and the memory after its step.

    Takes one pass over the test images and, with a memory, one over its exemplars and the candidates for new ones.

    Args:
        student: the network.
        problem: the step's.
        settings: how images are fed.
        memory: the one after the step; None chooses exemplars of the new classes.
        statistics: input ``mean`` and ``std`` instead of the settings'.
    """
    step, look = problem.step, statistics or {}
    logits, embedding = predict(student, problem.student.test, settings, **look)
    if not step.remembers():
        return Answers(logits, embedding, Memory({}), None, None)
    pool = torch.cat([samples_of(step.images, step.lacking()), step.memory.samples])
    if memory is not None:
        pool = memory.samples
    _, of_pool = predict(student, step.images.select(pool), settings, **look)
    if memory is None:
        memory = remember(step, pool, of_pool, seed=settings.seed)
    place = torch.empty(len(step.images), dtype=torch.int64)
    place[pool] = torch.arange(len(pool))
    labels = step.images.labels.cpu()[memory.samples]
    means, counts = exemplar_means(of_pool[place[memory.samples]], labels, len(step.seen))
    return Answers(logits, embedding, memory, means, counts)
