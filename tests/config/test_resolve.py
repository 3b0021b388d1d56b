"""Resolving a config: what must be right first, overrides, and a file that resolves to itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gkd.config.load import load
from tests.config_helpers import Write, tiny
from tests.refusals import refused


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
        ({"method": ["kd"]}, "not-a-section"),
        ({"optimiser": "sgd"}, "not-a-section"),
        ({"task": {"name": ["standard"]}}, "unknown-task"),
    ],
)
def test_what_the_rest_hangs_on_is_checked_first(sections: dict[str, Any], code: str) -> None:
    with refused(code):
        tiny(**sections)


@pytest.mark.parametrize(
    ("sections", "words", "method"),
    [
        ({}, [], "auto"),
        ({"teacher": None}, [], "student"),
        ({}, ["teacher=null"], "student"),
        ({"teacher": None}, ["teachers.a={network: resnet8, checkpoint: a.pth}"], "auto"),
        ({"teacher": None, "task": {"name": "incremental", "base": 3, "increment": 1}}, [], "auto"),
        (
            {"teacher": None, "task": {"name": "incremental", "base": 3, "increment": 1}},
            ["task.base=4"],
            "auto",
        ),
    ],
)
def test_a_config_that_names_no_method_has_one(
    sections: dict[str, Any], words: list[str], method: str
) -> None:
    """And the same name and identity as one that names it."""
    resolved = tiny(*words, **{"method": {}, **sections})
    assert resolved.experiment.method.name == method
    assert resolved.identity == tiny(*words, **{**sections, "method": method}).identity


@pytest.mark.parametrize("override", ["run.seed", "=1", "run seed=1", ".run=1", "a..b=1"])
def test_an_override_of_another_form_is_refused(override: str) -> None:
    with refused("override-form"):
        tiny(override)


@pytest.mark.parametrize(
    ("value", "path"),
    [("a #1/b", "a #1/b"), ("'a #1/b'", "a #1/b"), ('"a" # here', "a"), (" plain ", "plain")],
)
def test_a_path_keeps_what_yaml_would_take_for_a_comment(value: str, path: str) -> None:
    assert tiny(f"run.out={value}").experiment.run.out == Path(path)


def test_what_differs_from_the_defaults_is_shown_alone(write: Write) -> None:
    """And what an override says, were it the default; of a file that states all values, such as a run's, too."""
    resolved = tiny("optimiser.lr=0.1", "run.threads=2", "data.fit=stretch")
    of_a_file = load(write("again", resolved.annotated_yaml()), ["run.log_seconds=10"])
    whole = yaml.safe_load(resolved.annotated_yaml())
    for each, data, run in ((resolved, {"fit": "stretch"}, {}), (of_a_file, {}, {"log_seconds": 10.0})):
        text = each.annotated_yaml(differing=True)
        shown = yaml.safe_load(text)
        assert shown["task"]["name"] == whole["task"]["name"]
        assert {key: shown["data"].get(key) for key in ("fit", "download")} == {
            "fit": None,
            "download": None,
        } | data
        assert shown["run"] == {key: whole["run"][key] for key in shown["run"]} | run
        assert "threads" in shown["run"]
        assert "checkpoint_seconds" not in shown["run"]
        assert "sources" not in shown["method"]
        stage = shown["method"]["stages"]["embedding"]
        assert stage["optimiser"]["lr"] == 0.1
        assert "momentum" not in stage["optimiser"]
        assert "code njulus/GKD" in text or each is of_a_file
        assert len(text.splitlines()) < 0.5 * len(each.annotated_yaml().splitlines())


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


LIBRARYS = ("task={name: cross_task}", "method=sp", "teacher={network: timm/resnet10t, pretrained: true}")


def test_a_teachers_image_size_is_that_of_its_view_of_the_data() -> None:
    by_library = tiny(*LIBRARYS)
    view = by_library.experiment.data.teacher_view
    assert view is not None
    assert view.image_size == 176  # what timm says of resnet10t
    assert by_library.origins["data.teacher_view.image_size"] == "the library, of timm/resnet10t c3_in1k"
    short, long = (tiny(*LIBRARYS, f"{key}.image_size=64") for key in ("teacher", "data.teacher_view"))
    assert short.identity == long.identity
    assert short.identity != by_library.identity
    assert short.experiment.data.teacher_view == long.experiment.data.teacher_view
    tiny(*LIBRARYS, "teacher.image_size=64", "data.teacher_view.image_size=64")
    with refused("image-size-twice"):
        tiny(*LIBRARYS, "teacher.image_size=64", "data.teacher_view.image_size=32")


def test_openais_weights_bring_their_activation() -> None:
    """Without it they are another function, which no name of a weight tells."""
    for side in ("teacher", "student"):
        section = f"{side}={{network: open_clip/ViT-B-32, pretrained: openai}}"
        found = tiny(*LIBRARYS, section, "data.image_size=32")
        assert getattr(found.experiment, side).options == {"quick_gelu": True}
        stated = found.with_overrides([f"{side}.options.quick_gelu=false"])
        assert getattr(stated.experiment, side).options == {"quick_gelu": False}
        others = found.with_overrides([f"{side}.pretrained=laion2b_s34b_b79k"])
        assert getattr(others.experiment, side).options == {}
        with refused("invalid-config"):
            found.with_overrides([f"{side}.options=5"])


def test_a_librarys_teacher_sees_images_resized_as_the_library_says() -> None:
    def interpolation(*words: str) -> object:
        view = tiny(*words).experiment.data.teacher_view
        return None if view is None else view.interpolation

    assert interpolation(*LIBRARYS) == interpolation(*LIBRARYS, "teacher.image_size=64") == "bicubic"
    for key in ("teacher", "data.teacher_view"):
        assert interpolation(*LIBRARYS, f"{key}.interpolation=bilinear") == "bilinear"
    torchvisions = [LIBRARYS[0], LIBRARYS[1], "teacher={network: torchvision/resnet18, pretrained: true}"]
    assert interpolation(*torchvisions) == "bilinear"
    of_a_file = "teacher={network: timm/resnet10t, checkpoint: w.pth, image_size: 64, classes: null}"
    assert interpolation(LIBRARYS[0], LIBRARYS[1], of_a_file) == "bilinear"
    plain = tiny("data.teacher_view={image_size: 64}")
    assert plain.identity == plain.with_overrides(["data.teacher_view.interpolation=bilinear"]).identity
    assert plain.identity != plain.with_overrides(["data.teacher_view.interpolation=bicubic"]).identity
    with refused("interpolation-twice"):
        tiny(*LIBRARYS, "teacher.interpolation=bilinear", "data.teacher_view.interpolation=bicubic")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("teacher.options={num_classes: 0}", "teacher.classes"),
        ("teacher.weights=DEFAULT", "pretrained: true"),
        ("teacher.network=hf-hub:timm/resnet10t", "hf://OWNER/NAME/FILE"),
        ("teacher.checkpoint=hf://timm/resnet10t", "hf://OWNER/NAME/FILE"),
    ],
)
def test_another_spelling_of_a_librarys_teacher_names_ours(old: str, new: str) -> None:
    with refused("invalid-config") as caught:
        tiny(*LIBRARYS, "teacher.pretrained=false", old)
    assert new in str(caught.value)
