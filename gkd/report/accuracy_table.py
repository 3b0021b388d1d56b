"""The table of a grid: one row a relation and method, over seeds, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gkd.metrics import mean_std, paired_bootstrap, t_interval
from gkd.storage.json_files import write_json
from gkd.storage.run_files import unpack

Row = dict[str, Any]


def table_rows(
    cells: Sequence[dict[str, Any]],
    absent: Sequence[dict[str, Any]],
    *,
    baseline: str,
    report: str,
    order: Sequence[str],
) -> list[Row]:
    """One row per (axes, label), with the baseline beside it.

    Args:
        cells: finished cells of a grid.
        absent: denied rows; they stand in the table with a reason and no numbers.
        baseline: the label that others are compared with.
        report: ``last`` or ``best``: which student the row is about.
        order: the labels in the order of the config.

    Returns:
        Rows with mean, std, n, and the difference to the baseline, paired within each seed: with its
        bootstrap interval over test images, and with its t-interval over seeds where there are 5 or more,
        as the mean has.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((str(cell["axes"]), cell["label"]), []).append(cell)
    result = []
    axes_in_order = list(dict.fromkeys([*(str(c["axes"]) for c in cells), *(str(a["axes"]) for a in absent)]))
    for axes in axes_in_order:
        for label in order:
            group = groups.get((axes, label))
            if group:
                result.append(_row(group, groups.get((axes, baseline), []), baseline, report))
            result += [entry for entry in absent if str(entry["axes"]) == axes and entry["label"] == label]
    return result


def _row(group: list[dict[str, Any]], base: list[dict[str, Any]], baseline: str, report: str) -> Row:
    group = sorted(group, key=lambda cell: int(cell["seed"]))
    accuracies = [cell[report]["accuracy"] for cell in group]
    mean, std = mean_std(accuracies)
    other = "best" if report == "last" else "last"
    first = group[0]
    row: Row = {
        "axes": first["axes"],
        "label": first["label"],
        "relation": first["relation"]["kind"],
        "overlap": first["relation"]["overlap"],
        "teacher": _mean(group, lambda cell: (cell["teacher"] or {}).get("accuracy")),
        "teacher_induced": _mean(group, lambda cell: (cell["teacher"] or {}).get("induced_accuracy")),
        "reported": report,
        "mean": mean,
        "std": std,
        other: mean_std([cell[other]["accuracy"] for cell in group])[0],
        f"{other}_std": mean_std([cell[other]["accuracy"] for cell in group])[1],
        "n": len(group),
        "seeds": [cell["seed"] for cell in group],
        "interval": _within(t_interval(accuracies), 0.0, 100.0),
        "ece": _mean(group, lambda cell: cell[report]["ece"]),
        "leak": first.get("leak", []),
        "agreement": _mean(group, lambda cell: cell[report].get("agreement")),
        "seconds": _mean(group, lambda cell: cell["seconds"]),
        "images_per_second": _mean(group, lambda cell: cell["images_per_second"]),
        "empty_batches": {
            k: sum(c["empty_batches"].get(k, 0) for c in group) for k in first["empty_batches"]
        },
    }
    alone = {cell["seed"]: cell for cell in base}
    pairs = [(cell, alone[cell["seed"]]) for cell in group if cell["seed"] in alone]
    if pairs:
        row["baseline"] = mean_std([theirs[report]["accuracy"] for _, theirs in pairs])[0]
    if pairs and first["label"] != baseline:
        ours = [unpack(cell["correct"][report], cell["correct"]["count"]) for cell, _ in pairs]
        base_correct = [unpack(cell["correct"][report], cell["correct"]["count"]) for _, cell in pairs]
        row["difference"], *interval = paired_bootstrap(ours, base_correct)
        row["difference_interval"] = interval
        gains = [mine[report]["accuracy"] - theirs[report]["accuracy"] for mine, theirs in pairs]
        row["difference_interval_over_seeds"] = t_interval(gains)
    return row


