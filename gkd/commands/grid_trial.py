"""A grid before it is trained: its cells as commands, and a dry run of each row."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from gkd.commands.dry_run import dry_run
from gkd.commands.grid_cells import cells, places, published_numbers
from gkd.commands.grid_places import Place
from gkd.config.resolve import Resolved
from gkd.core.errors import UserError
from gkd.core.text import say
from gkd.training.caches import Caches


def commands(resolved: Resolved, config: str) -> Iterator[str]:
    """The shell command of each cell that is not finished; its run is the cell's.

    Args:
        resolved: the grid's experiment.
        config: what the command calls it.
    """
    grid = list(cells(resolved))
    where = places(resolved, grid)
    for cell in grid:
        if not where.has(cell):
            yield shlex.join(["gkd", "run", config, *cell.resolved.overrides])


@dataclass(frozen=True)
class TriedGrid:
    """What a dry run of a grid found.

    Attributes:
        seconds: of training the cells that are not finished, on this machine.
        missing: how many these are.
        failed: row -> why it cannot be trained.
    """

    seconds: float
    missing: int
    failed: dict[str, str]


def try_grid(resolved: Resolved, console: Console) -> TriedGrid:
    """Build every row at every place of a grid, with one batch of each of its stages, and print what it would cost.

    One seed of each is tried; nothing is trained or written. A row that fails stops no other.
    """
    grid = list(cells(resolved))
    published_numbers(resolved)  # which are checked
    where, caches = places(resolved, grid), Caches()
    rows: dict[str, list[Place]] = {}
    for cell in grid:
        rows.setdefault(cell.row, []).append(cell)
    total, missing, failed = 0.0, 0, {}
    for row, of_row in rows.items():
        left = [cell for cell in of_row if not where.has(cell)]
        if not left:
            say(console, f"finished  {row}")
            continue
        try:
            absent = left[0].absent(caches)
            if absent is not None:
                say(console, f"absent    {row}: {absent.absent}")
                continue
            seconds = dry_run(left[0].resolved, Console(quiet=True), caches=caches)
        except UserError as error:
            failed[row] = str(error)
            say(console, f"failed    {row}: {error}")
            continue
        total, missing = total + seconds * len(left), missing + len(left)
        say(console, f"ok        {row}: {seconds:.0f} s a seed, {len(left)} missing")
    say(console, f"expected  {missing} cells, {total / 3600:.1f} hours of training here, one after the other")
    return TriedGrid(total, missing, failed)
