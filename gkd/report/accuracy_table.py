"""Table of a grid by test accuracy: one row a relation and method, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from pydantic import JsonValue

from gkd.core.text import for_markdown
from gkd.metrics import mean_std, paired_bootstrap, t_interval
from gkd.report.added_metrics import mean_metrics, metric_content, metric_legend, metric_names
from gkd.report.markdown import (
    NONE,
    Table,
    axis_names,
    axis_values,
    interval,
    leak_notes,
    number,
    shown_kind,
    spread,
    varied_axes,
)
from gkd.report.probes import PROBE_LEGEND, mean_probe, probe_content, shown_probe
from gkd.report.published import Against, Published, against, columns_of, number_of, verdict
from gkd.storage.run_results import AbsentCell, Cell

Which = Literal["last", "best"]
_OTHER: dict[Which, Which] = {"last": "best", "best": "last"}


@dataclass(frozen=True)
class Comparison:
    """A row against the baseline, paired within each seed, in points.

    Attributes:
        difference, difference_interval: mean, and 95 % interval over test images by bootstrap.
        difference_interval_over_seeds: 95 % t-interval over seeds; None with fewer than 5.
    """

    difference: float
    difference_interval: list[float]
    difference_interval_over_seeds: tuple[float, float] | None


@dataclass(frozen=True)
class TeacherMeans:
    """One of several teachers of a row, means over its seeds.

    Attributes:
        relation: its classes against the student's.
        teacher, teacher_induced, probe: as of an ``AccuracyRow`` of one teacher.
    """

    relation: str
    teacher: float | None
    teacher_induced: float | None
    probe: tuple[float, float] | None


@dataclass(frozen=True)
class AccuracyRow:
    """A method under one label relation, over its seeds; accuracies in percent.

    Attributes:
        axes, label, relation, overlap: identify the row; of several teachers those of the first.
        teacher, teacher_induced: the teacher's accuracy, and that of the classifier that its embedding induces.
        reported: the student that the row is about, of the last or best epoch.
        mean, std: its accuracy over seeds.
        other, other_std: that of the other student.
        n, seeds: the seeds.
        interval: 95 % t-interval of the mean over seeds; None with fewer than 5.
        ece, agreement: means; None where nothing was measured.
        leak: novel classes that the teacher was trained on.
        seconds, images_per_second: of training, means.
        empty_batches: ``stage/term`` -> batches without a sample for the term.
        metrics: name -> mean of the metrics that the experiment adds.
        probe: of the teacher's embedding on the validation images, by nearest class mean and by nearest neighbours,
            where it keeps classes of its own.
        baseline: the baseline's accuracy on the same seeds; None where it has none of them.
        compared: the difference to it; None for the baseline.
        teachers: teachers that have names, by these.
        against: the row against a published number; None where there is none.
    """

    axes: dict[str, JsonValue]
    label: str
    relation: str
    overlap: float
    teacher: float | None
    teacher_induced: float | None
    reported: Which
    mean: float
    std: float | None
    other: float
    other_std: float | None
    n: int
    seeds: list[int]
    interval: tuple[float, float] | None
    ece: float | None
    leak: list[str]
    agreement: float | None
    seconds: float
    images_per_second: float
    empty_batches: dict[str, int]
    metrics: dict[str, float] = field(default_factory=dict)
    probe: tuple[float, float] | None = None
    baseline: float | None = None
    compared: Comparison | None = None
    teachers: dict[str, TeacherMeans] = field(default_factory=dict)
    against: Against | None = None

    def content(self) -> dict[str, object]:
        """The row by column, as ``table.json`` and ``table.csv`` have it."""
        other = _OTHER[self.reported]
        names = {"other": other, "other_std": f"{other}_std"}
        late = ("metrics", "probe", "baseline", "compared", "teachers", "against")
        content: dict[str, object] = {
            names.get(each.name, each.name): getattr(self, each.name)
            for each in fields(self)
            if each.name not in late
        }
        content |= metric_content(self.metrics)
        content |= probe_content(self.probe)
        for name, teacher in self.teachers.items():
            content |= {f"relation/{name}": teacher.relation, f"teacher/{name}": teacher.teacher}
            content[f"teacher_induced/{name}"] = teacher.teacher_induced
            content |= {f"{key}/{name}": value for key, value in probe_content(teacher.probe).items()}
        content |= {} if self.baseline is None else {"baseline": self.baseline}
        if self.against is not None:
            content |= self.against.content()
        return content | ({} if self.compared is None else _as_they_are(self.compared))


def _as_they_are(compared: Comparison) -> dict[str, object]:
    return {each.name: getattr(compared, each.name) for each in fields(compared)}


def table_rows(
    cells: Sequence[Cell],
    absent: Sequence[AbsentCell],
    *,
    baseline: str,
    report: Which,
    order: Sequence[str],
    published: Sequence[Published] = (),
) -> list[AccuracyRow | AbsentCell]:
    """One row per (axes, label), with the baseline beside it.

    Args:
        cells: finished cells of a grid.
        absent: rows that the label relation denies; the table has them with a reason and no numbers.
        baseline: the label that others are compared with.
        report: the student that the rows are about, of the last or best epoch.
        order: the labels in the order of the config.
        published: numbers of others, to stand beside the rows that they fit.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((str(cell.axes), cell.label), []).append(cell)
    rows: list[AccuracyRow | AbsentCell] = []
    for axes in dict.fromkeys([*(str(cell.axes) for cell in cells), *(str(cell.axes) for cell in absent)]):
        for label in order:
            group = groups.get((axes, label))
            if group:
                row = _row(group, groups.get((axes, baseline), []), baseline, report)
                found = number_of(published, label, row.axes)
                rows.append(
                    row if found is None else replace(row, against=against(found, row.mean, row.interval))
                )
            rows += [cell for cell in absent if (str(cell.axes), cell.label) == (axes, label)]
    return rows


