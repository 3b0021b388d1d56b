"""Which tasks have generations: those that have not say why."""

from __future__ import annotations

import pytest

from gkd.core.labels import LabelSpace
from gkd.tasks.cross_task import CrossTask, CrossTaskOptions
from gkd.tasks.standard import Standard, StandardOptions
from tests.config_helpers import tiny
from tests.refusals import refused

SIX = LabelSpace([*"abcdef"])


@pytest.mark.parametrize(
    "task",
    [
        {"name": "incremental", "base": 2, "increment": 2},
        {"name": "few_shot", "base": 5, "novel": 5},
        {"name": "middle_shot", "base": 5, "novel": 5},
    ],
)
def test_tasks_whose_student_teaches_no_other_over_its_classes_refuse_them(task: dict[str, object]) -> None:
    tiny(task=task)
    with refused("invalid-config"):
        tiny(task={**task, "generations": 2})


@pytest.mark.parametrize(
    "options",
    [
        {"size": 3, "shift": 2, "order": "1993"},
        {"teacher_classes": ["a", "b"], "student_classes": ["c", "f", "d"], "aliases": {"f": "a"}},
        {"teacher_classes": ["a", "b"]},
    ],
)
def test_a_later_generation_has_the_students_classes_on_both_sides(options: dict[str, object]) -> None:
    first = CrossTask(CrossTaskOptions(**options, generations=3))  # type: ignore[arg-type]
    later = CrossTask(first.taught_by_student())
    relation = later.spaces(SIX, SIX)
    assert relation.kind == "same"
    assert relation.teacher.names == relation.student.names == first.spaces(SIX, SIX).student.names
    standard = Standard(StandardOptions(classes=["b", "c"], generations=2))  # type: ignore[arg-type]
    assert Standard(standard.taught_by_student()).spaces(SIX, SIX).teacher.names == ("b", "c")