def validation_rows(cells: Sequence[dict[str, Any]], *, order: Sequence[str]) -> list[Row]:
    """One row per (axes, label) with the best validation accuracy, for tuning: no test number is read."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((order.index(cell["label"]), str(cell["axes"])), []).append(cell)
    result = []
    for _, group in sorted(groups.items(), key=lambda item: item[0]):
        mean, std = mean_std([cell["best"]["validation"] for cell in group])
        row = {key: group[0][key] for key in ("axes", "label")}
        row |= {"leak": group[0].get("leak", [])}
        row |= {"relation": group[0]["relation"]["kind"], "validation": mean, "std": std, "n": len(group)}
        result.append({**row, "seconds": _mean(group, lambda cell: cell["seconds"])})
    return result


def validation_markdown(rows: Sequence[Row], *, axes: Sequence[str]) -> str:
    """The tuning table as Markdown."""
    head = ["relation", *(axis.rsplit(".", 1)[-1] for axis in axes), "method", "validation", "n", "s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["relation"], *(str(row["axes"].get(axis)) for axis in axes), row["label"]]
        cells += [_spread(row["validation"], row["std"]), str(row["n"]), f"{row['seconds']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    legend = "Best validation accuracy in percent over the epochs of a run; s: training seconds."
    return "\n\n".join(["\n".join(lines), *leak_notes(rows), legend]) + "\n"


def _mean(group: list[dict[str, Any]], read: Any) -> float | None:
    values = [value for value in map(read, group) if value is not None]
    return mean_std(values)[0] if values else None


def markdown(rows: Sequence[Row], *, baseline: str, axes: Sequence[str]) -> str:
    """The table as Markdown, with what its columns mean below it."""
    varied = [axis for axis in axes if len({str(row["axes"].get(axis)) for row in rows}) > 1]
    report = next((row["reported"] for row in rows if "reported" in row), "last")
    other = "best" if report == "last" else "last"
    n = max((row["n"] for row in rows if "n" in row), default=0)
    names = [axis.rsplit(".", 1)[-1] for axis in varied]
    head = ["relation", *names, "method", "teacher", "induced", f"{baseline} alone", "distilled"]
    several = n >= 5  # enough for intervals over seeds
    head += [*(["mean [over seeds]"] if several else []), other, f"Δ to {baseline} [over images]"]
    head += [*(["Δ [over seeds]"] if several else []), "n", "s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    notes = []
    for row in rows:
        lead = [row["relation"], *[str(row["axes"].get(axis)) for axis in varied], row["label"]]
        if "absent" in row:
            lines.append("| " + " | ".join([*lead, *["–"] * (len(head) - len(lead))]) + " |")
            notes.append(f"{row['label']} is absent where the classes are {row['relation']}: {row['absent']}")
            continue
        difference = "–"
        if "difference" in row:
            difference = f"{row['difference']:+.2f} {_interval(row['difference_interval'], '+.2f')}"
        cells = [_number(row["teacher"]), _number(row["teacher_induced"]), _number(row.get("baseline"))]
        cells += [_spread(row["mean"], row["std"]), *([_interval(row["interval"], ".2f")] if several else [])]
        cells += [_spread(row[other], row[f"{other}_std"]), difference]
        cells += [_interval(row.get("difference_interval_over_seeds"), "+.2f")] if several else []
        cells += [str(row["n"]), f"{row['seconds']:.1f}"]
        lines.append("| " + " | ".join([*lead, *cells]) + " |")
    notes += leak_notes(rows)
    chosen = "validation chose" if other == "best" else "training ended with"
    legend = [
        f"Test accuracy in percent, mean ± std over n seeds, of the student of the {report} epoch; {other}: of the "
        f"epoch that {chosen}. teacher: on its own classes; induced: the classifier that its embedding induces over "
        f"the student's classes (nearest class mean). Δ: difference to the {baseline}, paired within each seed. "
        "Intervals are at 95 %: over images by bootstrap, over seeds (from 5 on) by Student's t; the former speaks of "
        "other test images, the latter of other seeds. s: training seconds a run.",
        *dict.fromkeys(notes),
    ]
    return "\n".join(lines) + "\n\n" + "\n\n".join(legend) + "\n"


def leak_notes(rows: Sequence[Row]) -> list[str]:
    """Says which classes were to be new and were not, where a teacher knew them."""
    leaks = sorted({name for row in rows for name in row.get("leak", [])})
    return [f"**Leak**: {told_leak(leaks)}"] if leaks else []


def told_leak(names: Sequence[str]) -> str:
    """A sentence on the novel classes that a teacher knew."""
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"the teacher was trained on {len(names)} of the novel classes ({shown})."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(bounds: Sequence[float] | None, form: str) -> str:
    return "–" if bounds is None else f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def _within(bounds: tuple[float, float] | None, lowest: float, highest: float) -> tuple[float, float] | None:
    return None if bounds is None else (max(bounds[0], lowest), min(bounds[1], highest))


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, axes as columns."""
    axes = list(dict.fromkeys(axis for row in rows for axis in row["axes"]))
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("axes", "empty_batches")))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*axes, *keys])
    for row in rows:
        writer.writerow([*(row["axes"].get(axis) for axis in axes), *(row.get(key) for key in keys)])
    return out.getvalue()


def write_table(folder: Path, rows: Sequence[Row], text: str, *, command: str) -> None:
    """``table.md``, ``table.csv`` and ``table.json`` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(f"{text}\nRegenerate with `{command}`.\n")
    (folder / "table.csv").write_text(to_csv(rows))
    write_json(folder / "table.json", {"command": command, "rows": rows})
