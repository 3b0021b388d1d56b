"""Degenerate tensors through every loss.

Survived: a finite value with finite gradients, both those of the rows under the mask; or, of what is no input (labels
that are no column, a mask of another length, NaN), a sentence or a value that is not finite. Lost: a value or a
gradient that is not finite although all that was given is; ordinary inputs refused. Silently different: another value
or gradient than that of the selected rows, of the same numbers in float32 (the value), of the same labels or mask in
another type; a value spoilt by what the mask leaves out; NaN that cannot be seen. Traceback: an exception that is no
sentence of gkd.
"""

from __future__ import annotations

import math
import random as standard_random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.losses import LOSSES
from gkd.losses.signature import Option, signature_of
from tests.faults.verdict import Outcome, Verdict, survived
from tests.faults.workshop import Workshop, seeded
from tests.losses.all_specs import SPECS
from tests.losses.test_contract import is_student, per_sample

COUNT = 5000
Inputs = dict[str, Tensor]
# A tensor [B, ...] -> one of the same shape. Those up to LARGE must give finite values, where the loss is no power.
FILLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "ordinary": lambda x: x,
    "zeros": torch.zeros_like,
    "negative zeros": lambda x: -torch.zeros_like(x),
    "equal rows": lambda x: x[:1].expand_as(x).clone(),
    "equal entries": lambda x: torch.full_like(x, 0.3),
    "one zero row": lambda x: torch.cat([0 * x[:1], x[1:]]),
    "all but one row zero": lambda x: torch.cat([x[:1], 0 * x[1:]]),
    "one entry a row": lambda x: x * (torch.arange(x[:1].numel()).view(x[:1].shape) == 0),
    "nearly equal rows": lambda x: x[:1] + 1e-7 * x,
    "rows of many scales": lambda x: x * _column(10.0 ** torch.linspace(-15, 4, len(x)), x),
    "small": lambda x: 1e-15 * x,
    "denormal": lambda x: (torch.sign(x) * 1e-42).to(x.dtype),
    "large": lambda x: 1e4 * x,
    "huge": lambda x: 1e30 * x,
    "inf": lambda x: torch.cat([torch.full_like(x[:1], torch.inf), x[1:]]),
    "-inf": lambda x: torch.cat([torch.full_like(x[:1], -torch.inf), x[1:]]),
    "nan": lambda x: torch.full_like(x, torch.nan),
}
BEYOND = ("huge", "inf", "-inf", "nan")  # for these a value that is not finite is right
_ORDINARY = 1e9  # the selected rows alone are judged where all that they hold is below it
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
}
# Of Bool [B]; what may be refused as well as read as the same rows.
MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "bool": lambda mask: mask,
    "float": lambda mask: mask.float(),
    "int": lambda mask: mask.int(),
    "too short": lambda mask: mask[1:],
}
LABELS: dict[str, Callable[[Tensor], Tensor]] = {
    "int64": lambda labels: labels,
    "one class": torch.zeros_like,
    "int32": lambda labels: labels.int(),
    "uint8": lambda labels: labels.to(torch.uint8),
    "float": lambda labels: labels.float(),
    "no column": lambda labels: labels + 100,
    "negative": lambda labels: labels - 100,
}
SAME = ("int32", "uint8", "float")  # the same labels in another type: read as such, or refused


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)


@dataclass(frozen=True)
class Case:
    """One call of a loss.

    Attributes:
        name: the loss's.
        inputs: what it reads.
        options: its hyper-parameters.
        mask: of its rows, or None.
        plain: the inputs and the mask in the types that a loss asks for, where the values are the same.
        told: what is degenerate.
        may_refuse: whether a sentence is a right answer.
        may_be_infinite: whether a value that is not finite is a right answer.
        shows_nan: whether a NaN was given that must be seen.
    """

    name: str
    inputs: Inputs
    options: dict[str, Any]
    mask: Tensor | None
    plain: tuple[Inputs, Tensor | None]
    told: str
    may_refuse: bool
    may_be_infinite: bool
    shows_nan: bool


