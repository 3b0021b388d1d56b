"""Layers of a config: which beats which, and what reaches every stage of a method."""

from __future__ import annotations

from typing import Any

import pytest

from gkd.config.load import load
from tests.config_helpers import TINY, Write, tiny
from tests.refusals import refused


def test_precedence_is_method_extends_experiment_override(write: Write) -> None:
    write("base", {**TINY, "optimiser": {"lr": 0.3, "momentum": 0.3, "gamma": 0.3}, "run": {"epochs": 10}})
    path = write("mine", {"extends": "base", "optimiser": {"lr": 0.2, "momentum": 0.2}})
    resolved = load(path, ["optimiser.lr=0.1", "run.seed=4"])
    for name, stage in resolved.experiment.method.stages.items():
        optimiser = stage.optimiser
        assert (optimiser.lr, optimiser.momentum, optimiser.gamma) == (0.1, 0.2, 0.3)
        assert optimiser.weight_decay == 5e-4  # the method's
        origins = {key: resolved.origins[f"method.stages.{name}.optimiser.{key}"] for key in
                   ("lr", "momentum", "gamma", "weight_decay")}  # fmt: skip
        assert origins == {
            "lr": "override optimiser.lr=0.1", "momentum": "experiment", "gamma": "extends base",
            "weight_decay": "method refilled",
        }  # fmt: skip
    assert (resolved.experiment.run.epochs, resolved.experiment.run.seed) == (10, 4)
    assert resolved.origins["run.epochs"] == "extends base"
    assert "run.device" not in resolved.origins


def test_a_stage_of_its_own_beats_all_stages_of_the_same_layer_not_of_a_later_one() -> None:
    method = {"name": "refilled", "stages": {"classifier": {"optimiser": {"lr": 0.01}}}}

    def rates(*overrides: str) -> list[float]:
        stages = tiny(*overrides, method=method, optimiser={"lr": 0.2}).experiment.method.stages
        return [stage.optimiser.lr for stage in stages.values()]

    assert rates() == [0.2, 0.01]
    assert rates("optimiser.lr=0.5") == [0.5, 0.5]
    assert rates("optimiser.lr=0.5", "method.stages.classifier.optimiser.lr=0.7") == [0.5, 0.7]


def test_another_method_drops_the_settings_of_the_one_before() -> None:
    method = {"name": "refilled", "stages": {"embedding": {"terms": {"tuples": {"weight": 7}}}}}
    before = tiny(method=method, optimiser={"lr": 0.2})
    assert before.experiment.method.stages["embedding"].terms["tuples"].weight == 7
    after = before.with_overrides(["method=sp", "method.stages.distil.terms.sp.weight=9"]).experiment.method
    assert (after.name, list(after.stages)) == ("sp", ["distil"])
    assert after.stages["distil"].terms["sp"].weight == 9
    assert after.stages["distil"].optimiser.lr == 0.2  # the experiment's, for whatever method
    again = before.with_overrides(["method=sp", "method=refilled"]).experiment.method
    assert again.stages["embedding"].terms["tuples"].weight == 7


def spots_of(*overrides: str, **sections: Any) -> dict[str, dict[str, Any]]:
    stages = tiny(*overrides, **sections).experiment.method.stages
    return {name: stage.spots.model_dump(exclude_defaults=True) for name, stage in stages.items()}


def test_spots_of_a_method_reach_the_stages_that_learn_from_a_teacher() -> None:
    assert spots_of("method=ft", "method.spots=adaptive") == {
        "paraphraser": {},
        "distil": {"policy": "adaptive"},
    }
    assert spots_of("method=fsp", "method.spots=anti") == {"flow": {"policy": "anti"}, "distil": {}}
    added = {"name": "sp", "spots": "adaptive", "stages": {"more": {"epochs": 1, "terms": {"kd": {}}}}}
    assert spots_of(method=added) == {"distil": {"policy": "adaptive"}, "more": {"policy": "adaptive"}}


