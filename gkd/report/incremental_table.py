"""Tables and plots of incremental runs: the steps of one run, and a grid of many."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from pathlib import Path

import torch
from pydantic import JsonValue

from gkd.core.text import for_markdown
from gkd.incremental.accuracy_matrix import ANSWERS, NUMBERS, accuracy_matrix
from gkd.incremental.matrix_file import read_matrices
from gkd.metrics import mean_std, t_interval
from gkd.report.added_metrics import mean_metrics, metric_content, metric_legend, metric_names
from gkd.report.incremental_plots import Curve, plot_curves, plot_matrices, plot_matrix
from gkd.report.markdown import (
    Table,
    absent_note,
    axis_names,
    axis_values,
    number,
    spread,
    varied_axes,
)
from gkd.report.published import Against, Published, against, columns_of, number_of, verdict
from gkd.report.terminal_table import fitted
from gkd.storage.records import read_record
from gkd.storage.run_files import SUMMARY
from gkd.storage.run_results import AbsentCell, Cell, RunSummary
from gkd.storage.step_results import AnswerMatrix, IncrementalResult, Matrices

CURVES_PLOT, MATRIX_PLOT, MATRICES_PLOT = "curves.png", "matrix.png", "matrices.png"


_NAMES = {
    "classifier": "head",
    "classifier_task_aware": "head, step known",
    "ncm": "nearest exemplar mean",
    "ncm_task_aware": "nearest exemplar mean, step known",
}


def plot_run(folder: Path) -> Path:
    """Draw ``curves.png``, the accuracy against the number of classes, and ``matrix.png`` into a run folder.

    The matrix is that of the method's classifier: the head, or for iCaRL the nearest exemplar mean.

    Returns:
        The path of the former.
    """
    matrices = read_matrices(folder)
    seen = list(accumulate(matrices.num_classes))
    by_answer = matrices.by_answer
    curves = [
        Curve(shown, seen[: len(by_answer[name].seen)], [_numbers(by_answer[name].seen)])
        for name, shown in _NAMES.items()
        if name in by_answer
    ]
    answers = "classifier"
    if (folder / SUMMARY).is_file():
        summary = read_record(folder / SUMMARY, RunSummary)
        answers = summary.incremental.answers if summary.incremental is not None else answers
    plot_matrix(
        accuracy_matrix(by_answer[answers].rows),
        matrices.num_classes,
        folder / MATRIX_PLOT,
        title=_NAMES[answers],
    )
    return plot_curves(curves, folder / CURVES_PLOT)


def plot_cells(cells: Sequence[Cell], folder: Path) -> Path | None:
    """Draw a grid's methods, each as the mean over its seeds, with the method's own classifier.

    ``curves.png`` has their curves over each other, ``matrices.png`` their accuracy matrices side by side.

    Returns:
        The path of the former; None where no cell is of an incremental run.
    """
    groups: dict[str, list[tuple[Matrices, AnswerMatrix]]] = {}
    for cell in cells:
        if cell.matrix is not None and cell.incremental is not None:
            answered = cell.matrix.by_answer[cell.incremental.answers]
            groups.setdefault(_label(cell), []).append((cell.matrix, answered))
    if not groups:
        return None
    curves, pictures = [], []
    for label, group in groups.items():
        num_classes = group[0][0].num_classes
        curves.append(Curve(label, list(accumulate(num_classes)), [_numbers(run.seen) for _, run in group]))
        mean = torch.stack([accuracy_matrix(run.rows) for _, run in group]).mean(0)
        pictures.append((label, mean, num_classes))
    plot_matrices(pictures, folder / MATRICES_PLOT)
    return plot_curves(curves, folder / CURVES_PLOT)


def _label(cell: Cell) -> str:
    axes = ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in cell.axes.items())
    return f"{cell.label} ({axes})" if axes else cell.label


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def step_table(matrices: Matrices, result: IncrementalResult, width: int | None = None) -> list[str]:
    """A text line for each step of a run: classes so far, accuracy on all of them, exemplars, seconds.

    Args:
        matrices, result: the run's.
        width: columns of a terminal, in which the table is to fit; None shows all of it.
    """
    by_answer = {name: matrices.by_answer[name] for name in _NAMES if name in matrices.by_answer}
    seen = list(accumulate(matrices.num_classes))
    rows = [
        [
            str(step.step),
            str(seen[step.step - 1]),
            *(number(run.seen[step.step - 1]) for run in by_answer.values()),
            str(step.memory),
            f"{step.seconds:.1f}",
        ]
        for step in result.steps
    ]
    heads = [_NAMES[name] for name in by_answer]
    minor = ["s", "exemplars", *(_NAMES[name] for name in by_answer if name not in ANSWERS)]
    table = Table(["step", "classes", *heads, "exemplars", "s"], rows, (), "", minor=minor)
    text, _ = fitted(table, width or sys.maxsize)
    lines = text.splitlines()
    for name in ANSWERS:
        if name in by_answer:
            numbers = by_answer[name].summary
            shown = ", ".join(f"{label} {number(numbers[key])}" for label, key in NUMBERS.items())
            lines.append(f"{_NAMES[name]}: {shown}")
    return lines


@dataclass(frozen=True)
class IncrementalRow:
    """A method by one classifier (the head or the nearest exemplar mean), over its seeds.

    Attributes:
        axes, label, relation, answers: identify the row; ``answers`` names the classifier.
        n, seeds: the seeds.
        judged: whether this is the method's own classifier.
        numbers: name -> mean and std over seeds of ``gkd.incremental.accuracy_matrix.incremental_summary``.
        seconds: of training, mean.
        metrics: name -> mean of the metrics that the experiment adds.
        against: key of ``NUMBERS`` -> the mean over seeds against a published number.
    """

    axes: dict[str, JsonValue]
    label: str
    relation: str
    answers: str
    n: int
    judged: bool
    seeds: list[int]
    numbers: dict[str, tuple[float | None, float | None]]
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    against: dict[str, Against] = field(default_factory=dict)

    def content(self) -> dict[str, object]:
        """The row by column, as ``table.json`` and ``table.csv`` have it."""
        late = ("numbers", "seconds", "metrics", "against")
        content: dict[str, object] = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in late
        }
        for name, (mean, std) in self.numbers.items():
            content |= {name: mean, f"{name}_std": std}
        for name, judged in self.against.items():
            content |= {f"{key}/{name}": value for key, value in judged.content().items()}
        return content | {"seconds": self.seconds} | metric_content(self.metrics)


def incremental_rows(
    cells: Sequence[Cell],
    absent: Sequence[AbsentCell],
    *,
    order: Sequence[str],
    published: Sequence[Published] = (),
) -> list[IncrementalRow | AbsentCell]:
    """One row per (axes, label, classifier), the head and the nearest exemplar mean, of each step's last epoch.

    Args:
        cells: finished cells of a grid, with their ``matrix``.
        absent: rows that the label relation denies; the table has them with a reason and no numbers.
        order: the labels in the order of the config.
        published: numbers of others, to stand beside those that they fit.
    """
    rows: list[IncrementalRow | AbsentCell] = []
    for axes in dict.fromkeys([*(str(cell.axes) for cell in cells), *(str(cell.axes) for cell in absent)]):
        for label in order:
            group = [cell for cell in cells if (str(cell.axes), cell.label) == (axes, label)]
            rows += [row for answers in ANSWERS for row in _rows(group, answers, published)]
            rows += [cell for cell in absent if (str(cell.axes), cell.label) == (axes, label)]
    return rows


def _rows(group: Sequence[Cell], answers: str, published: Sequence[Published]) -> list[IncrementalRow]:
    """The row of one classifier over the group's seeds; empty where no cell has its answers."""
    runs = [
        (cell, cell.matrix.by_answer[answers].summary)
        for cell in group
        if cell.matrix is not None and answers in cell.matrix.by_answer
    ]
    if not runs:
        return []
    first, names = runs[0]
    judged = first.incremental is not None and first.incremental.answers == answers
    row = IncrementalRow(
        axes=first.axes,
        label=first.label,
        relation=first.relation.kind,
        answers=answers,
        n=len(runs),
        judged=judged,
        seeds=sorted(cell.seed for cell, _ in runs),
        numbers={name: _mean_std([summary[name] for _, summary in runs]) for name in names},
        seconds=mean_std([cell.seconds for cell, _ in runs])[0],
        metrics=mean_metrics([cell.last for cell, _ in runs]) if judged else {},
    )
    for shown, name in NUMBERS.items():
        found = number_of(published, row.label, {**row.axes, "answers": answers, "number": shown})
        values = [value for _, summary in runs if (value := summary[name]) is not None]
        if found is not None and values:
            row.against[shown] = against(found, mean_std(values)[0], t_interval(values))
    return [row]


