"""The cells of a grid: rows, axes, pairs and seeds, each an experiment of its own."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gkd.commands.grid_places import Place, Places
from gkd.config.resolve import Resolved
from gkd.config.schema import Compare, MethodRow
from gkd.config.shipped import load_method
from gkd.core.errors import UserError, unknown
from gkd.experiment.run_folder import config_folder, table_names
from gkd.report.published import Published, read_published


def section(resolved: Resolved) -> Compare:
    """The grid of a config; a UserError where it has none."""
    compare = resolved.experiment.compare
    if compare is None:
        raise UserError(
            f"{resolved.name} has no compare section; add one, such as 'compare: "
            "{methods: [student, kd], seeds: [0, 1]}', or use gkd run.",
            code="compare-section-missing",
        )
    return compare


def rows(compare: Compare) -> list[MethodRow]:
    """The rows of a grid; a plain method name is a row of that label."""
    return [
        row if isinstance(row, MethodRow) else MethodRow(label=row, method=row) for row in compare.methods
    ]


def count(compare: Compare) -> int:
    """How many cells a grid has."""
    seeds = sum(len(compare.seeds_of(row)) for row in compare.methods)
    return seeds * math.prod(map(len, compare.axes.values())) * len(compare.chosen_pairs or {"": {}})


def cells(resolved: Resolved) -> Iterator[Place]:
    """Every cell, all of the first seed before the second, so that a table over all rows is there early."""
    compare = section(resolved)
    keys = list(compare.axes)
    set_by = {"method": "compare.methods", "run.seed": "compare.seeds", **dict.fromkeys(keys, "compare.axes")}
    set_by |= dict.fromkeys(itertools.chain(*compare.pairs.values()), "compare.pairs")
    for key in (override.partition("=")[0] for override in resolved.overrides):
        if key in set_by:
            raise UserError(
                f"A grid sets {key} of every cell itself, so the override is lost; use {set_by[key]}.",
                code="override-lost",
            )
    changes = {row.label: _changes(row) for row in rows(compare)}  # finds a wrong name before the first run
    if compare.pairs:
        _check_terms_of_pairs(compare, section(_stated(resolved)))
    places = list(itertools.product(compare.chosen_pairs or [None], *compare.axes.values()))
    for seed in compare.seeds:
        with_seed = [row for row in rows(compare) if seed in compare.seeds_of(row)]
        for pair, *values in places:
            axes = dict(zip(keys, values, strict=True))
            for row in with_seed:
                settings: dict[str, Any] = {"method": row.method, "run.seed": seed}
                settings |= _of_pair(compare.pairs[pair], row) if pair is not None else {}
                settings |= {**axes, **changes[row.label]}
                overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
                try:
                    changed = resolved.with_overrides(overrides)
                except UserError as error:
                    where = f"Row {row.label!r}" + (f" of the pair {pair!r}" if pair is not None else "")
                    raise UserError(f"{where}: {error}", code=error.code) from None
                yield Place(row.label, axes if pair is None else {"pair": pair, **axes}, changed)


def published_numbers(resolved: Resolved) -> list[Published]:
    """The published numbers of a grid, of all that its file states, whatever part of it is asked for.

    Raises:
        UserError: a file that cannot be read, or a number that is of no cell.
    """
    asked = section(resolved)
    if asked.published is None:
        return []
    numbers = read_published(asked.published, resolved.name)
    stated = _stated(resolved)
    whole = stated if section(stated).published == asked.published else resolved
    grid, results = section(whole), whole.experiment.task.numbers_by()
    values: dict[str, list[str]] = {
        "pair": [*grid.pairs],
        **{key: [str(value) for value in of] for key, of in grid.axes.items()},
        **{key: [*of] for key, of in results.items()},
    }
    labels = [row.label for row in rows(grid)]
    axes = [*grid.axis_names, *(f"{key} ({', '.join(of)})" for key, of in results.items())]
    for each in numbers:
        if each.label not in labels or any(
            value not in values.get(key, ()) for key, value in each.axes.items()
        ):
            raise UserError(
                f"{asked.published} has a number of {each}, which is no cell of {resolved.name}; its rows are "
                f"{', '.join(labels)}, its axes {', '.join(axes) or 'none'}.",
                code="published-without-cell",
            )
        for key in results.keys() - each.axes.keys():
            raise UserError(
                f"{asked.published} has a number of {each} that states no {key}; its column {key} is one of "
                f"{', '.join(results[key])}.",
                code="published-without-place",
            )
    return numbers


def _stated(resolved: Resolved) -> Resolved:
    """The grid as the config's files state it, whatever part of it is asked for; as asked, where they state none."""
    try:
        stated = resolved.without_overrides()
    except UserError:  # a file that is no experiment without the overrides
        return resolved
    return resolved if stated.experiment.compare is None else stated


