"""Table of a few-shot grid: accuracy on episodes, paired with the baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from pydantic import JsonValue
from torch import Tensor

from gkd.core.text import for_markdown
from gkd.few_shot.judging import Accuracies, unpacked
from gkd.metrics import mean_std
from gkd.metrics.intervals import mean_interval
from gkd.report.added_metrics import mean_metrics, metric_content, metric_legend, metric_names
from gkd.report.markdown import (
    NONE,
    Table,
    absent_note,
    axis_names,
    axis_values,
    leak_notes,
    number,
    spread,
    varied_axes,
)
from gkd.report.probes import PROBE_LEGEND, mean_probe, probe_content, shown_probe
from gkd.report.published import Against, Published, against, columns_of, number_of, verdict
from gkd.storage.judged import PackedEpisodes
from gkd.storage.run_results import AbsentCell, Cell

Who = Literal["last", "best", "teacher"]
_TEACHER: Literal["teacher"] = "teacher"


@dataclass(frozen=True)
class SettingResult:
    """A classifier on the episodes of one setting, in percent and points.

    Attributes:
        accuracy, interval: mean over seeds and episodes, and half the width of its 95 % interval over episodes.
        std: over seeds; None with one seed.
        difference, difference_interval: to the baseline on the same episodes, else None.
        against: the accuracy against a published number; None where there is none.
    """

    accuracy: float
    interval: float
    std: float | None
    difference: float | None = None
    difference_interval: float | None = None
    against: Against | None = None

    def content(self) -> dict[str, object]:
        """The numbers by name, without a difference, or what is published, where there is none."""
        content: dict[str, object] = {"accuracy": self.accuracy, "interval": self.interval, "std": self.std}
        if self.difference is not None:
            content |= {"difference": self.difference, "difference_interval": self.difference_interval}
        return content | ({} if self.against is None else self.against.content())


@dataclass(frozen=True)
class FewShotRow:
    """A method, or the teacher alone, by one classifier, over its seeds.

    Attributes:
        axes, label, classifier: identify the row.
        settings: setting -> the numbers.
        n, seeds: the seeds.
        leak: novel classes that the teacher was trained on.
        reported: the network that the row is about.
        relation: the kind of the label relation.
        base, seconds: test accuracy on the base classes, and of training; None for the teacher, but for the accuracy of
            one that keeps classes of its own on those of the base classes that it shares.
        metrics: name -> mean of the metrics that the experiment adds.
        probe: of such a teacher's embedding on the base classes' validation images, by nearest class mean and by
            nearest neighbours.
    """

    axes: dict[str, JsonValue]
    label: str
    classifier: str
    settings: dict[str, SettingResult]
    n: int
    seeds: list[int]
    leak: list[str]
    reported: Who
    relation: str
    base: float | None = None
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    probe: tuple[float, float] | None = None

    def content(self) -> dict[str, object]:
        """The row by column, as ``table.json`` and ``table.csv`` have it."""
        content: dict[str, object] = {
            "axes": self.axes,
            "label": self.label,
            "classifier": self.classifier,
            "settings": {setting: result.content() for setting, result in self.settings.items()},
            "n": self.n,
            "seeds": self.seeds,
            "leak": self.leak,
            "reported": self.reported,
            "relation": self.relation,
        }
        content |= {} if self.base is None else {"base": self.base, "seconds": self.seconds}
        content |= probe_content(self.probe)
        return content | metric_content(self.metrics)


def few_shot_rows(
    cells: Sequence[Cell],
    absent: Sequence[AbsentCell],
    *,
    baseline: str,
    report: Literal["last", "best"],
    order: Sequence[str],
    published: Sequence[Published] = (),
) -> list[FewShotRow | AbsentCell]:
    """One row per (axes, label, classifier); for each axes first the teacher alone.

    Args:
        cells: finished cells of a grid, with their ``episodes``.
        absent: rows that the label relation denies; the table has them with a reason and no numbers.
        baseline: the label that others are compared with, episode by episode, within each seed.
        report: the student that the rows are about, of the last or best epoch.
        order: the labels in the order of the config.
        published: numbers of others, to stand beside those that they fit.
    """
    rows: list[FewShotRow | AbsentCell] = []
    for axes in dict.fromkeys([*(str(cell.axes) for cell in cells), *(str(cell.axes) for cell in absent)]):
        here = [cell for cell in cells if str(cell.axes) == axes]
        base = [cell for cell in here if cell.label == baseline]
        with_teacher = [cell for cell in here if _answers(cell, _TEACHER)]
        rows += _rows(with_teacher[:1], base, _TEACHER, _TEACHER, baseline)
        for label in order:
            students = _rows([cell for cell in here if cell.label == label], base, label, report, baseline)
            rows += [_beside(row, published) for row in students]
            rows += [cell for cell in absent if (str(cell.axes), cell.label) == (axes, label)]
    return rows


def _beside(row: FewShotRow, published: Sequence[Published]) -> FewShotRow:
    """The row with what is published on it."""
    settings = dict(row.settings)
    for setting, result in row.settings.items():
        found = number_of(
            published, row.label, {**row.axes, "setting": setting, "classifier": row.classifier}
        )
        if found is not None:
            ours = (result.accuracy - result.interval, result.accuracy + result.interval)
            settings[setting] = replace(result, against=against(found, result.accuracy, ours))
    return replace(row, settings=settings)


def _answers(cell: Cell, who: Who) -> PackedEpisodes:
    """A network's packed answers to the episodes; empty where it was not judged on them."""
    if cell.episodes is None:
        return {}
    packed = {"last": cell.episodes.last, "best": cell.episodes.best, "teacher": cell.episodes.teacher}[who]
    return packed or {}


