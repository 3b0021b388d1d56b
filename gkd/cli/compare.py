"""gkd compare: every cell of a grid as an ordinary run, and one table."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.commands.compare import Compared, compare
from gkd.config.load import load
from gkd.core.text import say, text_width
from gkd.report.terminal_table import fitted


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    compared = compare(resolved, console, finished_only=arguments.finished)
    solved = compared.solved
    say(console, _table(compared, text_width(console)))
    state = f"{solved.trained} cells trained now" if solved.trained else "nothing was trained"
    state += f", {solved.missing} missing" if solved.missing else ""
    say(console, f"{len(solved.cells)} cells, {state}. Table: {solved.table / 'table.md'}")
    return 0


def _table(compared: Compared, width: int | None) -> str:
    """The table as Markdown, or as much of it as fits a terminal."""
    if width is None:
        return compared.text
    text, left_out = fitted(compared.table, width)
    more = [f"Left out here, for it is wide: {', '.join(left_out)}."] if left_out else []
    return "\n\n".join([text, *more, *compared.table.below()]) + "\n"
