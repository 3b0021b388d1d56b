"""Class orders and steps: every class arrives once, whatever the remainder."""

from __future__ import annotations

import numpy as np
import pytest

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.incremental.scenario import (
    arrival_order,
    class_steps,
    folder_steps,
    given_steps,
    seen_classes,
    step_of_class,
)

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
    ("base", "increment", "message"),
    [
        (8, 3, r"base of 8 classes and an increment of 3 need 11 classes, but the data has 10"),
        (10, 1, "need 11 classes"),
        (0, 6, "base of 6 classes and an increment of 6 need 12"),
        (-1, 2, "base -1 and increment 2 were given"),
        (5, 0, "base 5 and increment 0 were given"),
    ],
)
def test_steps_that_cannot_be(base: int, increment: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_steps(TEN, base=base, increment=increment)


def test_orders_that_repeat_miss_or_do_not_know_a_class() -> None:
    with pytest.raises(UserError, match="class order names the class 'c3' twice"):
        arrival_order(TEN, [*range(10), 3])
    with pytest.raises(UserError, match=r"misses 2 of the data's 10 classes \('c8', 'c9'\)"):
        arrival_order(TEN, range(8))
    with pytest.raises(UserError, match=r"misses 6 .*'c4', 'c5', 'c6', 'c7', 'c8', \.\.\.\)"):
        class_steps(TEN, base=2, increment=2, order=range(4))
    with pytest.raises(UserError, match=r"Unknown class 'c33'\. Did you mean 'c3'"):
        arrival_order(TEN, ["c33"])
    with pytest.raises(UserError, match="index 10 is outside"):
        arrival_order(TEN, range(11))
    with pytest.raises(UserError, match="'shuffled' is unknown; use 'natural'"):
        arrival_order(TEN, "shuffled")


def test_lists_of_steps_that_cannot_be() -> None:
    with pytest.raises(UserError, match="at least 2 steps; 1 were given"):
        given_steps(TEN, [range(10)])
    with pytest.raises(UserError, match="Step 2 has no class"):
        given_steps(TEN, [range(10), []])
    with pytest.raises(UserError, match="list of steps names the class 'c4' twice"):
        given_steps(TEN, [range(5), range(4, 10)])
    with pytest.raises(UserError, match=r"list of steps misses 1 of the data's 10 classes \('c9'\)"):
        given_steps(TEN, [range(5), range(5, 9)])


def test_steps_of_folders_are_what_stands_before_the_slash() -> None:
    space = LabelSpace(["2/cat", "2/dog", "10/ant", "10/a/b"])
    assert folder_steps(space) == (("2/cat", "2/dog"), ("10/ant", "10/a/b"))
    with pytest.raises(UserError, match="classes named STEP/CLASS, but the data has the class 'c0'"):
        folder_steps(TEN)
    with pytest.raises(UserError, match="at least 2 steps; 1 were given"):
        folder_steps(LabelSpace(["1/a", "1/b"]))
