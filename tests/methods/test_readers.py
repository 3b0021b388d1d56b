"""Which teachers terms read, and what a term over several teachers may say."""

from __future__ import annotations

import pytest

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.methods.method import Method
from gkd.methods.readers import parts_of, teachers_of, teachers_read, without_terms
from gkd.methods.refusal import refusal
from gkd.methods.terms import Term
from tests.refusals import refused


def method_of(**terms: dict[str, object]) -> Method:
    stages = {"one": {"epochs": 1, "terms": terms}}
    return Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": stages})


def test_a_term_reads_the_first_teacher_those_that_it_names_or_all() -> None:
    for stated, read in ((None, ("a",)), ("b", ("b",)), (("c", "a"), ("c", "a")), ("all", ("a", "b", "c"))):
        assert teachers_of("sp", Term(loss="sp", teacher=stated), ["a", "b", "c"]) == read
    assert teachers_of("ce", Term(loss="cross_entropy"), []) == ()
    with refused("needs-teacher"):
        teachers_of("sp", Term(loss="sp"), [])
    with refused("unknown-teacher"):
        teachers_of("sp", Term(loss="sp", teacher="d"), ["a", "b"])


def test_a_method_reads_the_teachers_of_its_terms_in_their_order() -> None:
    method = method_of(cross_entropy={}, sp={"teacher": "c"}, pkt={"teacher": "a"})
    assert teachers_read(method, ["a", "b", "c"]) == ("a", "c")
    rest = without_terms(method, lambda term: term.teacher == "c")
    assert rest is not None
    assert list(rest.stages["one"].terms) == ["cross_entropy", "pkt"]
    assert without_terms(method, lambda term: True) is None


def test_a_term_of_several_teachers_is_one_for_each() -> None:
    term = Term(loss="sp", teacher="all", weight=2.0)
    assert parts_of({"sp": Term(loss="sp")}, ["a"]) == {"sp": {"sp": Term(loss="sp")}}
    parts = parts_of({"sp": term}, ["a", "b"])["sp"]
    assert {name: part.teacher for name, part in parts.items()} == {"sp/a": "a", "sp/b": "b"}
    assert {part.weight for part in parts.values()} == {2.0}
    assert parts_of({"sp": term}, ["a"])["sp"]["sp"].teacher == "a"
    with refused("name-twice"):
        parts_of({"sp": term, "sp/b": Term(loss="sp")}, ["a", "b"])


@pytest.mark.parametrize(
    "keys",
    [
        {"teacher": []},
        {"teacher": ["a", "all"]},
        {"teacher": ["a", "a"]},
        {"combine": "mean"},
        {"combine": "drop", "teacher": "a"},
        {"drop_rate": 0.2, "teacher": "all"},
        {"balance": "phi-s"},
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, object]) -> None:
    with refused("invalid-term"):
        Term(loss="sp", **keys)  # type: ignore[arg-type]


def test_a_refusal_names_the_teacher_that_it_is_about() -> None:
    student = LabelSpace([*"abc"])
    relations = {
        "near": LabelRelation(LabelSpace([*"ab"]), student),
        "far": LabelRelation(LabelSpace([*"xy"]), student),
        "bare": LabelRelation(LabelSpace(["column"], named=False), student),
    }
    assert refusal(method_of(kd={}), relations) is None
    assert "teacher 'far' and student share no class" in str(
        refusal(method_of(kd={"teacher": "all"}), relations)
    )
    assert "teacher 'bare' has no classes" in str(refusal(method_of(kd={"teacher": "bare"}), relations))
    assert "needs a teacher" in str(refusal(method_of(kd={}), {}))