def _row(group: list[Cell], base: list[Cell], baseline: str, report: Which) -> AccuracyRow:
    group = sorted(group, key=lambda cell: cell.seed)
    first, base_of = group[0], {cell.seed: cell for cell in base}
    pairs = [(cell, base_of[cell.seed]) for cell in group if cell.seed in base_of]
    accuracies = [cell.judged(report).accuracy for cell in group]
    teachers = [cell.teacher for cell in group if cell.teacher is not None]
    mean, std = mean_std(accuracies)
    other, other_std = mean_std([cell.judged(_OTHER[report]).accuracy for cell in group])
    return AccuracyRow(
        axes=first.axes,
        label=first.label,
        relation=first.relation.kind,
        overlap=first.relation.overlap,
        teacher=_mean([teacher.accuracy for teacher in teachers]),
        teacher_induced=_mean([teacher.induced_accuracy for teacher in teachers]),
        reported=report,
        mean=mean,
        std=std,
        other=other,
        other_std=other_std,
        n=len(group),
        seeds=[cell.seed for cell in group],
        interval=_within(t_interval(accuracies), 0.0, 100.0),
        ece=_mean([cell.judged(report).ece for cell in group]),
        leak=first.leak,
        agreement=_mean([cell.judged(report).agreement for cell in group]),
        seconds=mean_std([cell.seconds for cell in group])[0],
        images_per_second=mean_std([cell.images_per_second for cell in group])[0],
        empty_batches={
            key: sum(cell.empty_batches.get(key, 0) for cell in group) for key in first.empty_batches
        },
        probe=mean_probe(teachers),
        teachers={name: _named(name, group) for name in first.teachers},
        metrics=mean_metrics([cell.judged(report) for cell in group]),
        baseline=mean_std([base.judged(report).accuracy for _, base in pairs])[0] if pairs else None,
        compared=_compared(pairs, report) if pairs and first.label != baseline else None,
    )


def _named(name: str, group: Sequence[Cell]) -> TeacherMeans:
    """A teacher of the cells of a row."""
    results = [cell.teachers[name] for cell in group if name in cell.teachers]
    relation = results[0].relation
    return TeacherMeans(
        "" if relation is None else relation.kind,
        _mean([result.accuracy for result in results]),
        _mean([result.induced_accuracy for result in results]),
        mean_probe(results),
    )


def of_each(row: AccuracyRow, shown: Callable[[AccuracyRow | TeacherMeans], str]) -> str:
    """What a cell shows of the row's one teacher, or of each that has a name behind that name."""
    if not row.teachers:
        return shown(row)
    return ", ".join(f"{for_markdown(name)} {shown(teacher)}" for name, teacher in row.teachers.items())


def _is_probed(row: AccuracyRow) -> bool:
    return row.probe is not None or any(teacher.probe is not None for teacher in row.teachers.values())


