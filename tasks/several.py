"""What a task's options say to each of several teachers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelSpace
from gkd.problems.task import TaskOptions

Options = TypeVar("Options", bound=TaskOptions)


def options_of_each(
    options: Options, classes: Mapping[str, LabelSpace], own: Collection[str]
) -> dict[str, Options]:
    """The options for each of several teachers alone.

    An alias is for the teachers that have its class, ``match`` for those in whose names it is found, and
    ``teacher_classes`` for those whose classes the task selects. What fits no teacher is left for all, to be refused.

    Args:
        options: with ``aliases`` and ``teacher_classes``, and perhaps ``match``.
        classes: the teachers' names -> their classes, or those that the task may select of.
        own: the teachers that keep classes of their own.

    Raises:
        UserError: an alias whose class no teacher has.
    """
    aliases: Mapping[str, str] = getattr(options, "aliases")  # noqa: B009 -- of some tasks' options
    match: str | None = getattr(options, "match", None)
    for teacher_class in aliases.values():
        if not any(teacher_class in space for space in classes.values()):
            names = [name for space in classes.values() for name in space]
            raise UserError(unknown("class", teacher_class, names), code="unknown-class")
    found = {name: match is not None and _is_found(match, space) for name, space in classes.items()}
    each = {}
    for name, space in classes.items():
        changes: dict[str, Any] = {
            "aliases": {key: value for key, value in aliases.items() if value in space}
        }
        if name in own:
            changes["teacher_classes"] = None
        if match is not None and not found[name] and any(found.values()):
            changes["match"] = None
        each[name] = options.model_copy(update=changes)
    return each


def _is_found(match: str, space: LabelSpace) -> bool:
    """Whether an expression is in one of the names; True of one that cannot be read, which the relation refuses."""
    try:
        return any(re.search(match, name) for name in space)
    except (re.error, RecursionError, OverflowError):
        return True
