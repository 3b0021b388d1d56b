"""The generations of an experiment: how many there are, and what one after the first is taught by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gkd.config.data_section import TeacherView
from gkd.config.side_sections import Teacher
from gkd.problems.generations import GENERATIONS
from gkd.problems.task import task_of

if TYPE_CHECKING:
    from gkd.config.schema import Experiment

KEY = f"task.{GENERATIONS}"


def generations_of(experiment: Experiment) -> int:
    """Which generation the experiment's run is, from 1; a method without a teacher has one whatever the task says."""
    return _stated(experiment) if experiment.method.needs_teacher else 1


def _stated(experiment: Experiment) -> int:
    return int(getattr(experiment.task, GENERATIONS, 1))


def of_generation(experiment: Experiment, number: int) -> Experiment:
    """The experiment whose run is another generation."""
    if _stated(experiment) == number:
        return experiment
    return experiment.model_copy(update={"task": experiment.task.model_copy(update={GENERATIONS: number})})


def check_generations(experiment: Experiment) -> None:
    """Refuse several generations beside what only one can have.

    Raises:
        ValueError: which it is, and what to do.
    """
    if generations_of(experiment) == 1:
        return
    if experiment.teachers:
        raise ValueError(
            f"{KEY} goes on from the student of one teacher, to which every later generation has the student before as "
            "its one teacher, and teachers names several; give one as teacher, and drop teachers"
        )
    if experiment.run.extend:
        raise ValueError(
            f"run.extend goes on from the end of a shorter run, and with {KEY} that run had another teacher, the "
            "shorter run of the generation before; drop run.extend, which trains from scratch"
        )


def taught_by_student(experiment: Experiment) -> Experiment:
    """The experiment of a generation after the first: its teacher is a network as the student's, of the same classes.

    The teacher sees the student's images, augmented for it as for the teacher of the first generation. What the section
    ``teacher`` says of that teacher is left out, but for ``weights``: which student of a run teaches.
    """
    student, data = experiment.student, experiment.data
    before = experiment.teacher or Teacher(network=student.network)
    teacher = Teacher(
        network=student.network, options=student.options, taps=student.taps, weights=before.weights
    )
    if data.teacher_view is not None:
        view = TeacherView(augment=data.teacher_view.augment, draws=data.teacher_view.draws)
        data = data.model_copy(update={"teacher_view": view})
    task = task_of(experiment.task).taught_by_student()
    return experiment.model_copy(update={"task": task, "data": data, "teacher": teacher})
