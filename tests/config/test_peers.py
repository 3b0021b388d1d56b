"""The peer in a config: which runs are the same, and what refuses one."""

from __future__ import annotations

import pytest

from gkd.config.load import load
from gkd.config.peers import peer_of
from gkd.config.resolve import Resolved
from tests.config_helpers import tiny, two_stages
from tests.refusals import refused


def mutual(*overrides: str) -> Resolved:
    return tiny("method=mutual", *overrides)


def test_the_peer_is_as_the_student_unless_it_is_stated() -> None:
    usual = mutual("student.network=wrn_16_1", "student.options={dropout: 0.3}")
    found = peer_of(usual.experiment)
    assert found is not None
    assert (found.network, found.options) == ("wrn_16_1", {"dropout": 0.3})
    other = peer_of(mutual("student.peer.network=resnet20").experiment)
    assert other is not None
    assert other.network == "resnet20"
    assert peer_of(tiny("student.peer.network=resnet20").experiment) is None


def test_the_peer_names_the_run_where_one_is_trained() -> None:
    usual, other = mutual().identity, mutual("student.peer.network=resnet20").identity
    assert usual != other
    assert mutual("student.peer.network=resnet8").identity == usual  # as by default
    assert mutual("student.peer.network=wrn_16_1").identity != (
        mutual("student.peer.network=wrn_16_1", "student.peer.options={dropout: 0.3}").identity
    )
    for method in ("student", "sp"):
        plain = tiny(f"method={method}")
        assert tiny(f"method={method}", "student.peer.network=resnet20").identity == plain.identity
    # Committed cells are known by the names of before there were peers.
    assert load("cross_task/digits", ["method=sp", "data.per_class=5"]).identity == "1f48929a23"


def test_another_peer_forgets_the_options_of_the_one_before() -> None:
    first = ("student.peer.network=wrn_16_1", "student.peer.options={dropout: 0.3}")
    found = peer_of(mutual(*first, "student.peer.network=resnet20").experiment)
    assert found is not None
    assert found.options == {}


@pytest.mark.parametrize(
    "task",
    [
        {"name": "incremental", "base": 2, "increment": 2},
        {"name": "few_shot", "base": 5, "novel": 5},
        {"name": "middle_shot", "base": 5, "novel": 5},
    ],
)
def test_a_task_that_judges_one_student_refuses_a_second(task: dict[str, object]) -> None:
    tiny(task=task, method="student")
    with refused("invalid-config"):
        tiny(task=task, method="mutual")


@pytest.mark.parametrize(
    "words",
    [
        ["student.peer.options={depth: 3}"],
        ["student.peer={network: resnet8, options: {depth: 3}}"],
        ["student.peer={network: resnet8, checkpoint: here}"],
        ["method.stages.train.spots=random"],
        ["method.stages.train.mixup={}", "method.stages.train.terms.mutual.samples=virtual"],
        ["method.stages.train.terms.mutual.weight={relative: 0.5}"],
    ],
)
def test_what_has_no_meaning_for_two_students_is_refused(words: list[str]) -> None:
    with refused("invalid-config"):
        mutual(*words)


def test_two_students_have_one_stage() -> None:
    two_stages()
    with pytest.raises(
        ValueError, match="two students are trained together in one stage, and there are one, two"
    ):
        two_stages(terms={"cross_entropy": {}, "mutual": {}})