def _mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and std of the measured values; None where nothing was measured."""
    measured = [value for value in values if value is not None]
    return mean_std(measured) if measured else (None, None)


def incremental_markdown(
    rows: Sequence[IncrementalRow | AbsentCell], *, baseline: str, axes: Sequence[str]
) -> Table:
    """The table as Markdown, with a legend of its columns below it."""
    varied = varied_axes(rows, axes)
    added = metric_names(row.metrics for row in rows if isinstance(row, IncrementalRow))
    beside = {
        shown: [row.against.get(shown) if isinstance(row, IncrementalRow) else None for row in rows]
        for shown in NUMBERS
    }
    of_others = {shown: columns_of(judged, shown) for shown, judged in beside.items()}
    lines = []
    for place, row in enumerate(rows):
        line = [*axis_values(row, varied), for_markdown(row.label)]
        more = {shown: cells[place] for shown, (_, cells) in of_others.items()}
        lines.append(line + _cells(row, added, more) if isinstance(row, IncrementalRow) else line)
    numbers = [head for shown in NUMBERS for head in (shown, *of_others[shown][0])]
    legend = (
        "Test accuracy in percent, mean ± std over n seeds, of the student of each step's last epoch. average: the "
        "mean over the steps, the first among them, of the accuracy on all classes so far; last: after the last step; "
        "forgetting: by how many points the accuracy on earlier steps has fallen from its best before the last step; "
        "old, new, harmonic: after the last step, on earlier classes, on the step's own, and their harmonic mean. "
        "s: training seconds of all steps; a first model that is given or shared is not among them."
    )
    return Table(
        head=[*axis_names(varied), "method", "answered by", *numbers, *map(for_markdown, added), "n", "s"],
        rows=lines,
        notes=[
            *(absent_note(row) for row in rows if isinstance(row, AbsentCell)),
            *verdict([judged for of_number in beside.values() for judged in of_number]),
        ],
        legend=legend + metric_legend(added),
        minor=["s", "n", "harmonic", "new", "old", *map(for_markdown, reversed(added))],
    )


def _cells(row: IncrementalRow, added: Sequence[str], of_others: Mapping[str, Sequence[str]]) -> list[str]:
    """The name of a row's classifier, and its numbers, each with the cells ``of_others`` on published ones."""
    named = _NAMES[row.answers] + (" (the method's)" if row.judged and row.answers == "ncm" else "")
    numbers = []
    for shown, key in NUMBERS.items():
        numbers += [spread(*row.numbers[key]), *of_others[shown]]
    numbers += [number(row.metrics.get(name), ".4g") for name in added]
    return [named, *numbers, str(row.n), f"{row.seconds:.1f}"]
