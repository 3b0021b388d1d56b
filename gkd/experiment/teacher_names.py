"""The vectors of class names of a teacher: from its file, or of its text tower."""

from __future__ import annotations

from pathlib import Path

from gkd.config import schema
from gkd.core.class_vectors import ClassVectors
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.models.class_names import vectors_of_names
from gkd.storage.class_vector_files import read_class_vectors


def class_vectors(experiment: schema.Experiment, student: LabelSpace) -> ClassVectors | None:
    """The teacher's vectors of class names, where a term reads them and the teacher's section says where they are.

    Args:
        experiment: the run's.
        student: the student's classes, whose names a text tower is told.

    Raises:
        UserError: a file that cannot be read, or a text tower that cannot be had here.
    """
    section = experiment.teacher
    if section is None or section.names is None or not experiment.method.reads_names:
        return None
    if "{}" not in section.names:
        return read_class_vectors(Path(section.names).expanduser())
    weights = section.checkpoint if section.checkpoint is not None else section.pretrained
    if weights is False:
        raise UserError(
            f"teacher.names={section.names!r} is read by the teacher's text tower, which is trained with it: give its "
            "pretrained or checkpoint, or a file of class vectors.",
            code="no-text-tower",
        )
    return vectors_of_names(
        student, network=section.network, weights=weights, options=section.options, template=section.names
    )
