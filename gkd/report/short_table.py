"""The short table of a grid by test accuracy: what each method gains over the baseline, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from gkd.core.text import for_markdown
from gkd.report.accuracy_table import AccuracyRow, Comparison, of_each, row_notes, row_start
from gkd.report.markdown import (
    NONE,
    Table,
    axis_names,
    interval,
    number,
    spread,
    varied_axes,
)
from gkd.storage.run_results import AbsentCell

_LEVEL = "°"  # marks a difference that may be none; Markdown and terminals show it as it is


def short_markdown(rows: Sequence[AccuracyRow | AbsentCell], *, baseline: str, axes: Sequence[str]) -> Table:
    """One row a method and relation; the baseline stands in a column, and has a row only where no method has one.

    An axis has a column only where the label relation does not tell its values apart. The interval of a difference is
    over seeds where there are 5 or more, else over test images; one that holds 0 is marked.
    """
    taught = {str(row.axes) for row in rows if isinstance(row, AccuracyRow) and row.label != baseline}
    shown = [row for row in rows if row.label != baseline or str(row.axes) not in taught]
    numbered = [row for row in shown if isinstance(row, AccuracyRow)]
    varied, name = [axis for axis in varied_axes(rows, axes) if _adds(axis, shown)], for_markdown(baseline)
    differing = len({row.n for row in numbered}) > 1
    head = ["relation", *axis_names(varied), "method", "teacher", f"{name} alone", "distilled"]
    head += [f"Δ to {name}", *(["n"] if differing else []), "s"]
    lines = []
    for row in shown:
        numbers = _numbers(row, counted=differing) if isinstance(row, AccuracyRow) else []
        lines.append([*row_start(row, varied), *numbers])
    legend, minor = _legend(numbered, name), ["s", "n", "teacher", f"{name} alone", "distilled"]
    return Table(head, lines, row_notes(rows), legend, legend_first=True, minor=minor)


def _numbers(row: AccuracyRow, *, counted: bool) -> list[str]:
    alone, distilled = number(row.baseline), spread(row.mean, row.std)
    teacher = of_each(row, lambda of: number(of.teacher))
    return [
        teacher,
        alone,
        distilled,
        _difference(row.compared),
        *([str(row.n)] if counted else []),
        f"{row.seconds:.1f}",
    ]


def _adds(axis: str, rows: Sequence[AccuracyRow | AbsentCell]) -> bool:
    """Whether an axis tells rows apart that have one label relation."""
    both = {(row.relation, str(row.axes.get(axis))) for row in rows}
    return len(both) > len({row.relation for row in rows})


def _difference(compared: Comparison | None) -> str:
    if compared is None:
        return NONE
    low, high = compared.difference_interval_over_seeds or compared.difference_interval
    shown = f"{compared.difference:+.2f} {interval([low, high], '+.2f')}"
    return f"{shown} {_LEVEL}" if low <= 0 <= high else shown


def _legend(rows: Sequence[AccuracyRow], baseline: str) -> str:
    reported = rows[0].reported if rows else "last"
    counts = {row.n for row in rows}
    seeds = f" over {max(counts)} seed{'s' * (max(counts) > 1)}" if len(counts) == 1 else ""
    over = {
        "seeds" if row.compared.difference_interval_over_seeds else "test images"
        for row in rows
        if row.compared is not None
    }
    which = "seeds where n is 5 or more, else over test images" if len(over) > 1 else "".join(over) or "seeds"
    return (
        f"Test accuracy in percent{seeds}, of the {reported} epoch; teacher: on its own classes; s: seconds of "
        f"training.\nΔ: to the {baseline} of the same seed, with a 95 % interval over {which}; {_LEVEL}: it holds 0."
    )
