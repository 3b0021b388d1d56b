"""Cross-task: which classes and images each side gets, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gkd.core.labels import LabelSpace
from gkd.problems.problem import Source
from gkd.tasks.cross_task import CrossTask, CrossTaskOptions
from tests.refusals import refused

SIX = LabelSpace([*"abcdef"])


def cross(**options: Any) -> CrossTask:
    return CrossTask(CrossTaskOptions(**options))


@pytest.mark.parametrize(
    ("shift", "kind", "shared"), [(0, "same", 3), (2, "overlapping", 1), (3, "disjoint", 0)]
)
def test_windows_of_one_order_relate_by_their_shift(shift: int, kind: str, shared: int) -> None:
    relation = cross(size=3, shift=shift).spaces(SIX, SIX)
    assert (relation.kind, relation.num_shared) == (kind, shared)
    assert relation.teacher == LabelSpace([*"abc"])
    assert list(relation.student) == list("abcdef")[shift : shift + 3]


@pytest.mark.parametrize(
    ("options", "foreign", "leaves_out"),
    [
        ({"size": 3}, False, False),
        ({"size": 3, "shift": 1}, False, True),
        ({}, False, False),
        ({}, True, True),
        ({"teacher_classes": ["a", "b"], "student_classes": ["a", "b"]}, False, False),
        ({"teacher_classes": ["a", "b"]}, False, True),
    ],
)
def test_options_tell_whether_the_teacher_may_lack_a_class(
    options: dict[str, Any], foreign: bool, leaves_out: bool
) -> None:
    assert cross(**options).leaves_out_rows(foreign=foreign) == leaves_out


def test_a_window_follows_the_class_order() -> None:
    natural, ordered = (cross(size=6, order=order).spaces(SIX, SIX).student for order in ("natural", "1993"))
    assert set(natural) == set(ordered)
    assert natural != ordered


def test_explicit_selections_and_aliases() -> None:
    task = cross(
        teacher_classes={"names": ["d", "a"]}, student_classes={"indices": [0, 5]}, aliases={"f": "d"}
    )
    relation = task.spaces(SIX, SIX)
    assert (list(relation.teacher), list(relation.student)) == (["d", "a"], ["a", "f"])
    assert relation.kind == "same"
    assert relation.teacher_index.tolist() == [1, 0]
    assert cross().spaces(SIX, SIX).kind == "same"  # no selection takes every class


def test_each_side_gets_the_images_of_its_classes_under_its_columns(source: Source) -> None:
    (problem,) = cross(size=3, shift=2, order="1993").problems(source, source)
    assert problem.rows == "known"
    for side, space in (
        (problem.teacher, problem.relation.teacher),
        (problem.student, problem.relation.student),
    ):
        assert side.space == space
        for images, before in (
            (side.train, source.train), (side.validation, source.validation), (side.test, source.test)
        ):  # fmt: skip
            assert images.class_counts().tolist() == [len(before) // 6] * 3
            for column, name in enumerate(space):
                kept = images.images[images.labels == column]
                assert torch.equal(kept, before.images[before.labels == before.space.column(name)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 3, "student_classes": {"size": 2}}, "give windows .* or teacher_classes .*, not both"),
        ({"shift": 2}, "shift and order describe a window; give its size too"),
        ({"order": "1993"}, "order"),  # without a size it would have no effect
    ],
)
def test_options_that_contradict_or_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CrossTaskOptions(**options)


def test_an_order_may_be_written_as_a_number() -> None:
    assert CrossTaskOptions(size=3, order=1993).order == "1993"  # type: ignore[arg-type]


def test_classes_beyond_the_data_are_refused() -> None:
    with refused("window-out-of-range"):
        cross(size=4, shift=3).spaces(SIX, SIX)
    with refused("unknown-class"):
        cross(student_classes={"names": ["z"]}).spaces(SIX, SIX)


def test_of_several_teachers_each_has_the_options_that_are_of_its_classes() -> None:
    classes = {"ids": LabelSpace(["n01_ant", "n02_bee"]), "words": LabelSpace([*"abc"]), "task": SIX}
    options: dict[str, Any] = {"aliases": {"x": "c"}, "match": r"n\d\d", "teacher_classes": ["a", "b", "c"]}
    each = cross(**options).of_each(classes, ["ids", "words"])
    told = {name: task.options for name, task in each.items()}
    assert [(told[name].aliases, told[name].match) for name in classes] == [
        ({}, r"n\d\d"), ({"x": "c"}, None), ({"x": "c"}, None),
    ]  # fmt: skip
    assert [told[name].teacher_classes is None for name in classes] == [True, True, False]
    with refused("unknown-class"):
        cross(aliases={"x": "z"}).of_each(classes, [])
    without = cross(match="q+").of_each(classes, [])  # found nowhere: the relation refuses it
    assert {task.options.match for task in without.values()} == {"q+"}


def test_what_no_teacher_of_a_method_fits_may_be_meant_for_one_that_it_does_not_read() -> None:
    classes = {"words": LabelSpace([*"abc"])}
    (task,) = cross(aliases={"x": "c", "y": "z"}, match=r"n\d\d").of_each(classes, [], unread=True).values()
    assert (task.options.aliases, task.options.match) == ({"x": "c"}, None)
