"""Checks before training: the plan and student, which a problem may refuse, each stage's images, the teacher's."""

from __future__ import annotations

from torch import nn

from gkd.config import schema
from gkd.core.errors import UserError
from gkd.data import check_balanced, check_episodes, unlabelled_rows
from gkd.distill.fit_check import check_parts
from gkd.methods.method import Method
from gkd.methods.stage import WITHOUT_LABELS
from gkd.problems.plan import Plan, PlannedNetwork
from gkd.problems.problem import Problem
from gkd.training.settings import images_per_class


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
            that trains a part that the student does not have.
    """
    method, data = experiment.method, experiment.data
    for stage in method.stages.values():
        check_parts(student, stage.train)
    problem.check_student(student, method)
    for each, applied in problem.as_trained(method):
        try:
            _check_stages(applied, each, data.batch_size, data.images_per_class)
        except UserError as error:
            where = "" if each is problem else f"In {each.name}: "
            raise UserError(f"{where}{error}", code=error.code) from None


def _check_stages(method: Method, problem: Problem, batch_size: int, per_class: int | None) -> None:
    """Refuse stages without an image, or without those that their balanced batches or episodes take."""
    for name, stage in method.stages.items():
        _check_unlabelled(name, method, problem, batch_size)
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


def _check_unlabelled(name: str, method: Method, problem: Problem, batch_size: int) -> None:
    """Refuse a stage on images without labels where there are none, too few, or no term that can use them."""
    stage = method.stages[name]
    if stage.data not in WITHOUT_LABELS:
        return
    try:
        unlabelled = problem.images("unlabelled", seed=0)
    except UserError:
        raise UserError(
            f"The stage {name!r} of {method.name!r} is on data: {stage.data}, and there are no images without labels; "
            f"name their folder or zip by data.unlabelled.root, or set method.stages.{name}.data=all.",
            code="no-unlabelled-images",
        ) from None
    if stage.data == "both":
        unlabelled_rows(batch_size, stage.unlabelled_share, unlabelled)
    # Over classes that the teacher has in part, such a term is on rows whose label the teacher has.
    in_part = not problem.relation.known.all()
    by_label = [
        key
        for key, term in stage.terms.items()
        if in_part and term.needs_shared_classes and (term.rows or problem.rows) == "known"
    ]
    usable = [key for key, term in stage.terms.items() if not term.reads_labels and key not in by_label]
    if by_label and (stage.data == "unlabelled" or not usable):
        raise UserError(
            f"The stage {name!r} of {method.name!r} is on data: {stage.data}, but its term {by_label[0]!r} cannot use "
            "images without labels: it compares logits where the teacher has the image's class, and the teacher has a "
            f"part of the classes alone; set method.stages.{name}.terms.{by_label[0]}.rows=all, or take a loss on "
            "embeddings or maps.",
            code="no-term-without-labels",
        )


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
