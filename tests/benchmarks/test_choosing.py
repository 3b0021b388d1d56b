"""benchmarks/choosing.py: its table is of the committed cells, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts import script

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "choosing.json"


@pytest.fixture(scope="module")
def choosing():
    return script("benchmarks/choosing.py")


def test_what_is_committed_is_what_the_cells_say(choosing):
    committed = json.loads(RESULT.read_text())
    assert json.loads(json.dumps(choosing.finished())) == committed
    assert list(committed) == [name for name in choosing.PROBLEMS if name in committed]
    assert RESULT.with_suffix(".md").read_text() == choosing.table(committed)


def test_a_difference_has_an_interval_only_over_five_seeds(choosing):
    few = {"difference": 2.0, "over_images": [1.0, 3.0], "over_seeds": None}
    many = few | {"over_seeds": [0.5, 3.5]}
    rows = {
        "student": {"mean": 40.0, "std": 1.0, "n": 5},
        "sp": {"mean": 42.0, "std": 1.0, "n": 2, "to_student": few},
        "auto": {"mean": 42.0, "std": 1.0, "n": 5, "to_student": many, "to_queue_similarity": many},
    }
    lines = choosing.table({"same": rows}).splitlines()
    assert "| sp | 42.0 +2.0 |" in lines
    assert "| auto | 42.0 +2.0 [+0.5, +3.5] |" in lines
    assert lines[-1] == "| auto − queue_similarity | +2.0 [+0.5, +3.5] |"
