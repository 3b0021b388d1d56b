"""A short representation of records that hold tensors, networks or thousands of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor, nn

_SHOWN = 4  # entries of a long sequence or mapping


def short_repr(record: Any) -> str:
    """``Name(field=value, ...)`` of a dataclass, for its ``__repr__``: arrays as type and shape, a long list cut.

    Fields that are None, an empty mapping, or empty by default are left out.
    """
    values = ((field, getattr(record, field.name)) for field in fields(record) if field.repr)
    stated = ((field.name, value) for field, value in values if not _says_nothing(value, field.default))
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in stated)
    return f"{type(record).__name__}({shown})"


def _says_nothing(value: Any, default: Any) -> bool:
    empty = isinstance(value, (Mapping, tuple)) and not value
    return value is None or (empty and (isinstance(value, Mapping) or default == ()))


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        parts = [f"{key!r}: {_shown(entry)}" for key, entry in list(value.items())[:_SHOWN]]
        return f"{{{', '.join([*parts, *_rest(len(value))])}}}"
    if isinstance(value, (tuple, list)):
        parts = [_shown(entry) for entry in value[:_SHOWN]]
        return f"({', '.join([*parts, *_rest(len(value))])}{',' if len(value) == 1 else ''})"
    return repr(value)


def _rest(count: int) -> list[str]:
    return [f"... {count - _SHOWN} more"] if count > _SHOWN else []
