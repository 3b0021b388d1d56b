"""Turn validation errors of a config into sentences: one for each mistake, with its dotted path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from gkd.config.overrides import QUOTE, is_cut
from gkd.core.errors import shown, unknown
from gkd.methods.optimiser import Optimiser


def sentences(
    error: ValidationError,
    model: type[BaseModel],
    name: str,
    origins: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
) -> str:
    """Every mistake with its dotted path, one a line; an unknown key with its closest match; then those of ``also``.

    A mistake in the ``optimiser`` section, which is copied into all stages, stands once, under the key as written.
    """
    lines = []
    items = error.errors()
    inside = [item["loc"][:-1] for item in items]
    for item in items:
        if item["type"] == "too_short" and item["loc"] in inside:
            continue  # pydantic counts wrong entries as missing, too
        location = [str(part) for part in item["loc"]]
        written = (origins or {}).get(".".join(location[3:5]))
        shared = location[3:4] == ["optimiser"] and written is not None
        if shared and written == (origins or {}).get(".".join(location[:5])):
            dotted = ".".join(location[3:])
        else:
            dotted = ".".join(location)
        if item["type"] == "extra_forbidden":
            about = unknown("key", location[-1], _fields_at(model, location[:-1]))
            elsewhere = _sections_with(model, location[-1]) if len(location) == 1 else []
            if elsewhere:
                about = f"Unknown key {location[-1]!r}. Did you mean {' or '.join(elsewhere)}?"
            lines.append(f"{dotted}: {about}")
        elif item["type"] == "missing":
            lines.append(f"{dotted}: this key is missing.")
        elif item["type"] in ("model_type", "dict_type"):
            cut = isinstance(item["input"], str) and is_cut(item["input"])
            advice = QUOTE if cut else f"write {dotted}: {{key: value}}"
            lines.append(f"{dotted}: this is a section of keys, got {shown(item['input'])}; {advice}.")
        elif item["type"] in ("tuple_type", "list_type"):
            lines.append(f"{dotted}: this is a list, got {shown(item['input'])}; write {dotted}: [value].")
        elif item["type"] == "value_error":
            about = str(item["msg"]).removeprefix("Value error, ")
            lines.append(f"{dotted}: {about}" if dotted else about)  # of several sections
        else:
            lines.append(f"{dotted}: {item['msg']}, got {shown(item['input'])}.")
    told = {line.partition(": ")[0] for line in lines}
    return listed([*lines, *(line for line in also if line.partition(": ")[0] not in told)], name)


def listed(lines: Sequence[str], name: str) -> str:
    """Sentences on the mistakes of a config, each once."""
    unique = list(dict.fromkeys(lines))
    if len(unique) == 1:
        return f"{name}: {unique[0]}"
    return f"{name} has {len(unique)} mistakes:\n  " + "\n  ".join(unique)


_MOST, _MOST_WHOLE = 1e18, 2**63  # what float32 squares, and what 64 bits hold


def number_mistakes(merged: Mapping[str, Any]) -> list[str]:
    """Sentences on numbers that no computation bears: NaN, infinite or vast; options of others' code may be infinite.

    Args:
        merged: the config's sections; keys of ``optimiser`` are copied into all stages and told once.
    """
    vast = {dotted: value for dotted, value in _numbers(merged, "") if _is_vast(dotted, value)}
    return [
        f"{dotted}: {shown(value)} is no number that a setting takes; give one between -1e18 and 1e18."
        for dotted, value in vast.items()
        if not (dotted.startswith("method.") and f"optimiser.{dotted.partition('.optimiser.')[2]}" in vast)
    ]


def _is_vast(dotted: str, value: int | float) -> bool:
    if isinstance(value, int):
        return abs(value) >= _MOST_WHOLE
    return not abs(value) <= _MOST and ".options." not in dotted  # so is NaN


def _numbers(node: Any, dotted: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _numbers(value, f"{dotted}.{key}" if dotted else str(key))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _numbers(value, dotted)
    elif isinstance(node, (int, float)):
        yield dotted, node


def _sections_with(model: type[BaseModel], key: str) -> list[str]:
    """The dotted keys that end in a key which stands at the top, where no key belongs."""
    direct = [section for section in model.model_fields if section != "teachers"]  # of which names come first
    sections = {**{section: _fields_at(model, [section]) for section in direct}, **_FREE_SECTIONS}
    return [f"{section}.{key}" for section, keys in sections.items() if key in keys]


# Sections of the schema whose keys are copied elsewhere before they are looked at.
_FREE_SECTIONS = {"optimiser": list(Optimiser.model_fields)}


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The keys that the schema allows at a place."""
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else current
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        current = models[0] if models else annotation
    return list(getattr(current, "model_fields", {}))
