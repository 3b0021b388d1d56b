"""Checks before training: the plan and student, which a problem may refuse, each stage's images, the teacher's."""

from __future__ import annotations

from torch import nn

from gkd.config import schema
from gkd.core.errors import UserError
from gkd.data import augmentation, check_balanced, check_episodes
from gkd.distill.trained_parts import check_parts
from gkd.methods.method import Method
from gkd.methods.mixup import without_mixup
from gkd.problems.plan import Plan, PlannedNetwork
from gkd.problems.problem import Problem
from gkd.training.settings import images_per_class
from gkd.training.unlabelled import check_unlabelled


def plan_of(experiment: schema.Experiment) -> Plan:
    """The plan of an experiment, as `Problem.check` takes it."""
    teacher, student = experiment.teacher, experiment.student
    return Plan(
        experiment.task.name,
        experiment.method,
        PlannedNetwork(
            student.network, student.options, student.checkpoint, pretrained=student.pretrain is not None
        ),
        None if teacher is None else PlannedNetwork(teacher.network, teacher.options, teacher.checkpoint),
        teacher_sees_others=experiment.data.teacher_view is not None
        or (teacher is not None and teacher.data is not None),
    )


def check_training(experiment: schema.Experiment, problem: Problem, student: nn.Module) -> None:
    """Refuse what data and config decide and would otherwise end a run in its middle, for every stage and problem.

    Args:
        experiment: the experiment.
        problem: the first to train; those after it follow from it.
        student: as it is built for the first.

    Raises:
        UserError: a student that a later problem cannot use, a stage without the images that its batches take, or one
            that trains a part that the student does not have; an augmentation that cannot be on these images.
    """
    method, data = experiment.method, experiment.data
    _check_augmentation(data, problem)
    for stage in method.stages.values():
        check_parts(student, stage.train)
    problem.check_student(student, method)
    for each, applied in problem.as_trained(method):
        try:
            _check_stages(applied, each, data.batch_size, data.images_per_class)
        except UserError as error:
            where = "" if each is problem else f"In {each.name}: "
            raise UserError(f"{where}{error}", code=error.code) from None


def _check_augmentation(data: schema.Data, problem: Problem) -> None:
    """Refuse steps of ``data.augment`` that fail on images of this size, or do not keep it."""
    images, view = problem.student.train, data.teacher_view
    chain = without_mixup(data.augment)[0]
    augmentation(chain).check(images.image_shape)
    if images.teacher_images is not None:
        of_teacher = chain if view is None or view.augment is None else view.augment
        augmentation(of_teacher).check(images.as_teacher_sees.image_shape)


def _check_stages(method: Method, problem: Problem, batch_size: int, per_class: int | None) -> None:
    """Refuse stages without an image, or without those that their balanced batches or episodes take."""
    for name, stage in method.stages.items():
        check_unlabelled(name, stage, problem, batch_size)
        images = problem.images(stage.data, seed=0)
        if len(images) == 0:
            raise UserError(
                f"The stage {name!r} trains on data: {stage.data}, of which there is no image; give some, or set "
                f"method.stages.{name}.data=all.",
                code="no-images",
            )
        balanced = images_per_class(stage, per_class)
        if balanced is not None:
            check_balanced(images, batch_size, balanced)
        if stage.episodes is not None:
            check_episodes(images, stage.episodes)


def check_teacher_images(experiment: schema.Experiment, problem: Problem) -> None:
    """Refuse to show a teacher images unlike its own, unless the experiment says how they are adapted."""
    if experiment.teacher is None or experiment.teacher.data is None or not experiment.method.needs_teacher:
        return
    trained_on, seen = problem.teacher.train, problem.student.train.as_teacher_sees
    if trained_on.channels != seen.channels:
        raise UserError(
            f"The teacher's images have {trained_on.channels} channels and the student's, as it would see them, "
            f"{seen.channels}; set data.teacher_view.channels={trained_on.channels}.",
            code="other-channels",
        )
    view = experiment.data.teacher_view
    if trained_on.size != seen.size and (view is None or view.image_size is None):
        height, width = trained_on.size
        raise UserError(
            f"The teacher's images are {height}×{width} and the student's {seen.size[0]}×{seen.size[1]}: "
            f"say what the teacher sees: data.teacher_view.image_size={height}, or {seen.size[0]} to show it the "
            "student's as they are.",
            code="other-image-size",
        )
