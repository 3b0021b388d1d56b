"""What a step's student answers: for the test images by its head and by exemplar means, from two passes over images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.incremental.accuracy_matrix import exemplar_means, matrix_row, matrix_rows
from gkd.incremental.memory import Memory, samples_of
from gkd.incremental.scenario import step_of_class
from gkd.incremental.step import Step, remember
from gkd.incremental.step_folder import read_memory
from gkd.losses import induced_logits
from gkd.methods.method import Method
from gkd.problems.problem import Problem
from gkd.storage.run_files import STEPS
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

    def scores(self, method: Method) -> Tensor:
        """``[N, C]``: those of what answers for the method."""
        if method.judged_by_head:
            return self.logits
        assert self.means is not None  # a task without memory is refused
        return induced_logits(F.normalize(self.embedding, dim=1), self.means)

    def rows(self, step: Step, labels: Tensor) -> dict[str, list[float | None]]:
        """The step's row of every accuracy matrix."""
        found = matrix_row(
            self.logits,
            self.embedding,
            labels,
            step_of_class(step.steps),
            step=step.number,
            means=self.means,
            counts=self.counts,
        )
        return {name: matrix_rows(row.unsqueeze(0))[0] for name, row in found.items()}


def final_scores(
    folder: Path, student: nn.Module, problem: Problem, method: Method, settings: Settings
) -> Tensor:
    """``[N, C]`` of the test images of a finished run's last step, by what answers for the method.

    Args:
        folder: the run's, which has the exemplars.
        student, problem, method, settings: as for ``gkd.experiment.judge.class_scores``; the problem is the last
            step's.
    """
    step = problem.step
    assert step is not None
    memory = read_memory(folder / STEPS / str(len(step.steps)), step)
    return step_answers(student, problem, settings, memory).scores(method)


def step_answers(
    student: nn.Module,
    problem: Problem,
    settings: Settings,
    memory: Memory | None = None,
    look: Mapping[str, tuple[float, ...]] | None = None,
) -> Answers:
    """One pass over the test images and, with a memory, one over what exemplars are chosen from and those there are."""
    step = problem.step
    assert step is not None
    look = look or {}
    logits, embedding = predict(student, problem.student.test, settings, **look)
    if not step.remembers():
        return Answers(logits, embedding, Memory({}), None, None)
    pool = torch.cat([samples_of(step.images, step.lacking()), step.memory.samples])
    if memory is not None:
        pool = memory.samples
    _, known = predict(student, step.images.select(pool), settings, **look)
    if memory is None:
        memory = remember(step, pool, known, seed=settings.seed)
    place = torch.empty(len(step.images), dtype=torch.int64)
    place[pool] = torch.arange(len(pool))
    labels = step.images.labels.cpu()[memory.samples]
    means, counts = exemplar_means(known[place[memory.samples]], labels, len(step.seen))
    return Answers(logits, embedding, memory, means, counts)
