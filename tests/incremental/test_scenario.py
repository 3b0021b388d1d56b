"""Class orders and steps: every class arrives once, whatever the remainder."""

from __future__ import annotations

import numpy as np
import pytest

from gkd.core.labels import LabelSpace
from gkd.incremental.scenario import (
    arrival_order,
    class_steps,
    folder_steps,
    given_steps,
    seen_classes,
    step_of_class,
)
from tests.refusals import refused

TEN = LabelSpace([f"c{number}" for number in range(10)])
HUNDRED = LabelSpace([str(number) for number in range(100)])

# How the literature's order of CIFAR-100 starts (PyCIL; iCaRL's and PODNet's seed).
OF_1993 = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38]


@pytest.mark.parametrize("order", [1993, "1993"])
def test_1993_is_the_order_of_the_literature(order: int | str) -> None:
    names = [int(name) for name in arrival_order(HUNDRED, order)]
    assert names[:20] == OF_1993
    assert sorted(names) == list(range(100))
    shuffled = np.arange(100)
    np.random.RandomState(1993).shuffle(shuffled)  # the other form in which it is published
    assert names == shuffled.tolist()


def test_other_orders() -> None:
    assert arrival_order(TEN) == TEN
    backwards = [f"c{number}" for number in reversed(range(10))]
    assert list(arrival_order(TEN, backwards)) == backwards
    assert list(arrival_order(TEN, list(reversed(range(10))))) == backwards
    assert arrival_order(TEN, 1) != arrival_order(TEN, 2)


@pytest.mark.parametrize(
    ("base", "increment", "sizes"),
    [
        (50, 10, [50, 10, 10, 10, 10, 10]),
        (0, 10, [10] * 10),
        (10, 10, [10] * 10),
        (0, 20, [20] * 5),
        (50, 50, [50, 50]),
        (50, 20, [50, 20, 20, 10]),
        (0, 30, [30, 30, 30, 10]),
        (1, 98, [1, 98, 1]),
        (50, 1, [50] + [1] * 50),
    ],
)
def test_every_class_arrives_once_and_the_last_step_has_the_remainder(
    base: int, increment: int, sizes: list[int]
) -> None:
    steps = class_steps(HUNDRED, base=base, increment=increment, order=7)
    assert [len(step) for step in steps] == sizes
    assert [name for step in steps for name in step] == list(arrival_order(HUNDRED, 7))


def test_columns_follow_the_arrival() -> None:
    steps = class_steps(TEN, base=4, increment=4, order=1993)
    assert step_of_class(steps).tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert seen_classes(steps, 0).names == steps[0]
    assert seen_classes(steps, 1).names == steps[0] + steps[1]
    assert seen_classes(steps, 2) == arrival_order(TEN, 1993)


def test_steps_of_ones_own() -> None:
    space = LabelSpace(["bird", "car", "cat", "dog"])
    assert given_steps(space, [["dog", 0], ["cat"], [1]]) == (("dog", "bird"), ("cat",), ("car",))


@pytest.mark.parametrize(
    ("base", "increment", "code"),
    [
        (8, 3, "too-few-classes"),
        (10, 1, "too-few-classes"),
        (0, 6, "too-few-classes"),
        (-1, 2, "scenario-out-of-range"),
        (5, 0, "scenario-out-of-range"),
    ],
)
def test_steps_that_cannot_be(base: int, increment: int, code: str) -> None:
    with refused(code):
        class_steps(TEN, base=base, increment=increment)


def test_orders_that_repeat_miss_or_do_not_know_a_class() -> None:
    with refused("class-twice"):
        arrival_order(TEN, [*range(10), 3])
    with refused("class-missing"):
        arrival_order(TEN, range(8))
    with refused("class-missing"):
        class_steps(TEN, base=2, increment=2, order=range(4))
    with refused("unknown-class"):
        arrival_order(TEN, ["c33"])
    with refused("class-out-of-range"):
        arrival_order(TEN, range(11))
    with refused("unknown-class-order"):
        arrival_order(TEN, "shuffled")


def test_lists_of_steps_that_cannot_be() -> None:
    with refused("too-few-steps"):
        given_steps(TEN, [range(10)])
    with refused("empty-step"):
        given_steps(TEN, [range(10), []])
    with refused("class-twice"):
        given_steps(TEN, [range(5), range(4, 10)])
    with refused("class-missing"):
        given_steps(TEN, [range(5), range(5, 9)])


def test_steps_of_folders_are_what_stands_before_the_slash() -> None:
    space = LabelSpace(["2/cat", "2/dog", "10/ant", "10/a/b"])
    assert folder_steps(space) == (("2/cat", "2/dog"), ("10/ant", "10/a/b"))
    with refused("class-without-step"):
        folder_steps(TEN)
    with refused("too-few-steps"):
        folder_steps(LabelSpace(["1/a", "1/b"]))