@dataclass(frozen=True)
class _Run:
    """One network's accuracies on every episode, and setting -> the name of the episodes."""

    accuracies: Accuracies
    drawn: dict[str, str | None]

    @classmethod
    def of(cls, cell: Cell, who: Who) -> _Run:
        packed = _answers(cell, who)
        return cls(unpacked(packed), {setting: answers.drawn for setting, answers in packed.items()})

    def same(self, other: _Run, setting: str, classifier: str) -> bool:
        """Whether another run judged this classifier on the same episodes of a setting."""
        if classifier not in other.accuracies.get(setting, {}):
            return False
        if len(other.accuracies[setting][classifier]) != len(self.accuracies[setting][classifier]):
            return False
        names = (self.drawn[setting], other.drawn[setting])
        return names[0] == names[1] or None in names


def _rows(group: list[Cell], base: list[Cell], label: str, who: Who, baseline: str) -> list[FewShotRow]:
    if not group:
        return []
    # A teacher is compared with the baseline's last students.
    beside: Who = "last" if who == _TEACHER else who
    runs = {cell.seed: _Run.of(cell, who) for cell in group}
    base_runs = {} if label == baseline else {cell.seed: _Run.of(cell, beside) for cell in base}
    first, accuracies = group[0], next(iter(runs.values())).accuracies
    students = [cell.best if who == "best" else cell.last for cell in group] if who != _TEACHER else []
    base_accuracy = mean_std([judged.accuracy for judged in students])[0] if students else None
    teachers = [cell.teacher for cell in group if who == _TEACHER and cell.teacher is not None]
    probe = mean_probe(teachers)
    if probe is not None:
        base_accuracy = teachers[0].accuracy
    return [
        FewShotRow(
            axes=first.axes,
            label=label,
            classifier=classifier,
            settings={setting: _compared(runs, base_runs, setting, classifier) for setting in accuracies},
            n=len(group),
            seeds=sorted(runs),
            leak=first.leak,
            reported=who,
            relation=first.relation.kind,
            base=base_accuracy,
            seconds=mean_std([cell.seconds for cell in group])[0] if students else None,
            metrics=mean_metrics(students),
            probe=probe,
        )
        for classifier in next(iter(accuracies.values()))
    ]


