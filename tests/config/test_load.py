"""Experiments as YAML: layers and their precedence, every mistake at once, identity."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gkd.config.load import load
from gkd.config.shipped import shipped_configs, shipped_methods
from gkd.config.yaml_files import parse_yaml
from gkd.core.errors import UserError
from tests.config_helpers import TINY, tiny
from tests.refusals import refused

CONFIGS = shipped_configs()
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, content)``: an experiment file, of text or of sections over ``TINY``."""

    def make(name: str, content: str | dict[str, Any]) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return make


def mistakes(*overrides: str, **sections: Any) -> list[str]:
    """The lines of the refusal: a mistake each, of the form ``a.b.c: what``."""
    with pytest.raises(UserError) as caught:
        tiny(*overrides, **sections)
    lines = str(caught.value).splitlines()
    return [line.removeprefix("tiny: ").strip() for line in (lines[1:] if len(lines) > 1 else lines)]


def test_a_number_in_scientific_notation_is_a_number() -> None:
    text = "[1e-3, 5e-4, 1E3, -2e+1, .5e-2, 1.e2, 1e, e3, 1.5]"
    assert parse_yaml(text, "x") == [0.001, 0.0005, 1000.0, -20.0, 0.005, 100.0, "1e", "e3", 1.5]
    stage = tiny("optimiser.lr=1e-3").experiment.method.stages["embedding"]
    assert stage.optimiser.lr == 0.001


def test_a_key_that_appears_twice_is_refused(write: Write) -> None:
    path = write("twice", "task: {name: standard}\ndata:\n  name: digits\n  views: 2\n  name: cifar10\n")
    with refused("invalid-yaml"):
        load(path)


def test_a_duplicate_key_is_found_by_file_and_line(write: Write) -> None:
    path = write("twice", "task: {name: standard}\ndata:\n  name: digits\n  views: 2\n  name: cifar10\n")
    with refused("invalid-yaml") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"task: [", "invalid-yaml"),
        (b"- 1", "not-a-mapping"),
        (b"", "not-a-mapping"),
        (b"\xff\xfe\x00\x80", "config-unreadable"),
    ],
    ids=["broken", "list", "empty", "binary"],
)
def test_a_file_that_is_no_experiment_is_said(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with refused(code):
        load(path)


def test_every_mistake_is_reported_at_once_with_its_path() -> None:
    lines = mistakes(
        "optimiser.lr=fast",
        "run.epochs=0",
        "student=resnet8",
        "method.stages.embedding.terms.tuples.weight=-1",
        "method.stages.classifier.start=lst",
        "task.shift=-1",
        "runn.seed=1",
    )
    paths = [line.split(": ")[0] for line in lines]
    stages = "method.stages"
    assert sorted(paths) == sorted(
        [
            "optimiser.lr", "run.epochs", "student",
            f"{stages}.embedding.terms.tuples.weight", f"{stages}.classifier.start", "task.shift", "runn",
        ]
    )  # fmt: skip
    assert any(line.endswith("got 'fast'.") for line in lines)


def test_several_mistakes_in_one_section_are_reported_at_once() -> None:
    lines = mistakes("data.name=digit", "data.augment=corp", "data.batch_size=0")
    assert {line.split(": ")[0] for line in lines} == {"data.name", "data.augment", "data.batch_size"}


def test_several_mistakes_in_one_term_are_reported_at_once() -> None:
    term = "method.stages.embedding.terms.tuples"
    text = "\n".join(mistakes(f"{term}.wieght=1", f"{term}.margn=1", f"{term}.rows=some"))
    for name in ("wieght", "margn", "rows"):
        assert name in text


@pytest.mark.parametrize(
    ("override", "path", "close"),
    [
        ("sudent.network=resnet8", "sudent", "student"),
        ("data.batch_sise=3", "data.batch_sise", "batch_size"),
        ("data.validation.per_clas=3", "data.validation.per_clas", "per_class"),
        ("teacher.train.epoch=3", "teacher.train.epoch", "epochs"),
        ("teacher.train.optimiser.lrr=3", "teacher.train.optimiser.lrr", "lr"),
        ("method.stages.embedding.shre=1", "method.stages.embedding.shre", "share"),
        ("method.stages.embedding.terms.tuples.margn=1", "method.stages.embedding.terms.tuples", "margin"),
        ("optimiser.momentun=0", "optimiser.momentun", "momentum"),
        ("task.shfit=1", "task.shfit", "shift"),
        ("data.name=digit", "data", "digits"),
        ("data.augment=corp", "data", "crop"),
        ("run.precision=fp16", "run.precision", "bf16"),
    ],
)
def test_an_unknown_key_or_name_meets_its_closest_match(override: str, path: str, close: str) -> None:
    line = mistakes(override)[0]
    assert line.startswith(path)
    assert f"Did you mean {close!r}?" in line or f"'{close}'" in line


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_an_unknown_network_is_refused_with_the_other_mistakes(side: str) -> None:
    lines = mistakes(f"{side}.network=resnet7", "run.seed=-1")
    assert len(lines) == 2
    assert any(line.startswith(f"{side}.network: ") and "resnet" in line for line in lines)


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"task": {"name": "cross_tsk"}}, "unknown-task"),
        ({"task": "standard"}, "not-a-section"),
        (
            {"task": {"size": 5}},
            "task-name-missing",
        ),
        ({"method": "refiled"}, "unknown-method"),
        ({"method": {}}, "method-missing"),
        ({"method": ["kd"]}, "not-a-section"),
        ({"optimiser": "sgd"}, "not-a-section"),
        ({"task": {"name": ["standard"]}}, "unknown-task"),
    ],
)
def test_what_the_rest_hangs_on_is_checked_first(sections: dict[str, Any], code: str) -> None:
    with refused(code):
        tiny(**sections)


