"""What an experiment asks of its problem that cannot be, told before anything is trained."""

from __future__ import annotations

from gkd.config import schema
from gkd.core.errors import UserError
from gkd.incremental.checks import check_first_model, check_incremental
from gkd.problems.problem import Problem


def check_problem(experiment: schema.Experiment, problem: Problem) -> None:
    """Refuses images of the teacher's that are not adapted, and what an incremental run, or another, cannot have.

    Raises:
        UserError: any of these.
    """
    _check_what_the_teacher_sees(experiment, problem)
    method = experiment.method
    if problem.step is not None:
        check_incremental(experiment, problem.step)
        check_first_model(experiment, problem.step)
    elif method.after:
        raise UserError(
            f"The method {method.name!r} ends every incremental step by {' and '.join(method.after)}, but the task "
            f"{experiment.task.name} has no steps; use task.name=incremental, or do without by method.after=[]."
        )


def _check_what_the_teacher_sees(experiment: schema.Experiment, problem: Problem) -> None:
    """Refuses to show a teacher images unlike its own, unless the experiment says how they are adapted."""
    if experiment.teacher is None or experiment.teacher.data is None or not experiment.method.needs_teacher:
        return
    own, seen = problem.teacher.train, problem.student.train.as_teacher_sees
    if own.channels != seen.channels:
        raise UserError(
            f"The teacher's images have {own.channels} channels and the student's, as it would see them, "
            f"{seen.channels}; set data.teacher_view.channels={own.channels}."
        )
    view = experiment.data.teacher_view
    if own.size != seen.size and (view is None or view.image_size is None):
        height, width = own.size
        raise UserError(
            f"The teacher's images are {height}×{width} and the student's {seen.size[0]}×{seen.size[1]}: "
            f"say what the teacher sees: data.teacher_view.image_size={height}, or {seen.size[0]} to show it the "
            "student's as they are."
        )
