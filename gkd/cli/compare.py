"""gkd compare: every cell of a grid as an ordinary run, and one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rich.console import Console

from gkd.cli import add_config_arguments
from gkd.commands import compare as grid
from gkd.config.load import load
from gkd.experiment.environment import command
from gkd.report.accuracy_table import (
    Row,
    markdown,
    table_rows,
    validation_markdown,
    validation_rows,
    write_table,
)
from gkd.report.few_shot_table import few_shot_markdown, few_shot_rows
from gkd.report.incremental_table import incremental_markdown, incremental_rows, plot_cells
from gkd.report.run_plots import can_plot

HELP = "run what is missing of a config's grid and print its table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--finished", action="store_true", help="table of the finished cells; run nothing")


def _tables(cells: list[dict[str, Any]]) -> tuple[Callable[..., list[Row]], Callable[..., str]]:
    """What makes the rows of these cells, and what shows them."""
    if any("matrix" in cell for cell in cells):
        return incremental_rows, incremental_markdown
    if any("episodes" in cell for cell in cells):
        return few_shot_rows, few_shot_markdown
    return table_rows, markdown


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    compare = grid.section(resolved)
    solved = grid.solve(resolved, console, finished_only=arguments.finished)
    order = [row.label for row in grid.rows(compare)]
    if compare.report == "validation":
        rows = validation_rows(solved.cells, order=order)
        text = validation_markdown(rows, axes=list(compare.axes))
    else:
        make, show = _tables(solved.cells)
        frozen, labels = grid.frozen_cells(solved, compare.baseline)
        rows = make(
            [*solved.cells, *frozen],
            solved.absent,
            baseline=compare.baseline,
            report=compare.report,
            order=[*labels, *order],
        )
        text = show(rows, baseline=compare.baseline, axes=list(compare.axes))
    write_table(solved.table, rows, text, command=command())
    if any("matrix" in cell for cell in solved.cells) and can_plot():
        plot_cells(solved.cells, solved.table)
    console.print(text, markup=False, highlight=False)
    state = f"{solved.trained} cells trained now" if solved.trained else "nothing was trained"
    state += f", {solved.missing} missing" if solved.missing else ""
    console.print(
        f"{len(solved.cells)} cells, {state}. Table: {solved.table / 'table.md'}",
        markup=False,
        highlight=False,
    )
    return 0
