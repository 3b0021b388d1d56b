"""Checks before training: an experiment's plan, which its problem may refuse, and the teacher's images."""

from __future__ import annotations

from gkd.config import schema
from gkd.core.errors import UserError
from gkd.problems.plan import Plan, PlannedNetwork
from gkd.problems.problem import Problem


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
