"""Grids: every cell of a ``compare:`` section is an ordinary run; finished cells are small files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from gkd.commands.grid_cells import cells, places, published_numbers, rows, section
from gkd.commands.grid_places import Place, Places
from gkd.commands.run import run
from gkd.config.resolve import Resolved
from gkd.config.schema import Compare
from gkd.core.errors import UserError
from gkd.core.text import say
from gkd.experiment.environment import command
from gkd.experiment.prepare import prepare
from gkd.experiment.run_folder import Busy, check_free, finished, run_folder
from gkd.experiment.teachers import check_before_training
from gkd.incremental.matrix_file import read_matrices
from gkd.report.markdown import Row, Table, chance_notes, chance_warnings, published_notes
from gkd.report.published import Published
from gkd.report.run_plots import can_plot
from gkd.report.table_files import write_table
from gkd.report.tables import PLOTS, TABLES, TableOptions, kind_of_cells, validation_table
from gkd.storage.json_files import Damaged
from gkd.storage.judged import Correctness, EpisodeAnswers, Judged
from gkd.storage.manifest import files_of
from gkd.storage.records import ACCURACY, read_record, write_record
from gkd.storage.run_files import CORRECT, EPISODES, MATRIX, SUMMARY, WEIGHTS
from gkd.storage.run_results import AbsentCell, Cell, cell_of
from gkd.training.caches import Caches


class RunFails(UserError):
    """A cell's run ended with an error."""


@dataclass(frozen=True)
class FailedCell:
    """A cell that could not be trained, and why."""

    row: str
    seed: int
    reason: str

    @classmethod
    def of(cls, cell: Place, reason: str) -> FailedCell:
        return cls(cell.row, cell.seed, reason)


@dataclass
class Solved:
    """A grid, solved or partly solved.

    Attributes:
        table: the folder for the table.
        cells: the finished cells as they stand on disk.
        absent: the rows that the label relation denies.
        trained: how many cells were trained now.
        missing: how many cells are not finished.
        failed: the cells that could not be trained.
    """

    table: Path
    cells: list[Cell] = field(default_factory=list)
    absent: list[AbsentCell] = field(default_factory=list)
    trained: int = 0
    missing: int = 0
    failed: list[FailedCell] = field(default_factory=list)


def _refused_rows(grid: Sequence[Place], where: Places, caches: Caches, console: Console) -> dict[str, str]:
    """The rows that cannot be trained at some place of the grid, told before the others train for hours.

    Of each row and values of the axes one seed is checked, as its run will be: its images, classes, networks with
    their options and user modules, its method on both, and the teacher's file. Nothing is trained.

    Returns:
        The row with its axes -> why it cannot be trained.

    Raises:
        UserError: a row that can be trained nowhere, or a place where no row can, which is a mistake and no hole.
    """
    checked: dict[str, UserError | None] = {}
    # Rows and places at which something was trained, or can be.
    able = {name for cell in grid if where.has(cell) for name in (cell.label, str(cell.axes))}
    for cell in grid:
        if cell.row in checked or where.has(cell):
            continue
        checked[cell.row] = None  # another seed changes nothing of this
        try:
            if cell.absent(caches) is None:
                check_before_training(prepare(cell.resolved, caches=caches))
                able |= {cell.label, str(cell.axes)}
        except UserError as error:
            checked[cell.row] = UserError(f"Row {cell.row}: {error}", code=error.code)
    refused = {row: error for row, error in checked.items() if error is not None}
    for cell in grid:
        if cell.row in refused and not {cell.label, str(cell.axes)} <= able:
            raise refused[cell.row]
    for told in refused.values():
        say(console, f"failed    {told} The rest goes on.")
    return {row: str(error) for row, error in refused.items()}


