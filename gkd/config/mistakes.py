"""Turn validation errors of a config into sentences: one for each mistake, with its dotted path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from gkd.core.errors import unknown


def sentences(
    error: ValidationError, model: type[BaseModel], name: str, origins: Mapping[str, str] | None = None
) -> str:
    """Every mistake with its dotted path, one a line; an unknown key with its closest match.

    A mistake in the ``optimiser`` section, which is copied into all stages, stands once, under the key as written.
    """
    lines = []
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        written = (origins or {}).get(".".join(location[3:5]))
        shared = location[3:4] == ["optimiser"] and written is not None
        if shared and written == (origins or {}).get(".".join(location[:5])):
            dotted = ".".join(location[3:])
        else:
            dotted = ".".join(location)
        if item["type"] == "extra_forbidden":
            lines.append(f"{dotted}: {unknown('key', location[-1], _fields_at(model, location[:-1]))}")
        elif item["type"] == "missing":
            lines.append(f"{dotted}: this key is missing.")
        elif item["type"] == "model_type":
            lines.append(
                f"{dotted}: this is a section of keys, got {item['input']!r}; write {dotted}: {{key: value}}."
            )
        elif item["type"] == "value_error":
            lines.append(f"{dotted}: {str(item['msg']).removeprefix('Value error, ')}")
        else:
            lines.append(f"{dotted}: {item['msg']}, got {item['input']!r}.")
    unique = list(dict.fromkeys(lines))
    return (
        f"{name}: {unique[0]}"
        if len(unique) == 1
        else f"{name} has {len(unique)} mistakes:\n  " + "\n  ".join(unique)
    )


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
