"""A named teacher beside the previous step's model, from the first step on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from gkd.commands.dry_run import dry_run
from gkd.commands.run import run
from gkd.config.layers import Layer
from gkd.config.resolve import Resolved, resolve
from gkd.experiment.prepare import prepare
from gkd.experiment.run_folder import run_folder
from gkd.experiment.sides import sides_of
from gkd.experiment.teachers import check_before_training
from gkd.incremental.first_method import without_teacher
from gkd.methods.method import Method
from gkd.models import build_network
from tests.clip_helpers import register, whole
from tests.refusals import refused

STAGE: dict[str, Any] = {
    "epochs": 1,
    "terms": {
        "cross_entropy": {},
        "kd": {"rows": "all"},
        "pkt": {"teacher": "wide"},
        "sp": {"teacher": ["previous", "wide"]},
    },
}
METHOD: dict[str, Any] = {"name": "mine", "paper": "ours", "summary": "s", "stages": {"distil": STAGE}}


def content(folder: Path, **teacher: Any) -> dict[str, Any]:
    torch.manual_seed(3)
    state = build_network("resnet8x4", num_classes=2, in_channels=1).state_dict()
    save_file(state, folder / "wide.safetensors", {"classes": json.dumps(["3", "owl"])})
    section = {"network": "resnet8x4", "checkpoint": str(folder / "wide.safetensors"), "image_size": 12}
    return {
        "task": {"name": "incremental", "base": 4, "increment": 6, "memory_per_class": 3},
        "data": {"name": "digits", "per_class": 6, "batch_size": 12, "augment": "none"},
        "teachers": {"wide": {**section, **teacher}},
        "student": {"network": "resnet8"},
        "method": METHOD,
        "run": {"epochs": 1, "threads": 1, "precision": "float32", "out": str(folder / "runs")},
    }


def experiment(folder: Path, **teacher: Any) -> Resolved:
    return resolve("beside", [Layer("experiment", content(folder, **teacher))])


def beyond_the_maps(folder: Path, teacher: str, **teachers: Any) -> Resolved:
    """An experiment whose method reads a map that no network here has."""
    terms = {"cross_entropy": {}, "sp": {"teacher": teacher, "at": {"student": [7], "teacher": [7]}}}
    method = {**METHOD, "stages": {"distil": {"epochs": 1, "terms": terms}}}
    return resolve(
        "beyond", [Layer("experiment", {**content(folder), "method": method, "teachers": teachers})]
    )


def records(resolved: Resolved, step: int) -> set[str]:
    lines = (run_folder(resolved) / "steps" / str(step) / "metrics.jsonl").read_text().splitlines()
    return {key for key in json.loads(lines[-1]) if key.startswith("loss/")}


def test_the_first_step_keeps_the_terms_of_named_teachers_alone() -> None:
    method = Method.model_validate(METHOD)
    first = without_teacher(method, ["wide"]).stages["distil"].terms
    assert list(first) == ["cross_entropy", "pkt", "sp"]
    assert first["sp"].teacher == ("wide",)


def test_the_one_previous_model_may_be_named_as_any_one_teacher() -> None:
    terms = {"cross_entropy": {}, "sp": {"teacher": "teacher"}, "pkt": {"teacher": "all"}}
    stage = {"epochs": 1, "terms": terms}
    first = without_teacher(Method.model_validate({**METHOD, "stages": {"distil": stage}}))
    assert list(first.stages["distil"].terms) == ["cross_entropy"]


@pytest.mark.parametrize("teacher", ["teacher", "all"])
def test_what_the_one_previous_model_does_not_have_is_refused_before_training(
    teacher: str, tmp_path: Path
) -> None:
    with refused("spot-out-of-range"):
        prepare(beyond_the_maps(tmp_path, teacher))


def test_a_named_teacher_may_be_called_nearly_as_the_previous_model(tmp_path: Path) -> None:
    wide = content(tmp_path, classes="file")["teachers"]["wide"]
    with refused("spot-out-of-range"):
        check_before_training(prepare(beyond_the_maps(tmp_path, "previous_year", previous_year=wide)))


def test_terms_without_a_name_read_the_previous_model_and_others_the_named_one(tmp_path: Path) -> None:
    resolved = experiment(tmp_path, classes="file")
    console = Console(file=io.StringIO(), width=200)
    dry_run(resolved, console)
    summary, _ = run(resolved, console)
    assert records(resolved, 1) == {"loss/cross_entropy", "loss/pkt", "loss/sp"}
    several = {"loss/sp/previous", "loss/sp/wide"}
    assert records(resolved, 2) == {"loss/cross_entropy", "loss/kd", "loss/pkt", "loss/sp", *several}
    relation = summary.teachers["wide"].relation
    assert relation is not None
    assert (relation.shared, relation.student_classes) == (1, 4)
    assert not run(resolved, console)[1]


def test_a_teacher_beside_must_be_given_and_say_its_classes_or_have_none(tmp_path: Path) -> None:
    with refused("invalid-config"):
        experiment(tmp_path, checkpoint=None)
    stated = experiment(tmp_path)  # without a word on its classes it has those that its file states
    assert sides_of(stated.experiment).relation_of("wide").teacher.names == ("3", "owl")
    unstated = tmp_path / "unstated.safetensors"
    save_file({"x": torch.zeros(2)}, unstated)
    with refused("classes-missing"):
        sides_of(experiment(tmp_path, checkpoint=str(unstated)).experiment).first_problem()


def test_a_teacher_beside_shares_classes_by_match(tmp_path: Path) -> None:
    told = content(tmp_path, classes=["n3", "owl"])
    told["task"]["match"] = "[0-9]"
    sides = sides_of(resolve("beside", [Layer("experiment", told)]).experiment)
    assert sides.relation_of("wide").num_shared == 1
    assert [problem.of_teacher("wide").relation.num_shared for problem in sides.problems()] == [1, 1]


def test_a_text_tower_beside_the_previous_model_is_told_the_classes_of_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GKD_CACHE", str(tmp_path / "cache"))
    register(tmp_path)
    whole("gkd-tiny-vit", tmp_path / "clip.safetensors")
    clip = {"network": "open_clip/gkd-tiny-vit", "checkpoint": str(tmp_path / "clip.safetensors")}
    clip |= {"classes": None, "image_size": 32, "names": True}
    induced = {"loss": "induced_classifier", "classes": "all", "centres": "names", "teacher": "clip"}
    terms = {"cross_entropy": {}, "kd": {"rows": "all"}, "induced": induced}
    told = content(tmp_path) | {"teachers": {"clip": clip}}
    told["method"] = {**METHOD, "stages": {"distil": {"epochs": 1, "terms": terms}}}
    told["data"]["channels"] = 3
    dry_run(resolve("named", [Layer("experiment", told)]), Console(file=io.StringIO()))  # of two steps
