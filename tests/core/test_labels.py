"""Label spaces, and how two of them relate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gkd.core.labels import LabelRelation, LabelSpace
from tests.refusals import refused

TEN = LabelSpace([f"c{number}" for number in range(10)])


def test_columns_follow_the_order_of_the_names() -> None:
    space = LabelSpace(["ship", "car", "bird"])
    assert (len(space), list(space)) == (3, ["ship", "car", "bird"])
    assert [space.column(name) for name in ("ship", "car", "bird")] == [0, 1, 2]
    assert "car" in space
    assert "cat" not in space
    assert list(space.select(["bird", 0])) == ["bird", "ship"]


def test_the_same_classes_in_another_order_are_the_same_space() -> None:
    teacher, student = LabelSpace(["a", "b", "c"]), LabelSpace(["c", "a", "b"])
    relation = LabelRelation(teacher, student)
    assert (relation.kind, relation.overlap, relation.num_shared) == ("same", 1.0, 3)
    scores = {"a": 1.0, "b": 2.0, "c": 3.0}
    teacher_logits = torch.tensor([[scores[name] for name in teacher]])
    student_logits = torch.tensor([[scores[name] for name in student]])
    aligned = student_logits[:, relation.student_index]
    assert torch.equal(teacher_logits[:, relation.teacher_index], aligned)
    assert relation.known.all()


@pytest.mark.parametrize(
    ("teacher", "student", "kind", "overlap", "known"),
    [
        ("abc", "bcd", "overlapping", 2 / 3, [True, True, False]),
        ("abc", "def", "disjoint", 0.0, [False, False, False]),
        ("abcd", "cb", "overlapping", 1.0, [True, True]),  # all that the student knows, and more
        ("ab", "cab", "overlapping", 2 / 3, [False, True, True]),
    ],
)
def test_kind_overlap_and_known_classes(
    teacher: str, student: str, kind: str, overlap: float, known: list[bool]
) -> None:
    relation = LabelRelation(LabelSpace([*teacher]), LabelSpace([*student]))
    assert relation.kind == kind
    assert relation.overlap == pytest.approx(overlap)
    assert relation.known.tolist() == known
    pairs = zip(relation.teacher_index.tolist(), relation.student_index.tolist(), strict=True)
    assert all(teacher[t] == student[s] for t, s in pairs)
    assert relation.student_index.tolist() == sorted(relation.student_index.tolist())
    assert str(relation).startswith(f"{kind}: {len(teacher)} teacher classes")


def test_an_alias_joins_two_names_of_one_class() -> None:
    teacher, student = LabelSpace(["bird", "car", "cat"]), LabelSpace(["automobile", "bird"])
    assert LabelRelation(teacher, student).num_shared == 1
    relation = LabelRelation(teacher, student, {"automobile": "car"})
    assert relation.teacher_index.tolist() == [1, 0]
    assert relation.student_index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("aliases", "code"),
    [
        ({"automobil": "car"}, "unknown-class"),
        ({"automobile": "caar"}, "unknown-class"),
        ({"automobile": "bird"}, "alias-twice"),
    ],
)
def test_a_wrong_alias_is_refused(aliases: dict[str, str], code: str) -> None:
    teacher, student = LabelSpace(["bird", "car", "cat"]), LabelSpace(["automobile", "bird"])
    with refused(code):
        LabelRelation(teacher, student, aliases)


def test_mistakes_are_named_with_a_remedy() -> None:
    with refused("class-twice"):
        LabelSpace(["a", "b", "a"])
    with refused("no-classes"):
        LabelSpace([])
    with refused("unknown-class"):
        LabelSpace(["automobile", "cat"]).column("automobil")
    with refused("class-out-of-range"):
        TEN.select([10])


@pytest.mark.parametrize("text", ["cat", "", b"cat"])
def test_a_text_is_no_list_of_names(text: Any) -> None:
    with refused("not-a-list-of-names"):
        LabelSpace(text)
    assert LabelSpace([text]).names == (text,)
