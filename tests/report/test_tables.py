"""The kind of the cells chooses the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gkd.report.published import Published
from gkd.report.tables import PLOTS, TABLES, TableOptions, kind_of_cells, validation_table
from gkd.storage.records import ACCURACY, FEW_SHOT, INCREMENTAL, read_record
from gkd.storage.run_results import AbsentCell, Cell
from tests.result_helpers import cell

COMMITTED = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
SHOWS = {
    ("cifar10_teacher", ACCURACY): "| relation | method | teacher |",
    ("few_shot_omniglot_small", FEW_SHOT): "| method | classifier |",
    ("incremental_tiny_imagenet_100", INCREMENTAL): "| method | answered by |",
}


@pytest.mark.parametrize(("folder", "kind", "head"), [(*key, head) for key, head in SHOWS.items()])
def test_each_kind_has_its_table(folder: str, kind: str, head: str) -> None:
    paths = sorted((COMMITTED / folder / "cells").glob("*seed0.json"))[:2]
    cells = [read_record(path, Cell) for path in paths]
    assert kind_of_cells(cells) == kind
    labels = [each.label for each in cells]
    options = TableOptions(baseline=labels[0], report="last", order=labels, axes=[])
    rows, table = TABLES[kind](cells, [], options)
    assert table.text().startswith(head)
    assert set(table.minor) <= set(table.head) | {"mean [over seeds]", "Δ [over seeds]"}
    assert {row.label for row in rows} >= set(labels)
    rows, table = validation_table(cells, options)
    assert table.text().startswith("| relation | method | validation |")
    assert [row.label for row in rows] == labels


PUBLISHED: dict[str, tuple[str, dict[str, str]]] = {
    "cifar10_teacher": (ACCURACY, {}),
    "few_shot_omniglot_small": (FEW_SHOT, {"setting": "5-way 1-shot", "classifier": "nearest-mean"}),
    "incremental_tiny_imagenet_100": (INCREMENTAL, {"answers": "classifier", "number": "last"}),
}


@pytest.mark.parametrize("folder", PUBLISHED)
def test_published_numbers_stand_in_every_table(folder: str) -> None:
    kind, place = PUBLISHED[folder]
    there = read_record(min((COMMITTED / folder / "cells").glob("*seed0.json")), Cell)
    number = Published(there.label, place, 12.34, None, "a paper")
    options = TableOptions(there.label, "last", [there.label], [], published=[number])
    table = TABLES[kind]([there], [], options)[1]
    assert sum("12.34" in cells for cells in table.rows) == 1
    assert any("of 1 within noise of the published numbers" in note for note in table.notes)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize(("folder", "kind"), list(SHOWS))
def test_nothing_from_outside_stands_in_a_table_as_markup(folder: str, kind: str, short: bool) -> None:
    """Labels, the baseline, axes and their values, added metrics, reasons, leaked classes: each is the same word."""
    word, escaped = "a|b", r"a\|b"
    paths = sorted((COMMITTED / folder / "cells").glob("*seed0.json"))[:2]
    cells = []
    for number, path in enumerate(paths):
        there = read_record(path, Cell)
        last = there.last.model_copy(update={"metrics": {word: 1.0}})
        changes = {"axes": {word: f"{word}{number}"}, "last": last, "leak": [word]}
        cells.append(there.model_copy(update={"label": word if number else f"{word} base", **changes}))
    absent = AbsentCell(label=f"{word} no", axes={word: word}, relation="same", absent=f"for {word}")
    options = TableOptions(f"{word} base", "last", [f"{word} base", word, f"{word} no"], [word], short)
    texts = [TABLES[kind](cells, [absent], options)[1].text(), validation_table(cells, options)[1].text()]
    assert [text.count(word) for text in texts] == [0, 0]
    assert f"{escaped} no is absent" in texts[0]
    assert f"for {escaped}" in texts[0]


def test_a_short_table_leaves_the_baselines_row_to_a_column() -> None:
    cells = [cell("student"), cell("sp")]
    options = TableOptions(baseline="student", report="last", order=["student", "sp"], axes=[])
    whole, short = (TABLES[ACCURACY](cells, [], replace(options, short=short))[1] for short in (False, True))
    assert (len(whole.rows), len(short.rows)) == (2, 1)
    assert len(short.head) < len(whole.head)


def test_cells_of_an_unknown_kind_or_of_several_are_compared_by_accuracy() -> None:
    assert kind_of_cells([cell("a", kind="domains")]) == ACCURACY
    assert kind_of_cells([cell("a", kind=FEW_SHOT), cell("b", kind=INCREMENTAL)]) == ACCURACY
    assert kind_of_cells([]) == ACCURACY


def test_a_kind_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "domains", lambda cells, absent, options: ([], "by domain"))
    assert kind_of_cells([cell("a", kind="domains")]) == "domains"
    assert PLOTS.keys() <= TABLES.keys()
