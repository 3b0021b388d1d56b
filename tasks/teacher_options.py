"""What the options of a task say of a teacher: how its classes relate to the student's, and which teacher they mean."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol, Self, TypeVar

from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.problems.classes import Classes


class RelationOptions(Protocol):
    """The options of a task that relates a teacher's classes to the student's.

    Attributes:
        teacher_classes: of a teacher that keeps classes of its own, those that count; None for all.
        aliases: student name -> teacher name.
        match: a regular expression whose first match in a name is the class's identity.
    """

    teacher_classes: Classes | None
    aliases: dict[str, str]
    match: str | None

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


Options = TypeVar("Options", bound=RelationOptions)


def own_relation(options: RelationOptions, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
    """The relation of a teacher that keeps classes of its own to the student's."""
    counted = options.teacher_classes.select(teacher) if options.teacher_classes else None
    return LabelRelation(teacher, student, options.aliases, options.match, counted)


def options_of_each(
    options: Options, classes: Mapping[str, LabelSpace], own: Collection[str], *, unread: bool = False
) -> dict[str, Options]:
    """The options for each of several teachers alone.

    An alias is for the teachers that have its class, ``match`` for those in whose names it is found, and
    ``teacher_classes`` for those whose classes the task selects. What fits no teacher is left for all, to be refused,
    unless it may be meant for one that the method does not read.

    Args:
        options: the task's.
        classes: the teachers' names -> their classes, or those that the task may select of.
        own: the teachers that keep classes of their own.
        unread: there are teachers beside these.

    Raises:
        UserError: an alias whose class no teacher has.
    """
    aliases, match = options.aliases, options.match
    for teacher_class in aliases.values():
        if not unread and not any(teacher_class in space for space in classes.values()):
            names = [name for space in classes.values() if space.named for name in space]
            raise UserError(unknown("class", teacher_class, names), code="unknown-class")
    found = {name: match is not None and _is_found(match, space) for name, space in classes.items()}
    each = {}
    for name, space in classes.items():
        changes: dict[str, Any] = {
            "aliases": {key: value for key, value in aliases.items() if value in space}
        }
        if name in own:
            changes["teacher_classes"] = None
        if match is not None and not found[name] and (unread or any(found.values())):
            changes["match"] = None
        each[name] = options.model_copy(update=changes)
    return each


def _is_found(match: str, space: LabelSpace) -> bool:
    """Whether an expression is in one of the names; True of one that cannot be read, which the relation refuses."""
    try:
        return any(re.search(match, name) for name in space)
    except (re.error, RecursionError, OverflowError):
        return True
