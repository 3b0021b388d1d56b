"""The short table of a grid by test accuracy: what each method gains over the baseline, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from gkd.core.text import for_markdown
from gkd.report.accuracy_table import AccuracyRow, Comparison, row_notes
from gkd.report.markdown import (
    NONE,
    Table,
    axis_names,
    axis_values,
    interval,
    number,
    shown_kind,
    spread,
    varied_axes,
)
from gkd.storage.run_results import AbsentCell


def short_markdown(rows: Sequence[AccuracyRow | AbsentCell], *, baseline: str, axes: Sequence[str]) -> Table:
    """One row a method and relation, without one for the baseline, whose numbers stand in a column.

    An axis has a column only where the label relation does not tell its values apart. The interval of a difference is
    over seeds where there are 5 or more, else over test images; one that holds 0 is marked.
    """
    others = [row for row in rows if row.label != baseline]
    numbered = [row for row in others if isinstance(row, AccuracyRow)]
    varied, name = varied_axes(rows, axes), for_markdown(baseline)
    if len({tuple(axis_values(row, varied)) for row in others}) <= len({row.relation for row in others}):
        varied = []
    head = ["relation", *axis_names(varied), "method", "teacher", f"{name} alone", "distilled"]
    lines = [
        [shown_kind(row.relation), *axis_values(row, varied), for_markdown(row.label)]
        + (_numbers(row) if isinstance(row, AccuracyRow) else [])
        for row in others
    ]
    legend = _legend(numbered, name)
    head += [f"Δ to {name}", "s"]
    return Table(head, lines, row_notes(rows), legend, legend_first=True, minor=["s", "teacher"])


def _numbers(row: AccuracyRow) -> list[str]:
    return [
        number(row.teacher),
        number(row.baseline),
        spread(row.mean, row.std),
        _difference(row.compared),
        f"{row.seconds:.1f}",
    ]


def _difference(compared: Comparison | None) -> str:
    if compared is None:
        return NONE
    low, high = compared.difference_interval_over_seeds or compared.difference_interval
    shown = f"{compared.difference:+.2f} {interval([low, high], '+.2f')}"
    return f"{shown} \\*" if low <= 0 <= high else shown


def _legend(rows: Sequence[AccuracyRow], baseline: str) -> str:
    seeds = {row.n for row in rows}
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds, default=0)} to {max(seeds, default=0)}"
    over = "seeds" if min(seeds, default=0) >= 5 else "test images"
    return (
        f"Test accuracy in percent over {count} seeds; teacher: on its own classes; s: seconds of training.\n"
        f"Δ: difference to the {baseline} of the same seed, with a 95 % interval over {over}; \\*: it holds 0."
    )
