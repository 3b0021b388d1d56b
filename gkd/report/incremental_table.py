"""What incremental runs say: a table of the steps of one, a table of many, and the plots of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from gkd.incremental.accuracy_matrix import accuracy_matrix
from gkd.incremental.matrix_file import read_matrices
from gkd.metrics import mean_std
from gkd.report.incremental_plots import Curve, plot_curves, plot_matrices, plot_matrix
from gkd.storage.json_files import read_json

Row = dict[str, Any]


CURVES_PLOT, MATRIX_PLOT, MATRICES_PLOT = "curves.png", "matrix.png", "matrices.png"


_NAMES = {
    "classifier": "head",
    "classifier_task_aware": "head, step known",
    "ncm": "nearest exemplar mean",
    "ncm_task_aware": "nearest exemplar mean, step known",
}


# Column -> the number of a run's summary.
_COLUMNS = {
    "average": "average",
    "last": "last",
    "forgetting": "forgetting_best_previous",
    "old": "old",
    "new": "new",
    "harmonic": "harmonic",
}


def plot_run(folder: Path) -> Path:
    """Draws ``curves.png``, the accuracy against the number of classes, and ``matrix.png`` into a run folder.

    The matrix is that of what answers for the method: the head, or for iCaRL the nearest exemplar mean.

    Returns:
        The path of the former.
    """
    matrices = read_matrices(folder)
    seen = list(accumulate(matrices["num_classes"]))
    curves = [
        Curve(_NAMES[name], seen[: len(matrices[name]["seen"])], [_numbers(matrices[name]["seen"])])
        for name in _NAMES
        if name in matrices
    ]
    answers = "classifier"
    if (folder / "summary.json").is_file():
        answers = read_json(folder / "summary.json", keys=("incremental",))["incremental"]["answers"]
    plot_matrix(
        accuracy_matrix(matrices[answers]["rows"]),
        matrices["num_classes"],
        folder / MATRIX_PLOT,
        title=_NAMES[answers],
    )
    return plot_curves(curves, folder / CURVES_PLOT)


def plot_cells(cells: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Draws a grid's methods, each the mean over its seeds, by what answers for it.

    ``curves.png`` has their curves over each other, ``matrices.png`` their accuracy matrices side by side.

    Returns:
        The path of the former.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(_label(cell), []).append(cell)
    curves, matrices = [], []
    for label, group in groups.items():
        own = [cell["matrix"][cell["incremental"]["answers"]] for cell in group]
        num_classes = group[0]["matrix"]["num_classes"]
        curves.append(Curve(label, list(accumulate(num_classes)), [_numbers(run["seen"]) for run in own]))
        mean = torch.stack([accuracy_matrix(run["rows"]) for run in own]).mean(0)
        matrices.append((label, mean, num_classes))
    plot_matrices(matrices, folder / MATRICES_PLOT)
    return plot_curves(curves, folder / CURVES_PLOT)


def _label(cell: Mapping[str, Any]) -> str:
    axes = ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in cell["axes"].items())
    return f"{cell['label']} ({axes})" if axes else str(cell["label"])


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def step_table(matrices: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """A line for each step of a run: classes, accuracy on all of them so far, exemplars, seconds."""
    names = [name for name in _NAMES if name in matrices]
    lines = ["step  classes  " + "  ".join(_NAMES[name] for name in names) + "  exemplars  s"]
    seen = list(accumulate(matrices["num_classes"]))
    for step in summary["steps"]:
        number = step["step"] - 1
        cells = [f"{_number(matrices[name]['seen'][number]):>{len(_NAMES[name])}}" for name in names]
        lines.append(
            f"{step['step']:<6}{seen[number]:<9}"
            + "  ".join(cells)
            + f"  {step['memory']:>9}  {step['seconds']:.1f}"
        )
    for name in names:
        if name in ("classifier", "ncm"):
            found = matrices[name]["summary"]
            said = ", ".join(f"{label} {_number(found[key])}" for label, key in _COLUMNS.items())
            lines.append(f"{_NAMES[name]}: {said}")
    return lines


def incremental_rows(
    cells: Sequence[Mapping[str, Any]],
    absent: Sequence[dict[str, Any]],
    *,
    baseline: str,
    report: str,
    order: Sequence[str],
) -> list[Row]:
    """One row per (axes, label) and per what answers, the head and the nearest exemplar mean.

    Args:
        cells: finished cells of a grid, with their ``matrix``.
        absent: denied rows; they stand in the table with a reason and no numbers.
        baseline, report: as other tables take them; every row is about the last epoch of each step.
        order: the labels in the order of the config.

    Returns:
        Rows with mean and std over seeds of each number of ``gkd.incremental.accuracy_matrix.incremental_summary``.
    """
    rows: list[Row] = []
    for axes in dict.fromkeys(str(cell["axes"]) for cell in [*cells, *absent]):
        for label in order:
            group = [cell for cell in cells if (str(cell["axes"]), cell["label"]) == (axes, label)]
            for answers in ("classifier", "ncm"):
                own = [cell for cell in group if answers in cell["matrix"]]
                if own:
                    rows.append(_row(own, answers))
            rows += [entry for entry in absent if str(entry["axes"]) == axes and entry["label"] == label]
    return rows


def _row(group: Sequence[Mapping[str, Any]], answers: str) -> Row:
    first = group[0]
    row: Row = {key: first[key] for key in ("axes", "label")}
    row |= {"relation": first["relation"]["kind"], "answers": answers, "n": len(group)}
    row |= {
        "judged": first["incremental"]["answers"] == answers,
        "seeds": sorted(cell["seed"] for cell in group),
    }
    for name in first["matrix"][answers]["summary"]:
        values = [cell["matrix"][answers]["summary"][name] for cell in group]
        known = [value for value in values if value is not None]
        row[name], row[f"{name}_std"] = mean_std(known) if known else (None, None)
    row["seconds"] = mean_std([cell["seconds"] for cell in group])[0]
    return row


def incremental_markdown(rows: Sequence[Row], *, baseline: str, axes: Sequence[str]) -> str:
    """The table as Markdown, with what its columns mean below it."""
    varied = [axis for axis in axes if len({str(row["axes"].get(axis)) for row in rows}) > 1]
    head = [*(axis.rsplit(".", 1)[-1] for axis in varied), "method", "answered by", *_COLUMNS, "n", "s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    notes = []
    for row in rows:
        lead = [*(str(row["axes"].get(axis)) for axis in varied), row["label"]]
        if "absent" in row:
            lines.append("| " + " | ".join([*lead, *["–"] * (len(head) - len(lead))]) + " |")
            notes.append(f"{row['label']} is absent: {row['absent']}")
            continue
        named = _NAMES[row["answers"]] + (
            " (the method's)" if row["judged"] and row["answers"] == "ncm" else ""
        )
        cells = [*lead, named]
        cells += [_spread(row[key], row[f"{key}_std"]) for key in _COLUMNS.values()]
        lines.append("| " + " | ".join([*cells, str(row["n"]), f"{row['seconds']:.1f}"]) + " |")
    legend = (
        "Test accuracy in percent, mean ± std over n seeds, of the student of each step's last epoch. average: the "
        "mean over the steps, the first among them, of the accuracy on all classes so far; last: after the last step; "
        "forgetting: by how many points the accuracy on earlier steps has fallen from its best before the last step; "
        "old, new, harmonic: after the last step, on earlier classes, on the step's own, and their harmonic mean. "
        "s: training seconds of all steps; a first model that is given or shared is not among them."
    )
    return "\n".join(lines) + "\n\n" + "\n\n".join([*dict.fromkeys(notes), legend]) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _spread(mean: float | None, std: float | None) -> str:
    return _number(mean) if std is None else f"{_number(mean)} ± {std:.2f}"
