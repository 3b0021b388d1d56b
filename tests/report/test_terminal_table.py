"""A table on a terminal: what fits is aligned, and what is left out is named."""

from __future__ import annotations

import pytest

from gkd.report.markdown import NONE, Table, for_markdown
from gkd.report.terminal_table import fitted

TABLE = Table(
    head=["method", "teacher", "alone", "Δ", "alone", "Δ", "n", "s"],
    rows=[
        ["student", "57.28", "35.44 ± 0.79", NONE, "1.00", NONE, "2", "272.9"],
        [for_markdown("a*b|c_"), "57.28", "46.28 ± 1.70", "+10.84", "2.00", "-1.00", "2", "1126.6"],
        ["kd"],
    ],
    notes=["a note"],
    legend="a legend",
    minor=["s", "no such column", "teacher"],
)


def test_a_wide_terminal_shows_every_column_aligned() -> None:
    text, left_out = fitted(TABLE, 100)
    assert text.splitlines() == [
        "method   teacher         alone       Δ  alone      Δ  n       s",
        "-------  -------  ------------  ------  -----  -----  -  ------",
        "student    57.28  35.44 ± 0.79       –   1.00      –  2   272.9",
        "a*b|c_     57.28  46.28 ± 1.70  +10.84   2.00  -1.00  2  1126.6",
        "kd             –             –       –      –      –  –       –",
    ]
    assert left_out == []


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (63, []),
        (62, ["s"]),
        (54, ["teacher", "s"]),
        (45, ["teacher", "n", "s"]),
        (42, ["teacher", "Δ", "n", "s"]),
        (30, ["teacher", "alone", "Δ", "n", "s"]),
        (10, ["teacher", "Δ", "alone", "Δ", "n", "s"]),
    ],
)
def test_minor_columns_go_first_then_those_on_the_right(width: int, left_out: list[str]) -> None:
    """Of two columns of one name the right one goes first; two columns always stay."""
    text, gone = fitted(TABLE, width)
    assert gone == left_out
    assert text.startswith("method   ")
    if width >= 21:
        assert max(map(len, text.splitlines())) <= width


def test_a_label_that_is_longer_than_the_terminal_is_cut() -> None:
    table = Table(["method", "alone"], [["x" * 200, "35.44"], ["kd", "1.00"]], [], "")
    text, left_out = fitted(table, 80)
    assert left_out == []
    assert [len(line) for line in text.splitlines()] == [80] * 4
    assert "x…  35.44" in text
