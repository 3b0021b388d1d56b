"""Tables of incremental runs: what stands in them, over seeds, and for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gkd.incremental.matrix_file import write_matrices
from gkd.report.incremental_table import (
    incremental_markdown,
    incremental_rows,
    plot_cells,
    plot_run,
    step_table,
)
from gkd.report.published import Published
from gkd.storage.run_results import AbsentCell, Cell
from gkd.storage.step_results import IncrementalResult, Matrices
from tests import result_helpers
from tests.result_helpers import step_summary

STEPS = (("a", "b"), ("c",))


def matrices(folder: Path, last: float) -> Matrices:
    rows = {"classifier": [[80.0, None], [last, 90.0]], "ncm": [[70.0, None], [60.0, 50.0]]}
    done = [
        step_summary(t + 1, rows={name: row[t] for name, row in rows.items()}, test_images=[20, 10 * t])
        for t in (0, 1)
    ]
    return write_matrices(folder, STEPS, done)


def told(answers: str) -> dict[str, object]:
    """What a run's summary says of its steps."""
    steps = [{"step": t + 1, "memory": 10 * t, "seconds": 1.5, "last": {"accuracy": 50.0}} for t in (0, 1)]
    return {"answers": answers, "summary": {}, "steps": steps}


def cell(folder: Path, label: str, seed: int, last: float, answers: str = "classifier") -> Cell:
    matrix = matrices(folder, last)
    return result_helpers.cell(label, seed=seed, seconds=2.0 + seed, matrix=matrix, incremental=told(answers))


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    return [
        cell(tmp_path, "replay", 0, 60.0),
        cell(tmp_path, "replay", 1, 66.0),
        cell(tmp_path, "icarl", 0, 30.0, answers="ncm"),
    ]


def test_a_row_a_method_and_what_answers(cells: list[Cell]) -> None:
    denied = AbsentCell(label="kd", axes={}, relation="overlapping", absent="because")
    rows = incremental_rows(cells, [denied], order=["icarl", "replay", "kd"])
    assert [(row.label, getattr(row, "answers", None), getattr(row, "judged", None)) for row in rows] == [
        ("icarl", "classifier", False),
        ("icarl", "ncm", True),
        ("replay", "classifier", True),
        ("replay", "ncm", False),
        ("kd", None, None),
    ]
    replay = rows[2]
    content = replay.content()
    assert content["last"] == pytest.approx((2 * 63 + 90) / 3, abs=1e-3)
    assert content["last_std"] == pytest.approx(4 / 2**0.5, abs=1e-3)
    assert content["forgetting_best_previous"] == pytest.approx(17)
    assert (content["n"], content["seconds"], content["seeds"]) == (2, 2.5, [0, 1])
    text = incremental_markdown(rows, baseline="replay", axes=[]).text()
    assert "| icarl | nearest exemplar mean (the method's) |" in text
    assert "| replay | head | 76.00 ± 1.41 | 72.00 ± 2.83 | 17.00 ± 4.24 |" in text
    assert "kd is absent: because" in text


def test_a_published_number_stands_beside_the_one_that_it_is_of(cells: list[Cell]) -> None:
    numbers = [
        Published("replay", {"answers": "classifier", "number": "last"}, 72.4, None, "a paper"),
        Published("icarl", {"answers": "ncm", "number": "average"}, 10.0, None, "another"),
    ]
    rows = incremental_rows(cells, [], order=["icarl", "replay"], published=numbers)
    of_head, of_means, replay, _ = (row.content() for row in rows)
    assert (replay["published/last"], replay["source/last"]) == (72.4, "a paper")
    assert replay["to_published/last"] == pytest.approx(-0.4, abs=1e-3)
    assert replay["within_noise/last"] is True
    assert of_means["within_noise/average"] is False
    assert not any(key.startswith("published/") for key in of_head)
    text = incremental_markdown(rows, baseline="replay", axes=[]).text()
    heads = "| average | published average | Δ to published | last | published last | Δ to published | forgetting |"
    assert heads in text
    assert "| replay | head | 76.00 ± 1.41 | – | – | 72.00 ± 2.83 | 72.40 | -0.40 | 17.00 ± 4.24 |" in text
    assert "1 of 2 within noise of the published numbers: where none is published" in text


def test_the_steps_of_a_run(tmp_path: Path) -> None:
    found = matrices(tmp_path, 60.0)
    lines = step_table(found, IncrementalResult.model_validate(told("classifier")))
    assert lines[0] == "step  classes   head  nearest exemplar mean  exemplars    s"
    narrow = step_table(found, IncrementalResult.model_validate(told("classifier")), width=50)
    assert narrow[0] == "step  classes   head  nearest exemplar mean"
    assert lines[2].split() == ["1", "2", "80.00", "70.00", "0", "1.5"]
    assert lines[3].split() == ["2", "3", "70.00", "56.67", "10", "1.5"]
    assert lines[4].startswith("head: average 75.00, last 70.00, forgetting 20.00, old 60.00, new 90.00")


def test_plots_are_drawn(cells: list[Cell], tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    assert plot_run(tmp_path).stat().st_size > 10_000
    assert (tmp_path / "matrix.png").stat().st_size > 5_000
    assert plot_cells(cells, tmp_path / "all").stat().st_size > 10_000
    assert (tmp_path / "all" / "matrices.png").stat().st_size > 10_000


def test_the_matrix_is_that_of_what_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices(tmp_path, 60.0)
    drawn: list[tuple[str, float]] = []
    monkeypatch.setattr(
        "gkd.report.incremental_table.plot_matrix",
        lambda matrix, num_classes, path, title: drawn.append((title, matrix[1, 1].item())),
    )
    for answers in ("classifier", "ncm"):
        (tmp_path / "summary.json").write_text(json.dumps(result_helpers.results(incremental=told(answers))))
        plot_run(tmp_path)
    assert drawn == [("head", 90.0), ("nearest exemplar mean", 50.0)]