def _compared(pairs: Sequence[tuple[Cell, Cell]], report: Which) -> Comparison:
    """The difference of cells to the baseline's cells of the same seeds."""
    right, base_right = ([pair[side].correct.student(report) for pair in pairs] for side in (0, 1))
    difference, low, high = paired_bootstrap(right, base_right)
    gains = [cell.judged(report).accuracy - base.judged(report).accuracy for cell, base in pairs]
    return Comparison(difference, [low, high], t_interval(gains))


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the measured values; None where nothing was measured."""
    measured = [value for value in values if value is not None]
    return mean_std(measured)[0] if measured else None


def _within(bounds: tuple[float, float] | None, lowest: float, highest: float) -> tuple[float, float] | None:
    return None if bounds is None else (max(bounds[0], lowest), min(bounds[1], highest))


def markdown(rows: Sequence[AccuracyRow | AbsentCell], *, baseline: str, axes: Sequence[str]) -> Table:
    """The table as Markdown, with a legend of its columns below it."""
    numbered = [row for row in rows if isinstance(row, AccuracyRow)]
    varied, baseline = varied_axes(rows, axes), for_markdown(baseline)
    report: Which = numbered[0].reported if numbered else "last"
    several = max((row.n for row in numbered), default=0) >= 5  # enough for intervals over seeds
    added = metric_names(row.metrics for row in numbered)
    probed = any(_is_probed(row) for row in numbered)
    head = ["relation", *axis_names(varied), "method", "teacher", *(["probe"] if probed else []), "induced"]
    head += [f"{baseline} alone", "distilled"]
    head += [*(["mean [over seeds]"] if several else []), _OTHER[report], f"Δ to {baseline} [over images]"]
    head += [*(["Δ [over seeds]"] if several else []), *map(for_markdown, added), "n", "s"]
    beside = [None if isinstance(row, AbsentCell) else row.against for row in rows]
    more, published = columns_of(beside)
    head = [*head[:-2], *more, *head[-2:]]
    lines = []
    for row, of_others in zip(rows, published, strict=True):
        numbers = [] if isinstance(row, AbsentCell) else _numbers(row, several, added, probed=probed)
        lines.append([*row_start(row, varied), *numbers[:-2], *(of_others if numbers else []), *numbers[-2:]])
    legend = _legend(report, baseline) + (PROBE_LEGEND if probed else "") + metric_legend(added)
    other = _OTHER[report]
    minor = ["mean [over seeds]", "s", other, "induced", "Δ [over seeds]", "n", *reversed(added), "teacher"]
    return Table(head, lines, [*row_notes(rows), *verdict(beside)], legend, legend_first=True, minor=minor)


def row_start(row: AccuracyRow | AbsentCell, varied: Sequence[str]) -> list[str]:
    """The cells that say which row it is: its relation, to each teacher that has a name, its axes and its label."""
    if isinstance(row, AbsentCell):
        relation = shown_kind(row.relation)
    else:
        relation = of_each(row, lambda of: shown_kind(of.relation))
    return [relation, *axis_values(row, varied), for_markdown(row.label)]


def row_notes(rows: Sequence[AccuracyRow | AbsentCell]) -> list[str]:
    """Why rows are absent, and which novel classes teachers were trained on."""
    absent = [
        f"{for_markdown(row.label)} is absent where {_where(row.relation)}: {for_markdown(row.absent)}"
        for row in rows
        if isinstance(row, AbsentCell)
    ]
    return absent + leak_notes([row.leak for row in rows if isinstance(row, AccuracyRow)])


def _where(relation: str) -> str:
    return "the teacher has no classes" if relation == "none" else f"the classes are {relation}"


def _numbers(row: AccuracyRow, several: bool, added: Sequence[str], *, probed: bool) -> list[str]:
    """A row's numbers; ``several`` seeds have intervals over them, and some teacher is ``probed``."""
    compared = row.compared
    difference, over_seeds = NONE, NONE
    if compared is not None:
        difference = f"{compared.difference:+.2f} {interval(compared.difference_interval, '+.2f')}"
        over_seeds = interval(compared.difference_interval_over_seeds, "+.2f")
    return [
        of_each(row, lambda of: number(of.teacher)),
        *([of_each(row, lambda of: shown_probe(of.probe))] if probed else []),
        of_each(row, lambda of: number(of.teacher_induced)),
        number(row.baseline),
        spread(row.mean, row.std),
        *([interval(row.interval, ".2f")] if several else []),
        spread(row.other, row.other_std),
        difference,
        *([over_seeds] if several else []),
        *(number(row.metrics.get(name), ".4g") for name in added),
        str(row.n),
        f"{row.seconds:.1f}",
    ]


def _legend(report: Which, baseline: str) -> str:
    other = _OTHER[report]
    chosen = "validation chose" if other == "best" else "training ended with"
    return (
        f"Test accuracy in percent, mean ± std over n seeds, of the student of the {report} epoch; {other}: of the "
        f"epoch that {chosen}. teacher: on its own classes; induced: the classifier that its embedding induces over "
        f"the student's classes (nearest class mean). Δ: difference to the {baseline}, paired within each seed. "
        "Intervals are at 95 %: over images by bootstrap, over seeds (from 5 on) by Student's t; the former speaks of "
        "other test images, the latter of other seeds. s: training seconds a run."
    )