def _compared(
    runs: dict[int, _Run], base_runs: dict[int, _Run], setting: str, classifier: str
) -> SettingResult:
    """Accuracy of each episode averaged over seeds, and its difference to the baseline's on the same episodes."""

    def of(run: _Run) -> Tensor:
        return run.accuracies[setting][classifier]

    accuracy, interval = mean_interval(torch.stack([of(run) for run in runs.values()]).mean(0))
    std = mean_std([float(of(run).mean()) for run in runs.values()])[1]
    pairs = [(run, base_runs[seed]) for seed, run in runs.items() if seed in base_runs]
    gains = [of(run) - of(base) for run, base in pairs if run.same(base, setting, classifier)]
    if not gains:
        return SettingResult(accuracy, interval, std)
    return SettingResult(accuracy, interval, std, *mean_interval(torch.stack(gains).mean(0)))


def few_shot_markdown(
    rows: Sequence[FewShotRow | AbsentCell], *, baseline: str, axes: Sequence[str]
) -> Table:
    """The table as Markdown, with a legend of its columns below it."""
    varied, baseline = varied_axes(rows, axes), for_markdown(baseline)
    numbered = [row for row in rows if isinstance(row, FewShotRow)]
    settings = list(dict.fromkeys(setting for row in numbered for setting in row.settings))
    added = metric_names(row.metrics for row in numbered)
    beside = {
        setting: [
            row.settings[setting].against if isinstance(row, FewShotRow) and setting in row.settings else None
            for row in rows
        ]
        for setting in settings
    }
    of_others = {setting: columns_of(judged) for setting, judged in beside.items()}
    head = [*axis_names(varied), "method", "classifier"]
    for setting in settings:
        head += [setting, f"Δ to {baseline}", *of_others[setting][0]]
    probed = any(row.probe is not None for row in numbered)
    lines = []
    for place, row in enumerate(rows):
        line = [*axis_values(row, varied), for_markdown(row.label)]
        more = {setting: cells[place] for setting, (_, cells) in of_others.items()}
        lines.append(
            line + _numbers(row, more, added, probed=probed) if isinstance(row, FewShotRow) else line
        )
    notes = leak_notes([row.leak for row in numbered])
    notes += verdict([judged for of_setting in beside.values() for judged in of_setting])
    notes += [absent_note(row) for row in rows if isinstance(row, AbsentCell)]
    reported: Who = next((row.reported for row in numbered if row.label != _TEACHER), "last")
    legend = _legend(reported, baseline) + (_PROBED if probed else "") + metric_legend(added)
    shown = [for_markdown(name) for name in added]
    minor = ["s", "n", "base classes", *reversed(shown)]
    head += [*(["probe"] if probed else []), "base classes", *shown, "n", "s"]
    return Table(head, lines, notes, legend, minor=minor)


_PROBED = f"{PROBE_LEGEND} Its base classes are those that it shares, over all of its columns."


def _numbers(
    row: FewShotRow, settings: Mapping[str, Sequence[str]], added: Sequence[str], *, probed: bool
) -> list[str]:
    """A row's classifier and numbers; ``NONE`` in a setting that it was not judged in.

    Args:
        row: the row.
        settings: setting -> the row's cells on published numbers.
        added: names of further metrics.
        probed: whether some teacher is probed.
    """
    cells = [for_markdown(row.classifier)]
    for setting, of_others in settings.items():
        result = row.settings.get(setting)
        if result is None:  # an axis of the grid, or the row itself, has other settings
            cells += [NONE, NONE, *of_others]
            continue
        cells.append(spread(result.accuracy, result.interval))
        cells.append(spread(result.difference, result.difference_interval, "+.2f"))
        cells += of_others
    cells += [*([shown_probe(row.probe)] if probed else []), number(row.base)]
    cells += [number(row.metrics.get(name), ".4g") for name in added]
    return [*cells, str(row.n), number(row.seconds, ".1f")]


def _legend(reported: Who, baseline: str) -> str:
    return (
        f"Accuracy in percent on episodes of novel classes, of the student of the {reported} epoch, averaged over n "
        "seeds; ± is the half width of the 95 % interval over episodes (Student's t). "
        f"Δ: difference to the {baseline} on the same episodes, paired within each seed; – where it was judged on "
        "others or by other classifiers. Both speak of other episodes of these classes, not of other classes or other "
        "trainings. base classes: test accuracy on the classes that were trained on, by the nearest class mean where "
        "no head is trained. s: training seconds a run."
    )
