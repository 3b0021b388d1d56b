"""gkd compare: every cell of a grid as an ordinary run, and one table."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd import config, grid
from gkd.cli import add_config_arguments
from gkd.environment import command
from gkd.report.table import markdown, table_rows, write_table

HELP = "run what is missing of a config's grid and print its table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = config.load(arguments.config, arguments.overrides)
    compare = grid.section(resolved)
    folder = grid.results_folder(resolved)
    found, absent, trained = grid.solve(resolved, console)
    order = [row.label for row in grid.rows(compare)]
    rows = table_rows(found, absent, baseline=compare.baseline, report=compare.report, order=order)
    text = markdown(rows, baseline=compare.baseline, axes=list(compare.axes))
    write_table(folder, rows, text, command=command())
    console.print(text, markup=False, highlight=False)
    state = f"{trained} cells trained now" if trained else "nothing was missing, nothing was trained"
    console.print(f"{len(found)} cells, {state}. Table: {folder / 'table.md'}", markup=False, highlight=False)
    return 0
