"""Methods as data: what the shipped files say, how long stages run, and what a relation denies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from gkd.config.shipped import configs_folder, shipped_methods
from gkd.config.yaml_files import read_yaml
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.losses import LOSSES
from gkd.methods.method import Growth, Method
from gkd.methods.refusal import refusal, require
from tests.config_helpers import (
    IN_EPISODES,
    IN_TEACHERS_HEAD,
    ON_LOGITS,
    ON_NEW_CLASSES,
    WITHOUT_TEACHER,
    two_stages,
)
from tests.refusals import refused

METHODS = shipped_methods()
RELATIONS = {
    "same": LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"cab"])),
    "overlapping": LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"bcd"])),
    "one shared": LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"cde"])),
    "disjoint": LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"def"])),
    "no teacher": None,
}


def numbers(node: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all numbers; a list of numbers is one."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from numbers(value, f"{path}.{key}" if path else str(key))
    else:
        entries = node if isinstance(node, list) else [node]
        if any(isinstance(entry, (int, float)) and not isinstance(entry, bool) for entry in entries):
            yield path


def at(node: Any, path: str) -> Any:
    for part in path.split("."):
        node = node[part]
    return node


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_a_shipped_method_says_its_source(name: str) -> None:
    content = read_yaml(configs_folder() / "methods" / f"{name}.yaml")
    sources = content["sources"]
    paths = {f"stages.{path}" for path in numbers(content["stages"])}
    assert paths - set(sources) == set(), "numbers without a source"
    for path, source in sources.items():
        assert at(content, path) is not None
        assert source.startswith(("paper", "code ", "benchmark", "ours")), f"{path}: {source}"
        if source.startswith("code "):
            assert re.match(r"code [\w.-]+/[\w.-]+@[0-9a-f]{7}\b", source), f"{path}: no commit in {source}"


@pytest.mark.parametrize("name", METHODS)
def test_a_shipped_method_names_known_losses_and_options(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.paper
    assert method.summary
    for stage in method.stages.values():
        for term in stage.terms.values():
            assert set(term.options) <= set(LOSSES[term.loss].options)


@pytest.mark.parametrize("name", METHODS)
def test_what_trains_no_head_is_chosen_by_its_embedding(name: str) -> None:
    """Accuracy of a head that no term reaches would be a coin's."""
    stages = METHODS[name].stages.values()
    assert any(stage.data == "episodes" for stage in stages) == (name in IN_EPISODES)
    for stage in stages:
        reads_logits = any("student_logits" in term.needs for term in stage.terms.values())
        if stage.data == "episodes":
            assert reads_logits or stage.select == "ncm"


@pytest.mark.parametrize("name", METHODS)
def test_stages_share_a_total_exactly(name: str) -> None:
    method = METHODS[name]
    for total in (2, 3, 7, 24, 101, 240):
        epochs = method.epochs(total)
        assert list(epochs) == list(method.stages)
        assert sum(epochs.values()) == total
        assert all(length >= 1 for length in epochs.values()), total
        if {"embedding", "classifier"} <= epochs.keys():  # half each, to the rounding of one boundary
            assert abs(epochs["embedding"] - epochs["classifier"]) <= 1


def test_without_a_total_stages_run_as_published() -> None:
    assert METHODS["refilled"].epochs(None) == {"embedding": 200, "classifier": 200}
    assert METHODS["kd"].epochs(None) == {"distil": 240}


def test_shares_decide_where_given_and_published_epochs_elsewhere() -> None:
    assert two_stages(epochs=300).epochs(40) == {"one": 10, "two": 30}
    both = Method.model_validate(
        {
            **two_stages().model_dump(),
            "stages": {
                "one": {"epochs": 10, "share": 0.9, "terms": {"cross_entropy": {}}},
                "two": {"epochs": 90, "share": 0.1, "terms": {"cross_entropy": {}}},
            },
        }
    )
    assert both.epochs(50) == {"one": 45, "two": 5}


def test_no_stage_is_skipped() -> None:
    with refused("too-few-epochs"):
        METHODS["refilled"].epochs(1)
    uneven = {
        name: {"epochs": epochs, "terms": {"cross_entropy": {}}} for name, epochs in (("a", 1), ("b", 19))
    }
    method = Method.model_validate({"name": "uneven", "paper": "-", "summary": "-", "stages": uneven})
    assert method.epochs(5) == {"a": 1, "b": 4}
    assert method.epochs(100) == {"a": 5, "b": 95}


def denied(name: str, relation: str) -> bool:
    """The rule, stated apart from the code: comparing logits needs two shared classes, losses on new ones a new one."""
    if relation == "no teacher":
        return name not in WITHOUT_TEACHER
    if relation == "same" and name in ON_NEW_CLASSES:
        return True
    if relation != "same" and name in IN_TEACHERS_HEAD:
        return True
    return name in ON_LOGITS and relation in ("one shared", "disjoint")


@pytest.mark.parametrize("name", METHODS)
def test_what_a_relation_denies(name: str) -> None:
    found = {relation for relation in RELATIONS if refusal(METHODS[name], RELATIONS[relation]) is not None}
    assert found == {relation for relation in RELATIONS if denied(name, relation)}


def test_a_refusal_says_why_and_what_would_work() -> None:
    with refused("method-not-applicable") as caught:
        require(METHODS["kd"], RELATIONS["disjoint"], lambda: METHODS)
    fitting = str(caught.value).split("Methods that work here: ")[1]
    assert fitting == ", ".join(sorted(set(METHODS) - ON_LOGITS - IN_TEACHERS_HEAD)) + "."
    with refused("method-not-applicable"):
        require(METHODS["kd"], RELATIONS["one shared"], lambda: METHODS)
    with refused("method-not-applicable"):
        require(METHODS["lwf"], RELATIONS["same"], lambda: METHODS)
    with refused("method-not-applicable") as caught:
        require(METHODS["sp"], None, lambda: METHODS)
    assert str(caught.value).endswith(f": {', '.join(sorted(WITHOUT_TEACHER))}.")


@pytest.mark.parametrize("change", [{"rate": 0.25}, {"at": {"student": 1, "teacher": 1}}])
def test_a_paraphraser_of_another_shape_does_not_prepare(change: dict[str, Any]) -> None:
    content = METHODS["ft"].model_dump()
    content["stages"]["paraphraser"]["terms"]["ft"].update(change)
    with pytest.raises(ValidationError, match="needs an earlier stage with the same term"):
        Method.model_validate(content)


def test_an_expanded_student_grows_in_one_way() -> None:
    assert METHODS["der"].growth.extractor == "expand"
    assert METHODS["wa"].growth.extractor == "kept"
    for other in ({"new": "imprint"}, {"old": "frozen"}):
        with pytest.raises(ValidationError, match="leave out new and old"):
            Growth.model_validate({"extractor": "expand", **other})


def test_rules_after_a_step_are_named_and_have_what_they_are_fitted_on() -> None:
    with pytest.raises(ValidationError, match="should be 'align-weights' or 'fit-bias'"):
        Method.model_validate({**METHODS["wa"].model_dump(), "after": ["align-weight"]})
    with pytest.raises(ValidationError, match="fit-bias is fitted on images kept from training"):
        Method.model_validate({**METHODS["bic"].model_dump(), "held_out": 0})
