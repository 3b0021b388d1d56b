"""One incremental step from Python, without YAML: ``gkd.incremental.learn_step``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from torch import nn

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.core.short_repr import short_repr
from gkd.data import ImageSet
from gkd.distill.teacher import Teacher
from gkd.experiment.judge import judge
from gkd.experiment.python_arguments import method_of, settings_for, without_labels
from gkd.experiment.sources import rounded_statistics
from gkd.incremental.learn import train_step
from gkd.incremental.memory import Memory
from gkd.incremental.problem import IncrementalProblem
from gkd.incremental.scenario import seen_classes
from gkd.incremental.step import Step
from gkd.methods.method import Method
from gkd.problems.plan import Plan, PlannedNetwork
from gkd.problems.problem import Source
from gkd.training.progress import Reporter


@dataclass(frozen=True)
class StepOutcome:
    """Result of one incremental step.

    Attributes:
        student: the network with a column for each class so far, in eval mode; the next step grows out of it.
        memory: the exemplars of all classes so far, as numbers of ``Step.images``; for the next `Step`.
        accuracy: in percent on the test images of all classes so far, by the head or the exemplar means, as the
            method has it; None without test images.
        rules: rule that the method applies after a step -> its numbers, such as ``gamma``.
    """

    student: nn.Module
    memory: Memory
    accuracy: float | None
    rules: Mapping[str, Mapping[str, float]]

    __repr__ = short_repr


def learn_step(
    network: nn.Module,
    step: Step,
    method: str | Method = "lwf",
    *,
    test: ImageSet | None = None,
    teacher: Teacher | None = None,
    unlabelled: ImageSet | None = None,
    epochs: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    augment: str = "none",
    optimiser: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> StepOutcome:
    """Let a network learn the new classes of a step, taught by itself as it was before.

    Args:
        network: of step 0 a new network with a column for each of its classes; of a later one the student of the step
            before, which is copied, grown by the new classes and trained.
        step: the step, with the training images of all classes and the memory from before it.
        method: the name of a shipped method (``gkd ls methods``), or a ``Method``.
        test: test images of all classes or of those so far; judged once, after the step.
        teacher: of the old classes; None takes a copy of the network as it was.
        unlabelled: images for a method that trains on some without labels, as of ``gkd.fit``.
        epochs: of all stages together; None takes the method's published number.
        seed, batch_size, augment, optimiser, device, precision: as of ``gkd.fit``. The input is normalised by the
            statistics of all of the step's ``images``.

    Raises:
        UserError: a network of other columns than the classes before, unlabelled images of another shape, or a method
            that cannot train the step.
    """
    chosen = method_of(method, epochs, optimiser or {})
    expected = len(step.seen) if step.number == 0 or step.fresh else step.num_old
    columns = getattr(network, "num_classes", None)
    if columns != expected:
        raise UserError(
            f"The network has {columns} columns, but step {step.number + 1} starts from one of {expected}; give the "
            "student of the step before, or a new network of the first step's classes.",
            code="other-classes",
        )
    mean, std = rounded_statistics(step.images)
    settings = settings_for(
        mean, std, seed=seed, batch_size=batch_size, augment=augment, device=device, precision=precision
    )
    train = step.rehearsed_images()
    judged = train if test is None else test.restrict(step.seen)
    images = Source(
        train, train, judged, held_out=False
    )  # the last epoch's student is returned, whatever validation says
    old = seen_classes(step.steps, max(step.number - 1, 0))
    problem = IncrementalProblem(
        f"step-{step.number + 1}",
        LabelRelation(old, step.seen),
        images,
        images,
        "all",
        unlabelled=without_labels(step.images, unlabelled),
        step=step,
    )
    problem.check(Plan("incremental", chosen, PlannedNetwork(type(network).__name__)))
    problem.check_student(network, chosen)
    start = copy.deepcopy(network).to(settings.device)
    with Reporter(Console(quiet=True), problem.name) as reporter:
        learnt = train_step(
            problem, start, chosen, settings, folder=None, reporter=reporter, epochs=epochs, teacher=teacher
        )
    accuracy = None
    if test is not None:
        accuracy = judge(learnt.scores(), judged.labels.cpu(), chosen).accuracy
    return StepOutcome(learnt.student.eval(), learnt.answers.memory, accuracy, learnt.rules)
