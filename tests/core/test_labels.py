"""Label spaces, and how two of them relate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gkd.core.labels import LabelRelation, LabelSpace, unnamed_classes
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


def test_names_are_one_class_where_the_match_in_them_is_equal() -> None:
    teacher = LabelSpace(["n001", "n002", "n003"])
    student = LabelSpace(["n002_cat", "other", "n001-dog", "owl"])
    assert LabelRelation(teacher, student).kind == "disjoint"
    relation = LabelRelation(teacher, student, {"owl": "n003"}, match=r"n\d{3}")
    assert relation.teacher_index.tolist() == [1, 0, 2]  # an alias wins over the match
    assert relation.student_index.tolist() == [0, 2, 3]
    assert relation.of_teacher(LabelSpace(["n003", "n001"])).teacher_index.tolist() == [1, 0]
    counted = LabelRelation(teacher, student, match=r"n\d{3}", counted=LabelSpace(["n001"]))
    assert counted.teacher_index.tolist() == [0]


@pytest.mark.parametrize(
    ("match", "code"),
    [
        ("(", "match-unreadable"),
        ("zzz", "match-finds-nothing"),
        ("n00", "match-joins-classes"),
        ("q*", "match-finds-nothing"),
    ],
)
def test_a_match_that_joins_two_classes_or_none_is_refused(match: str, code: str) -> None:
    with refused(code):
        LabelRelation(LabelSpace(["n001", "n002"]), LabelSpace(["n002_cat", "n001_dog"]), match=match)


def test_a_teacher_without_classes_shares_none() -> None:
    relation = LabelRelation(unnamed_classes(2), LabelSpace(["a", "b"]), match="[ab]")
    assert (relation.kind, relation.num_shared) == ("none", 0)
    assert "no classes" in str(relation)
    space = unnamed_classes(2)
    assert LabelRelation(space, space).kind == "same"  # of a network beside another of the same columns


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
