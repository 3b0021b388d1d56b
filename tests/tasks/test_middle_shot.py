"""Middle-shot: fixed tasks over novel classes, a seed each; a student that starts from a pretrained body."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gkd.core.class_orders import class_split
from gkd.core.labels import LabelSpace
from gkd.data import ImageSet
from gkd.models import build_network
from gkd.problems.problem import Problem, Source
from gkd.problems.task import TASKS
from gkd.storage.weights import read_weights
from gkd.tasks.middle_shot import MiddleShotOptions, MiddleShotTask
from tests.cli_helpers import gkd, write_bare
from tests.refusals import refused

OPTIONS: dict[str, Any] = {
    "base": 5,
    "novel": 5,
    "ways": 3,
    "shots": 2,
    "most_shots": 4,
    "queries": 3,
    "tasks": 4,
}
TASK = {"base": 5, "novel": 5, "ways": 3, "shots": 5, "most_shots": 5, "queries": 20, "tasks": 2}
CONFIG = """
task: {name: middle_shot, base: 5, novel: 5, ways: 3, shots: 5, most_shots: 5, queries: 20, tasks: 2}
data: {name: digits, validation: {per_class: 20}, batch_size: 15, augment: crop}
teacher: {network: resnet8, train: {epochs: 1, batch_size: 50}}
student: {network: resnet8, pretrain: {epochs: 1, batch_size: 50}}
method: sp
evaluate: {every: 9}
run: {epochs: 2, precision: float32, threads: 1}
compare: {methods: [student, sp], seeds: [0, 1]}
"""


@pytest.fixture
def source(make_set: Callable[..., ImageSet]) -> Source:
    return Source(*(make_set("abcdefghij", num, seed=seed) for seed, num in enumerate((100, 60, 50))))


def problem(source: Source, seed: int = 0, **options: Any) -> Problem:
    (found,) = MiddleShotTask(MiddleShotOptions(**{**OPTIONS, **options})).problems(source, source, seed)
    return found


def test_it_is_found_by_entry_point() -> None:
    assert TASKS["middle_shot"].load() is MiddleShotTask


def test_a_task_has_a_few_novel_classes_and_a_few_images_of_each(source: Source) -> None:
    found = problem(source)
    assert len(found.student.space) == 3
    assert set(found.student.space) <= set("fghij")
    assert found.relation.kind == "disjoint"
    assert list(found.relation.teacher) == list("abcde")
    assert found.student.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.student.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.measured is not None
    assert set(found.measured.space) == set("abcde")


def test_images_are_of_the_classes_that_they_are_called(source: Source) -> None:
    found = problem(source, seed=1)
    everything = torch.cat([source.train.images, source.validation.images, source.test.images])
    labels = torch.cat([source.train.labels, source.validation.labels, source.test.labels])
    for images in (found.student.train, found.student.test):
        for pixels, column in zip(images.images, images.labels.tolist(), strict=True):
            (place,) = (everything == pixels).flatten(1).all(1).nonzero()
            assert source.space.names[int(labels[place])] == images.space.names[column]


def test_more_shots_are_the_same_task_with_more_images(source: Source) -> None:
    few, many = problem(source, shots=2), problem(source, shots=4)
    assert few.student.space == many.student.space
    assert torch.equal(few.student.test.images, many.student.test.images)
    first = many.student.train.images.view(3, 4, -1)[:, :2]
    assert torch.equal(few.student.train.images.view(3, 2, -1), first)


def test_a_seed_is_a_task(source: Source) -> None:
    assert (
        problem(source, seed=1).student.train.fingerprint()
        == problem(source, seed=1).student.train.fingerprint()
    )
    assert (
        problem(source, seed=1).student.train.fingerprint()
        != problem(source, seed=2).student.train.fingerprint()
    )
    with refused("seed-out-of-range"):
        problem(source, seed=4)


def test_tasks_on_digits_from_a_pretrained_student(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """The whole way: the base student is trained once, its body taken, frozen classifiers beside the methods."""
    monkeypatch.chdir(tmp_path)
    Path("middle.yaml").write_text(CONFIG)
    assert gkd("compare", "middle.yaml") == 0
    printed = capsys.readouterr().out
    assert printed.count("students/resnet8 student seed 0  train 1/1") == 1
    assert printed.count("student   resnet8 is trained first, on 5 classes for ") == 1
    for row in ("frozen nearest-mean", "frozen logistic", "| student |", "| sp |"):
        assert row in printed
    (pretrained,) = Path("runs/students/resnet8").glob("*/seed0")
    body, _ = read_weights(pretrained / "student.safetensors")
    assert len(body["fc.weight"]) == 5
    (run,) = Path("runs/middle").glob("student-*/seed1")
    started, _ = read_weights(run / "student.safetensors")
    assert len(started["fc.weight"]) == 3
    moved = (started["conv1.weight"] - body["conv1.weight"]).norm() / body["conv1.weight"].norm()
    assert moved < 0.7  # two epochs of one step each: still near where it started
    capsys.readouterr()
    words = ("task.name=middle_shot", *(f"task.{key}={value}" for key, value in TASK.items()), "run.seed=1")
    data = ("data.name=digits", "data.validation={per_class: 20}")
    assert gkd("eval", str(run / "student.safetensors"), *data, *words) == 0
    told = capsys.readouterr().out
    assert f"\naccuracy {json.loads((run / 'summary.json').read_text())['last']['accuracy']:.4g}" in told
    assert "frozen/nearest-mean" in told  # on the trained embedding
    correct = json.loads((run / "correct.json").read_text())
    assert correct["count"] == 60
    assert "frozen logistic" in correct


def test_the_relation_is_to_novel_classes(source: Source) -> None:
    """So that what needs shared classes is denied before a teacher is trained, and what needs new ones is not."""
    for options in ({}, {"base": None, "novel": None, "split": "cifar_fs"}):
        task = MiddleShotTask(MiddleShotOptions(**{**OPTIONS, **options}))
        space = LabelSpace([*class_split("cifar_fs")["train"]]) if options else source.space
        assert task.spaces(space, space).kind == "disjoint"
    apart = MiddleShotTask(MiddleShotOptions(**{**OPTIONS, "base": None, "novel": None}))
    assert apart.spaces(source.space, source.space).kind == "disjoint"  # novel are the test images' classes
    leaking = {**OPTIONS, "teacher_classes": list("abfg"), "allow_leak": True}
    assert MiddleShotTask(MiddleShotOptions(**leaking)).spaces(source.space, source.space).num_shared == 2


def test_aliases_of_base_classes(source: Source, make_set: Callable[..., ImageSet]) -> None:
    theirs = Source(*(make_set("zbcde", 30, seed=seed) for seed in range(3)))
    (found,) = MiddleShotTask(MiddleShotOptions(**OPTIONS, aliases={"a": "z"})).problems(theirs, source)
    assert found.relation.kind == "disjoint"


def test_a_teacher_of_its_own_knows_novel_classes_by_match(source: Source) -> None:
    task = MiddleShotTask(MiddleShotOptions(**OPTIONS, aliases={"a": "z"}, match="^.", allow_leak=True))
    own = LabelSpace(["z", *(f"{name}1" for name in "fghij")])
    found = task.with_own_teacher(problem(source), own)
    assert (found.relation.num_shared, len(found.leak)) == (3, 3)
    apart = MiddleShotTask(MiddleShotOptions(**{**OPTIONS, "base": None, "novel": None}, match="^."))
    assert apart.relate(own, apart.spaces(source.space, source.space).student).kind == "disjoint"


def test_a_method_on_shared_classes_is_absent_from_a_grid(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("middle.yaml").write_text(CONFIG.replace("[student, sp]", "[student, kd]"))
    assert gkd("compare", "middle.yaml", "compare.seeds=[0]") == 0
    assert "kd is absent where the classes are disjoint" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["unlabelled_both", "unlabelled_first"])
def test_images_without_labels_and_several_teachers_join_a_task(
    method: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bare(Path("bare"), 24)
    network = build_network("resnet8", num_classes=2, in_channels=1)
    save_file(network.state_dict(), "body.safetensors")
    teacher = "{network: resnet8, checkpoint: body.safetensors, classes: null}"
    config = CONFIG.replace("teacher: {network: resnet8, train: {epochs: 1, batch_size: 50}}", "")
    config += f"teachers: {{one: {teacher}, two: {teacher}}}\n"
    Path("middle.yaml").write_text(config.replace(", pretrain: {epochs: 1, batch_size: 50}", ""))
    term = "method.stages.distil.terms.queue_similarity.teacher=all"
    words = ("middle.yaml", f"method={method}", "data.unlabelled.root=bare", "data.batch_size=6", term)
    assert gkd("run", *words) == 0
    (folder,) = Path("runs/middle").glob(f"{method}-*/seed0")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = 5 if method == "unlabelled_both" else 4  # of 3 of the 15 labelled images, or 6 of the 24 others
    assert records[0]["step"] == steps
    summary = json.loads((folder / "summary.json").read_text())
    # The task's few images are all trained on, so none is left for a probe.
    assert [taught.get("probe") for taught in summary["teachers"].values()] == [None, None]


def test_pretraining_needs_base_classes(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert gkd("run", "cross_task/digits", "student.pretrain.epochs=1", "method=student", "run.epochs=1") == 2
    assert "the task cross_task has none" in capsys.readouterr().err
