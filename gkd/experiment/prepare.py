"""From a validated experiment to the objects of a run: data, problem, teacher, student, settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from gkd.config import schema
from gkd.config.resolve import Resolved
from gkd.config.shipped import shipped_methods
from gkd.core.labels import LabelRelation
from gkd.data import check_balanced, check_episodes, limit_per_class
from gkd.experiment.checks import check_problem
from gkd.experiment.networks import build_student
from gkd.experiment.sources import load_source, statistics
from gkd.incremental.checks import check_growth
from gkd.methods.method import refusal, require
from gkd.methods.mixup import without_mixup
from gkd.metrics import check_metrics
from gkd.problems.problem import Problem, Source
from gkd.problems.task import TASKS, Task, students_teach
from gkd.training.caches import Caches
from gkd.training.device import choose_device, choose_dtype
from gkd.training.settings import Settings, images_per_class


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its teacher is there."""

    resolved: Resolved
    problem: Problem
    student: nn.Module
    settings: Settings
    epochs: dict[str, int]

    @property
    def experiment(self) -> schema.Experiment:
        return self.resolved.experiment


def prepare(resolved: Resolved, *, final: bool = False, caches: Caches | None = None) -> Prepared:
    """Reads the data, lets the task select classes, checks the method's needs, builds the student.

    Args:
        resolved: the experiment.
        final: of several problems the last one, rather than the first to train.
        caches: of the runs that go before and after; without them this one has its own.

    Raises:
        UserError: anything that can be known to be wrong before training.
    """
    experiment, caches = resolved.experiment, caches or Caches()
    problem = problem_of(experiment, caches)
    if final and problem.step is not None:
        *_, problem = problems_of(experiment, caches)
    check_metrics(experiment.evaluate.metrics, len(problem.student.space), problem.relation)
    torch.manual_seed(experiment.run.seed)
    student = build_student(experiment, problem)
    if problem.step is not None:
        check_growth(experiment, problem.step, student)
    settings = _settings(experiment, problem, caches)
    for stage in experiment.method.stages.values():
        per_class = images_per_class(stage, settings)
        if per_class is not None:
            check_balanced(problem.student.train, settings.batch_size, per_class)
        if stage.episodes is not None:
            check_episodes(problem.student.train, stage.episodes)
    student = student.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Prepared(resolved, problem, student, settings, experiment.method.epochs(experiment.run.epochs))


def problem_of(experiment: schema.Experiment, caches: Caches | None = None) -> Problem:
    """Which classes and images each side has, where the method can work so; of several problems the first to train.

    Raises:
        UserError: a method that the relation denies, images of the teacher's that are not adapted, or what an
            incremental run cannot have.
    """
    caches = caches or Caches()
    relation = relation_to_check(experiment, caches)
    if (
        refusal(experiment.method, relation) is not None
    ):  # to read all methods takes longer than to refuse one
        steps = students_teach(experiment.task.name)
        others = {name: other for name, other in shipped_methods().items() if steps or not other.after}
        require(experiment.method, relation, others)
    problem = next(
        problem for problem in problems_of(experiment, caches) if not _is_given(problem, experiment)
    )
    check_problem(experiment, problem)
    return problem


def problems_of(experiment: schema.Experiment, caches: Caches | None = None) -> Iterator[Problem]:
    """The task's problems in their order, the training images limited to ``data.per_class``."""
    source, teacher_source, task = _sides(experiment, caches or Caches())
    data, run = experiment.data, experiment.run
    seed = run.seed if data.subset_seed is None else data.subset_seed
    of_all_classes = None
    for problem in task.problems(teacher_source, source, run.seed):
        train = problem.student.train
        if data.per_class is not None and problem.step is not None:
            if of_all_classes is None:
                of_all_classes = limit_per_class(problem.step.images, data.per_class, seed=seed)
            problem = replace(problem, step=replace(problem.step, images=of_all_classes))
            assert problem.step is not None
            train = problem.step.new_images()
        elif data.per_class is not None:
            train = limit_per_class(train, data.per_class, seed=seed)
        yield replace(problem, student=replace(problem.student, train=train))


def _is_given(problem: Problem, experiment: schema.Experiment) -> bool:
    """Whether the model of an incremental step is the experiment's teacher, or comes before it."""
    step = problem.step
    return step is not None and experiment.teacher is not None and step.number <= step.start_from


def _sides(experiment: schema.Experiment, caches: Caches) -> tuple[Source, Source, Task]:
    """The student's images, the teacher's, and the adapter that chooses among their classes."""
    teacher_data = (experiment.teacher and experiment.teacher.data) or experiment.data
    task: Task = TASKS[experiment.task.name].load()(experiment.task)
    return load_source(experiment.data, caches), load_source(teacher_data, caches), task


def relation_to_check(experiment: schema.Experiment, caches: Caches | None = None) -> LabelRelation | None:
    """What a method must be able to work with: None where nothing teaches."""
    if experiment.teacher is None and not students_teach(experiment.task.name):
        return None
    return relation_of(experiment, caches)


def relation_of(experiment: schema.Experiment, caches: Caches | None = None) -> LabelRelation:
    """How the classes of the two sides relate, before any image is selected."""
    source, teacher_source, task = _sides(experiment, caches or Caches())
    return task.spaces(teacher_source.space, source.space)


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
        caches=caches,
    )
