"""Standard: both sides have the same classes, or are refused."""

from __future__ import annotations

from gkd.core.labels import LabelSpace
from gkd.problems.problem import Source
from gkd.tasks.standard import Standard, StandardOptions
from tests.refusals import refused

SIX = LabelSpace([*"abcdef"])


def test_standard_gives_both_sides_the_same_classes(source: Source) -> None:
    (problem,) = Standard(StandardOptions(classes={"names": ["e", "b"]})).problems(source, source)
    assert problem.relation.kind == "same"
    assert list(problem.student.space) == list(problem.teacher.space) == ["e", "b"]
    (whole,) = Standard(StandardOptions()).problems(source, source)
    assert whole.student.space == SIX


def test_standard_refuses_two_data_sets_of_different_classes() -> None:
    with refused("other-classes"):
        Standard(StandardOptions()).spaces(SIX, LabelSpace([*"xyz"]))
