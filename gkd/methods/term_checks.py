"""A term against its loss, before it is one: each check yields (key, problem)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gkd.core.errors import UserError, unknown
from gkd.losses.registry import Loss, loss_entry
from gkd.losses.signature import Filled
from gkd.methods.spots import Spots

ALL = "all"  # of Term.teacher: every teacher that there is
ONLY = "teacher"  # the name of a teacher that was given without one
PREVIOUS = "previous"  # the previous step's model, beside teachers that have names

Mistake = tuple[str, str]
Check = Callable[[str, Loss, Mapping[str, Any]], Iterator[Mistake]]


def mistakes(data: Mapping[str, Any], keys: list[str]) -> Iterator[Mistake]:
    """The mistakes in a term as a method writes it, except those of its keys' types."""
    name = data.get("loss")
    if not isinstance(name, str):
        return
    try:
        entry = loss_entry(name)
    except UserError:
        return  # reported for the key ``loss``
    options = [*_wrong_options(name, entry, data, keys)]
    yield from options or _refused_together(name, entry, data)
    for check in _CHECKS:
        yield from check(name, entry, data)


def _wrong_options(name: str, entry: Loss, data: Mapping[str, Any], keys: list[str]) -> Iterator[Mistake]:
    """Options that the loss does not take, values out of range, and required options without a value."""
    for key in data.keys() - set(keys):
        option = entry.stated_options.get(key)
        if option is None:
            yield (
                key,
                unknown(f"option of the loss {name!r}", str(key), [*entry.stated_options, *keys]),
            )
            continue
        problem = option.problem(key, data[key])
        if problem and option.kind in (int, float) and not option.required:
            problem = f"{problem}; the loss {name!r} takes one such as {option.default!r}"
        if problem:
            yield key, problem
    for key, option in entry.stated_options.items():
        if key in keys:
            yield (
                "loss",
                f"the option {key!r} of the loss {name!r} has the name of a key of every term; rename it",
            )
        if option.required and key not in data:
            yield key, f"the loss {name!r} has no default for {key}; give it a value"


def _refused_together(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Options that are undefined together."""
    if entry.refusal is not None:
        options = {key: value for key, value in data.items() if key in entry.stated_options}
        problem = entry.refusal({**entry.options, **options})
        if problem:
            yield "loss", problem


def _spots_of_a_loss_without(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    if data.get("at") not in (None, Spots().model_dump()) and not entry.spot_needs:
        yield "at", f"the loss {name!r} reads {', '.join(entry.needs)}, so it has no spots to choose"


def _rows_without_target(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    if data.get("rows") == "all" and entry.needs_target:
        yield "rows", f"the loss {name!r} needs a target among the shared classes; use rows: known"


def _weights_that_are_not_taken(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    if data.get("confidence") is not None and Filled.WEIGHTS not in entry.filled:
        yield "confidence", f"the loss {name!r} takes no sample weights, so confidence cannot be set"


def _head_of_another_loss(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    if data.get("head") == "auxiliary" and not entry.takes_auxiliary_head:
        yield (
            "head",
            f"the loss {name!r} reads {', '.join(entry.needs)}, where an auxiliary head gives "
            "student_logits and their labels alone, as for cross_entropy",
        )


def _teacher_that_is_not_read(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    if data.get("teacher") is not None and not entry.needs_teacher:
        yield "teacher", f"the loss {name!r} reads {', '.join(entry.needs)}, so it has no teacher to name"


def _teachers_that_cannot_be_combined(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    teacher = data.get("teacher")
    if isinstance(teacher, (list, tuple)):
        if not teacher:
            yield "teacher", "the list of teachers is empty; name one, or leave the key out for the first"
        elif ALL in teacher:
            yield (
                "teacher",
                f"{ALL} stands for every teacher, so it is no name in a list; write teacher: {ALL}",
            )
        elif len({*map(str, teacher)}) < len(teacher):
            yield "teacher", "a teacher stands twice in the list; name each once"
    several = teacher == ALL or isinstance(teacher, (list, tuple))
    if data.get("combine", "sum") != "sum" and not several:
        yield "combine", "this is of several teachers; name them, as in teacher: [a, b], or teacher: all"
    if "drop_rate" in data and data["drop_rate"] != 0.5 and data.get("combine") != "drop":
        yield "drop_rate", "this is the probability of combine: drop alone; add that, or drop the key"


def _embedding_that_is_not_read(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    if data.get("balance") is not None and (
        "teacher_embedding" not in entry.needs or "centres" in entry.needs
    ):
        yield (
            "balance",
            f"the loss {name!r} reads {', '.join(entry.needs)}; balance is for one that reads teacher_embedding, "
            "without its class centres",
        )


def _where_that_changes_nothing(name: str, entry: Loss, data: Mapping[str, Any]) -> Iterator[Mistake]:
    if data.get("where") is not None and not entry.compares_classes:
        yield (
            "where",
            f"the loss {name!r} reads {', '.join(entry.needs)}, which needs no shared class; drop the key",
        )


_CHECKS: tuple[Check, ...] = (
    _spots_of_a_loss_without,
    _rows_without_target,
    _weights_that_are_not_taken,
    _head_of_another_loss,
    _teacher_that_is_not_read,
    _teachers_that_cannot_be_combined,
    _embedding_that_is_not_read,
    _where_that_changes_nothing,
)
