"""The skeleton of every table."""

from __future__ import annotations

from gkd.report.markdown import (
    Table,
    interval,
    leak_notes,
    leak_sentence,
    number,
    published_notes,
    spread,
    varied_axes,
)
from gkd.storage.run_results import AbsentCell
from tests import result_helpers


def test_a_short_row_is_filled_and_a_note_said_once() -> None:
    notes = ["one", "two", "one"]
    text = Table(["a", "b", "c"], [["1", "2", "3"], ["4"]], notes, "legend").text()
    assert text == "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 4 | – | – |\n\none\n\ntwo\n\nlegend\n"
    first = Table(["a"], [], notes, "legend", legend_first=True).text()
    assert first == "| a |\n|---|\n\nlegend\n\none\n\ntwo\n"


def test_what_was_not_measured_is_a_dash() -> None:
    assert (number(None), number(1.234), number(1.26, ".1f")) == ("–", "1.23", "1.3")
    assert (spread(None, None), spread(1, None), spread(-1, 0.5, "+.1f")) == ("–", "1.00", "-1.0 ± 0.50")
    assert (interval(None, ".2f"), interval((1, 2), "+.1f")) == ("–", "[+1.0, +2.0]")


def test_only_axes_that_vary_are_columns() -> None:
    rows = [
        AbsentCell(label="kd", axes={"a.b": 1, "c": value}, relation="same", absent="") for value in (1, 2)
    ]
    assert varied_axes(rows, ["a.b", "c"]) == ["c"]


def test_a_long_leak_is_cut() -> None:
    assert leak_notes([[], []]) == []
    (note,) = leak_notes([[f"{i:02}" for i in range(12)], ["00"]])
    assert note.startswith("**Leak**: the teacher was trained on 12 of the novel classes (00, 01")
    assert note.endswith("09, ...).")


def test_the_weights_of_a_librarys_teacher_are_told_once_with_their_licence() -> None:
    origin = "timm/resnet10t c3_in1k, licence apache-2.0, from https://there"
    teachers = [
        None,
        {"accuracy": 50.0},
        {"accuracy": None, "published": origin},
        {"accuracy": 50.0, "published": origin},
    ]
    cells = [result_helpers.cell("kd", teacher=teacher) for teacher in teachers]
    (note,) = published_notes(cells)
    assert "licence apache-2.0" in note


def test_a_leak_tells_classes_that_are_known_and_what_is_not() -> None:
    untold = "perhaps all of the novel classes, for those of the teacher are not known"
    assert leak_sentence([untold]) == f"the teacher was trained on {untold}."
    assert leak_sentence(["a", "b"]) == "the teacher was trained on 2 of the novel classes (a, b)."
    assert leak_sentence([untold, "a"]).endswith(f"1 of the novel classes (a), and {untold}.")
