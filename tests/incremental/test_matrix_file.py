"""matrix.json: the published test vector, a run that is half done, and one that began at a given model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gkd.incremental.matrix_file import read_matrices, write_matrices
from gkd.storage.records import content_of
from gkd.storage.run_files import MATRIX
from gkd.storage.step_results import StepSummary
from tests.result_helpers import step_summary

STEPS = (("a", "b"), ("c", "d"), ("e", "f"))
ROWS: list[list[float | None]] = [[80.0, None, None], [90.0, 70.0, None], [60.0, 75.0, 85.0]]


def done(number: int, sizes: tuple[int, ...] = (10, 10, 10)) -> StepSummary:
    shown = [size if k < number else 0 for k, size in enumerate(sizes)]
    return step_summary(number, rows={"classifier": ROWS[number - 1]}, test_images=shown)


def test_the_published_vector(tmp_path: Path) -> None:
    write_matrices(tmp_path, STEPS, [done(1), done(2), done(3)])
    found = read_matrices(tmp_path).classifier
    assert found.rows == ROWS
    assert found.seen == pytest.approx([80, 80, 220 / 3])
    expected = {
        "average": 77.7778,
        "last": 73.3333,
        "forgetting_best_previous": 12.5,
        "forgetting_best_ever": 15.0,
        "forgetting_initial": 7.5,
        "backward_transfer": -7.5,
        "old": 67.5,
        "new": 85.0,
        "harmonic": 75.2459,
        "forward_transfer": None,
    }
    assert {name: found.summary[name] for name in expected} == expected


def test_a_run_that_is_half_done_has_the_rows_so_far(tmp_path: Path) -> None:
    content = write_matrices(tmp_path, STEPS, [done(1), done(2)])
    assert json.loads((tmp_path / MATRIX).read_text())["classifier"] == content_of(content.classifier)
    assert content.classifier.seen == [80, 80]
    assert content.classifier.summary["forgetting_best_previous"] == -10
    assert content.num_classes == [2, 2, 2]


def test_the_classes_of_a_given_model_are_one_step(tmp_path: Path) -> None:
    sizes = (30, 10, 10)
    content = write_matrices(tmp_path, STEPS, [done(2, sizes), done(3, sizes)]).classifier
    assert content.rows[0] == [None, None, None]
    before, now = (3 * 90 + 70) / 4, (3 * 60 + 75) / 4
    assert content.seen == [None, pytest.approx(before), pytest.approx((3 * 60 + 75 + 85) / 5)]
    assert content.summary["forgetting_best_previous"] == pytest.approx(before - now)
    assert content.summary["old"] == pytest.approx(now)
    assert content.summary["average"] == pytest.approx((before + (3 * 60 + 75 + 85) / 5) / 2)
