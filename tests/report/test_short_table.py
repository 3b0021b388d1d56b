"""The short table of a grid, from cells made by hand."""

from __future__ import annotations

from typing import Any

import torch

from gkd.report.accuracy_table import table_rows
from gkd.report.markdown import Table
from gkd.report.short_table import short_markdown
from gkd.report.terminal_table import fitted
from gkd.storage.run_files import pack
from gkd.storage.run_results import AbsentCell, Cell
from tests import result_helpers

AXES = {"task.shift": 0}


def cell(label: str, seed: int, right: int, axes: dict[str, Any] | None = None, **other: Any) -> Cell:
    """A finished cell whose student has the first of 20 test images right."""
    packed = pack(torch.arange(20) < right)
    judged = {"accuracy": 5 * right, "ece": 1.0, "nll": 0.1, "agreement": None}
    correct = {"count": 20, "last": packed, "best": packed}
    other |= {"last": judged, "best": judged, "correct": correct}
    return result_helpers.cell(label, axes=axes or AXES, seed=seed, **other)


def grid(seeds: int, *gains: int) -> list[Cell]:
    cells = [cell("student", seed, 10 + seed % 2) for seed in range(seeds)]
    return [*cells, *(cell("sp", seed, 10 + seed % 2 + gains[seed]) for seed in range(seeds))]


def table(cells: list[Cell], absent: list[AbsentCell] | None = None) -> Table:
    order = ["student", "sp", "kd"]
    rows = table_rows(cells, absent or [], baseline="student", report="last", order=order)
    return short_markdown(rows, baseline="student", axes=["task.shift"])


def test_it_has_a_row_a_method_and_the_baseline_in_a_column() -> None:
    made = table(grid(5, 2, 2, 3, 2, 2))
    assert len(made.head) <= 7
    (row,) = made.rows
    shown = dict(zip(made.head, row, strict=True))
    assert shown["method"] == "sp"
    assert shown["student alone"] == "52.00"
    assert shown["Δ to student"] == "+11.00 [+8.22, +13.78]"
    assert len(made.legend.splitlines()) == 2
    assert "over 5 seeds" in made.legend
    assert "interval over seeds;" in made.legend


def test_a_difference_whose_interval_holds_zero_says_so() -> None:
    (row,) = table(grid(5, 3, -3, 2, -2, 1)).rows
    assert row[5].endswith("°")


def test_few_seeds_have_an_interval_over_images() -> None:
    assert "over test images;" in table(grid(4, 2, 2, 3, 2)).legend


def test_rows_of_other_numbers_of_seeds_say_how_many_and_over_what() -> None:
    made = table([*grid(5, 2, 2, 3, 2, 2), cell("kd", 0, 12), cell("kd", 1, 12)])
    counts = {row[1]: row[made.head.index("n")] for row in made.rows}
    assert counts == {"sp": "5", "kd": "2"}
    assert "over seeds where n is 5 or more, else over test images;" in made.legend


def test_a_baseline_without_other_methods_has_a_row() -> None:
    denied = AbsentCell(label="kd", axes=AXES, relation="same", absent="It compares logits.")
    for absent in ([], [denied]):
        row, *_ = table([cell("student", 0, 10)], absent).rows
        assert row[1:5] == ["student", "–", "50.00", "50.00"]


def test_a_denied_row_has_no_numbers_and_a_reason_below() -> None:
    denied = AbsentCell(label="kd", axes=AXES, relation="same", absent="It compares logits.")
    text = table(grid(5, 2, 2, 3, 2, 2), [denied]).text()
    assert "| same | kd | – | – | – | – | – |" in text
    assert "It compares logits." in text


def test_an_axis_has_a_column_where_the_relation_does_not_tell_it() -> None:
    both = ("student", "sp")
    cells = [cell(label, 0, 10, {"task.shift": shift}) for label in both for shift in (0, 1)]
    assert "shift" in table(cells).head
    assert "shift" not in table(grid(1, 2)).head
    sides = {"shared": 0, "teacher_classes": 2, "student_classes": 2}
    disjoint = {"relation": {"kind": "disjoint", "overlap": 0.0, **sides}}
    told = [cell(label, 0, 10, {"task.shift": 0}) for label in both]
    told += [cell(label, 0, 10, {"task.shift": 1}, **disjoint) for label in both]
    assert "shift" not in table(told).head
    assert [row[0] for row in table(told).rows] == ["same", "disjoint"]


def test_each_of_several_teachers_has_its_relation_and_accuracy() -> None:
    teacher = {"accuracy": 70.0, "induced_accuracy": 50.0}
    taught = {"teacher": teacher, "teachers": {"a": teacher, "b": teacher | {"accuracy": 80.0}}}
    (row,) = table([cell("student", 0, 10), cell("sp", 0, 12, **taught)]).rows
    assert row[2] == "a 70.00, b 80.00"


def test_a_narrow_terminal_keeps_the_difference() -> None:
    text, left_out = fitted(table(grid(5, 2, 2, 3, 2, 2)), 60)
    assert "Δ to student" in text
    assert left_out
