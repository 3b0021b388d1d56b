"""A teacher is judged on its own classes before it teaches."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from gkd import metrics
from gkd.config.load import load
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.distill.teacher import Teacher
from gkd.experiment.judge import (
    cached_predictions,
    chance_explains,
    judge,
    own_results,
    probe,
    teacher_results,
    with_verdict,
)
from gkd.experiment.prepare import prepare
from gkd.experiment.teachers import load_teacher
from gkd.models import build_network
from gkd.problems.judging import Verdict
from gkd.storage.judged import Judged, NearChance
from gkd.storage.weights import read_weights
from gkd.training.settings import Settings
from tests.cli_helpers import PHOTOS, gkd, summary_of, write_photos
from tests.refusals import refused


def test_a_teacher_is_judged_when_it_is_loaded(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos.zip")
    assert gkd(*PHOTOS, "run.out=first") == 0
    told = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher   resnet8:")
    )
    assert "of the 18 test images of its 3 classes" in told
    assert ", in float32; input mean " in told
    assert told.endswith("(from its file)")
    accuracy = summary_of(tmp_path / "first")["teacher"]["accuracy"]
    (file,) = (tmp_path / "first" / "teachers").rglob("student.safetensors")
    words = (*PHOTOS, f"teacher.checkpoint={file}", "run.out=second")
    assert gkd(*words, "teacher.expect=99 ± 0.1") == 2
    assert f"has {accuracy:.2f} % of the 18 test images" in capsys.readouterr().err
    assert not list((tmp_path / "second").rglob("metrics.jsonl"))  # nothing was trained
    assert gkd(*words, f"teacher.expect={accuracy:.2f} +- 0.3") == 0
    assert f"(expected {accuracy:.2f} ± 0.3)" in capsys.readouterr().out
    assert gkd(*words, "teacher.expect=99 ± 0.1") == 2  # also where the run is finished
    assert (
        f"its teacher had {accuracy:.2f} % on its own classes, but teacher.expect is"
        in capsys.readouterr().err
    )
    resolved = load("cross_task/photos", [*words[2:], "teacher.expect=12"])
    assert resolved.experiment.teacher.expect == "12 ± 0.5"
    assert resolved.identity == load("cross_task/photos", words[2:]).identity
    with refused("invalid-config"):
        load("cross_task/photos", ["teacher.expect=good"])


@pytest.mark.parametrize("classes", [5, 6])
def test_single_classes_and_the_five_best_are_judged_where_there_are_more(classes: int) -> None:
    logits = torch.randn(60, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % (classes - 1)
    names = [f"c{number}" for number in range(classes)]
    judged = judge(logits, labels, classes=names)
    right = logits.argmax(1) == labels
    shares = {n: round(100 * right[labels == i].double().mean().item(), 4) for i, n in enumerate(names[:-1])}
    assert judged.accuracy_per_class == {**shares, names[-1]: None}
    top = (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    assert judged.accuracy_top5 == (None if classes == 5 else round(100 * top, 4))
    written = {"accuracy_per_class", *(() if classes == 5 else ("accuracy_top5",))}
    assert judged.model_fields_set - {"accuracy", "ece", "nll"} == written
    assert judge(logits, labels).accuracy_per_class == {}
    assert judged.without_classes() == judge(logits, labels)


def test_the_numbers_of_a_tasks_own_judging_join_the_others_and_are_finite():
    judged = Judged(accuracy=50.0, metrics={"macro_f1": 40.0})
    assert with_verdict(judged, Verdict({"worst": 30.0})).metrics == {"macro_f1": 40.0, "worst": 30.0}
    with refused("metric-not-finite"):
        with_verdict(judged, Verdict({"worst": float("nan")}))


@pytest.mark.parametrize(
    ("classes", "images", "right", "found"),
    [
        (4, 40, 40, None),
        (4, 40, 0, (0.0, 45.5396)),  # every column one too far: 25 + 3 · sqrt(0.25 · 0.75 / 40)
        (2, 36, 27, None),  # at the limit of 75
        (2, 36, 26, (72.2222, 75.0)),
        (2, 4, 4, None),  # so few images that chance reaches all of them, and yet all are right
        (2, 4, 3, (75.0, 100.0)),
    ],
)
def test_what_chance_explains(
    classes: int, images: int, right: int, found: tuple[float, float] | None
) -> None:
    space = LabelSpace([f"c{number}" for number in range(classes)])
    labels = torch.arange(images) % classes
    answers = torch.where(torch.arange(images) < right, labels, (labels + 1) % classes)
    near = chance_explains(F.one_hot(answers, classes).float(), labels, LabelRelation(space, space))
    expected = (
        None
        if found is None
        else NearChance(accuracy=found[0], limit=found[1], images=images, classes=classes)
    )
    assert near == expected


def test_only_shared_classes_count_and_two_are_needed() -> None:
    teacher = LabelSpace(["x", "a", "b", "c"])
    labels = torch.arange(80) % 4
    logits = F.one_hot(labels, 4).float()
    logits[:, 0] += 2  # the class that the student does not have wins everywhere
    assert chance_explains(logits, labels, LabelRelation(teacher, LabelSpace(["c", "b", "y"]))) is None
    swapped = logits[:, [0, 1, 3, 2]]
    near = chance_explains(swapped, labels, LabelRelation(teacher, LabelSpace(["c", "b", "y"])))
    assert near is not None
    assert (near.accuracy, near.images, near.classes) == (0.0, 40, 2)
    for student in (["y", "z"], ["c", "z"]):
        assert chance_explains(swapped, labels, LabelRelation(teacher, LabelSpace(student))) is None


def test_a_teacher_is_judged_in_float32_whatever_the_runs_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=5, in_channels=1)
    with torch.no_grad():  # logits of 100 and a little, which bf16 takes for the same
        network.fc.bias.fill_(100.0)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    words = ["teacher.network=resnet8", f"teacher.checkpoint={tmp_path / 'teacher.safetensors'}"]
    prepared = prepare(load("cross_task/digits", [*words, "run.precision=bf16"]))
    assert prepared.settings.dtype == torch.bfloat16
    teacher, prepared = load_teacher(prepared, tmp_path / "teacher.safetensors")
    test = prepared.problem.teacher.test.restrict(teacher.space)
    exact, _ = cached_predictions(teacher, test, replace(prepared.settings, dtype=torch.float32))
    rough, _ = cached_predictions(teacher, test, prepared.settings)
    labels = test.labels.cpu()
    assert metrics.accuracy(exact, labels) != metrics.accuracy(rough, labels)
    own = own_results(teacher, prepared.problem, prepared.settings)
    assert own is not None
    assert own.accuracy == metrics.accuracy(exact, labels)
    precisions = []

    def watched(teacher: Teacher, images: ImageSet, settings: Settings) -> tuple[Tensor, Tensor]:
        precisions.append(settings.dtype)
        return cached_predictions(teacher, images, settings)

    monkeypatch.setattr("gkd.experiment.judge.cached_predictions", watched)
    assert teacher_results(teacher, prepared).accuracy == pytest.approx(own.accuracy, abs=1e-4)
    assert precisions == [torch.float32] * 3  # its own images, the student's, and those of the class means


GIVEN = ["teacher.mean=[0.1]", "teacher.std=[0.2]"]


@pytest.mark.parametrize(
    ("metadata", "words", "source"),
    [
        ({"mean": "0.3", "std": "0.4"}, [], "input mean 0.3, std 0.4 (from its file)"),
        (
            {"mean": "0.3", "std": "0.4"},
            GIVEN,
            "input mean 0.1, std 0.2 (from teacher.mean and teacher.std)",
        ),
        ({}, GIVEN, "input mean 0.1, std 0.2 (from teacher.mean and teacher.std)"),
        (
            {},
            [],
            "(mean and std assumed to be those of the images, for neither its file nor teacher.mean says them)",
        ),
        ({}, ["teacher.mean=[0.1]"], "(teacher.mean; std assumed to be those of the images"),
    ],
)
def test_the_line_of_a_teacher_says_where_its_normalisation_is_from(
    metadata: dict[str, str],
    words: list[str],
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    network = build_network("resnet8", num_classes=5, in_channels=1)
    save_file(network.state_dict(), "teacher.safetensors", metadata)
    teacher = ("teacher.network=resnet8", "teacher.checkpoint=teacher.safetensors")
    assert gkd("run", "cross_task/digits", "method=sp", "run.threads=1", *teacher, *words, "--dry-run") == 0
    assert source in capsys.readouterr().out


def summary_of_digits(out: str) -> dict[str, Any]:
    (path,) = Path(out, "cross_task/digits").rglob("summary.json")
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


def test_a_teacher_with_shifted_columns_is_said_loudly_and_refused_by_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = (
        "method=sp",
        "run.threads=1",
        "run.epochs=1",
        "teacher.network=resnet8",
        "teacher.train.epochs=3",
    )
    assert gkd("run", "cross_task/digits", *short, "teacher.expect=auto", "run.out=first") == 0
    assert "WARNING" not in capsys.readouterr().out
    assert "near_chance" not in summary_of_digits("first")["teacher"]
    (file,) = (tmp_path / "first" / "teachers").rglob("student.safetensors")
    tensors, header = read_weights(file)
    classes = json.loads(header["classes"])
    save_file(tensors, "shifted.safetensors", {**header, "classes": json.dumps([*classes[1:], classes[0]])})
    words = (*short, "teacher.checkpoint=shifted.safetensors", "run.out=second")
    for verb in (["run"], ["run", "--dry-run"]):
        assert gkd(*verb, "cross_task/digits", *words, "teacher.expect=auto") == 2
        assert "chance explains" in capsys.readouterr().err
    assert gkd("run", "cross_task/digits", *words) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert printed.count("WARNING   the teacher has") == 2  # when it is loaded, and beside the results
    near = summary_of_digits("second")["teacher"]["near_chance"]
    assert near["accuracy"] < near["limit"]
    assert (
        gkd("run", "cross_task/digits", *words, "teacher.expect=auto") == 2
    )  # also where the run is finished
    rows = "compare={methods: [student, sp], seeds: [0]}"
    assert gkd("compare", "cross_task/digits", *words[1:], "run.epochs=2", rows) == 0
    (table,) = (tmp_path / "second").rglob("table.md")
    assert "**Warning**: of sp, the teacher has" in table.read_text()
    rows_of_json = json.loads(table.with_suffix(".json").read_text())["rows"]
    rows_of_csv = list(csv.DictReader(table.with_suffix(".csv").read_text().splitlines()))
    for rows_of_file in (rows_of_json, rows_of_csv):
        warnings = {(row["label"], row["relation"]): row.get("warning") for row in rows_of_file}
        assert not warnings["student", "same"]
        assert "chance explains" in warnings["sp", "same"]
        assert not warnings["sp", "disjoint"]  # no class is shared that its columns could be judged by


def test_a_teacher_of_other_classes_is_judged_on_those_it_shares_and_by_its_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=5, in_channels=1)
    names = ["digit 3", "cat", "digit 1", "dog", "digit 9"]
    save_file(network.state_dict(), "w.safetensors", {"classes": json.dumps(names)})
    words = (
        "teacher.network=resnet8", "teacher.checkpoint=w.safetensors", "teacher.classes=file",
        "task={name: cross_task, size: null, student_classes: ['1', '2', '3'], match: '\\d'}",
    )  # fmt: skip
    resolved = load("cross_task/digits", list(words))
    teacher, prepared = load_teacher(prepare(resolved), Path("w.safetensors"))
    problem = prepared.problem
    own = own_results(teacher, problem, prepared.settings)
    assert own is not None
    test = problem.student.test
    shared = [(row, {0: 2, 2: 0}[int(label)]) for row, label in enumerate(test.labels) if int(label) != 1]
    with torch.no_grad():
        logits = teacher(test.images[[row for row, _ in shared]])
    columns = torch.tensor([column for _, column in shared])
    assert own.images == len(shared)
    assert own.accuracy == pytest.approx(100 * float((logits.argmax(1) == columns).double().mean()))
    among = torch.tensor([0, 2])[logits[:, [0, 2]].argmax(1)]
    assert own.shared_accuracy == pytest.approx(100 * float((among == columns).double().mean()))
    assert own.shared_accuracy > own.accuracy  # of five columns and of two
    assert probe(teacher, problem, prepared.settings) is not None
    none_held_out = replace(problem.student, held_out=False)  # as of a middle-shot task
    assert probe(teacher, replace(problem, student=none_held_out), prepared.settings) is None
    rows = "compare={methods: [student, sp], seeds: [0], axes: {task.shift: [0]}}"
    assert gkd("compare", "cross_task/digits", *words, "teacher.classes=null", "run.epochs=2", rows) == 0
    (table,) = (tmp_path / "runs").rglob("table.json")
    alone, taught = json.loads(table.read_text())["rows"]
    assert "probe_nearest_mean" not in alone
    assert taught["relation"] == "none"
    assert taught["teacher"] is None
    assert 30 < taught["probe_nearest_mean"] <= 100  # chance is 33
    assert "| no classes | sp | – |" in table.with_suffix(".md").read_text()
    assert (
        gkd("run", "cross_task/digits", *words, "teacher.classes=null", "method=sp", "teacher.expect=auto")
        == 2
    )
    assert "no accuracy here" in capsys.readouterr().err