def solve(resolved: Resolved, console: Console, *, finished_only: bool = False) -> Solved:
    """Run what is missing of a grid, or with ``finished_only`` read what is there and run nothing.

    Cells at which another process is at work come last; where no other is left, they are waited for. One that fails
    stops no other.
    """
    grid = list(cells(resolved))
    where, caches = places(resolved, grid), Caches()  # one for all cells
    solved = Solved(table=where.table)
    refused: dict[str, str] = {}
    if not finished_only:
        refused = _refused_rows(grid, where, caches, console)
        lost = [cell for cell in grid if cell.row in refused and not where.has(cell)]
        solved.failed = [FailedCell.of(cell, refused[cell.row]) for cell in lost]
    settled: dict[int, Cell | AbsentCell | None] = {}
    wait = False
    while len(settled) < len(grid):
        left = [number for number in range(len(grid)) if number not in settled]
        for number in left:
            counted = f"[{number + 1}/{len(grid)}]"
            try:
                if finished_only or grid[number].row in refused:
                    settled[number], fresh = _settled(grid[number], where), False
                else:
                    settled[number], fresh = _settle(grid[number], where, console, counted, caches, wait=wait)
            except Busy:  # another process is at this cell: the others first
                continue
            except RunFails as error:
                settled[number], fresh = None, False
                solved.failed.append(FailedCell.of(grid[number], str(error)))
                say(console, f"failed    {error}")
            solved.trained += fresh
            wait = False
        wait = all(number not in settled for number in left)
    results = [settled[number] for number in range(len(grid))]
    solved.cells = [result for result in results if isinstance(result, Cell)]
    solved.missing = results.count(None)
    if solved.failed and not solved.cells:
        raise UserError(solved.failed[0].reason, code="no-cell-finished")
    _say_without_manifest([where.cell(cell.file_names) for cell in grid], console)
    if finished_only and not solved.cells:
        raise UserError(
            f"There is no finished cell of this grid in {where.table}; run gkd compare without --finished.",
            code="no-finished-cells",
        )
    denied = {cell.absent_name: result for cell, result in zip(grid, results, strict=True)}
    solved.absent = [result for result in denied.values() if isinstance(result, AbsentCell)]
    return solved


def _settled(cell: Place, where: Places) -> Cell | AbsentCell | None:
    """The cell as it stands on disk; None where it is not finished."""
    path, denied = where.cell(cell.file_names), where.cell(cell.absent_names)
    if path.is_file():
        there, method = read_record(path, Cell), cell.resolved.experiment.method.name
        if (there.method, there.seed) != (method, cell.seed):
            raise UserError(
                f"{path} holds the results of {there.method} seed {there.seed}, not of {method} seed {cell.seed}: "
                "something else put it there. Remove it, and repeat the command, to make the cell anew.",
                code="another-cell",
            )
        # Rows of one identity may share a file, where their labels differ in what no file name shows.
        return there.model_copy(update={"label": cell.label, "axes": cell.axes})
    return read_record(denied, AbsentCell) if denied.is_file() else None


def _settle(
    cell: Place, where: Places, console: Console, counted: str, caches: Caches, *, wait: bool
) -> tuple[Cell | AbsentCell, bool]:
    """The cell from disk, or run and written there; and whether it was trained now.

    Raises:
        Busy: another process is at its run, and ``wait`` is False.
        RunFails: its run ends with an error.
    """
    try:
        there = _settled(cell, where)
    except Damaged as error:
        if not (run_folder(cell.resolved) / SUMMARY).is_file():
            raise
        say(console, f"note      the cell is made anew of its run, for {error.fact}")
        there = None
    if isinstance(there, AbsentCell) or (there is not None and not _can_add_metrics(there, cell)):
        return there, False
    refused = cell.absent(caches) if there is None else None
    if refused is not None:
        write_record(where.cell(cell.absent_names), refused)
        return refused, False
    try:
        finished_cell, fresh = _run_cell(cell, console, counted, caches, wait=wait)
    except Busy:
        raise
    except UserError as error:
        raise RunFails(f"{cell.row}, seed {cell.seed}: {error}", code=error.code) from error
    write_record(where.cell(cell.file_names), finished_cell)
    return finished_cell, fresh and there is None


def _say_without_manifest(paths: Sequence[Path], console: Console) -> None:
    """Print a note on the cells that an earlier gkd wrote."""
    number = sum(path.is_file() and files_of(path) is None for path in paths)
    if number:
        of_grid = f"{number} of {len(paths)} cells"
        say(
            console,
            f"note      {of_grid} are from an earlier gkd, without checksums; they are read as they are",
        )


