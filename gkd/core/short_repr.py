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

    Fields that are None or an empty mapping are left out.
    """
    values = ((field.name, getattr(record, field.name)) for field in fields(record) if field.repr)
    stated = (
        pair for pair in values if not (pair[1] is None or (isinstance(pair[1], Mapping) and not pair[1]))
    )
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in stated)
    return f"{type(record).__name__}({shown})"


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