def case_of(number: int) -> Case:
    """The case of a number."""
    random = seeded("tensors", number)
    name = list(LOSSES)[number % len(LOSSES)]
    spec = SPECS[name]
    options = dict(random.choice(spec.options))
    batch = random.choice((0, 1, 2, 3, 6, 6, 9))
    dtype, layout = random.choice(DTYPES), random.choice(list(LAYOUTS))
    inputs = {key: x.to(dtype) if x.is_floating_point() else x for key, x in spec.make(batch).items()}
    told, fillings = [], set()
    for key, x in inputs.items():
        if x.is_floating_point() and per_sample(key) and key != "labels" and batch:
            filling = random.choice(list(FILLINGS) if random.random() < 0.7 else ["ordinary"])
            fillings.add(filling)
            inputs[key] = LAYOUTS[layout](FILLINGS[filling](x))
            told.append(f"{key} {filling}")
    if random.random() < 0.2:
        options |= _extreme_option(name, options, random, told)
    plain_inputs, labels_as = dict(inputs), "int64"
    if "labels" in inputs and not inputs["labels"].is_floating_point() and batch:
        labels_as = random.choice(list(LABELS))
        changed = LABELS[labels_as](inputs["labels"])
        inputs["labels"] = changed
        plain_inputs["labels"] = plain_inputs["labels"] if labels_as in SAME else changed
        told.append(f"labels {labels_as}")
    mask = plain_mask = None
    mask_as = "bool"
    if random.random() < 0.6:
        plain_mask = torch.tensor(
            [random.random() < random.choice((0.0, 0.5, 1.0)) for _ in range(batch)]
        ).bool()
        mask_as = random.choice(list(MASKS)) if batch else "bool"
        mask = MASKS[mask_as](plain_mask)
        told.append(f"mask {mask_as} {plain_mask.sum()} of {batch}")
    grows = options in list(spec.grows)
    return Case(
        name=name,
        inputs=inputs,
        options=options,
        mask=mask,
        plain=(plain_inputs, plain_mask),
        told=f"{name} {options or ''} {str(dtype)[6:]} [{batch}] {layout}: {', '.join(told)}",
        may_refuse=labels_as not in ("int64", "one class") or mask_as != "bool",
        may_be_infinite=bool(fillings & set(BEYOND))
        or (grows and "large" in fillings)
        or (dtype == torch.float16 and bool(fillings & {"large", "rows of many scales"})),
        shows_nan="nan" in fillings,
    )


def _extreme_option(
    name: str, options: dict[str, Any], random: standard_random.Random, told: list[str]
) -> dict[str, Any]:
    """An option at the end of what its signature allows."""
    stated = signature_of(LOSSES[name].function).options
    candidates = {
        key: values
        for key, option in stated.items()
        if (values := [value for value in _ends(option) if option.problem(key, value) is None])
    }
    if not candidates:
        return {}
    key = random.choice(list(candidates))
    chosen = {key: random.choice(candidates[key])}
    refusal = LOSSES[name].refusal
    if refusal is not None and refusal({**LOSSES[name].options, **options, **chosen}) is not None:
        return {}
    told.append(f"{key}={chosen[key]}")
    return chosen


def _ends(option: Option) -> list[Any]:
    if option.words:
        return list(option.words)
    if option.kind is bool:
        return [True, False]
    return [0, 1, 2, 7, 100, 1000] if option.kind is int else [0.0, 0.01, 1.0, 100.0]


