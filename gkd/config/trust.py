"""Refuse to import a module, or to unpickle files, that only a config in a run folder names.

A config that lies in a run folder may have come from anyone, and importing a module runs it. Where such a config
names ``pkg.module:name``, under whatever key, the command line must name the very same string. The same holds for a
folder whose files a task unpickles, which runs them too. A plug-in is an installed package and is trusted.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gkd.core.errors import UserError
from gkd.core.user_code import is_import_name
from gkd.models.foreign_options import refused_options
from gkd.problems.task import TASKS, task_class

# Of a network: what trusted layers state of its options, numbers too, is vouched for with its key.
_OPTIONS = ".options."
# Sections that hold text, and a grid, whose cells are checked one by one; checksums, some of which look like a name.
_CHECKSUMS = ("data.fingerprint", "data.unlabelled.fingerprint", "teacher.data.fingerprint", "teacher.sha256")
_NO_NAMES = tuple(
    f"{key}." for key in ("method.paper", "method.summary", "method.sources", "compare", *_CHECKSUMS)
)


def lies_in_run_folder(config: Path) -> bool:
    """Whether a config file is one that a run wrote, or that stands where a run would have written it."""
    return (config.parent / "env.json").exists() or (config.parent / "summary.json").exists()


def named_in(contents: Iterable[Any]) -> frozenset[str]:
    """Every ``pkg.module:name`` anywhere in trusted layers, and of every text and path its ``key value``."""
    names: set[str] = set()
    for content in contents:
        for dotted, value in leaves(content):
            if is_import_name(value):
                names.add(value)
            if isinstance(value, (str, Path)) or _OPTIONS in f".{dotted}":
                names.add(_pair(dotted, value))
    return frozenset(names)


def check_trust(merged: Mapping[str, Any], trusted: frozenset[str] | None) -> None:
    """Refuse a config that names a module to import, or files to unpickle, which no trusted layer names.

    Args:
        merged: the config's sections.
        trusted: the names that trusted layers give; None where every layer is trusted.

    Raises:
        UserError: such a name.
    """
    if trusted is None:
        return
    named = {
        (dotted, value)
        for dotted, value in leaves(merged)
        if is_import_name(value) and not _as_of_one_teacher(dotted).startswith(_NO_NAMES)
    }
    _check_names(sorted(named), trusted, merged)
    _check_options(merged, trusted)
    values = dict(leaves(merged))
    for option in _unpickled(merged.get("task")):
        key = f"task.{option}"
        if values.get(key) is not None and _pair(key, values[key]) not in trusted:
            raise UserError(
                f"{key} is {str(values[key])!r} in a run folder, and the task unpickles what it finds there, which is "
                f"to run it; if you trust it, name it on the command line: {_word(key, str(values[key]))}",
                code="untrusted-files",
            )


def _as_of_one_teacher(dotted: str) -> str:
    """A dotted key and a dot, ``teachers.NAME.…`` as ``teacher.…``."""
    parts = dotted.split(".")
    return ".".join(["teacher", *parts[2:]] if parts[0] == "teachers" else parts) + "."


def _check_options(merged: Mapping[str, Any], trusted: frozenset[str]) -> None:
    """Refuse options of a network that name what its factory would open, where no trusted layer states them."""
    teachers = merged.get("teachers")
    named = teachers.items() if isinstance(teachers, Mapping) else ()
    student = merged.get("student")
    peer = student.get("peer") if isinstance(student, Mapping) else None
    sides = {"student": student, "student.peer": peer, "teacher": merged.get("teacher")}
    for side, section in (sides | {f"teachers.{name}": section for name, section in named}).items():
        if not isinstance(section, Mapping):  # what is no section, network or options, the schema refuses
            continue
        network, options = section.get("network"), section.get("options")
        if not isinstance(network, str) or not isinstance(options, Mapping):
            continue
        for name, value in refused_options(network, options):
            key = f"{side}.options.{name}"
            if any(_pair(dotted, leaf) not in trusted for dotted, leaf in leaves(value, key)):
                raise UserError(
                    f"{key} is {json.dumps(value)} in a run folder or a weight file, and what builds {network} may "
                    f"open or run what it names; if you trust it, name it on the command line: "
                    f"{_word(key, value if isinstance(value, str) else json.dumps(value))}",
                    code="untrusted-options",
                )


def check_name(name: object, key: str, trusted: frozenset[str]) -> None:
    """Refuse one ``pkg.module:name`` that is not among the trusted ones; any other value passes."""
    if is_import_name(name):
        _check_names([(key, str(name))], trusted, {})


def _check_names(
    named: Iterable[tuple[str, str]], trusted: frozenset[str], merged: Mapping[str, Any]
) -> None:
    others = [(key, name) for key, name in named if name not in trusted]
    if others:
        stated = " and ".join(f"{key} is {name!r}" for key, name in others)
        words = " ".join(_vouching(others, merged))
        raise UserError(
            f"{stated} in a run folder or a weight file, and to import a module is to run it; if you trust it, name it "
            f"on the command line: {words}",
            code="untrusted-import",
        )


def leaves(node: Any, dotted: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all that is no mapping or list; a key that is a name to import counts as a value too."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            below = f"{dotted}.{key}" if dotted else str(key)
            if is_import_name(key):
                yield dotted, key
            yield from leaves(value, below)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from leaves(value, dotted)
    else:
        yield dotted, node


def _vouching(named: Iterable[tuple[str, str]], merged: Mapping[str, Any]) -> Iterator[str]:
    """One override a name that vouches for it and leaves the config as it is, written as a shell takes it."""
    keys: dict[str, list[str]] = {}
    for key, name in named:
        keys.setdefault(name, []).append(key)
    for name, stated in keys.items():
        # Not by the optimiser section where a stage states the name too: that section reaches every stage.
        key = min(stated, key=lambda each: (each.startswith("optimiser."), len(each)))
        node: Any = merged
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping):
            below = {} if isinstance(node.get(name), Mapping) else node.get(name)
            yield _word(key, f"{{{name}: {json.dumps(below)}}}")  # the name is a key there, such as a term's
        else:
            yield _word(key, json.dumps(node) if isinstance(node, (list, tuple)) else name)


def _word(key: str, value: str) -> str:
    return shlex.quote(f"{key}={value}")


def _pair(dotted: str, value: Any) -> str:
    return f"{dotted} {value}"


def _unpickled(task: Any) -> tuple[str, ...]:
    """The dotted options of a task that name files which are unpickled."""
    name = task.get("name") if isinstance(task, Mapping) else None
    if not isinstance(name, str) or name not in TASKS:
        return ()
    unpickled: tuple[str, ...] = task_class(name).Options.UNPICKLES
    return unpickled
