"""Files of results: written and read alike, also those of earlier versions; what cannot be read is one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from gkd.storage.judged import Correctness, EpisodeAnswers
from gkd.storage.records import (
    ACCURACY,
    FEW_SHOT,
    INCREMENTAL,
    VERSION,
    content_of,
    read_record,
    write_record,
)
from gkd.storage.run_results import AbsentCell, Cell, Results, RunSummary, cell_of
from gkd.storage.step_results import Matrices, StepSummary
from tests.refusals import refused
from tests.result_helpers import results

COMMITTED = Path(__file__).resolve().parents[2] / "benchmarks" / "results"

# Cells as earlier versions wrote them, without a version and a kind.
EARLY = {
    "cifar10_teacher": ACCURACY,
    "few_shot_omniglot_small": FEW_SHOT,
    "incremental_tiny_imagenet_100": INCREMENTAL,
}


@pytest.mark.parametrize(("folder", "kind"), EARLY.items())
def test_committed_cells_are_read_whole(folder: str, kind: str, tmp_path: Path) -> None:
    paths = sorted((COMMITTED / folder / "cells").glob("*.json"))[:3]
    assert len(paths) == 3
    for path in paths:
        cell = read_record(path, Cell)
        assert (cell.version, cell.kind) == (VERSION, kind)
        content = content_of(cell)
        early = json.loads(path.read_text())
        assert content == {"version": VERSION, "kind": kind, **early}, "nothing is lost and nothing added"
        write_record(tmp_path / path.name, cell)
        assert read_record(tmp_path / path.name, Cell) == cell
        if cell.incremental is not None and cell.matrix is not None:
            answers = cell.matrix.by_answer[cell.incremental.answers]
            assert answers.summary == cell.incremental.summary


def test_an_absent_row_is_read_whole() -> None:
    path = next((COMMITTED / "tiny_imagenet_100" / "cells").glob("*-absent.json"))
    assert read_record(path, AbsentCell).content() == json.loads(path.read_text())


STEP = {
    "step": 1, "teacher": None, "teacher_hash": None, "rules": {"fit-bias": {"scale": 1.5}}, "epochs": {"train": 1},
    "memory": 4, "last": {"accuracy": 75.0, "ece": 1.0, "nll": 0.5}, "classes": ["a", "b"],
    "rows": {"classifier": [75.0, None]}, "test_images": [8, 0], "correct": {"last": "fc"}, "empty_batches": {},
    "best": {"epoch": 1, "validation": 80.0}, "seconds": 0.5, "images": 10, "bookkeeping_seconds": 0.1,
}  # fmt: skip
GIVEN = {
    "step": 1, "given": {"weights": "a.safetensors", "sha256": "ab", "hash": "cd"}, "head_accuracy": 75.0,
    "seconds": 0.0, "memory": 4, "last": {"accuracy": 75.0}, "classes": ["a"], "rows": {"classifier": [75.0]},
    "test_images": [8],
}  # fmt: skip
SHOWN = {"step", "teacher", "teacher_hash", "rules", "memory", "last", "seconds", "bookkeeping_seconds"}


@pytest.mark.parametrize("early", [STEP, GIVEN])
def test_a_step_of_an_earlier_version_is_read(early: dict[str, object], tmp_path: Path) -> None:
    """Before steps had hashes and parameters."""
    (tmp_path / "summary.json").write_text(json.dumps(early))
    step = read_record(tmp_path / "summary.json", StepSummary)
    assert (step.hashes, step.parameters, step.kind) == ({}, None, INCREMENTAL)
    assert content_of(step) == early
    shown = content_of(step.result())
    assert shown == {key: value for key, value in early.items() if key in SHOWN | {"given"}}
    write_record(tmp_path / "again.json", step)
    assert read_record(tmp_path / "again.json", StepSummary) == step


def test_a_step_on_the_way_has_no_best_student() -> None:
    on_the_way = StepSummary.model_validate(STEP)
    final = StepSummary.model_validate({**STEP, "best": {"epoch": 1, "validation": 80.0, "accuracy": 75.0}})
    assert not hasattr(on_the_way.best, "accuracy")
    assert final.best is not None
    assert (final.best.accuracy, final.best.epoch) == (75.0, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sections", "kind"),
    [
        ({}, ACCURACY),
        ({"last": {"accuracy": 50.0, "few_shot": {}}}, FEW_SHOT),
        ({"incremental": {"answers": "ncm", "summary": {}, "steps": []}}, INCREMENTAL),
    ],
)
def test_an_early_summary_has_the_kind_of_its_sections(sections: dict[str, object], kind: str) -> None:
    summary = RunSummary.model_validate(results(**sections))
    assert (summary.kind, summary.judged_by, summary.leak) == (kind, "head", [])
    assert content_of(summary) == {"version": VERSION, "kind": kind, **results(**sections)}


def test_a_stated_kind_is_taken_and_what_a_task_adds_stays() -> None:
    """A task of another package may state a kind of its own and put sections of its own into the summary."""
    summary = RunSummary.model_validate(results(kind="domains", domains={"night": 61.5}))
    assert summary.kind == "domains"
    correct = {"count": 1, "last": "80", "best": "80"}
    content = content_of(cell_of(summary, label="sp", axes={}, correct=_correct(correct)))
    assert (content["kind"], content["domains"]) == ("domains", {"night": 61.5})


def test_a_cell_has_what_its_summary_says_and_no_empty_sections() -> None:
    correct = {"count": 1, "last": "80", "best": "80", "frozen cosine": "00"}
    summary = RunSummary.model_validate(results(leak=[], command="gkd run", note="n", judged_by="head"))
    cell = cell_of(summary, label="sp", axes={"task.shift": 5}, correct=_correct(correct))
    assert content_of(cell) == {
        "version": VERSION, "kind": ACCURACY, **results(), "label": "sp", "axes": {"task.shift": 5},
        "correct": correct,
    }  # fmt: skip
    assert cell.correct.frozen == {"frozen cosine": "00"}
    assert cell.correct.right(cell.correct.last).tolist() == [True]


def _correct(content: dict[str, object]) -> Correctness:
    return Correctness.model_validate(content)


@pytest.mark.parametrize("form", [RunSummary, Cell, StepSummary])
def test_a_file_of_a_later_version_is_refused_by_name(form: type[Results], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"version": VERSION + 1, "anything": "else"}))
    with refused("later-version"):
        read_record(path, form)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": "one"}', '{"classes": 3}'])
@pytest.mark.parametrize("form", [RunSummary, Cell, StepSummary, Matrices])
def test_a_damaged_file_is_one_sentence(form: type[Results], content: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with refused("file-unreadable"):
        read_record(path, form)


def _parts(annotation: object) -> Iterator[object]:
    """An annotation and all that it is made of, fields of records included."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            yield from _parts(field.annotation)


@pytest.mark.parametrize("form", [RunSummary, Cell, AbsentCell, StepSummary, Matrices, EpisodeAnswers])
def test_no_field_of_a_record_is_an_any(form: type[BaseModel]) -> None:
    parts = list(_parts(form))
    assert Any not in parts
    assert float in parts or str in parts
