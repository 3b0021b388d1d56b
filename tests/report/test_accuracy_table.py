"""The table of a grid, from cells made by hand."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from gkd.report.accuracy_table import AccuracyRow, markdown, table_rows
from gkd.report.table_files import to_csv
from gkd.storage.run_files import pack
from gkd.storage.run_results import AbsentCell, Cell
from tests import result_helpers

AXES = {"task.shift": 0}


def cell(label: str, seed: int, right: int, of: int = 20, **metrics: float) -> Cell:
    """A finished cell whose student has the first images of the test set right."""
    packed = pack(torch.arange(of) < right)
    judged = {"accuracy": 100 * right / of, "ece": 1.0, "nll": 0.1, "agreement": None}
    judged |= {"metrics": metrics} if metrics else {}
    correct = {"count": of, "last": packed, "best": packed}
    return result_helpers.cell(label, axes=AXES, seed=seed, last=judged, best=judged, correct=correct)


def table(cells: list[Cell], absent: list[AbsentCell] | None = None) -> list[AccuracyRow | AbsentCell]:
    order = ["student", "sp", "kd"]
    return table_rows(cells, absent or [], baseline="student", report="last", order=order)


def rows(cells: list[Cell]) -> list[AccuracyRow]:
    return [row for row in table(cells) if isinstance(row, AccuracyRow)]


ALONE, DISTILLED = [10, 12, 11, 13, 9], [14, 15, 13, 18, 20]


def five() -> list[Cell]:
    cells = [cell("student", seed, right) for seed, right in enumerate(ALONE)]
    return [*cells, *(cell("sp", seed, right) for seed, right in enumerate(DISTILLED))]


def test_five_seeds_have_intervals_over_seeds() -> None:
    student, sp = rows(five())
    gains = [5.0 * (d - a) for a, d in zip(ALONE, DISTILLED, strict=True)]
    assert sp.compared.difference == pytest.approx(sum(gains) / 5)
    expected = stats.t.interval(0.95, 4, loc=sum(gains) / 5, scale=stats.sem(gains))
    assert sp.compared.difference_interval_over_seeds == pytest.approx(expected)
    low, high = stats.t.interval(0.95, 4, loc=80, scale=stats.sem([5.0 * d for d in DISTILLED]))
    assert high > 95
    assert sp.interval == pytest.approx((low, min(high, 100)))
    assert student.compared is None
    assert student.baseline == student.mean


def test_an_accuracys_interval_ends_at_100() -> None:
    cells = [cell("student", seed, right) for seed, right in enumerate([20, 20, 20, 20, 5])]
    assert rows(cells)[0].interval[1] == 100


def test_fewer_seeds_have_none() -> None:
    cells = [each for each in five() if each.seed < 4]
    assert rows(cells)[1].compared.difference_interval_over_seeds is None
    assert "[over seeds]" not in markdown(rows(cells), baseline="student", axes=["task.shift"]).text()


def test_seeds_without_their_pair_do_not_enter_the_difference() -> None:
    cells = [each for each in five() if each.label == "sp" or each.seed < 2]
    sp = rows(cells)[1]
    assert sp.n == 5
    assert sp.compared.difference == pytest.approx(5.0 * (4 + 3) / 2)


def test_the_markdown_has_one_cell_a_column_and_tells_why_a_row_is_absent() -> None:
    absent = AbsentCell(label="kd", axes=AXES, relation="disjoint", absent="It compares logits.")
    text = markdown(table(five(), [absent]), baseline="student", axes=["task.shift"]).text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    names = [name.strip() for name in lines[0].split("|")[1:-1]]
    assert len(set(names)) == len(names)
    assert {"mean [over seeds]", "Δ [over seeds]"} <= set(names)
    assert "kd is absent where the classes are disjoint: It compares logits." in text
    text = markdown(
        table(five(), [absent.model_copy(update={"relation": "none"})]),
        baseline="student",
        axes=["task.shift"],
    ).text()
    assert "kd is absent where the teacher has no classes: It compares logits." in text
    assert "| no classes | kd |" in text


def test_the_csv_has_the_axes_as_columns() -> None:
    head, first, *_ = to_csv(rows(five()), {}).splitlines()
    assert head.startswith("task.shift,label,relation")
    assert first.startswith("0,student,same")


def test_teachers_with_names_have_columns_of_their_own() -> None:
    def teacher(right: float | None) -> dict[str, object]:
        known = {"nearest_mean": 40.0, "nearest_neighbours": 50.0, "images": 20}
        return {"accuracy": right, "induced_accuracy": 60.0, "probe": None if right else known}

    several = result_helpers.cell(
        "sp", axes=AXES, teacher=teacher(70.0), teachers={"a": teacher(70.0), "b": teacher(None)}
    )
    (row,) = rows([several])
    content = row.content()
    assert content["teacher/a"] == 70
    assert content["teacher/b"] is None
    assert (content["probe_nearest_mean/b"], content["probe_nearest_neighbours/b"]) == (40, 50)
    assert "probe_nearest_mean/a" not in content


def test_an_added_metric_is_a_column() -> None:
    cells = [cell("student", 0, 10), cell("sp", 0, 12, brier=0.25), cell("sp", 1, 12, brier=0.75)]
    found = rows(cells)
    assert found[1].metrics == {"brier": 0.5}
    text = markdown(found, baseline="student", axes=[]).text()
    assert "| brier | n | s |" in text
    assert "| 0.5 | 2 |" in text
    assert "brier: of the same student" in text
    assert "metric/brier" in to_csv(found, {}).splitlines()[0]
