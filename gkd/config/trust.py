"""Whose word is enough to import a module: the command line's and the user's own files', never a run folder's.

A config that lies in a run folder may have come from anyone, and importing a module runs it. Where such a config
names ``pkg.module:factory``, the command line must name the very same string. So it must the folder that learn2learn
reads, for it unpickles what it finds there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gkd.core.errors import UserError
from gkd.core.user_code import is_import_name

# The keys whose value may be a module to import.
KEYS = ("student.network", "teacher.network", "data.name", "teacher.data.name")


# The key of a folder whose files are unpickled, and what marks a folder among trusted names.
PICKLES = "task.episodes.root"


_ROOT = "root "


def lies_in_run_folder(config: Path) -> bool:
    """Whether a config file is one that a run wrote, or that stands where a run would have written it."""
    return (config.parent / "env.json").exists() or (config.parent / "summary.json").exists()


def named_in(contents: Iterable[Any]) -> frozenset[str]:
    """Every ``pkg.module:factory``, and every ``root``, that stands anywhere in trusted layers."""
    found: set[str] = set()
    for content in contents:
        if isinstance(content, Mapping):
            found |= named_in(content.values())
            found |= {_ROOT + str(content["root"])} if content.get("root") is not None else set()
        elif isinstance(content, (list, tuple)):
            found |= named_in(content)
        elif is_import_name(content):
            found.add(content)
    return frozenset(found)


def check_trust(merged: Mapping[str, Any], trusted: frozenset[str] | None) -> None:
    """Refuses a config that names a module to import which no trusted layer names.

    Args:
        merged: the config's sections.
        trusted: the names that trusted layers give; None where every layer is trusted.

    Raises:
        UserError: such a name.
    """
    if trusted is None:
        return
    for key in KEYS:
        check_name(_at(merged, key), key, trusted)
    root = _at(merged, PICKLES)
    if root is not None and _ROOT + str(root) not in trusted:
        raise UserError(
            f"{PICKLES} is {str(root)!r} in a run folder, and learn2learn unpickles what it finds there, which is to "
            f"run it; if you trust it, name it on the command line: {PICKLES}={root}"
        )


def _at(merged: Mapping[str, Any], key: str) -> Any:
    node: Any = merged
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def check_name(name: object, key: str, trusted: frozenset[str]) -> None:
    """Refuses one ``pkg.module:factory`` that is not among the trusted ones; any other value passes."""
    if is_import_name(name) and name not in trusted:
        raise UserError(
            f"{key} is {name!r} in a run folder or a weight file, and to import a module is to run it; if you trust "
            f"it, name it on the command line: {key}={name}"
        )
