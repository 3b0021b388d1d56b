"""The classes of a teacher that keeps its own: as the config, its library or its weight file names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gkd.config import schema
from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelSpace, unnamed_classes
from gkd.models.pretrained import LABEL_SETS, describe, label_set
from gkd.storage.weight_metadata import WeightMetadata


def own_classes(section: schema.Teacher) -> LabelSpace | None:
    """The classes of a teacher's columns, in their order; None where they are those that the task selects.

    A teacher whose classes nobody knows has one placeholder (``LabelSpace.named`` is False).

    Raises:
        UserError: an unknown label set, a file that states no classes, or a list with a class twice.
    """
    if not section.keeps_classes:
        return None
    if section.classes is None:
        return unnamed_classes(1)
    if section.classes == "task":
        description = describe(section.network, section.pretrained)
        if description.label_set is None:
            return unnamed_classes(1)
        return LabelSpace(label_set(description.label_set))
    if section.classes == "file":
        return _stated(section)
    if isinstance(section.classes, tuple):
        return _told(section.classes, "teacher.classes")
    if section.classes in LABEL_SETS:
        return LabelSpace(label_set(section.classes))
    return _listed(section.classes)


def classes_beside(experiment: schema.Experiment) -> LabelSpace:
    """The classes of a teacher that stands beside the steps' models: its own, or those that its weight file states.

    Args:
        experiment: with that teacher as its only one.

    Raises:
        UserError: as of `own_classes`, or a file that states none.
    """
    section = experiment.teacher
    assert section is not None
    own = own_classes(section)
    if own is not None:
        return own
    assert section.checkpoint is not None  # the schema asks for one
    stated = WeightMetadata.read(section.checkpoint).classes
    if stated is None:
        raise UserError(
            f"A teacher beside the steps' models has classes of its own, and {section.checkpoint} does not state them; "
            "name them by classes (a list, a file of names, or a label set), or set classes: null to do without.",
            code="classes-missing",
        )
    return LabelSpace(stated)


@contextmanager
def of_named(name: str) -> Iterator[None]:
    """Say of which of several teachers an error speaks that is raised inside; its keys are those of ``teacher``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"Of teachers.{name}: {error}", code=error.code) from None


def _stated(section: schema.Teacher) -> LabelSpace:
    """The classes in the header of the teacher's weight file."""
    assert section.checkpoint is not None
    classes = WeightMetadata.read(section.checkpoint).classes
    if classes is None:
        raise UserError(
            f"teacher.classes is file, and {section.checkpoint} does not state its classes; name them (a list, a file "
            f"of names, or a label set such as {LABEL_SETS[0]}), or set teacher.classes=null to do without.",
            code="classes-missing",
        )
    return LabelSpace(classes)


def _listed(name: str) -> LabelSpace:
    """The classes in a file of names, one a line."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"teacher.classes: there is no file {name} of names, one a line. {unknown('label set', name, LABEL_SETS)} "
            "A list of names is [cat, dog].",
            code="unknown-label-set",
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"teacher.classes: the file {path} cannot be read as text in UTF-8 ({error}).",
            code="file-unreadable",
        ) from None
    return _told((line.strip() for line in lines if line.strip()), f"teacher.classes={name}")


def _told(names: Iterable[str], origin: str) -> LabelSpace:
    """The label space of names that a user wrote; what is wrong about them is told with where they stand."""
    try:
        return LabelSpace(names)
    except UserError as error:
        raise UserError(f"{origin}: {error}", code=error.code) from None
