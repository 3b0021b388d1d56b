"""benchmarks/method_steps.py: what is committed is whole, and a round measures every method."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_committed_result_is_whole_and_its_table_is_of_it(script):
    committed = json.loads((FOLDER / "results" / "method_steps.json").read_text())
    assert [cell["relation"] for cell in committed["cells"]] == list(script.SHIFTS.values())
    for cell in committed["cells"]:
        assert set(cell["seconds"]) == set(script.METHODS) - (
            {"kd"} if cell["relation"] == "disjoint" else set()
        )
        assert cell["seconds"]["auto"] <= script.ALLOWED * cell["seconds"]["sp"]
    assert (FOLDER / "results" / "method_steps.md").read_text() == script.table(committed["cells"]) + "\n"


def test_a_round_times_every_method_that_the_relation_allows(script, monkeypatch):
    small = ("data.per_class=4", "run.threads=1", "student.network=resnet8", "teacher.network=resnet8")
    monkeypatch.setattr(script, "CONFIG", small)
    assert set(script.steps(0, rounds=1)["seconds"]) == set(script.METHODS)
    disjoint = script.steps(20, rounds=1)["seconds"]
    assert set(disjoint) == set(script.METHODS) - {"kd"}
    assert all(seconds > 0 for seconds in disjoint.values())
