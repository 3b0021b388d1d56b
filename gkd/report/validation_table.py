"""Table of a grid by its best validation accuracy, for tuning: no test number is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from gkd.core.text import for_markdown
from gkd.metrics import mean_std
from gkd.report.markdown import Table, axis_names, axis_values, leak_notes, shown_kind, spread
from gkd.storage.run_results import Cell


@dataclass(frozen=True)
class ValidationRow:
    """A method under one label relation by its best validation accuracy in percent, over its seeds."""

    axes: dict[str, JsonValue]
    label: str
    leak: list[str]
    relation: str
    validation: float
    std: float | None
    n: int
    seconds: float

    def content(self) -> dict[str, object]:
        """The row by column, as ``table.json`` and ``table.csv`` have it."""
        return asdict(self)


def validation_rows(cells: Sequence[Cell], *, order: Sequence[str]) -> list[ValidationRow]:
    """One row per (axes, label) with the best validation accuracy."""
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((order.index(cell.label), str(cell.axes)), []).append(cell)
    return [_validation_row(group) for _, group in sorted(groups.items(), key=lambda item: item[0])]


def _validation_row(group: Sequence[Cell]) -> ValidationRow:
    first = group[0]
    mean, std = mean_std([cell.best.validation for cell in group if cell.best.validation is not None])
    return ValidationRow(
        axes=first.axes,
        label=first.label,
        leak=first.leak,
        relation=first.relation.kind,
        validation=mean,
        std=std,
        n=len(group),
        seconds=mean_std([cell.seconds for cell in group])[0],
    )


def validation_markdown(rows: Sequence[ValidationRow], *, axes: Sequence[str]) -> Table:
    """The tuning table as Markdown."""
    return Table(
        head=["relation", *axis_names(axes), "method", "validation", "n", "s"],
        rows=[
            [
                shown_kind(row.relation),
                *axis_values(row, axes),
                for_markdown(row.label),
                spread(row.validation, row.std),
                str(row.n),
                f"{row.seconds:.1f}",
            ]
            for row in rows
        ],
        notes=leak_notes([row.leak for row in rows]),
        legend="Best validation accuracy in percent over the epochs of a run; s: training seconds.",
        minor=["s", "n"],
    )
