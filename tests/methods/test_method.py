"""Methods as data: what the shipped files say, how long stages run, and what a relation denies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from gkd.config.layers import Layer
from gkd.config.resolve import resolve
from gkd.config.shipped import configs_folder, shipped_methods
from gkd.config.yaml_files import parse_yaml, read_yaml
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import EpisodePlan
from gkd.incremental.learn import without_teacher
from gkd.losses import LOSSES
from gkd.methods.method import Growth, Method, refusal, require
from gkd.methods.terms import Term, WeightSchedule, class_scale
from tests.config_helpers import IN_EPISODES, ON_LOGITS, ON_NEW_CLASSES, WITHOUT_TEACHER, tiny
from tests.refusals import refused

METHODS = shipped_methods()
RELATIONS = {
    "same": LabelRelation(LabelSpace("abc"), LabelSpace("cab")),
    "overlapping": LabelRelation(LabelSpace("abc"), LabelSpace("bcd")),
    "one shared": LabelRelation(LabelSpace("abc"), LabelSpace("cde")),
    "disjoint": LabelRelation(LabelSpace("abc"), LabelSpace("def")),
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


def two_stages(**second: Any) -> Method:
    stages = {name: {"epochs": 100, "terms": {"cross_entropy": {}}} for name in ("one", "two")}
    stages["two"].update(second)
    return Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": stages})


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


def term_mistake(**content: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Term.model_validate(content)
    return str(caught.value)


def test_an_undefined_affinity_is_refused_before_training() -> None:
    text = term_mistake(loss="affinity", affinity="dot", normalisation="row-sum")
    assert "'row-sum' needs affinities of 0 or more" in text
    assert "compares distributions" in term_mistake(loss="affinity", normalisation="mean", distance="js")


def test_spots_are_paired_and_only_for_losses_that_read_them() -> None:
    assert "paired one by one" in term_mistake(loss="at", at={"student": [0, 1], "teacher": [0]})
    assert "paired one by one" in term_mistake(loss="at", at={"student": [0, 1], "teacher": 0})
    assert "one or more" in term_mistake(loss="at", at={"student": [], "teacher": []})
    assert "has no spots to choose" in term_mistake(loss="pkt", at={"student": 0, "teacher": 0})
    assert "name two spots or more" in term_mistake(loss="fsp")
    three = Term.model_validate({"loss": "fsp", "at": {"student": [0, 1, 2], "teacher": [1, 2, 3]}})
    assert three.readings == [((0, 1), (1, 2)), ((1, 2), (2, 3))]
    assert three.teacher_maps == {1, 2, 3}


def denied(name: str, relation: str) -> bool:
    """The rule, stated apart from the code: comparing logits needs two shared classes, losses on new ones a new one."""
    if relation == "no teacher":
        return name not in WITHOUT_TEACHER
    if relation == "same" and name in ON_NEW_CLASSES:
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
    assert fitting == ", ".join(sorted(set(METHODS) - ON_LOGITS)) + "."
    with refused("method-not-applicable"):
        require(METHODS["kd"], RELATIONS["one shared"], lambda: METHODS)
    with refused("method-not-applicable"):
        require(METHODS["lwf"], RELATIONS["same"], lambda: METHODS)
    with refused("method-not-applicable") as caught:
        require(METHODS["sp"], None, lambda: METHODS)
    assert str(caught.value).endswith(f": {', '.join(sorted(WITHOUT_TEACHER))}.")


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({}, [1, 1, 1]),
        ({"kind": "linear", "warmup_epochs": 20}, [0, 0.5, 1]),
        ({"kind": "exponential", "rate": 0.05}, [1, 0.6065307, 0.2231302]),
    ],
)
def test_weight_schedules(schedule: dict[str, Any], factors: list[float]) -> None:
    weights = WeightSchedule(**schedule)
    assert [weights.factor(epoch) for epoch in (0, 10, 30)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "kdd"}, r"Unknown loss 'kdd'. Did you mean 'kd'\?"),
        ({"loss": "kd", "temprature": 2}, r"'temprature'. Did you mean 'temperature'\?"),
        ({"loss": "kd", "wieght": 2}, r"'wieght'. Did you mean 'weight'\?"),
        ({"loss": "kd", "temperature": "hot"}, "the loss 'kd' takes one such as 4.0"),
        ({"loss": "kd", "temperature": True}, "is not a finite number"),
        ({"loss": "tuples", "mining": 3}, "Unknown mining '3'.*semi-hard"),
        ({"loss": "kd", "confidence": "entropy"}, "'kd' takes no sample weights"),
        ({"loss": "kd", "weight": -1}, "greater than or equal to 0"),
        ({"loss": "crd", "dim": 0}, "dim=0 is below 1; the loss 'crd' takes one such as 128"),
        ({"loss": "crd", "negatives": 10.5}, "negatives=10.5 is not a whole number"),
        ({"loss": "crd", "momentum": 5}, "momentum=5 is above 1"),
        ({"loss": "crd", "temperature": 0}, "temperature=0 is not above 0"),
        ({"loss": "crd_queue", "queue": -1}, "queue=-1 is below 0"),
        ({"loss": "cross_entropy", "label_smoothing": 2}, "label_smoothing=2 is above 1"),
        ({"loss": "dkd", "rows": "all"}, "needs a target among the shared classes"),
        ({"loss": "kd", "head": "auxiliary"}, "gives student_logits and their labels alone"),
        ({"loss": "cross_entropy_new", "head": "auxiliary"}, "gives student_logits and their labels alone"),
        ({"loss": "pkt", "head": "auxiliary"}, "'pkt' reads student_embedding, teacher_embedding, where"),
        ({"loss": "cross_entropy", "head": "other"}, "'student' or 'auxiliary'"),
    ],
)
def test_a_wrong_term_is_refused(term: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Term.model_validate(term)


@pytest.mark.parametrize(
    "term",
    [
        {"loss": "tuples", "mining": "semihard"},
        {"loss": "tuples", "temperature": 0},
        {"loss": "kd", "temperature": 0},
        {"loss": "induced_classifier", "classes": "every"},
    ],
    ids=lambda term: "-".join(map(str, term.values())),
)
def test_a_value_that_its_loss_would_refuse_is_refused_before_training(term: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Term.model_validate(term)


def test_a_terms_key_names_its_loss_where_it_says_no_other() -> None:
    terms = (
        two_stages(terms={"kd": {"weight": 2}, "mine": {"loss": "sp"}, "tuples": None}).stages["two"].terms
    )
    assert {key: term.loss for key, term in terms.items()} == {"kd": "kd", "mine": "sp", "tuples": "tuples"}
    assert terms["kd"].needs_teacher
    assert terms["kd"].needs_shared_classes
    assert not terms["mine"].needs_shared_classes


VIRTUAL = {"loss": "kd", "samples": "virtual"}


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ({"terms": {"kd": VIRTUAL}}, "'kd' is on virtual samples; say how to make them"),
        ({"terms": {"kd": {}}, "mixup": {}}, "no term is samples: virtual"),
        ({"terms": {"dkd": {"samples": "virtual"}}, "mixup": {}}, "'dkd' reads labels of one image a row"),
        (
            {"terms": {"sp": {"samples": "virtual"}}, "mixup": {"teacher": "interpolated"}},
            "alone can be interpolated",
        ),
        (
            {"terms": {"kd": {**VIRTUAL, "standardise": True}}, "mixup": {"teacher": "interpolated"}},
            "alone can be interpolated",
        ),
        (
            {"terms": {"prototype": {}}},
            "'prototype' reads way and support, which only an episode has; use data: ep",
        ),
        (
            {"terms": {"episode_induced": {}}, "data": "balanced"},
            "'episode_induced' reads way and support, which only an episode has",
        ),
        (
            {"terms": {"kd": {}}, "data": "all", "episodes": {"ways": 3}},
            "episodes says how data: episodes are made, but data is all; drop one",
        ),
        (
            {"terms": {"prototype": {"samples": "virtual"}}, "data": "episodes", "mixup": {}},
            "'prototype' reads way and support of one image a row, and a virtual sample is made of several",
        ),
        (
            {"terms": {"prototype": {}}, "data": "episodes", "episodes": {"ways": 1}},
            "greater than or equal to 2",
        ),
        (
            {"terms": {"ft": {}}},
            "'ft' of stage 'one' needs an earlier stage with the same term, .*phase: paraphraser",
        ),
    ],
)
def test_a_stage_that_cannot_be_is_refused(stage: dict[str, Any], text: str) -> None:
    stages = {"one": {"epochs": 1, **stage}}
    with pytest.raises(ValidationError, match=text):
        Method.model_validate({"name": "m", "paper": "-", "summary": "-", "stages": stages})


def test_episodes_have_a_plan_of_their_own_or_the_default() -> None:
    """A term that reads no episode may learn from one's images; a method survives being written down."""
    for said, plan in (({}, EpisodePlan()), ({"episodes": {"shots": 1}}, EpisodePlan(shots=1))):
        method = two_stages(terms={"tuples": {}, "prototype": {}}, data="episodes", **said)
        assert method.stages["two"].episodes == plan
        assert method.stages["one"].episodes is None
        assert Method.model_validate(method.model_dump()) == method
    assert two_stages(data="episodes").stages["two"].episodes == EpisodePlan()


