"""TABLES and PLOTS: the kind of a grid's results -> the functions that make its table and draw its plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gkd.report.accuracy_table import markdown, table_rows
from gkd.report.few_shot_table import few_shot_markdown, few_shot_rows
from gkd.report.incremental_table import incremental_markdown, incremental_rows, plot_cells
from gkd.report.markdown import Row, Table
from gkd.report.published import Published
from gkd.report.short_table import short_markdown
from gkd.report.validation_table import validation_markdown, validation_rows
from gkd.storage.records import ACCURACY, FEW_SHOT, INCREMENTAL
from gkd.storage.run_results import AbsentCell, Cell


@dataclass(frozen=True)
class TableOptions:
    """Options of a grid's table.

    Attributes:
        baseline: the label that others are compared with.
        report: the student that the rows are about, of the last or best epoch.
        order: the labels in the order of the config.
        axes: dotted keys of the grid's other axes.
        short: of test accuracies, only what each method gains.
        published: numbers of others to stand beside those of test images or episodes.
    """

    baseline: str
    report: Literal["last", "best"]
    order: Sequence[str]
    axes: Sequence[str]
    short: bool = False
    published: Sequence[Published] = ()


# The rows of a table as its files have them, and the table.
Made = tuple[Sequence[Row], Table]
MakeTable = Callable[[Sequence[Cell], Sequence[AbsentCell], TableOptions], Made]


def accuracy_table(cells: Sequence[Cell], absent: Sequence[AbsentCell], options: TableOptions) -> Made:
    """Test accuracy beside the baseline's."""
    rows = table_rows(
        cells,
        absent,
        baseline=options.baseline,
        report=options.report,
        order=options.order,
        published=options.published,
    )
    layout = short_markdown if options.short else markdown
    return rows, layout(rows, baseline=options.baseline, axes=options.axes)


def few_shot_table(cells: Sequence[Cell], absent: Sequence[AbsentCell], options: TableOptions) -> Made:
    """Accuracy on novel episodes, paired with the baseline's."""
    rows = few_shot_rows(
        cells,
        absent,
        baseline=options.baseline,
        report=options.report,
        order=options.order,
        published=options.published,
    )
    return rows, few_shot_markdown(rows, baseline=options.baseline, axes=options.axes)


def incremental_table(cells: Sequence[Cell], absent: Sequence[AbsentCell], options: TableOptions) -> Made:
    """Average accuracies and forgetting of incremental runs, from their accuracy matrices."""
    rows = incremental_rows(cells, absent, order=options.order, published=options.published)
    return rows, incremental_markdown(rows, baseline=options.baseline, axes=options.axes)


def validation_table(cells: Sequence[Cell], options: TableOptions) -> Made:
    """Validation accuracy alone, for tuning; of cells of any kind."""
    rows = validation_rows(cells, order=options.order)
    return rows, validation_markdown(rows, axes=options.axes)


TABLES: dict[str, MakeTable] = {
    ACCURACY: accuracy_table,
    FEW_SHOT: few_shot_table,
    INCREMENTAL: incremental_table,
}

# Kind -> draws its cells into a folder; called only where matplotlib is installed.
PLOTS: dict[str, Callable[[Sequence[Cell], Path], Path | None]] = {INCREMENTAL: plot_cells}


def kind_of_cells(cells: Sequence[Cell]) -> str:
    """The cells' kind where all share one that is in ``TABLES``; else ``ACCURACY``, which all cells have."""
    kinds = {cell.kind for cell in cells}
    return kinds.pop() if len(kinds) == 1 and kinds <= TABLES.keys() else ACCURACY