@pytest.mark.parametrize(
    "overrides",
    [
        ("method.spots=adaptive", "method.spots.keep=0.9"),
        ("method.spots.keep=0.9", "method.spots=adaptive"),
        ("method.stages.distil.spots=adaptive", "method.stages.distil.spots.keep=0.9"),
        ("method.stages.distil.spots.keep=0.9", "method.spots=adaptive"),
        ("method.spots=anti", "method.spots={policy: adaptive, keep: 0.9}"),
    ],
)
def test_spots_merge_key_by_key_in_either_form_and_order(overrides: tuple[str, ...]) -> None:
    assert spots_of("method=sp", *overrides) == {"distil": {"policy": "adaptive", "keep": 0.9}}
    in_file = {"name": "sp", "spots": "anti", "stages": {"distil": {"terms": {"sp": {"weight": 9}}}}}
    assert spots_of(*overrides, method=in_file) == {"distil": {"policy": "adaptive", "keep": 0.9}}


def test_a_later_layer_beats_the_spots_of_the_method_file() -> None:
    assert spots_of("method=sakd")["distil"] == {"policy": "adaptive", "classify_weight": 2.0}
    assert spots_of("method=sakd", "method.spots=anti")["distil"] == {
        "policy": "anti",
        "classify_weight": 2.0,
    }
    # What a policy does not read goes with it, so that these are one run.
    assert spots_of("method=sakd", "method.spots=random")["distil"] == {"policy": "random"}
    assert spots_of("method=sakd", "method.spots=always")["distil"] == {}
    plain = {"name": "refilled", "spots": "adaptive", "stages": {"classifier": {"spots": "always"}}}
    assert spots_of(method=plain) == {"embedding": {"policy": "adaptive"}, "classifier": {}}


def test_spots_say_where_they_come_from_and_name_the_run() -> None:
    text = tiny("method=sp", "method.spots=adaptive").annotated_yaml()
    assert "policy: adaptive  # override method.spots=adaptive" in text
    resolved = tiny("method=sakd", "method.spots.keep=0.2")
    assert resolved.origins["method.stages.distil.spots.keep"] == "override method.spots.keep=0.2"
    assert tiny("method=sp", "method.spots=always").identity == tiny("method=sp").identity
    assert tiny("method=sp", "method.spots=adaptive").identity != tiny("method=sp").identity


def test_what_cannot_be_routed_is_one_sentence_with_its_path() -> None:
    with refused("invalid-config"):
        tiny("method.spots=adaptive")
    assert tiny("method.spots=adaptive", "method.stages.classifier.spots=always")
    with refused("invalid-config"):
        tiny("method=sp", "method.spots=often")
    with refused("not-a-policy"):
        tiny("method=sp", "method.spots=[1]")
    with refused("needs-teacher-term"):
        tiny("method=student", "method.spots=adaptive")
    for overrides in (["method.spots.policy.x=1"], ["method.spots={keep: {}}"], ["method.spots.polcy=anti"],
                      ["method.spots=adaptve"], ["method.spots.keep=0.9"]):  # fmt: skip
        with refused("invalid-config"):
            tiny("method=sp", *overrides)


def test_optimiser_keys_reach_stages_that_the_experiment_adds(write: Write) -> None:
    stage = {"epochs": 1, "terms": {"cross_entropy": {}}, "optimiser": {"momentum": 0.5}}
    content = {
        **TINY,
        "method": {"name": "refilled", "stages": {"polish": stage}},
        "optimiser": {"lr": 0.123},
    }
    stages = load(write("mine", content)).experiment.method.stages
    assert {stage.optimiser.lr for stage in stages.values()} == {0.123}
    assert stages["polish"].optimiser.momentum == 0.5


def test_optimiser_keys_of_a_lower_layer_reach_stages_of_a_higher_one(write: Write) -> None:
    write("base", {**TINY, "optimiser": {"lr": 0.123}})
    stage = {"epochs": 1, "terms": {"cross_entropy": {}}}
    child = {"extends": "base", "method": {"name": "refilled", "stages": {"polish": stage}}}
    resolved = load(write("child", child), ["optimiser.momentum=0.5"])
    polish = resolved.experiment.method.stages["polish"].optimiser
    assert (polish.lr, polish.momentum) == (0.123, 0.5)
    assert resolved.origins["method.stages.polish.optimiser.lr"] == "extends base"


def test_options_and_taps_belong_to_the_network_that_they_were_written_for() -> None:
    words = ("student.network=wrn_10_1", "student.options={dropout: 0.1}", "student.taps={maps: [block1]}")
    assert tiny(*words).experiment.student.options == {"dropout": 0.1}
    assert tiny(*words, "student.network=wrn_10_1").experiment.student.options == {"dropout": 0.1}
    other = tiny(*words, "student.network=resnet8").experiment.student
    assert other.options == {}
    assert other.taps.maps is None
