"""The teachers of an experiment: the one of its section ``teacher``, or several by name in ``teachers``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gkd.config.data_section import TeacherView
from gkd.config.side_sections import Teacher
from gkd.core.errors import UserError, shown
from gkd.methods.method import Method
from gkd.methods.readers import teachers_of, teachers_read
from gkd.methods.term_checks import ALL, ONLY, PREVIOUS
from gkd.problems.task import students_teach

if TYPE_CHECKING:
    from gkd.config.schema import Experiment


def named_sections(teachers: Any) -> Any:
    """``teachers`` as a layer leaves it, without those that are null; null is no teacher.

    Raises:
        ValueError: names that a term could not state.
    """
    if teachers is None:
        return {}
    if not isinstance(teachers, Mapping):
        return teachers  # the schema refuses it
    for name in teachers:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"{shown(name)} is no name of a teacher; use letters, digits and _, such as {{large: {{network: ...}}}}"
            )
        if name in (ALL, PREVIOUS):
            what = "every teacher" if name == ALL else "the previous step's model"
            raise ValueError(f"a teacher cannot be called {name}, by which a term means {what}; rename it")
    return {name: section for name, section in teachers.items() if section is not None}


def check_teachers(experiment: Experiment) -> None:
    """Refuse teachers that do not go together, and terms that name one that there is not.

    Raises:
        ValueError: which it is, and what to do.
    """
    steps = students_teach(experiment.task.name)
    if experiment.teacher is not None and experiment.teachers and not steps:
        raise ValueError(
            "teacher is one teacher and teachers are several by name, and both are given; write the one under a name "
            "in teachers, and drop teacher"
        )
    for name, section in experiment.teachers.items() if steps else ():
        if not section.is_given:
            raise ValueError(
                f"teachers.{name} stands beside the steps' models and is not trained here; give its checkpoint or "
                "pretrained"
            )
    names = teacher_names(experiment)
    for stage_name, stage in experiment.method.stages.items():
        for term_name, term in stage.terms.items():
            if not names or term.teacher is None:
                continue
            try:
                teachers_of(term_name, term, names)
            except UserError as error:
                raise ValueError(f"In the stage {stage_name!r}: {error}") from None


def teacher_names(experiment: Experiment) -> tuple[str, ...]:
    """The names by which terms may call the teachers, the first being the one that they read without a name."""
    if students_teach(experiment.task.name):
        return (PREVIOUS, *experiment.teachers) if experiment.teachers else (ONLY,)
    if experiment.teacher is not None:
        return (ONLY,)
    return tuple(experiment.teachers)


def named_teachers_read(experiment: Experiment, method: Method | None = None) -> tuple[str, ...]:
    """The teachers of ``teachers`` that a method reads, by default the experiment's; no other is loaded."""
    names = teacher_names(experiment)
    if not experiment.teachers or not names:
        return ()
    read = teachers_read(experiment.method if method is None else method, names)
    return tuple(name for name in read if name in experiment.teachers)


def teacher_sections(experiment: Experiment) -> dict[str, Teacher]:
    """Every teacher section under its dotted key, ``teacher`` or ``teachers.NAME``."""
    sections = {} if experiment.teacher is None else {"teacher": experiment.teacher}
    return sections | {f"teachers.{name}": section for name, section in experiment.teachers.items()}


def alone_with(experiment: Experiment, name: str) -> Experiment:
    """The experiment with one of its named teachers as its only one, whose view is ``data.teacher_view``."""
    section, data = experiment.teachers[name], experiment.data
    own = {key: getattr(section, key) for key in ("image_size", "interpolation")}
    own = {key: value for key, value in own.items() if value is not None}
    if own:
        view = (data.teacher_view or TeacherView()).model_copy(update=own)
        data = data.model_copy(update={"teacher_view": view})
        section = section.model_copy(update=dict.fromkeys(own))
    return experiment.model_copy(update={"teacher": section, "teachers": {}, "data": data})
