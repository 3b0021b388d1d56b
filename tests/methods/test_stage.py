"""Stages: how they name their losses, what makes their episodes and virtual samples, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from torch import Tensor

from gkd.config.layers import Layer
from gkd.config.resolve import resolve
from gkd.config.yaml_files import parse_yaml
from gkd.data import EpisodePlan
from gkd.methods.method import Method
from gkd.methods.stage import Stage
from tests.config_helpers import tiny, two_stages


def test_a_terms_key_names_its_loss_where_it_says_no_other() -> None:
    terms = (
        two_stages(terms={"kd": {"weight": 2}, "mine": {"loss": "sp"}, "tuples": None}).stages["two"].terms
    )
    assert {key: term.loss for key, term in terms.items()} == {"kd": "kd", "mine": "sp", "tuples": "tuples"}
    assert terms["kd"].needs_teacher
    assert terms["kd"].needs_shared_classes
    assert not terms["mine"].needs_shared_classes


def bare_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """A loss on labels that can leave out no row."""
    return (student_logits.sum(1) * labels).mean()


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
        ({"terms": {"kd": {}}, "unlabelled_share": 0.3}, "mixes the batches of data: both, but data is all"),
        ({"terms": {"kd": {}}, "data": "both", "unlabelled_share": 1}, "less than 1"),
        (
            {"terms": {"kd": {}, "cross_entropy": {}}, "data": "unlabelled"},
            "'cross_entropy' reads labels, which data: unlabelled has none of; drop it, or use data: both",
        ),
        (
            {"terms": {"crd": {}, "cross_entropy": {}}, "data": "both"},
            "each of the terms crd, cross_entropy reads labels, so none can use images without",
        ),
        (
            {"terms": {"kd": VIRTUAL}, "mixup": {}, "data": "unlabelled"},
            "mixup mixes the labels of all images, and data: unlabelled has some without; drop one",
        ),
        (
            {"terms": {"sp": {}}, "spots": "adaptive", "data": "both"},
            "spots: adaptive reads the labels of all images, and data: both has some without",
        ),
        (
            {"terms": {"kd": {}, "bare": {"loss": "tests.methods.test_stage:bare_loss"}}, "data": "both"},
            "'bare' must leave out images without a label, but its loss takes no mask",
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


def test_labelled_is_another_word_for_all() -> None:
    """One run by either name, and a stage on both can be written down and read again."""
    key = "method.stages.distil.data"
    assert tiny(f"{key}=labelled", method="sp").identity == tiny(method="sp").identity
    resolved = tiny(f"{key}=both", "data.unlabelled.root=/a/bare", method="sp")
    assert resolved.experiment.method.stages["distil"].data == "both"
    again = resolve("tiny", [Layer("experiment", parse_yaml(resolved.annotated_yaml(), "tiny"))])
    assert again.experiment.method.stages["distil"].data == "both"
    assert again.identity == resolved.identity


def test_a_measured_weight_needs_a_cross_entropy_of_a_number() -> None:
    """Which is what it is relative to."""
    measured = {"weight": {"relative": 0.5}}
    assert Stage.model_validate({"epochs": 1, "terms": {"cross_entropy": {}, "tuples": measured}})
    for terms in (
        {"tuples": measured},
        {"cross_entropy": measured},
        {"cross_entropy": {"weight": 0}, "tuples": measured},
    ):
        with pytest.raises(ValidationError, match="relative to the cross-entropy, and the stage has none"):
            Stage.model_validate({"epochs": 1, "terms": terms})
