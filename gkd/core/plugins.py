"""Plug-ins: losses, networks and other objects of installed packages, found by entry-point group.

Listing names imports nothing; a plug-in is imported when its name is used. gkd's own tables stay plain dicts.
"""

from __future__ import annotations

from collections.abc import Container
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gkd.core.errors import UserError
from gkd.core.user_code import told


@cache
def entry_point_table(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Name -> the entry points of that name in a group such as ``gkd.losses``; more than one is a clash."""
    table: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=group):
        table[point.name] = (*table.get(point.name, ()), point)
    return table


def plugin(group: str, name: str, *, what: str, ours: Container[str] = ()) -> EntryPoint:
    """The one entry point of a name in :func:`entry_point_table`; imports nothing.

    Args:
        group: such as ``gkd.losses``.
        name: a key of the group's table.
        what: the kind of object in the group, for the error: ``loss``, ``network``.
        ours: gkd's own names, which a plug-in must not take.

    Raises:
        UserError: a name that gkd or another package has too.
    """
    points = entry_point_table(group)[name]
    packages = [f"{distribution(point)} ({point.value})" for point in points]
    if name in ours:
        raise UserError(
            f"The {what} {name!r} is gkd's, and the package {packages[0]} offers another of that name under "
            f"{group}; rename it there, or uninstall the package.",
            code="plugin-name-taken",
        )
    if len(points) > 1:
        raise UserError(
            f"The {what} {name!r} is offered under {group} by {' and by '.join(packages)}; uninstall all but one.",
            code="plugin-twice",
        )
    return points[0]


def load_plugin(group: str, name: str, *, what: str, ours: Container[str] = ()) -> Any:
    """The object behind a plug-in's name, imported now; arguments as of :func:`plugin`.

    Raises:
        UserError: a name that gkd or another package has too, or an import that fails.
    """
    point = plugin(group, name, what=what, ours=ours)
    try:
        return point.load()
    except UserError:
        raise  # what the module itself does with gkd
    except Exception as error:
        raise UserError(
            f"The {what} {name!r} of the package {distribution(point)} cannot be imported from {point.value}: "
            f"{told(error)}",
            code="import-failed",
        ) from error


def distribution(point: EntryPoint) -> str:
    """The name of the package that an entry point comes from."""
    return point.dist.name if point.dist is not None else "unknown"
