"""Summaries of steps, also those of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gkd.storage.records import INCREMENTAL, content_of, read_record, write_record
from gkd.storage.step_results import StepSummary

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
