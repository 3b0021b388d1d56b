"""Markdown of a grid's table: the layout, and the format of its numbers and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from gkd.core.text import for_markdown
from gkd.storage.run_results import AbsentCell, Cell

NONE = "–"  # where there is no number


class Row(Protocol):
    """A row of a grid's table.

    Attributes:
        axes: dotted key -> value of the grid's other axes.
        label: the name of the method, or of a labelled variant of it.
    """

    @property
    def axes(self) -> dict[str, JsonValue]: ...

    @property
    def label(self) -> str: ...

    def content(self) -> dict[str, object]:
        """The row by column, as ``table.json`` and ``table.csv`` have it."""


def row_key(row: Row | Cell) -> tuple[str, str]:
    """The key of the table's row that this row, or this cell, belongs to."""
    return str(row.axes), row.label


@dataclass(frozen=True)
class Table:
    """A table as Markdown.

    Attributes:
        head: the names of the columns.
        rows: the cells of each row; those that a row lacks at its end are filled with ``NONE``.
        notes: sentences below the table; a repeated one is dropped.
        legend: the meaning of the columns.
        legend_first: whether the legend stands before the notes.
        minor: heads of the columns that a narrow terminal can do without, the first to go first.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    legend: str
    legend_first: bool = False
    minor: Sequence[str] = ()

    def text(self) -> str:
        """The table, with its notes and its legend below it."""
        lines = [_line(self.head), "|" + "---|" * len(self.head)]
        lines += [_line([*row, *[NONE] * (len(self.head) - len(row))]) for row in self.rows]
        return "\n\n".join(["\n".join(lines), *self.below()]) + "\n"

    def below(self) -> list[str]:
        """The paragraphs below the table: its notes and its legend."""
        notes = list(dict.fromkeys(self.notes))
        return [self.legend, *notes] if self.legend_first else [*notes, self.legend]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def varied_axes(rows: Sequence[Row], axes: Sequence[str]) -> list[str]:
    """The axes that have more than one value in these rows."""
    return [axis for axis in axes if len({str(row.axes.get(axis)) for row in rows}) > 1]


def axis_names(axes: Sequence[str]) -> list[str]:
    """The axes as heads of columns: the last part of each dotted key."""
    return [for_markdown(axis.rsplit(".", 1)[-1]) for axis in axes]


def axis_values(row: Row, axes: Sequence[str]) -> list[str]:
    """The row's values of these axes."""
    return [for_markdown(str(row.axes.get(axis))) for axis in axes]


def shown_kind(relation: str) -> str:
    """The kind of a label relation in words."""
    return "no classes" if relation == "none" else relation


def number(value: float | None, form: str = ".2f") -> str:
    """A number with two decimals, or in the format ``form``; ``NONE`` for None."""
    return NONE if value is None else f"{value:{form}}"


def spread(mean: float | None, half: float | None, form: str = ".2f") -> str:
    """``mean ± half``, or the mean alone where ``half`` is None."""
    return number(mean, form) if half is None else f"{number(mean, form)} ± {half:.2f}"


def interval(bounds: Sequence[float] | None, form: str) -> str:
    """The two ends of an interval; ``NONE`` for None."""
    return NONE if bounds is None else f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def absent_note(cell: AbsentCell) -> str:
    """The note that says why a row has no numbers."""
    return f"{for_markdown(cell.label)} is absent: {for_markdown(cell.absent)}"


def leak_notes(leaks: Sequence[Sequence[str]]) -> list[str]:
    """The note on novel classes that teachers were trained on, from each row's leak; empty without one."""
    names = sorted({name for leak in leaks for name in leak})
    return [f"**Leak**: {for_markdown(leak_sentence(names))}"] if names else []


def chance_warnings(cells: Sequence[Cell]) -> dict[tuple[str, str], str]:
    """Row, as ``row_key`` has it -> a sentence on its teacher, where chance explains it over the classes it shares."""
    warnings: dict[tuple[str, str], str] = {}
    for cell in cells:
        near = [
            f"{name} has {each.near_chance}" for name, each in cell.all_teachers.items() if each.near_chance
        ]
        if near:
            warnings[row_key(cell)] = "; ".join(near)
    return warnings


def chance_notes(warnings: Mapping[tuple[str, str], str]) -> list[str]:
    """A note for each teacher of ``chance_warnings``, with the rows that it taught."""
    labels: dict[str, list[str]] = {}
    for (_, label), warning in warnings.items():
        labels.setdefault(warning, []).append(label)
    return [
        f"**Warning**: of {', '.join(map(for_markdown, dict.fromkeys(taught)))}, {warning}."
        for warning, taught in labels.items()
    ]


def published_notes(cells: Sequence[Cell]) -> list[str]:
    """A note on the library's weights that teachers have, with their licence."""
    teachers = (teacher for cell in cells for teacher in cell.all_teachers.values())
    origins = [teacher.published for teacher in teachers if teacher.published]
    return [f"Teacher's weights: {for_markdown(origin)}." for origin in dict.fromkeys(origins)]


def leak_sentence(names: Sequence[str]) -> str:
    """A sentence on the novel classes that a teacher was trained on.

    Args:
        names: the classes, and what is not known of them: entries that begin with "perhaps all of ".
    """
    classes = [name for name in names if not name.startswith(_UNTOLD)]
    shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    parts = [f"{len(classes)} of the novel classes ({shown})"] if classes else []
    parts += [name for name in names if name.startswith(_UNTOLD)]
    return f"the teacher was trained on {', and '.join(parts)}."


_UNTOLD = "perhaps all of "