def _check_terms_of_pairs(compare: Compare, stated: Compare) -> None:
    """Refuse a pair that changes a term which no row has; pairs that the file states are for all of its rows."""
    of_file = rows(stated) if stated.pairs == compare.pairs else []
    methods = [load_method(row.method) for row in (*rows(compare), *of_file)]
    terms = {name for method in methods for stage in method.stages.values() for name in stage.terms}
    for pair, settings in compare.pairs.items():
        for term in (key.split(".")[1] for key in settings if key.startswith("terms.")):
            if term not in terms:
                raise UserError(
                    f"The pair {pair!r}: " + unknown("term of the grid's methods", term, sorted(terms)),
                    code="unknown-term",
                )


def _of_pair(settings: Mapping[str, Any], row: MethodRow) -> dict[str, object]:
    """Dotted key -> value of what a pair sets in a row: keys of a term where the row's method has it."""
    changes: dict[str, object] = {}
    stages = load_method(row.method).stages
    for key, value in settings.items():
        if not key.startswith("terms."):
            changes[key] = value
            continue
        _, term, option = key.split(".", 2)
        with_term = [name for name, stage in stages.items() if term in stage.terms]
        changes |= {f"method.stages.{stage}.terms.{term}.{option}": value for stage in with_term}
    return changes


def _changes(row: MethodRow) -> dict[str, object]:
    """Dotted key -> value of all that a row sets."""
    stages = load_method(row.method).stages
    changes: dict[str, object] = dict(row.set)
    for term, keys in row.terms.items():
        with_term = [name for name, stage in stages.items() if term in stage.terms]
        if not with_term:
            terms = sorted({name for stage in stages.values() for name in stage.terms})
            raise UserError(
                f"Row {row.label!r}: " + unknown(f"term of the method {row.method!r}", term, terms),
                code="unknown-term",
            )
        for stage in with_term:
            changes.update(
                {f"method.stages.{stage}.terms.{term}.{key}": value for key, value in keys.items()}
            )
    return changes


def places(resolved: Resolved, grid: Sequence[Place]) -> Places:
    """Where the cells and the table of a grid go.

    Args:
        resolved: the grid's experiment.
        grid: its cells.
    """
    compare = section(resolved)
    scratch, former = (config_folder(resolved) / name for name in table_names(resolved.overrides))
    if compare.results is None:
        return Places(scratch, scratch, None, scratch, former)
    try:
        stated = resolved.without_overrides()
        if stated.experiment.compare is None or stated.experiment.compare.results != compare.results:
            return Places(compare.results, scratch, None, compare.results, former)  # the user says where
        stated_grid = list(cells(stated)) if resolved.overrides else grid
    except UserError:  # a file that is no experiment without the overrides states no grid
        return Places(compare.results, scratch, None, compare.results, former)
    names = {name for cell in stated_grid for name in (cell.file_name, cell.absent_name)}
    same = stated.experiment.compare == compare and all(cell.file_name in names for cell in grid)
    return Places(compare.results, scratch, frozenset(names), compare.results if same else scratch, former)
