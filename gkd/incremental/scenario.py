"""Incremental scenarios: the order in which classes arrive, and their division into steps.

Steps are tuples of class names. The labels of an incremental student are in the order of arrival, so the columns of a
growing head never move: those of a step follow all earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gkd.core.class_orders import class_order
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace

Steps = tuple[tuple[str, ...], ...]


Order = str | int | Sequence[str | int]


def arrival_order(space: LabelSpace, order: Order = "natural") -> LabelSpace:
    """The classes in the order in which they arrive.

    Args:
        space: the data's classes in their natural order.
        order: ``"natural"``; a seed, as a number or a word such as ``"1993"``: NumPy's legacy generator permutes the
            classes, and 1993 is the literature's; a name of `gkd.core.class_orders.NAMED_ORDERS`; or all classes,
            as names or positions in ``space``.

    Raises:
        UserError: a list that repeats, misses or does not know a class, or what `gkd.core.class_orders.class_order`
            refuses.
    """
    if isinstance(order, int):
        order = str(order)
    if isinstance(order, str):
        return class_order(space, order)
    return LabelSpace(_each_once(space, [order], "The class order")[0])


def class_steps(space: LabelSpace, *, base: int, increment: int, order: Order = "natural") -> Steps:
    """The first ``base`` classes, then ``increment`` more at each step, until every class has arrived.

    The last step has what remains: 100 classes with base 50 and increment 20 arrive as 50, 20, 20 and 10. B0-Inc10 of
    the literature is base 0 and increment 10, the same as base 10.

    Args:
        space: the data's classes in their natural order.
        base: classes of the first step; 0 lets the first step have ``increment`` of them.
        increment: classes of every later step.
        order: see `arrival_order`.

    Raises:
        UserError: a negative base, an increment below 1, fewer classes than base and one increment (so no second
            step), or an order that is refused.
    """
    if base < 0 or increment < 1:
        raise UserError(
            f"An incremental scenario has a base of 0 or more classes and an increment of 1 or more, but base {base} "
            f"and increment {increment} were given.",
            code="scenario-out-of-range",
        )
    first = base or increment
    if first + increment > len(space):
        raise UserError(
            f"A base of {first} classes and an increment of {increment} need {first + increment} classes, but the data "
            f"has {len(space)}; use base + increment <= {len(space)}.",
            code="too-few-classes",
        )
    names = arrival_order(space, order).names
    starts = [0, *range(first, len(names), increment), len(names)]
    return tuple(names[start:end] for start, end in pairwise(starts))


def given_steps(space: LabelSpace, steps: Sequence[Sequence[str | int]]) -> Steps:
    """Steps from a user's list, checked, with classes by name.

    Args:
        space: the data's classes in their natural order.
        steps: the classes of each step, as names or positions in ``space``.

    Raises:
        UserError: fewer than two steps, an empty one, or steps that together repeat, miss or do not know a class.
    """
    if len(steps) < 2:
        raise UserError(
            f"An incremental scenario needs at least 2 steps; {len(steps)} were given.", code="too-few-steps"
        )
    for number, step in enumerate(steps, 1):
        if len(step) == 0:
            raise UserError(f"Step {number} has no class; give every step at least one.", code="empty-step")
    return _each_once(space, steps, "The list of steps")


def folder_steps(space: LabelSpace) -> Steps:
    """Steps from class names STEP/CLASS, as step-folders data has them, in the order of the classes.

    Raises:
        UserError: a class of another name, or fewer than two steps.
    """
    steps: dict[str, list[str]] = {}
    for name in space:
        step, slash, _ = name.partition("/")
        if not slash:
            raise UserError(
                "task.steps=folders takes the steps from classes named STEP/CLASS, but the data has the class "
                f"{name!r}; use data.name=step-folders, or list the classes of each step.",
                code="class-without-step",
            )
        steps.setdefault(step, []).append(name)
    return given_steps(space, list(steps.values()))


def _each_once(space: LabelSpace, groups: Sequence[Sequence[str | int]], what: str) -> Steps:
    """Names of grouped classes, refused unless they hold every class of the space exactly once."""
    # One entry at a time: a selection of all would refuse a repeated class with a vaguer sentence.
    named = tuple(tuple(space.select([entry]).names[0] for entry in group) for group in groups)
    seen: set[str] = set()
    for name in (name for group in named for name in group):
        if name in seen:
            raise UserError(
                f"{what} names the class {name!r} twice; every class arrives once.", code="class-twice"
            )
        seen.add(name)
    missing = [name for name in space if name not in seen]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{what} misses {len(missing)} of the data's {len(space)} classes ({shown}); name every class, or use data "
            "without them.",
            code="class-missing",
        )
    return named


def seen_classes(steps: Steps, step: int) -> LabelSpace:
    """All classes of steps ``0 .. step`` in the order of arrival: the student's labels after that step."""
    return LabelSpace([name for names in steps[: step + 1] for name in names])


def step_of_class(steps: Steps) -> Tensor:
    """Int64 ``[C]``: for each column, in the order of arrival, the number of its step from 0."""
    sizes = torch.tensor([len(names) for names in steps])
    return torch.repeat_interleave(torch.arange(len(steps)), sizes)
