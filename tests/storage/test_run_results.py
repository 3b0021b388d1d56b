"""Summaries of runs and cells of grids, also those of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gkd.storage.judged import Correctness
from gkd.storage.records import (
    ACCURACY,
    FEW_SHOT,
    INCREMENTAL,
    VERSION,
    content_of,
    read_record,
    write_record,
)
from gkd.storage.run_results import AbsentCell, Cell, RunSummary, cell_of
from tests.result_helpers import results

COMMITTED = Path(__file__).resolve().parents[2] / "benchmarks" / "results"

# Cells as earlier versions wrote them, without a version and a kind.
EARLY = {
    "cifar10_teacher": ACCURACY,
    "few_shot_omniglot_small": FEW_SHOT,
    "incremental_tiny_imagenet_100": INCREMENTAL,
}


def _correct(content: dict[str, object]) -> Correctness:
    return Correctness.model_validate(content)


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
    written = json.loads(path.read_text())
    written.pop("manifest")  # what the file's checksums are
    assert read_record(path, AbsentCell).content() == written


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


def test_a_cell_has_the_five_best_and_leaves_single_classes_to_the_summary() -> None:
    judged = {"accuracy": 50.0, "accuracy_top5": 75.0, "accuracy_per_class": {"a": 50.0, "b": None}}
    summary = RunSummary.model_validate({"kind": ACCURACY, **results(last=judged, best=judged)})
    assert content_of(summary)["last"] == judged
    cell = cell_of(summary, label="sp", axes={}, correct=_correct({"count": 2, "last": "0", "best": "0"}))
    assert content_of(cell)["last"] == content_of(cell)["best"] == {"accuracy": 50.0, "accuracy_top5": 75.0}
