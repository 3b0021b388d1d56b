"""The table of a few-shot grid: accuracy on episodes, paired with the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gkd.few_shot.judging import unpacked
from gkd.metrics import mean_std
from gkd.metrics.intervals import mean_interval
from gkd.report.accuracy_table import leak_notes

Row = dict[str, Any]


_TEACHER = "teacher"


def few_shot_rows(
    cells: Sequence[dict[str, Any]],
    absent: Sequence[dict[str, Any]],
    *,
    baseline: str,
    report: str,
    order: Sequence[str],
) -> list[Row]:
    """One row per (axes, label, classifier), after one of the teacher alone.

    Args:
        cells: finished cells of a grid, with their ``episodes``.
        absent: denied rows; they stand in the table with a reason and no numbers.
        baseline: the label that others are compared with, episode by episode, within each seed.
        report: ``last`` or ``best``: which student the row is about.
        order: the labels in the order of the config.

    Returns:
        Rows whose ``settings`` hold, by setting, the mean ``accuracy`` over seeds and episodes, the half width
        ``interval`` of its 95 % interval over episodes, its ``std`` over seeds, and ``difference`` with
        ``difference_interval`` where the baseline was judged on the same episodes by the same classifier.
    """
    rows: list[Row] = []
    everything = [*cells, *absent]
    for axes in dict.fromkeys(str(cell["axes"]) for cell in everything):
        here = [cell for cell in cells if str(cell["axes"]) == axes]
        base = [cell for cell in here if cell["label"] == baseline]
        taught = [cell for cell in here if _TEACHER in cell["episodes"]]
        if taught:
            rows += _rows(taught[:1], base, _TEACHER, _TEACHER, baseline)
        for label in order:
            rows += _rows([cell for cell in here if cell["label"] == label], base, label, report, baseline)
            rows += [entry for entry in absent if str(entry["axes"]) == axes and entry["label"] == label]
    return rows


def _rows(
    group: list[dict[str, Any]], base: list[dict[str, Any]], label: str, which: str, baseline: str
) -> list[Row]:
    if not group:
        return []
    ours = {cell["seed"]: unpacked(cell["episodes"][which]) for cell in group}
    theirs = {cell["seed"]: unpacked(cell["episodes"][_other(which)]) for cell in base}
    drawn = {cell["seed"]: _drawn(cell["episodes"][which]) for cell in group}
    drawn_there = {cell["seed"]: _drawn(cell["episodes"][_other(which)]) for cell in base}
    first = group[0]
    rows = []
    for classifier in next(iter(next(iter(ours.values())).values())):
        settings = {}
        for setting in next(iter(ours.values())):
            mine = {seed: found[setting][classifier] for seed, found in ours.items()}
            alone = {
                seed: theirs[seed][setting][classifier]
                for seed in mine
                if classifier in theirs.get(seed, {}).get(setting, {})
                and len(theirs[seed][setting][classifier]) == len(mine[seed])
                and _same(drawn[seed][setting], drawn_there[seed][setting])
            }
            settings[setting] = _compared(mine, {} if label == baseline else alone)
        row = {"axes": first["axes"], "label": label, "classifier": classifier, "settings": settings}
        row |= {"n": len(group), "seeds": sorted(ours), "leak": first.get("leak", []), "reported": which}
        row |= {"relation": first["relation"]["kind"]}
        if label != _TEACHER:
            row["base"] = mean_std([cell[which]["accuracy"] for cell in group])[0]
            row["seconds"] = mean_std([cell["seconds"] for cell in group])[0]
        rows.append(row)
    return rows


def _drawn(content: dict[str, Any]) -> dict[str, str | None]:
    """Setting -> the name of its episodes; None in files from before they had one."""
    return {setting: found.get("drawn") for setting, found in content.items()}


def _same(one: str | None, other: str | None) -> bool:
    return one == other or None in (one, other)


def _other(which: str) -> str:
    """The students that a row is compared with: the teacher with the last ones."""
    return "last" if which == _TEACHER else which


def _compared(mine: dict[int, Tensor], alone: dict[int, Tensor]) -> dict[str, float | None]:
    """Accuracy of each episode averaged over seeds, and its difference to the baseline's on the same episodes."""
    accuracy, interval = mean_interval(torch.stack(list(mine.values())).mean(0))
    found: dict[str, float | None] = {"accuracy": accuracy, "interval": interval}
    found["std"] = mean_std([float(values.mean()) for values in mine.values()])[1]
    if alone:
        gain = torch.stack([mine[seed] - alone[seed] for seed in alone]).mean(0)
        found["difference"], found["difference_interval"] = mean_interval(gain)
    return found


def few_shot_markdown(rows: Sequence[Row], *, baseline: str, axes: Sequence[str]) -> str:
    """The table as Markdown, with what its columns mean below it."""
    varied = [axis for axis in axes if len({str(row["axes"].get(axis)) for row in rows}) > 1]
    numbered = [row for row in rows if "settings" in row]
    settings = list(dict.fromkeys(setting for row in numbered for setting in row["settings"]))
    head = [*(axis.rsplit(".", 1)[-1] for axis in varied), "method", "classifier"]
    for setting in settings:
        head += [setting, f"Δ to {baseline}"]
    head += ["base classes", "n", "s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    notes = []
    for row in rows:
        lead = [*(str(row["axes"].get(axis)) for axis in varied), row["label"]]
        if "absent" in row:
            lines.append("| " + " | ".join([*lead, *["–"] * (len(head) - len(lead))]) + " |")
            notes.append(f"{row['label']} is absent: {row['absent']}")
            continue
        cells = [*lead, row["classifier"]]
        for setting in settings:
            found = row["settings"].get(setting)
            if found is None:  # an axis of the grid, or the row itself, asks for others
                cells += ["–", "–"]
                continue
            cells.append(_spread(found["accuracy"], found["interval"]))
            gap = found.get("difference")
            cells.append("–" if gap is None else f"{gap:+.2f} ± {found['difference_interval']:.2f}")
        cells += [_number(row.get("base")), str(row["n"]), _number(row.get("seconds"), ".1f")]
        lines.append("| " + " | ".join(cells) + " |")
    notes = leak_notes(numbered) + notes
    which = next((row["reported"] for row in numbered if row["label"] != _TEACHER), "last")
    legend = (
        f"Accuracy in percent on episodes of novel classes, of the student of the {which} epoch, averaged over n "
        "seeds; ± is the half width of the 95 % interval over episodes (Student's t). "
        f"Δ: difference to the {baseline} on the same episodes, paired within each seed; – where it was judged on "
        "others or by other classifiers. Both speak of other episodes of these classes, not of other classes or other "
        "trainings. base classes: test accuracy on the classes that were trained on, by the nearest class mean where "
        "no head is trained. s: training seconds a run."
    )
    return "\n".join(lines) + "\n\n" + "\n\n".join([*dict.fromkeys(notes), legend]) + "\n"


def _spread(mean: float, half: float) -> str:
    return f"{mean:.2f} ± {half:.2f}"


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else f"{value:{form}}"
