"""Grids: every cell of a ``compare:`` section is an ordinary run; finished cells are small files."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from gkd.commands.run import run
from gkd.config.resolve import Resolved
from gkd.config.schema import Compare, MethodRow
from gkd.config.shipped import load_method
from gkd.core.errors import UserError, unknown
from gkd.experiment.prepare import prepare, relation_of, relation_to_check
from gkd.experiment.run_folder import run_folder, slug
from gkd.incremental.matrix_file import read_matrices
from gkd.methods.method import refusal
from gkd.problems.task import students_teach
from gkd.storage.json_files import read_json, write_json
from gkd.storage.run_files import CORRECT, EPISODES, FROZEN, MATRIX, WEIGHTS, unpack
from gkd.training.caches import Caches

_KEPT = (
    "config", "identity", "method", "seed", "relation", "epochs", "last", "best", "teacher", "empty_batches",
    "images_per_second", "seconds", "parameters", "test_images", "versions", "threads", "device", "precision",
    "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        label: the row's name: the method, or a labelled variant of it.
        axes: dotted key -> value of the other axes.
        resolved: the cell's experiment; its seed is ``resolved.experiment.run.seed``.
    """

    label: str
    axes: dict[str, Any]
    resolved: Resolved

    @property
    def seed(self) -> int:
        return self.resolved.experiment.run.seed

    @property
    def file_name(self) -> str:
        """Where the cell's results stand among the cells of its table."""
        return f"{self._stem}-seed{self.seed}.json"

    @property
    def absent_name(self) -> str:
        """Where the reason stands if the label relation denies the row, whatever the seed."""
        return f"{self._stem}-absent.json"

    @property
    def _stem(self) -> str:
        axes = "".join(f"-{key.rsplit('.', 1)[-1]}={value}" for key, value in self.axes.items())
        readable = re.sub(r"[^A-Za-z0-9.=\-]+", "_", f"{self.label}{axes}")[:80]
        return f"{readable}-{self.resolved.identity}"


def section(resolved: Resolved) -> Compare:
    """The grid of a config; a UserError where it has none."""
    compare = resolved.experiment.compare
    if compare is None:
        raise UserError(
            f"{resolved.name} has no compare section; add one, such as 'compare: "
            "{methods: [student, kd], seeds: [0, 1]}', or use gkd run."
        )
    return compare


def rows(compare: Compare) -> list[MethodRow]:
    """The rows of a grid; a plain method name is a row of that label."""
    return [
        row if isinstance(row, MethodRow) else MethodRow(label=row, method=row) for row in compare.methods
    ]


def count(compare: Compare) -> int:
    """How many cells a grid has."""
    return len(compare.methods) * len(compare.seeds) * math.prod(map(len, compare.axes.values()))


def cells(resolved: Resolved) -> Iterator[Cell]:
    """Every cell, the first seed of all of them first, so that a table stands early."""
    compare = section(resolved)
    keys = list(compare.axes)
    own = {"method": "compare.methods", "run.seed": "compare.seeds", **dict.fromkeys(keys, "compare.axes")}
    for key in (override.partition("=")[0] for override in resolved.overrides):
        if key in own:
            raise UserError(
                f"A grid sets {key} of every cell itself, so the override is lost; use {own[key]}."
            )
    changes = {
        row.label: _changes(row) for row in rows(compare)
    }  # a wrong name is found before the first run
    for seed in compare.seeds:
        for values in itertools.product(*compare.axes.values()):
            axes = dict(zip(keys, values, strict=True))
            for row in rows(compare):
                settings = {"method": row.method, "run.seed": seed, **axes, **changes[row.label]}
                overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
                try:
                    changed = resolved.with_overrides(overrides)
                except UserError as error:
                    raise UserError(f"Row {row.label!r}: {error}") from None
                yield Cell(row.label, axes, changed)


def _changes(row: MethodRow) -> dict[str, Any]:
    """Dotted key -> value of all that a row sets."""
    stages = load_method(row.method).stages
    changes = dict(row.set)
    for term, keys in row.terms.items():
        with_term = [name for name, stage in stages.items() if term in stage.terms]
        if not with_term:
            known = sorted({name for stage in stages.values() for name in stage.terms})
            raise UserError(
                f"Row {row.label!r}: " + unknown(f"term of the method {row.method!r}", term, known)
            )
        for stage in with_term:
            changes.update(
                {f"method.stages.{stage}.terms.{term}.{key}": value for key, value in keys.items()}
            )
    return changes


@dataclass(frozen=True)
class Places:
    """Where a grid's cells and table go.

    The cells and the table that the file states go to ``compare.results``, which may be committed. What
    overrides make of it, other cells or a part of the table, stays beside the runs.
    """

    results: Path
    scratch: Path
    stated: frozenset[str] | None
    table: Path

    def cell(self, name: str) -> Path:
        """Where a cell's file stands or will stand."""
        own = self.stated is None or name in self.stated
        return (self.results if own else self.scratch) / "cells" / name


