"""Summaries and cells made by hand, for tests of what reads them."""

from __future__ import annotations

from gkd.storage.run_results import Cell
from gkd.storage.step_results import StepSummary


def results(**changes: object) -> dict[str, object]:
    """What a summary and a cell both say, as JSON of an early file: without ``version`` and ``kind``."""
    judged = {"accuracy": 50.0, "ece": 1.0, "nll": 0.1}
    return {
        "config": "by hand", "identity": "0123456789", "method": "sp", "seed": 0,
        "relation": {
            "kind": "same", "overlap": 1.0, "shared": 2, "teacher_classes": 2, "student_classes": 2,
        },
        "epochs": {"distil": 1}, "last": judged, "best": {**judged, "epoch": 1, "validation": 50.0},
        "teacher": None, "empty_batches": {}, "images_per_second": 10.0, "seconds": 1.0, "parameters": 1,
        "test_images": 20, "versions": {"torch": "2"}, "threads": 1, "device": "cpu: x86_64",
        "precision": "float32", "commit": None, **changes,
    }  # fmt: skip


def cell(label: str, **changes: object) -> Cell:
    """A finished cell of that label."""
    correct = {"count": 20, "last": "000000", "best": "000000"}
    return Cell.model_validate({"label": label, "axes": {}, "correct": correct, **results(**changes)})


def step_summary(number: int, **changes: object) -> StepSummary:
    """A finished step with that number."""
    content = {
        "step": number, "classes": ["a"], "memory": 0, "last": {"accuracy": 50.0}, "seconds": 1.0, "rows": {},
        "test_images": [10],
    }  # fmt: skip
    return StepSummary.model_validate({**content, **changes})
