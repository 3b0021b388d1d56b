"""The configuration reference: every key of an experiment file, from the pydantic schema and its docstrings.

What a key means stands once, under ``Attributes:`` in the docstring of the class that has the field.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gkd.config.identity import NO_EFFECT
from gkd.config.overrides import SECTIONS
from gkd.config.schema import Experiment, Student, Teacher
from gkd.methods.optimiser import Optimiser
from gkd.problems.task import PLAIN, TASKS, task_class

# Where a model that stands in several places has its table; elsewhere a row leads there.
_HOMES: dict[str, str] = {
    "Data": "data",
    "Taps": "teacher.taps",
    "TeacherTraining": "teacher.train",
    "Optimiser": "optimiser",
    "Mixup": "method.stages.STAGE.mixup",
    "Classes": "task.classes",
    "MapTap": "teacher.taps.embedding",
}
# What follows the key of a mapping or list whose values have keys of their own.
_PLACEHOLDERS = {
    "method.stages": ".STAGE",
    "method.stages.STAGE.terms": ".TERM",
    "compare.methods": "[]",
}
# Of these the content counts, wherever it is.
_BY_CONTENT = (
    "data.root", "data.fingerprint", "teacher.checkpoint", "teacher.sha256", "student.checkpoint",
)  # fmt: skip

_OTHERWISE = {
    "run.seed": "by a folder of its own",
    "run.teacher_cache_precision": "where data.views is given and the run may be in float32",
    "data.exif": "where an image says how it is turned",
}


class Key(NamedTuple):
    """A key of an experiment file as a row of the reference."""

    dotted: str
    type: str
    default: str
    meaning: str
    names_a_run: str


def sections() -> dict[str, list[Key]]:
    """Title of a section -> its keys; one for each task that gkd ships, then the others in the file's order."""
    shipped = [name for name, point in TASKS.items() if point.value.startswith("gkd.") and name != PLAIN]
    found = {f"task: {name}": list(_keys(task_class(name).Options, "task")) for name in (PLAIN, *shipped)}
    for name in SECTIONS[1:]:
        if name == "teachers":  # each is a section like teacher
            about = f"{meaning_of(Experiment, name)} Keys of `teacher`."
            found["teacher"].append(Key("teachers.NAME", "section", "–", about, names_a_run(name)))
            continue
        model = Optimiser if name == "optimiser" else _model(Experiment.model_fields[name].annotation)
        assert model is not None, name
        found[name] = list(_keys(model, name))
    return found


def configuration() -> str:
    """The reference as Markdown: a heading and a table for each section."""
    parts = []
    for title, keys in sections().items():
        rows = [[f"`{key.dotted}`", key.type, key.default, key.meaning, key.names_a_run] for key in keys]
        head = ["key", "type", "default", "meaning", "names the run"]
        lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
        parts.append(f"### {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n" + "\n\n".join(parts) + "\n"


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    """The keys of a model and of those below it, in the order of the fields."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}.{name}"
        below = _model(field.annotation)
        home = None if below is None else _HOMES.get(below.__name__, dotted)
        meaning = meaning_of(model, name) + (f" Keys of `{home}`." if home not in (None, dotted) else "")
        shown = _type(field.annotation, _limits(field))
        yield Key(dotted, shown, _default(field), meaning, names_a_run(dotted))
        if below is not None and home == dotted:
            yield from _keys(below, f"{dotted}{_PLACEHOLDERS.get(dotted, '')}")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds: itself, an optional one, or the values of a mapping or list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, Annotated, dict, tuple):
        found = [model for each in inner if (model := _model(each)) is not None]
        return found[0] if found else None
    return None


def names_a_run(dotted: str) -> str:
    """Whether another value is another run."""
    if any(f"{dotted}.".startswith(f"{key}.") for key in NO_EFFECT):
        return "no"
    return "by its content" if dotted in _BY_CONTENT else _OTHERWISE.get(dotted, "yes")


_ENTRY = re.compile(r"([a-z_][a-z0-9_]*(?:, [a-z_][a-z0-9_]*)*): ")


def meaning_of(model: type[BaseModel], name: str) -> str:
    """What the docstring of a model, or of a base class of it, says of a field.

    Raises:
        LookupError: they say nothing of it.
    """
    for cls in inspect.getmro(model):
        found = _attributes(cls).get(name)
        if found is not None:
            other = re.match(r"as in `(\w+)`", found)
            if other is not None:
                return meaning_of({"Teacher": Teacher, "Student": Student}[other[1]], name)
            return found
    raise LookupError(f"{model.__name__} says nothing of {name}; add it under Attributes: in its docstring")


def _attributes(cls: type) -> Mapping[str, str]:
    """Field -> the sentence under ``Attributes:`` in a class's own docstring."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    if "Attributes:" not in lines:
        return {}
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Attributes:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = _ENTRY.match(line.removeprefix("    "))
        if entry is not None:
            names = [each.strip() for each in entry[1].split(",")]
            found |= dict.fromkeys(names, line.removeprefix("    ")[entry.end() :].strip())
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: re.sub(r"\bNone\b", "null", text.replace("``", "`")) for name, text in found.items()}


def _limits(field: FieldInfo) -> str:
    """``1 or more``, ``above 0, below 1`` of a number's field."""
    words = {"ge": "{} or more", "gt": "above {}", "le": "{} at most", "lt": "below {}"}
    limits = [
        text.format(_number(getattr(each, name)))
        for name, text in words.items()
        for each in field.metadata
        if getattr(each, name, None) is not None
    ]
    return ", ".join(limits)


def _number(value: Any) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"


_PLAIN: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    Any: "any",
    type(None): "null",
}


def _type(annotation: Any, limits: str = "") -> str:
    """An annotation in words."""
    if annotation in _PLAIN:
        return _PLAIN[annotation] + (f", {limits}" if limits else "")
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{_yaml(each)}`" for each in inner)
    if origin is Annotated:
        return _type(inner[0], limits)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each, limits) for each in inner if each is not type(None)))
    if origin in (tuple, list):
        each = _type(inner[0])
        return f"list of {each}" if " or " not in each else f"list of ({each})"
    if origin in (dict, Mapping):
        if _model(inner[1]) is not None:
            return "sections by name"
        return f"{_type(inner[1])} by name" if inner[1] is not Any else "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    raise TypeError(f"no words for the type {annotation}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{_yaml(changed)}`" if changed else "–"
    assert value is not PydanticUndefined
    return "–" if value is None else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
