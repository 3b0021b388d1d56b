"""Whether a method can work over a relation, and which of its terms stay there."""

from __future__ import annotations

from typing import Any

import pytest

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.methods.method import Method
from gkd.methods.refusal import fitting_method, fitting_terms, refusal
from gkd.methods.terms import Term

ALWAYS, SHARED = {"cross_entropy": Term(loss="cross_entropy")}, Term(loss="kd", where="shared")
ALL_SHARED = Term(loss="kd", where="all-shared")


@pytest.mark.parametrize(
    ("teacher", "stays", "stays_for_all"),
    [
        ("abc", True, True),
        ("abcx", True, True),
        ("bcx", True, False),
        ("cxy", False, False),
        ("xyz", False, False),
    ],
)
def test_a_term_for_shared_classes_stays_where_there_are_two(
    teacher: str, stays: bool, stays_for_all: bool
) -> None:
    relation = LabelRelation(LabelSpace([*teacher]), LabelSpace([*"abc"]))
    terms = {**ALWAYS, "kd": SHARED}
    assert list(fitting_terms(terms, relation)) == (["cross_entropy", "kd"] if stays else ["cross_entropy"])
    assert list(fitting_terms({"kd": ALL_SHARED}, relation)) == (["kd"] if stays_for_all else [])
    assert fitting_terms(terms, None) == terms
    # Without the word the method is refused there.
    assert refusal(method_with(kd={"where": "shared"}), relation) is None
    assert (refusal(method_with(kd={}), relation) is None) == stays


def test_of_several_teachers_those_teach_that_share_classes() -> None:
    space = LabelSpace([*"abc"])
    relations = {name: LabelRelation(LabelSpace([*name]), space) for name in ("abx", "xyz", "bcd")}
    every = Term(loss="kd", where="shared", teacher="all")
    assert fitting_terms({"kd": every}, relations)["kd"].teacher == ("abx", "bcd")
    assert fitting_terms({"kd": every}, {"xyz": relations["xyz"]}) == {}
    alone = {**relations, "abcx": LabelRelation(LabelSpace([*"abcx"]), space)}
    all_shared = every.model_copy(update={"where": "all-shared"})
    assert fitting_terms({"kd": all_shared}, alone)["kd"].teacher == ("abcx",)
    some = {name: relations[name] for name in ("abx", "bcd")}
    assert fitting_terms({"kd": every}, some) == {"kd": every}


def test_a_method_that_loses_its_logits_is_judged_without_them() -> None:
    """By nearest class mean: nothing trains the head."""
    content = {"epochs": 1, "terms": {"pkt": {}, "kd": {"where": "shared"}}}
    method = Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": {"one": content}})
    space = LabelSpace([*"abc"])
    assert fitting_method(method, LabelRelation(space, space)) is method
    fitting = fitting_method(method, LabelRelation(LabelSpace([*"xyz"]), space))
    assert (method.judged_by_head, fitting.judged_by_head) == (True, False)


def test_a_stage_must_keep_a_term() -> None:
    relation = LabelRelation(LabelSpace([*"xyz"]), LabelSpace([*"abc"]))
    content = {"epochs": 1, "terms": {"kd": {"where": "shared"}}}
    method = Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": {"one": content}})
    assert "has no term left in its stage 'one': teacher and student share" in str(refusal(method, relation))


def method_with(**terms: dict[str, Any]) -> Method:
    stage = {"epochs": 1, "terms": {"cross_entropy": {}, **terms}}
    return Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": {"one": stage}})
