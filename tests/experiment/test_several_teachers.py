"""A run with two teachers, from its config to its results, and a grid of each alone and both."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from gkd.cli.run import _report
from gkd.commands.compare import compare
from gkd.commands.dry_run import dry_run
from gkd.commands.evaluate import evaluate_run
from gkd.commands.run import run
from gkd.config.layers import Layer
from gkd.config.resolve import Resolved, resolve
from gkd.experiment.prepare import prepare
from gkd.experiment.run_folder import run_folder
from gkd.experiment.teachers import check_before_training
from gkd.models import build_network
from tests.cli_helpers import gkd
from tests.refusals import refused


def weights(path: Path, network: str, classes: list[str], seed: int) -> str:
    torch.manual_seed(seed)
    state = build_network(network, num_classes=len(classes), in_channels=1).state_dict()
    save_file(state, path, {"classes": json.dumps(classes)})
    return str(path)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """Digits 2 to 6; one teacher knows three of them, the other is a wider body without classes on larger images."""
    near = weights(tmp_path / "near.safetensors", "resnet8", [*"01234"], 0)
    bare = weights(tmp_path / "bare.safetensors", "resnet8x4", ["x", "y"], 1)
    return {
        "task": {"name": "cross_task", "student_classes": [*"23456"]},
        "data": {"name": "digits", "per_class": 8, "batch_size": 20, "augment": "none", "views": 1},
        "teachers": {
            "near": {"network": "resnet8", "checkpoint": near, "classes": "file"},
            "bare": {"network": "resnet8x4", "checkpoint": bare, "classes": None, "image_size": 12},
        },
        "student": {"network": "resnet8"},
        "method": "queue_all_teachers",
        "run": {"epochs": 1, "threads": 1, "precision": "float32", "out": str(tmp_path / "runs")},
    }


def resolved(content: dict[str, Any], *words: str) -> Resolved:
    return resolve("two", [Layer("experiment", content)]).with_overrides(words)


KD = ["method=kd", "method.stages.distil.terms.kd.teacher="]


def test_a_run_tells_of_each_teacher_and_is_judged_again_without_them(content: dict[str, Any]) -> None:
    said = io.StringIO()
    console, two = Console(file=said, width=200), resolved(content)
    dry_run(two, console)
    summary, trained = run(two, console)
    assert trained
    for line in ("teacher   near, resnet8", "teacher   bare, resnet8x4"):
        assert said.getvalue().count(line) == 2  # of the dry run and of the run
    near, bare = summary.teachers["near"], summary.teachers["bare"]
    assert summary.teacher == near
    assert near.relation is not None
    assert bare.relation is not None
    assert (near.relation.kind, bare.relation.kind) == ("overlapping", "none")
    assert near.accuracy is not None
    assert bare.accuracy is None
    assert near.probe is not None
    assert bare.probe is not None
    assert near.hash != bare.hash
    report = _report(two, summary, True, 120)
    assert "relation  bare: no classes" in report
    assert "teacher   bare: its classes are not known;" in report
    assert "agrees with the teacher near on" in report
    record = json.loads((run_folder(two) / "metrics.jsonl").read_text().splitlines()[-1])
    parts = [record[f"loss/queue_similarity/{name}"] for name in ("near", "bare")]
    assert record["loss/queue_similarity"] == pytest.approx(sum(parts))
    again, trained = run(two, console)
    assert not trained
    assert again.teachers == summary.teachers
    folder = run_folder(two)
    for section in content["teachers"].values():
        Path(section["checkpoint"]).unlink()
    assert evaluate_run(folder, []).judged["last"].accuracy == summary.last.accuracy


def test_a_grid_has_rows_of_each_teacher_alone_and_of_both(content: dict[str, Any], tmp_path: Path) -> None:
    of = {"method": "queue_all_teachers"}
    alone = [
        {"label": name, **of, "terms": {"queue_similarity": {"teacher": name}}} for name in ("near", "bare")
    ]
    dropped = {"label": "set", **of, "set": {"teachers.near": None}}
    content["compare"] = {
        "methods": ["student", *alone, {"label": "both", **of}, dropped],
        "results": str(tmp_path / "table"),
    }
    grid = compare(resolved(content), Console(file=io.StringIO()))
    lines = {line.split(" | ")[1]: line for line in grid.text.splitlines() if line.startswith("| ")}
    assert lines["both"].startswith("| near overlapping, bare no classes | both | near ")
    assert lines["near"].startswith("| near overlapping | near | near ")
    assert lines["bare"].startswith("| bare no classes | bare | bare – | bare ")
    assert lines["set"].startswith("| bare no classes | set | bare – |")
    assert lines["student"].startswith("| overlapping | student | – |")
    header = (tmp_path / "table" / "table.csv").read_text().splitlines()[0]
    assert "teacher/near" in header


def test_a_row_without_the_teacher_for_which_an_alias_is_has_no_use_for_it(content: dict[str, Any]) -> None:
    content["task"] |= {"aliases": {"6": "0"}, "match": "[0-4]"}
    alone = "method.stages.distil.terms.queue_similarity.teacher="
    for words, shared in (([f"{alone}near"], 4), ([f"{alone}bare"], 0), (["method=student"], 4)):
        assert prepare(resolved(content, *words)).problem.relation.num_shared == shared
    content["task"]["aliases"] = {"6": "none"}
    with refused("unknown-class"):
        prepare(resolved(content))


def test_a_method_is_refused_by_the_teacher_that_it_cannot_read(content: dict[str, Any]) -> None:
    prepare(resolved(content, *KD[:1], f"{KD[1]}near"))
    for teacher in ("bare", "all"):
        with refused("method-not-applicable") as caught:
            prepare(resolved(content, *KD[:1], f"{KD[1]}{teacher}"))
        assert "the teacher 'bare' has no classes" in str(caught.value)


def test_a_teacher_is_loaded_only_where_a_term_reads_it_and_its_file_is_told_by_its_name(
    content: dict[str, Any],
) -> None:
    Path(content["teachers"]["bare"]["checkpoint"]).unlink()
    near = "method.stages.distil.terms.queue_similarity.teacher=near"
    prepared = prepare(resolved(content, near))
    check_before_training(prepared)
    assert not prepared.problem.student.train.views
    assert any(note.startswith("teachers.bare is not read") for note in prepared.notes)
    with refused("checkpoint-missing") as caught:
        check_before_training(prepare(resolved(content)))
    assert str(caught.value).startswith("Of teachers.bare: ")


def test_a_teacher_of_several_may_be_trained_first(content: dict[str, Any]) -> None:
    content["teachers"]["bare"] = {"network": "resnet8", "train": {"epochs": 1}}
    summary, _ = run(resolved(content), Console(file=io.StringIO()))
    trained = summary.teachers["bare"]
    assert trained.relation is not None
    assert trained.relation.teacher_classes == 10  # every class of the data
    assert trained.accuracy is not None


def test_validate_shows_the_relation_of_each(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.yaml").write_text(json.dumps(content))
    assert gkd("validate", str(tmp_path / "two.yaml")) == 0
    printed = capsys.readouterr().out
    assert "# near: overlapping: 5 teacher classes" in printed
    assert "# bare: no classes of the teacher's are known" in printed
    assert gkd("validate", str(tmp_path / "two.yaml"), "teachers.bare.image_size=1000000") == 2


def test_a_leak_is_told_of_the_teacher_that_knows_novel_classes(content: dict[str, Any]) -> None:
    content["task"] = {"name": "few_shot", "base": [*"56789"], "novel": [*"01234"]}
    content["task"]["episodes"] = {"ways": 2, "shots": 1, "queries": 1}
    with refused("leaked-classes") as caught:
        prepare(resolved(content))
    assert str(caught.value).startswith("Of teachers.near: The teacher knows 5 of the 5 novel classes")
