"""The signature of a loss: its inputs, its options with their ranges and words, and what the caller fills in.

- A **positional** parameter is read from the step; its name is one of ``gkd.losses.NEEDS``.
- A **keyword-only** parameter is an option of the term, a number, a word or true/false; its range stands beside its
  type, as in ``temperature: Annotated[float, Range(above=0)] = 4.0``, and its words in a ``Literal``.
- A keyword-only parameter of the types ``Mask``, ``Weights``, ``Drawn``, ``Kept``, ``BankLabels`` or ``NumClasses`` is
  filled by the caller.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from gkd.core.errors import UserError, shown, unknown

__all__ = ["BankLabels", "Drawn", "Kept", "Mask", "NumClasses", "Range", "Weights"]

P = ParamSpec("P")
R = TypeVar("R")


class Filled(Enum):
    """The mark of a parameter that the caller fills, per batch or per run; no option of a term."""

    MASK = "the rows that count"
    WEIGHTS = "the weight of each row"
    DRAWN = "the numbers of the negatives"
    KEPT = "the channels of each row that are kept"
    BANK_LABELS = "the training set's labels"
    NUM_CLASSES = "the number of classes that are compared"


Mask = Annotated[Tensor | None, Filled.MASK]  # Bool [B]
Weights = Annotated[Tensor | None, Filled.WEIGHTS]  # [B]
Drawn = Annotated[Tensor | None, Filled.DRAWN]  # int64 [B, K]
Kept = Annotated[Tensor | None, Filled.KEPT]  # Bool [B, C]
NumClasses = Annotated[int, Filled.NUM_CLASSES]  # the shared ones beside a teacher's logits
BankLabels = Annotated[Tensor, Filled.BANK_LABELS]  # int64 [N], by sample number


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes; None: no bound on that side."""

    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def problem(self, name: str, value: float) -> str | None:
        """Why a number is outside the range, or None."""
        if self.above is not None and not value > self.above:
            return f"{name}={value!r} is not above {self.above:g}"
        if self.at_least is not None and value < self.at_least:
            return f"{name}={value!r} is below {self.at_least:g}"
        if self.at_most is not None and value > self.at_most:
            return f"{name}={value!r} is above {self.at_most:g}"
        return None


ANY_NUMBER = Range()
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Count = Annotated[int, Range(at_least=1)]
Share = Annotated[float, Range(at_least=0, at_most=1)]


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def number_problem(name: str, value: Any, bounds: Range) -> str | None:
    """Why a value is no finite number within a range, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        return f"{name}={shown(value)} is not a finite number"
    return bounds.problem(name, value)


@dataclass(frozen=True)
class Option:
    """One option of a loss, as its signature states it.

    Attributes:
        default: its value where a method does not set it; ``REQUIRED`` where the method must.
        kind: ``bool``, ``int``, ``float`` or ``str``.
        words: the allowed words of an option that takes one of them.
        bounds: the allowed numbers, where the signature states them.
    """

    REQUIRED = inspect.Parameter.empty

    default: Any
    kind: type
    words: tuple[str, ...] = ()
    bounds: Range | None = None

    @property
    def required(self) -> bool:
        return self.default is self.REQUIRED

    def problem(self, name: str, value: Any) -> str | None:
        """Why this option does not take a value, or None: by its type, then by its range."""
        if self.words:
            return None if value in self.words else unknown(name, str(value), self.words)
        if self.kind is bool:
            return None if isinstance(value, bool) else f"{value!r} is not true or false"
        if self.kind is str:
            return None if isinstance(value, str) else f"{name}={value!r} is not a word"
        problem = number_problem(name, value, self.bounds or ANY_NUMBER)
        if problem is None and self.kind is int and not isinstance(value, int):
            problem = f"{name}={value!r} is not a whole number"
        return problem


@dataclass(frozen=True)
class Signature:
    """The parameters of a loss: its inputs in order, its options, and those that the caller fills, by name."""

    needs: tuple[str, ...]
    options: Mapping[str, Option]
    filled: Mapping[Filled, str]


@functools.cache
def signature_of(function: Callable[..., Any]) -> Signature:
    """The inputs, options and filled parameters of a function, read off its signature.

    Raises:
        UserError: a keyword-only parameter that is neither an option nor marked as filled by the caller.
    """
    hints = get_type_hints(function, include_extras=True)
    needs, options, filled = [], {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        markers = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Filled)]
        if markers:
            filled[markers[0]] = name
        elif parameter.kind is parameter.KEYWORD_ONLY:
            options[name] = _option(name, hint, parameter.default)
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name != "self":
            needs.append(name)
    return Signature(tuple(needs), MappingProxyType(options), MappingProxyType(filled))


def _option(name: str, hint: Any, default: Any) -> Option:
    ranges = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Range)]
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    words = get_args(plain) if get_origin(plain) is Literal else ()
    kind = str if words else plain if default is Option.REQUIRED else type(default)
    if kind not in (bool, int, float, str):
        raise UserError(
            f"the keyword {name!r} is no option (a number, a word, true or false) and not marked as filled by the "
            "caller; annotate it with gkd.losses.Mask, Weights or BankLabels, or give it a default such as 1.0.",
            code="not-an-option",
        )
    return Option(default, kind, words, ranges[0] if ranges else None)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse options outside the ranges and words that its signature states.

    Column numbers (labels, index, way) of another integer type become int64. Numbers where truth values belong, as in a
    mask, are refused: they could be weights or row numbers. No value is read, so that a step on a GPU waits for none.
    """
    signature = signature_of(function)
    stated = {name: option for name, option in signature.options.items() if option.words or option.bounds}
    kinds = _tensor_kinds(signature)
    if not stated and not kinds:
        return function
    positions = list(inspect.signature(function).parameters)
    student_name = signature.needs[0] if signature.needs else ""
    first = positions.index(student_name) if student_name else len(positions)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        student = args[first] if len(args) > first else kwargs.get(student_name)
        rows = student.shape[0] if isinstance(student, Tensor) and student.dim() > 0 else None

        def fitting(name: str, value: Any) -> Any:
            return _fitting(kinds[name], name, value, rows) if name in kinds and value is not None else value

        def number(name: str, value: Any) -> Any:
            if name not in stated:
                return value
            _refuse(stated[name], name, value)
            # A power of a large integer is one that no tensor takes.
            return float(value) if stated[name].kind is float and type(value) is int else value

        named = {name: fitting(name, number(name, value)) for name, value in kwargs.items()}
        given = [fitting(name, value) for name, value in zip(positions, args, strict=False)]
        return function(*given, *args[len(given) :], **named)  # type: ignore[arg-type]

    return call


