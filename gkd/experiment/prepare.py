"""Build the objects of a run from a validated experiment: problem, student, settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from gkd.config import schema
from gkd.config.generations import KEY, generations_of, taught_by_student
from gkd.config.resolve import Resolved
from gkd.config.teacher_sections import alone_with
from gkd.core.errors import UserError
from gkd.data.addressed_random import PURPOSE_GENERATION, PURPOSE_PEER, key_of
from gkd.distill.peers import Pair
from gkd.experiment.checks import check_training
from gkd.experiment.networks import build_peer, build_student, check_image_sizes
from gkd.experiment.sides import Sides, sides_of
from gkd.experiment.sources import statistics
from gkd.experiment.start_notes import start_notes
from gkd.methods.mixup import without_mixup
from gkd.methods.refusal import fitting_method
from gkd.metrics import check_metrics
from gkd.problems.problem import NamedTeacher, Problem
from gkd.problems.task import Task
from gkd.storage.cache_folder import OUTPUTS, cache_folder
from gkd.training.caches import Caches
from gkd.training.device import choose_device, choose_dtype
from gkd.training.settings import Settings


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its teacher is loaded.

    Attributes:
        resolved: the experiment, with where each value comes from.
        sides: its task and images.
        problem: the problem to solve (see `with_problem`).
        student: the network to train.
        settings: how it is trained, whatever the method.
        epochs: stage -> its epochs.
        notes: what a user should know of how the weight files were read and what settings come to, a sentence each.
        generation: which one the run trains, from 1 (``task.generations``).
        peer: the second network of a method that trains two students; None of any other.
    """

    resolved: Resolved
    sides: Sides
    problem: Problem
    student: nn.Module
    settings: Settings
    epochs: dict[str, int]
    notes: tuple[str, ...] = ()
    generation: int = 1
    peer: nn.Module | None = None

    @property
    def trained(self) -> nn.Module:
        """What a stage trains: the student, or the pair of it and its peer."""
        return self.student if self.peer is None else Pair(self.student, self.peer)

    @property
    def experiment(self) -> schema.Experiment:
        """The experiment, its method without the terms that the relation leaves out; steps leave out each their own.

        In a generation after the first the section ``teacher`` is that of the student before.
        """
        experiment, problem = self.resolved.experiment, self.problem
        if self.generation > 1:
            experiment = taught_by_student(experiment)
        if self.task.students_teach or not experiment.method.needs_teacher:
            return experiment
        named = {name: teacher.relation for name, teacher in problem.teachers.items()}
        method = fitting_method(experiment.method, named or problem.relation)
        return experiment if method is experiment.method else experiment.model_copy(update={"method": method})

    @property
    def task(self) -> Task:
        return self.sides.task

    def of_teacher(self, name: str) -> Prepared:
        """The same run as one of its named teachers' alone: its section, its view, its classes."""
        resolved = replace(self.resolved, experiment=alone_with(self.experiment, name))
        return replace(self, resolved=resolved, problem=self.problem.of_teacher(name), notes=())

    def with_teacher(self, name: str, known: Prepared) -> Prepared:
        """The run with what ``of_teacher``'s came to know of that teacher: its classes, and notes on its file."""
        problem = self.problem.with_teacher(name, NamedTeacher(known.problem.relation, known.problem.teacher))
        if next(iter(problem.teachers)) == name and not self.task.students_teach:
            problem = problem.with_relation(known.problem.relation)
        return replace(self, problem=problem, notes=(*self.notes, *known.notes))

    def of_generation(self, number: int) -> Resolved:
        """The run of another generation; the first is the plain run, whatever ran it."""
        return self.resolved.with_overrides([f"{KEY}={number}"])

    def with_problem(self, problem: Problem) -> Prepared:
        """The same run at another problem: the next of its task, or this one with its teacher's classes."""
        return replace(self, problem=problem)


def prepare(resolved: Resolved, *, final: bool = False, caches: Caches | None = None) -> Prepared:
    """Read the data, let the task select classes, check the method's needs, build the student.

    Args:
        resolved: the experiment.
        final: prepares the last problem of several, rather than the first to train.
        caches: shared with other runs of this process; None makes new ones.

    Raises:
        UserError: anything that can be known to be wrong before training.
    """
    experiment, caches = resolved.experiment, caches or Caches()
    generation = generations_of(experiment)
    if generation > 1:
        experiment = taught_by_student(experiment)
    check_image_sizes(experiment)
    sides = sides_of(experiment, caches)
    try:
        problem = sides.last_problem() if final else sides.first_problem()
    except UserError as error:
        if generation == 1:
            raise
        taught = f"In generation {generation}, which the student of the one before teaches: "
        raise UserError(f"{taught}{error}", code=error.code) from None
    check_metrics(experiment.evaluate.metrics, len(problem.student.space), problem.relation)
    torch.manual_seed(_initial_seed(experiment.run.seed, generation))
    student, notes = build_student(experiment, problem)
    check_training(experiment, problem, student)
    settings = _settings(experiment, problem, caches)
    student = student.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    peer = None
    if experiment.method.reads_peer:
        torch.manual_seed(key_of(PURPOSE_PEER, experiment.run.seed, generation) % 2**63)
        peer = build_peer(experiment, problem)
        peer = peer.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    epochs = experiment.method.epochs(experiment.run.epochs)
    notes = (*notes, *start_notes(experiment, problem, settings.mean, settings.std))
    return Prepared(resolved, sides, problem, student, settings, epochs, notes, generation, peer)


def _initial_seed(seed: int, generation: int) -> int:
    """The seed of the initial weights; each generation has its own, while batches and augmentation are the run's."""
    return seed if generation == 1 else key_of(PURPOSE_GENERATION, seed, generation) % 2**63


def _settings(experiment: schema.Experiment, problem: Problem, caches: Caches) -> Settings:
    run, data = experiment.run, experiment.data
    mean, std = statistics(data, problem.measured, caches=caches)
    device = choose_device(run.device)
    return Settings(
        seed=run.seed,
        batch_size=data.batch_size,
        augment=without_mixup(data.augment)[0],
        teacher_augment=data.teacher_view.augment if data.teacher_view else None,
        own_draws=data.teacher_view is not None and data.teacher_view.draws == "own",
        images_per_class=data.images_per_class,
        mean=mean,
        std=std,
        device=device,
        dtype=choose_dtype(run.precision, device),
        evaluate_every=experiment.evaluate.every,
        evaluate_batch_size=experiment.evaluate.batch_size,
        checkpoint_seconds=run.checkpoint_seconds,
        views=data.views,
        cache_bytes=run.cache_gb * 2**30,
        outputs_folder=cache_folder() / OUTPUTS if run.teacher_cache == "disk" else None,
        outputs_rounded=run.teacher_cache_precision == "bf16",
        caches=caches,
    )
