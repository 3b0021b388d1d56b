"""Generations in a config: which runs are the same, what they refuse, and what a later one is taught by."""

from __future__ import annotations

from gkd.config.generations import generations_of, of_generation, taught_by_student
from gkd.config.load import load
from tests.config_helpers import tiny
from tests.refusals import refused


def test_the_first_generation_is_the_plain_run_and_each_later_one_a_run_of_its_own() -> None:
    plain = tiny().identity
    assert tiny("task.generations=1").identity == plain
    names = [tiny(f"task.generations={number}").identity for number in (1, 2, 3)]
    assert len({*names}) == 3
    # Committed cells are known by the plain run's identity.
    assert load("cross_task/digits", ["method=sp", "data.per_class=5"]).identity == "1f48929a23"
    assert tiny("task.generations=3", "task.generations=1").identity == plain


def test_a_method_without_a_teacher_has_one_generation() -> None:
    alone = tiny("method=student", "task.generations=3")
    assert generations_of(alone.experiment) == 1
    assert alone.identity == tiny("method=student").identity
    assert generations_of(tiny("task.generations=3").experiment) == 3


def test_a_task_without_the_option_has_one_generation_and_keeps_its_options() -> None:
    experiment = tiny(task={"name": "few_shot", "base": 5, "novel": 5}, method="sp").experiment
    assert generations_of(experiment) == 1
    assert of_generation(experiment, 1) is experiment


def test_a_later_generation_is_taught_by_a_network_as_the_students() -> None:
    words = (
        "task.shift=3", "task.generations=2", "teacher.weights=best", "teacher.mean=[0.1]", "teacher.image_size=16",
        "data.teacher_view.augment=none", "student.network=wrn_16_1", "student.options={dropout: 0.3}",
    )  # fmt: skip
    experiment = tiny(*words).experiment
    later = taught_by_student(experiment)
    assert later.teacher is not None
    assert later.data.teacher_view is not None
    assert (later.teacher.network, later.teacher.options) == ("wrn_16_1", {"dropout": 0.3})
    assert later.teacher.weights == "best"
    assert later.teacher.mean is None
    # The student of the generation before saw the student's images.
    assert (later.data.teacher_view.image_size, later.data.teacher_view.augment) == (None, "none")


def test_what_does_not_go_together_with_generations_is_refused() -> None:
    two = {"a": {"network": "resnet8"}, "b": {"network": "resnet20"}}
    with refused("invalid-config"):
        tiny("task.generations=2", teacher=None, teachers=two, method="sp")
    tiny(teacher=None, teachers=two, method="sp")
    with refused("invalid-config"):
        tiny("task.generations=2", "run.extend=true", method="sp")
    tiny("run.extend=true", method="sp")
    for number in (0, 1.5, 100):
        with refused("invalid-config"):
            tiny(f"task.generations={number}")
