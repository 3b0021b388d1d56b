"""Metadata of a network in the header of its weight file.

Reading a header imports nothing, whatever names it holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.storage.preprocessing import KEY, Preprocessing
from gkd.storage.weight_sets import WeightFile
from gkd.storage.weights import read_header, tensors_hash

TENSORS = "tensors:"
_DECISIVE = ("classes", "mean", "std", "options", "taps")  # what a header says that a run depends on
_MEANS = "class_means"
# Numbers: 4 MiB, which a header holds at a third more; 1000 classes of an embedding of 1024.
_MOST_MEANS = 2**20
_A_RUNS_FILE = "the weight files of gkd's runs do"


@dataclass(frozen=True)
class WeightMetadata:
    """Metadata of the network in a weight file; None or empty where the file states nothing.

    Attributes:
        network: the name that builds it.
        classes: the names of its columns.
        mean, std: of its input, one number a channel, in [0, 1] pixel units.
        image_shape: ``(C, H, W)`` of the images that it was trained on.
        method: the name of the method that trained it.
        options, taps: that it was built with.
        test_accuracy: in percent, as its run measured it.
        preprocessing: of photographs, and which classifier answers.
        class_means: ``[C, D]``, float32 at unit length, of a run that no head answers for; None also where they are
            too many for a header.
    """

    network: str | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, Any] = field(default_factory=dict)
    test_accuracy: float | None = None
    preprocessing: Preprocessing | None = None
    class_means: Tensor | None = field(default=None, compare=False)

    @classmethod
    def read(cls, path: Path) -> WeightMetadata:
        """The metadata of a weight file, whose tensors are not read; empty of a torch file, which has no header.

        Raises:
            UserError: a missing or unreadable file, or an entry that is not what gkd writes there.
        """
        return cls.from_header(read_header(path), path)

    @classmethod
    def from_header(cls, header: Mapping[str, str], path: Path) -> WeightMetadata:
        """The metadata in the strings of ``read_header``; entries of other names are ignored.

        Raises:
            UserError: an entry that is not what gkd writes there; ``path`` names its file.
        """
        values: dict[str, Any] = {}
        for key, reader in _READERS.items():
            if key not in header:
                continue
            try:
                values[key] = reader(header[key])
            except UserError:
                raise
            except (ValueError, RecursionError) as error:
                reason = "it is nested without end" if isinstance(error, RecursionError) else error
                raise UserError(
                    f"What {path} says of its {key} cannot be read ({reason}); the file was changed by something "
                    "else, or another program uses that name.",
                    code="header-unreadable",
                ) from None
        metadata = cls(**values)
        odd = metadata._contradiction()
        if odd is not None:
            raise UserError(
                f"What {path} says cannot be: its {odd}; the file was changed by something else, or another program "
                "uses those names.",
                code="header-unreadable",
            )
        return metadata

    def _contradiction(self) -> str | None:
        """Two entries that do not go together, as the end of a sentence; None without any."""
        for one, other in (("mean", "std"), ("classes", _MEANS)):
            values, others = getattr(self, one), getattr(self, other)
            if values is not None and others is not None and len(values) != len(others):
                return f"{one} is of {len(values)} entries, and its {other} of {len(others)}"
        return None

    def to_header(self) -> dict[str, str]:
        """The strings that ``from_header`` reads, without empty entries."""
        values = {key: getattr(self, key) for key in _WRITERS}
        header = {key: _WRITERS[key](value) for key, value in values.items() if value not in (None, {})}
        if self.class_means is not None and self.class_means.numel() <= _MOST_MEANS:
            header[_MEANS] = _means_text(self.class_means)
        if self.preprocessing is not None and not self.absent():
            header[KEY] = self.complete(Path()).described(self.preprocessing, inside=False)
        return header

    def absent(self) -> list[str]:
        """The names of the values that ``complete`` needs and that are missing."""
        return [key for key in _NEEDED if getattr(self, key) is None]

    def complete(self, path: Path, remedy: str = _A_RUNS_FILE) -> CompleteMetadata:
        """The entries that build and feed the network, as every run writes them, none missing.

        Args:
            path: the file, for the error.
            remedy: the end of the error: which files have them all.

        Raises:
            UserError: a missing value.
        """
        network, classes, mean, std, image_shape = (
            self.network, self.classes, self.mean, self.std, self.image_shape
        )  # fmt: skip
        if network is None or classes is None or mean is None or std is None or image_shape is None:
            raise UserError(
                f"{path} does not say its {', '.join(self.absent())}; {remedy}.", code="metadata-missing"
            )
        return CompleteMetadata(network, classes, mean, std, image_shape)


@dataclass(frozen=True)
class CompleteMetadata:
    """The fields of ``WeightMetadata`` that build and feed a network, none missing."""

    network: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]

    def described(self, preprocessing: Preprocessing, *, inside: bool, by_means: bool = False) -> str:
        """``Preprocessing.describe`` for this network, as JSON."""
        description = preprocessing.describe(
            mean=self.mean,
            std=self.std,
            image_shape=self.image_shape,
            classes=self.classes,
            inside=inside,
            by_means=by_means,
        )
        return json.dumps(description, allow_nan=False)


_NEEDED = tuple(CompleteMetadata.__dataclass_fields__)


def weights_name(file: WeightFile, key: str | None = None) -> str:
    """``tensors:`` and 64 hex digits over what a weight file gives a run, however the file is arranged.

    That is the tensors by their names, and what the header says of classes, normalisation, options and taps.

    Args:
        file: of ``read_weight_file``.
        key: the entry of the file that is taken; None takes what a run takes by default.

    Raises:
        UserError: no such entry, or a header that is not what gkd writes there.
    """
    metadata = WeightMetadata.from_header(file.header, file.path).to_header()
    said = {name: metadata[name] for name in _DECISIVE if name in metadata}
    digest = tensors_hash(file.tensors_of_run(key))
    if said:
        digest = hashlib.sha256(f"{digest}{json.dumps(said, sort_keys=True)}".encode()).hexdigest()
    return f"{TENSORS}{digest}"


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


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(map(float, text.split(",")))
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{text[:60]!r} is not finite")
    return numbers


def _spread(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if min(numbers) <= 0:
        raise ValueError(f"{text[:60]!r} is not above 0, and images are divided by it")
    return numbers


def _number(text: str) -> float:
    numbers = _numbers(text)
    if len(numbers) > 1:
        raise ValueError(f"{text[:60]!r} is no single number")
    return numbers[0]


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(int, text.split(",")))
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{text[:60]!r} is no C,H,W")
    return shape


def _means(text: str) -> Tensor:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"{text[:60]!r} is no mapping")
    shape, numbers = content.get("shape"), content.get("float32")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"its shape is {str(shape)[:60]}, not [classes, numbers]")
    values = np.frombuffer(base64.b64decode(str(numbers), validate=True), "<f4")
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise ValueError(f"it holds {values.size} numbers, not {shape[0]} times {shape[1]} finite ones")
    return torch.from_numpy(values.astype(np.float32)).view(shape)


def _means_text(means: Tensor) -> str:
    numbers = means.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes()
    return json.dumps({"shape": list(means.shape), "float32": base64.b64encode(numbers).decode()})


def _listed(values: Sequence[float]) -> str:
    return ",".join(map(str, values))


_READERS: dict[str, Callable[[str], Any]] = {
    "network": str,
    "classes": _names,
    "mean": _numbers,
    "std": _spread,
    "image_shape": _shape,
    "method": str,
    "options": _mapping,
    "taps": _mapping,
    "test_accuracy": _number,
    _MEANS: _means,
    KEY: Preprocessing.parse,
}
_WRITERS: dict[str, Callable[[Any], str]] = {
    "network": str,
    "classes": lambda names: json.dumps(list(names)),
    "mean": _listed,
    "std": _listed,
    "image_shape": _listed,
    "method": str,
    "options": json.dumps,
    "taps": json.dumps,
    "test_accuracy": "{:.2f}".format,
}
