"""gkd compare: every cell of a grid as an ordinary run, and one table."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.commands.compare import compare
from gkd.commands.grid_trial import commands, try_grid
from gkd.config.load import load
from gkd.core.text import say, text_width
from gkd.report.terminal_table import fitted_text


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    if arguments.print:
        for line in commands(resolved, arguments.config):
            say(console, line, wrap=False)
        return 0
    if arguments.dry_run:
        return 2 if try_grid(resolved, console).failed else 0
    compared = compare(resolved, console, finished_only=arguments.finished)
    solved = compared.solved
    width = text_width(console)
    say(console, compared.text if width is None else fitted_text(compared.table, width))
    state = f"{solved.trained} cells trained now" if solved.trained else "nothing was trained"
    state += f", {solved.missing} missing" if solved.missing else ""
    state += f", {len(solved.failed)} failed" if solved.failed else ""
    say(console, f"{len(solved.cells)} cells, {state}. Table: {solved.table / 'table.md'}")
    return 2 if solved.failed else 0