def _can_add_metrics(there: Cell, cell: Place) -> bool:
    """Whether a finished cell lacks a metric that is asked for, and its run still has the students to judge."""
    lacking = set(cell.resolved.experiment.evaluate.metrics) - set(there.last.metrics)
    return bool(lacking) and finished(run_folder(cell.resolved)) is not None


def _run_cell(
    cell: Place, console: Console, counted: str, caches: Caches, *, wait: bool
) -> tuple[Cell, bool]:
    """Run a cell, or read its finished run; the cell, and whether it was trained now."""
    folder = run_folder(cell.resolved)
    if not wait:
        check_free(folder)
    if not console.is_terminal:
        name = cell.file_name.removesuffix(".json")
        say(console, f"{counted} {name}")
    summary, fresh = run(cell.resolved, console, wait=wait, caches=caches)
    finished_cell = cell_of(
        summary,
        label=cell.label,
        axes=cell.axes,
        correct=read_record(folder / CORRECT, Correctness),
        episodes=read_record(folder / EPISODES, EpisodeAnswers) if (folder / EPISODES).is_file() else None,
        matrix=read_matrices(folder) if (folder / MATRIX).is_file() else None,
    )
    return finished_cell, fresh


def frozen_cells(solved: Solved, baseline: str) -> tuple[list[Cell], list[str]]:
    """Cells for classifiers on the embedding that the baseline's students start from, and the labels of these rows."""
    frozen = []
    for cell in (each for each in solved.cells if each.label == baseline):
        for label, packed in cell.correct.frozen.items():
            accuracy = 100 * float(cell.correct.right(packed).mean())
            judged = Judged(accuracy=accuracy, ece=None)
            correct = Correctness.of(cell.correct.count, dict.fromkeys(WEIGHTS, packed))
            changes = {"label": label, "correct": correct, "seconds": 0.0, "last": judged, "best": judged}
            frozen.append(cell.model_copy(update=changes))
    return frozen, list(dict.fromkeys(cell.label for cell in frozen))


@dataclass(frozen=True)
class Compared:
    """A grid and its table.

    Attributes:
        solved: the grid, solved or partly solved.
        rows: of the table, as its files have them.
        table: the table.
    """

    solved: Solved
    rows: Sequence[Row]
    table: Table

    @property
    def text(self) -> str:
        """The table as Markdown."""
        return self.table.text()


def compare(resolved: Resolved, console: Console, *, finished_only: bool = False) -> Compared:
    """Solve a grid as ``solve`` does, and write its table and, where matplotlib is there, its plots."""
    asked = section(resolved)
    published = published_numbers(resolved)
    solved = solve(resolved, console, finished_only=finished_only)
    rows, table = make_table(asked, solved, published)
    warnings = chance_warnings(solved.cells)
    write_table(solved.table, rows, table.text(), command=command(), warnings=warnings)
    draw = PLOTS.get(kind_of_cells(solved.cells))
    if draw is not None and can_plot():
        draw(solved.cells, solved.table)
    return Compared(solved, rows, table)


def make_table(
    asked: Compare, solved: Solved, published: Sequence[Published] = ()
) -> tuple[Sequence[Row], Table]:
    """The rows of a grid's table, chosen by the kind of its cells, and the table."""
    order = [row.label for row in rows(asked)]
    if asked.report == "validation":
        options = TableOptions(asked.baseline, "best", order, asked.axis_names)
        made, table = validation_table(solved.cells, options)
    else:
        frozen, labels = frozen_cells(solved, asked.baseline)
        order = [*labels, *order]
        short = asked.table == "short"
        options = TableOptions(asked.baseline, asked.report, order, asked.axis_names, short, published)
        made, table = TABLES[kind_of_cells(solved.cells)]([*solved.cells, *frozen], solved.absent, options)
    notes = [*chance_notes(chance_warnings(solved.cells)), *published_notes(solved.cells)]
    short = asked.table == "short" and kind_of_cells(solved.cells) == ACCURACY
    if published and (asked.report == "validation" or short):
        notes.append("Published numbers stand in full tables of test results alone.")
    failed = dict.fromkeys(f"Failed: {each.reason}" for each in solved.failed)
    return made, replace(table, notes=[*table.notes, *notes, *failed])