def test_a_stage_on_episodes_can_be_written_down_and_read_again() -> None:
    resolved = tiny(method="protonet")
    again = resolve("tiny", [Layer("experiment", parse_yaml(resolved.annotated_yaml(), "tiny"))])
    assert again.experiment.method == resolved.experiment.method
    assert again.identity == resolved.identity


@pytest.mark.parametrize("change", [{"rate": 0.25}, {"at": {"student": 1, "teacher": 1}}])
def test_a_paraphraser_of_another_shape_does_not_prepare(change: dict[str, Any]) -> None:
    content = METHODS["ft"].model_dump()
    content["stages"]["paraphraser"]["terms"]["ft"].update(change)
    with pytest.raises(ValidationError, match="needs an earlier stage with the same term"):
        Method.model_validate(content)


@pytest.mark.parametrize(
    "schedule",
    [{"kind": "linear"}, {"rate": 0.1}, {"kind": "exponential", "rate": -1}, {"kind": "linear", "rate": 0.1}],
)
def test_a_schedule_without_its_number_is_refused(schedule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"needs warmup_epochs above 0|greater than or equal to 0"):
        Term.model_validate({"loss": "kd", "schedule": schedule})


@pytest.mark.parametrize("name", METHODS)
def test_what_remains_of_a_method_without_a_teacher(name: str) -> None:
    method = METHODS[name]
    first = without_teacher(method)
    assert not first.needs_teacher
    assert first.trains_head or name in IN_EPISODES
    for stage_name, stage in first.stages.items():
        whole = method.stages[stage_name]
        assert stage.optimiser == whole.optimiser
        assert stage.data != "balanced-memory"
        kept = {
            key: term
            for key, term in whole.terms.items()
            if not term.needs_teacher and term.head != "auxiliary"
        }
        assert stage.terms == (kept or stage.terms)
    if not method.needs_teacher and name != "der":
        assert first.stages == method.stages


def test_a_first_step_is_cross_entropy_where_nothing_else_remains() -> None:
    alone = two_stages(terms={"sp": {}})
    alone = alone.model_copy(update={"stages": {"two": alone.stages["two"]}})
    (stage,) = without_teacher(alone).stages.values()
    assert [term.loss for term in stage.terms.values()] == ["cross_entropy"]
    assert list(without_teacher(METHODS["podnet"]).stages) == ["distil"]
    assert list(without_teacher(METHODS["podnet"]).stages["distil"].terms) == ["nca"]
    assert list(without_teacher(METHODS["refilled"]).stages) == ["classifier"]
    assert list(without_teacher(METHODS["der"]).stages["expand"].terms) == ["cross_entropy"]


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


@pytest.mark.parametrize(
    ("kind", "expected"), [("old-share", 0.8), ("new-share", 0.2), ("ucir", 2.0), ("podnet", 5**0.5)]
)
def test_weights_that_follow_the_numbers_of_classes(kind: Any, expected: float) -> None:
    assert class_scale(kind, 40, 10) == pytest.approx(expected)
    assert (class_scale("old-share", 0, 5), class_scale("new-share", 0, 5)) == (0, 1)