@pytest.mark.parametrize("override", ["run.seed", "=1", "run seed=1", ".run=1", "a..b=1"])
def test_an_override_of_another_form_is_refused(override: str) -> None:
    with refused("override-form"):
        tiny(override)


def test_an_unknown_config_lists_those_that_are_there(tmp_path: Path) -> None:
    with refused("unknown-config"):
        load("quickstar")
    with refused("config-missing"):
        load(tmp_path / "absent.yaml")


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


def test_extends_goes_one_level_deep(write: Write) -> None:
    write("first", TINY)
    write("second", {"extends": "first"})
    third = write("third", {"extends": "second"})
    with refused("nested-extends"):
        load(third)
    assert load(write("other", {"extends": "quickstart"})).experiment.task.size == 5


def test_the_resolved_file_names_origins_and_sources_and_resolves_to_itself(write: Write) -> None:
    resolved = tiny("optimiser.lr=0.1")
    text = resolved.annotated_yaml()
    assert "        lr: 0.1  # override optimiser.lr=0.1" in text
    assert re.search(r"temperature: 4.0  # method refilled: code njulus/GKD", text)
    assert "network: resnet8  # experiment" in text
    assert "threads: null  # default" in text
    again = load(write("again", text))
    assert yaml.safe_load(again.annotated_yaml()) == yaml.safe_load(text)
    assert again.identity == resolved.identity


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


def test_a_mistake_in_one_stage_names_that_stage() -> None:
    with refused("invalid-config"):
        tiny("method.stages.embedding.optimiser.lr=x")
    with refused("invalid-config") as told:
        tiny("optimiser.milestones=[a]")
    assert "\n" not in str(told.value)


def test_a_wrong_optimiser_key_is_told_once() -> None:
    with refused("invalid-config") as told:
        tiny("optimiser.lrr=1")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_is_valid_and_short(name: str) -> None:
    content = CONFIGS[name].read_text().splitlines()
    assert len(content) <= 40
    order = [
        "extends",
        "task",
        "data",
        "teacher",
        "student",
        "method",
        "optimiser",
        "evaluate",
        "run",
        "compare",
    ]
    keys = [line.split(":")[0] for line in content if line[:1].isalpha()]
    assert keys == sorted(keys, key=order.index)
    resolved = load(name)
    assert resolved.name == name
    assert load(CONFIGS[name]).identity == resolved.identity


def test_all_shipped_configs_are_found() -> None:
    assert "quickstart" in CONFIGS
    assert not any(name.startswith("methods/") for name in CONFIGS)
    assert {"student", "kd", "sp", "refilled"} <= set(shipped_methods())


def test_options_and_taps_belong_to_the_network_that_they_were_written_for() -> None:
    words = ("student.network=wrn_10_1", "student.options={dropout: 0.1}", "student.taps={maps: [block1]}")
    assert tiny(*words).experiment.student.options == {"dropout": 0.1}
    assert tiny(*words, "student.network=wrn_10_1").experiment.student.options == {"dropout": 0.1}
    other = tiny(*words, "student.network=resnet8").experiment.student
    assert other.options == {}
    assert other.taps.maps is None