_COLUMNS, _TRUTH = "whole numbers", "truth values"
_INPUT_KINDS = {"labels": _COLUMNS, "index": _COLUMNS, "way": _COLUMNS, "support": _TRUTH, "known": _TRUTH}
_ONE_A_ROW = ("mask", "labels", "index", "way", "support")
_FILLED_KINDS = {
    Filled.MASK: _TRUTH,
    Filled.KEPT: _TRUTH,
    Filled.DRAWN: _COLUMNS,
    Filled.BANK_LABELS: _COLUMNS,
}


def _tensor_kinds(signature: Signature) -> dict[str, str]:
    """Parameter -> what its tensor holds, of those that hold no measurements."""
    filled = {name: _FILLED_KINDS[mark] for mark, name in signature.filled.items() if mark in _FILLED_KINDS}
    return {name: _INPUT_KINDS[name] for name in signature.needs if name in _INPUT_KINDS} | filled


def _fitting(kind: str, name: str, value: Any, rows: int | None) -> Tensor:
    """A tensor of whole numbers as int64, or of truth values as it is; another kind or shape is refused.

    Args:
        kind: what it holds.
        name: the parameter's.
        value: what was given.
        rows: of the student's side, where that is known.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{name} is a {type(value).__name__}; give a tensor of {kind}.", code="not-a-tensor")
    if name == "labels" and value.dim() == 2 and (value.is_floating_point() or value.shape[1] > 1):
        return value  # distributions over classes, or which classes a mixture holds
    if kind is _TRUTH and value.dtype != torch.bool:
        raise UserError(
            f"{name} is {value.dtype} and holds {kind}; give torch.bool, such as {name} > 0.",
            code="not-boolean",
        )
    if kind is _COLUMNS and (value.dtype == torch.bool or value.is_floating_point() or value.is_complex()):
        more = ", or [B, C] for distributions over classes" if name == "labels" else ""
        raise UserError(
            f"{name} is {value.dtype} and holds {kind}; give torch.int64{more}.", code="not-whole-numbers"
        )
    if name in _ONE_A_ROW and value.dim() != 1:
        raise UserError(f"{name} is {list(value.shape)}; give [B], one a row.", code="not-a-vector")
    if name == "mask" and rows is not None and value.shape[0] != rows:
        raise UserError(
            f"The mask has {value.shape[0]} rows, the student's side {rows}; give one truth value a row.",
            code="other-batch-sizes",
        )
    return value.long() if kind is _COLUMNS else value


def _refuse(option: Option, name: str, value: Any) -> None:
    if option.words:
        if value not in option.words:
            raise UserError(unknown(name, str(value), option.words), code="unknown-option-value")
        return
    problem = number_problem(name, value, option.bounds or ANY_NUMBER)
    if problem is not None:
        finite = number_problem(name, value, ANY_NUMBER) is None
        raise UserError(
            f"{problem}; choose another value.", code="option-out-of-range" if finite else "not-a-number"
        )