def places(resolved: Resolved) -> Places:
    """Where the cells and the table of a grid go."""
    compare = section(resolved)
    scratch = resolved.experiment.run.out / resolved.name / "-".join(["table", *slug(resolved.overrides)])
    if compare.results is None:
        return Places(scratch, scratch, None, scratch)
    try:
        stated = resolved.without_overrides()
        if stated.experiment.compare is None or stated.experiment.compare.results != compare.results:
            return Places(compare.results, scratch, None, compare.results)  # the user says where
        names = {name for cell in cells(stated) for name in (cell.file_name, cell.absent_name)}
    except UserError:  # a file that is no experiment without the overrides states no grid
        return Places(compare.results, scratch, None, compare.results)
    same = stated.experiment.compare == compare and all(cell.file_name in names for cell in cells(resolved))
    return Places(compare.results, scratch, frozenset(names), compare.results if same else scratch)


@dataclass
class Solved:
    """A grid as far as it is.

    Attributes:
        cells: the finished cells as they stand on disk.
        absent: the rows that the label relation denies, each with its ``absent`` reason.
        trained: how many cells were trained now.
        missing: how many cells are not finished.
        table: the folder for the table.
    """

    table: Path
    cells: list[dict[str, Any]] = field(default_factory=list)
    absent: list[dict[str, Any]] = field(default_factory=list)
    trained: int = 0
    missing: int = 0


def _check_steps(to_run: Sequence[Cell], caches: Caches) -> None:
    """Refuses an incremental row that cannot be, before the rows above it have trained for hours."""
    checked = set()
    for cell in to_run:
        experiment = cell.resolved.experiment
        row = (cell.label, str(cell.axes))
        of_steps = students_teach(experiment.task.name) or bool(experiment.method.after)
        if not of_steps or row in checked or _denial(cell.resolved, caches)[0] is not None:
            continue
        checked.add(row)  # another seed changes nothing of this
        try:
            prepare(cell.resolved, caches=caches)
        except UserError as error:
            raise UserError(f"Row {cell.label!r}: {error}") from None


def solve(resolved: Resolved, console: Console, *, finished_only: bool = False) -> Solved:
    """Runs what is missing of a grid, or with ``finished_only`` reads what is there and runs nothing."""
    where, caches = places(resolved), Caches()  # one for all cells
    solved = Solved(table=where.table)
    absent: dict[Path, dict[str, Any]] = {}
    everything = list(cells(resolved))
    if not finished_only:
        _check_steps([cell for cell in everything if not where.cell(cell.file_name).is_file()], caches)
    for number, cell in enumerate(everything, start=1):
        path, denied = where.cell(cell.file_name), where.cell(cell.absent_name)
        if path.is_file():
            solved.cells.append(read_json(path, keys=("label", "axes", *_KEPT, "correct")))
            continue
        if not denied.is_file():
            if finished_only:
                solved.missing += 1
                continue
            reason, kind = _denial(cell.resolved, caches)
            if reason is None:
                if not console.is_terminal:
                    name = path.name.removesuffix(".json")
                    console.print(f"[{number}/{len(everything)}] {name}", markup=False, highlight=False)
                summary, fresh = run(cell.resolved, console, caches=caches)
                solved.trained += fresh
                correct = read_json(run_folder(cell.resolved) / CORRECT, keys=("count", *WEIGHTS))
                kept = {key: summary[key] for key in _KEPT}
                content = {"label": cell.label, "axes": cell.axes, **kept, "correct": correct}
                content |= {"leak": summary["leak"]} if summary["leak"] else {}
                if (run_folder(cell.resolved) / EPISODES).is_file():
                    content["episodes"] = read_json(run_folder(cell.resolved) / EPISODES, keys=tuple(WEIGHTS))
                if (run_folder(cell.resolved) / MATRIX).is_file():
                    matrix = read_matrices(run_folder(cell.resolved))
                    content |= {"incremental": summary["incremental"], "matrix": matrix}
                write_json(path, content)
                solved.cells.append(content)
                continue
            write_json(denied, {"label": cell.label, "axes": cell.axes, "relation": kind, "absent": reason})
        absent[denied] = read_json(denied, keys=("label", "axes", "relation", "absent"))
    if finished_only and not solved.cells:
        raise UserError(
            f"There is no finished cell of this grid in {where.table}; run gkd compare without --finished."
        )
    solved.absent = list(absent.values())
    return solved


def frozen_cells(solved: Solved, baseline: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Cells for what classifiers make of the embedding that the baseline's students start from, and their labels."""
    found = []
    for cell in solved.cells:
        kept = cell["correct"]
        for label in (key for key in kept if key.startswith(FROZEN) and cell["label"] == baseline):
            right = unpack(kept[label], kept["count"])
            judged = {"accuracy": 100 * float(right.mean()), "ece": None}
            correct = {"count": kept["count"], **dict.fromkeys(WEIGHTS, kept[label])}
            own = {"label": label, "correct": correct, "seconds": 0.0, **dict.fromkeys(WEIGHTS, judged)}
            found.append({**cell, **own})
    return found, list(dict.fromkeys(cell["label"] for cell in found))


def _denial(resolved: Resolved, caches: Caches) -> tuple[str | None, str]:
    """Why the label relation denies a cell's method, or None; and what the relation is."""
    experiment = resolved.experiment
    relation = relation_of(experiment, caches)
    return refusal(experiment.method, relation_to_check(experiment, caches)), relation.kind
