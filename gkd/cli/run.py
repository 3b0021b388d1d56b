"""gkd run: one experiment, to its end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from gkd.commands.dry_run import dry_run
from gkd.commands.run import run
from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.core.text import say, text_width
from gkd.experiment.judge import warnings_of
from gkd.experiment.run_folder import run_folder
from gkd.experiment.solve import title
from gkd.incremental.matrix_file import read_matrices
from gkd.report.incremental_table import step_table
from gkd.report.markdown import leak_sentence, number, shown_kind
from gkd.storage.judged import Judged, RelationFacts, TeacherResult
from gkd.storage.records import INCREMENTAL
from gkd.storage.run_results import RunSummary


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    if arguments.dry_run:
        dry_run(resolved, console)
        return 0
    summary, fresh = run(resolved, console)
    say(console, _report(resolved, summary, fresh, text_width(console)))
    return 0


def _report(resolved: Resolved, summary: RunSummary, fresh: bool, width: int | None) -> str:
    """Lines on a finished run: its results, its speed and its folder; tables fit the ``width`` of a terminal."""
    folder = run_folder(resolved)
    speed = f"speed     {summary.images_per_second:.0f} images/s, {summary.seconds:.1f} s of training"
    if summary.bookkeeping_seconds is not None:
        speed += f", {summary.bookkeeping_seconds:.1f} s of evaluation and memory"
    results = _RESULTS.get(summary.kind, _results)(summary, folder, width)
    return "\n".join(
        [
            f"{title(resolved)}: {'finished' if fresh else 'was finished before, nothing was trained'}",
            *results,
            speed,
            f"folder    {folder}",
        ]
    )


def _results_of_steps(summary: RunSummary, folder: Path, width: int | None) -> list[str]:
    """Lines on the steps of an incremental run."""
    return (
        [] if summary.incremental is None else step_table(read_matrices(folder), summary.incremental, width)
    )


def _results(summary: RunSummary, folder: Path, width: int | None) -> list[str]:
    """Lines on the label relation, the teacher and the students."""
    relation = summary.relation
    lines = [_relation_line(relation), *leak_lines(summary.leak)]
    if summary.teachers:
        lines = leak_lines(summary.leak)
        for name, teacher in summary.teachers.items():
            lines += [] if teacher.relation is None else [_relation_line(teacher.relation, name)]
            lines += _teacher_lines(teacher, teacher.relation, name)
    elif summary.teacher is not None:
        lines += _teacher_lines(summary.teacher, relation)
    for which, judged, about in (
        ("last", summary.last, "last epoch"),
        ("best", summary.best, f"epoch {summary.best.epoch}, chosen by validation"),
    ):
        text = f"{which:10}test accuracy {judged.accuracy:.2f} %"
        text += "" if judged.accuracy_top5 is None else f" (top-5 {judged.accuracy_top5:.2f} %)"
        if judged.ece is None:
            text += f" by the {summary.judged_by} (no head was trained)"
        else:
            text += f", ECE {judged.ece:.2f} %, NLL {number(judged.nll, '.4f')}"
        first = next(iter(summary.all_teachers), "")
        text += "" if judged.agreement is None else f", agrees with {first} on {judged.agreement:.2f} %"
        text += "".join(f", {name} {value:.4g}" for name, value in judged.metrics.items())
        lines += [f"{text} ({about})", *few_shot_lines(judged)]
    if summary.peer is not None:
        both = f"{summary.peer.last.accuracy:.2f} % (last epoch), {summary.peer.best.accuracy:.2f} % (the best's epoch)"
        lines.append(f"peer      {summary.peer.network}: test accuracy {both}")
    return [*lines, *_generation_lines(summary)]


def _generation_lines(summary: RunSummary) -> list[str]:
    """A line on the generations that led to the run's student; none where it is the first."""
    if not summary.generations:
        return []
    each = ", ".join(f"{number}: {one.last:.2f} %" for number, one in enumerate(summary.generations, start=1))
    together = "" if summary.ensemble is None else f"; the mean of their logits {summary.ensemble:.2f} %"
    return [f"students  test accuracy of each generation's last epoch {each}{together}"]


# Kind of results -> lines about them, where they are not those of `_results`.
_RESULTS: dict[str, Callable[[RunSummary, Path, int | None], list[str]]] = {INCREMENTAL: _results_of_steps}


def _relation_line(relation: RelationFacts, teacher: str | None = None) -> str:
    """A line on how the classes of a teacher, one of several by its name, relate to the student's."""
    of_teacher = "" if teacher is None else f"{teacher}: "
    return (
        f"relation  {of_teacher}{shown_kind(relation.kind)}, {relation.shared} of {relation.student_classes} student "
        "classes shared"
    )


def _teacher_lines(
    teacher: TeacherResult, relation: RelationFacts | None, name: str | None = None
) -> list[str]:
    of_name = "" if name is None else f"{name}: "
    induced = number(teacher.induced_accuracy)
    unknown = relation is not None and relation.kind == "none"
    own = "its classes are not known" if unknown else "shares no class with the student"
    if teacher.accuracy is not None:
        own = f"{teacher.accuracy:.2f} % on its own classes"
        if teacher.shared_accuracy is not None:
            own += f" ({teacher.shared_accuracy:.2f} % among the shared columns alone)"
    lines = [
        f"teacher   {of_name}{own}; the classifier that its embedding induces over the student's classes: {induced} %"
    ]
    lines += [] if teacher.probe is None else [f"probe     {of_name}{teacher.probe}"]
    lines += warnings_of(teacher.near_chance, name)
    lines += [
        f"weight    {kind} separates known from new classes with ROC-AUC {value:.3f}"
        for kind, value in teacher.confidence_auc.items()
    ]
    return lines


def leak_lines(leak: Sequence[str]) -> list[str]:
    """A line on the novel classes that a teacher was trained on; none without such."""
    return [f"leak      {leak_sentence(leak)}"] if leak else []


def few_shot_lines(judged: Judged) -> list[str]:
    """A student's accuracy on episodes, a line a setting, with the difference to the teacher on the same ones."""
    lines = []
    for setting, of_setting in judged.few_shot.items():
        values = [
            f"{name} {result.accuracy:.2f} ± {result.interval:.2f} %" for name, result in of_setting.items()
        ]
        gaps = judged.to_teacher.get(setting, {})
        first = next(iter(gaps.values()), None)
        gap = f" (to the teacher {first.accuracy:+.2f} ± {first.interval:.2f})" if first else ""
        lines.append(f"          {setting}: {', '.join(values)}{gap}")
    return lines
