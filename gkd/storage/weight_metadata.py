"""What a weight file says of its network: read once, in one place, and never believed to import anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd.core.errors import UserError


@dataclass(frozen=True)
class WeightFacts:
    """The metadata of a weight file; None or empty where it says nothing.

    Attributes:
        network: the name that builds it.
        classes: the names of its columns.
        mean, std: of its input, one number a channel, in [0, 1] pixel units.
        image_shape: ``(C, H, W)`` of the images that it was trained on.
        options, taps: what it was built with.
        test_accuracy: in percent, as its run found it.
    """

    network: str | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, Any] = field(default_factory=dict)
    test_accuracy: float | None = None

    @classmethod
    def read(cls, metadata: Mapping[str, str], path: Path) -> WeightFacts:
        """The facts in ``read_weights``'s metadata.

        Raises:
            UserError: an entry that is not what gkd writes there.
        """
        readers: dict[str, Callable[[str], Any]] = {
            "network": str,
            "classes": _names,
            "mean": lambda text: tuple(map(float, text.split(","))),
            "std": lambda text: tuple(map(float, text.split(","))),
            "image_shape": _shape,
            "options": _mapping,
            "taps": _mapping,
            "test_accuracy": float,
        }
        found: dict[str, Any] = {}
        for key, reader in readers.items():
            if key not in metadata:
                continue
            try:
                found[key] = reader(metadata[key])
            except ValueError as error:
                raise UserError(
                    f"What {path} says of its {key} cannot be read ({error}); the file was changed by something "
                    "else, or another program uses that name."
                ) from None
        return cls(**found)


def _names(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{text[:60]!r} is no list of class names")
    return tuple(names)


def _mapping(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"{text[:60]!r} is no mapping")
    return content


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(int, text.split(",")))
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{text[:60]!r} is no C,H,W")
    return shape