def try_one(number: int, workshop: Workshop | None = None) -> Verdict:
    """A call of a loss with its gradients, compared with the call on the selected rows in plain types."""
    case = case_of(number)
    try:
        called = _called(case.name, case.inputs, case.options, case.mask)
    except UserError as error:
        return survived(case.told) if case.may_refuse else _verdict(Outcome.LOST, case, f"refused: {error}")
    except Exception as error:
        return _verdict(Outcome.TRACEBACK, case, f"{type(error).__name__}: {error}")
    if not called.finite and not case.may_be_infinite:
        return _verdict(Outcome.LOST, case, f"gives {called.value}")
    inputs, mask = case.plain
    rows = (
        torch.arange(len(inputs[next(filter(per_sample, inputs))])) if mask is None else mask.nonzero()[:, 0]
    )
    alone = {key: _plain(x[rows] if per_sample(key) else x) for key, x in inputs.items()}
    try:
        expected = _called(case.name, alone, case.options, None)
    except UserError:  # what the selected rows alone are refused for
        return survived(case.told)
    seen = _difference(called, expected, rows, alone)
    hidden = case.shows_nan and called.finite and expected.finite and expected.value != 0
    if not seen and hidden and len(rows):
        seen = f"NaN is hidden behind {float(called.value)}"
    return _verdict(Outcome.DIFFERENT, case, seen) if seen else survived(case.told)


@dataclass(frozen=True)
class _Called:
    """What a loss gave: its value, and its gradient by the name of each of the student's inputs."""

    value: Tensor
    gradients: dict[str, Tensor]

    @property
    def finite(self) -> bool:
        return all(bool(x.isfinite().all()) for x in (self.value, *self.gradients.values()))


def _difference(called: _Called, expected: _Called, rows: Tensor, alone: Inputs) -> str:
    """How a call differs from that on its rows alone, in a few words; empty where it does not.

    Args:
        called: with all rows, and the mask.
        expected: with the selected rows.
        rows: their numbers.
        alone: what the selected rows hold.
    """
    if not called.finite:  # right where the selected rows, or the gradient, are beyond what can be computed
        ordinary = all(float(x.double().abs().max()) < _ORDINARY for x in alone.values() if x.numel())
        fits = all(
            bool((x.abs() < torch.finfo(called.gradients[key].dtype).max).all())
            for key, x in expected.gradients.items()
        )
        spoilt = ordinary and fits and expected.finite
        return f"gives {called.value}, its rows alone {expected.value}" if spoilt else ""
    value, other = float(called.value), float(expected.value)
    if math.isfinite(other) and not math.isclose(value, other, rel_tol=1e-3, abs_tol=1e-6):
        return f"gives {value}, its rows alone {other}"
    for key, gradient in called.gradients.items() if expected.finite else ():
        if gradient.dtype not in (torch.float32, torch.float64):  # a gradient rounded to 8 bits says little
            continue
        if per_sample(key):
            if gradient.index_fill(0, rows, 0).any():
                return f"has a gradient of {key} in rows that the mask leaves out"
            gradient = gradient[rows]
        right = expected.gradients[key].double()
        scale = float(right.abs().max()) if right.numel() else 0.0
        far = (gradient.double() - right).abs()
        if (far > 1e-3 * scale + 1e-12).any():
            return f"has a gradient of {key} that is {float(far.max()):.3g} from that of its rows alone"
    return ""


def _verdict(outcome: Outcome, case: Case, seen: str) -> Verdict:
    return Verdict(outcome, f"{case.told}: {' '.join(seen.split())[:200]}")


def _plain(x: Tensor) -> Tensor:
    """As float32 where it is of half precision, contiguous."""
    return (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).contiguous()


def _called(name: str, inputs: Inputs, options: dict[str, Any], mask: Tensor | None) -> _Called:
    """A call of a loss, with its gradients."""
    leaves = {key: x.detach().clone().requires_grad_() for key, x in inputs.items() if is_student(key)}
    function = LOSSES[name].function
    given = {**inputs, **leaves}
    value = function(*(given[need] for need in signature_of(function).needs), **options, mask=mask)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return _Called(value.detach(), dict(zip(leaves, gradients, strict=True)))
