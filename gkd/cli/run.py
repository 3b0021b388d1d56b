"""gkd run: one experiment, to its end."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from gkd.cli import add_config_arguments
from gkd.commands.dry_run import dry_run
from gkd.commands.run import run, title
from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.experiment.results import Summary
from gkd.experiment.run_folder import run_folder
from gkd.incremental.matrix_file import read_matrices
from gkd.report.accuracy_table import told_leak
from gkd.report.incremental_table import step_table

HELP = "run an experiment, or continue it, or report it where it is finished"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, run one batch forward and backward, train nothing",
    )


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = load(arguments.config, arguments.overrides)
    if arguments.dry_run:
        dry_run(resolved, console)
        return 0
    summary, fresh = run(resolved, console)
    console.print(_report(resolved, summary, fresh), markup=False, highlight=False)
    return 0


def _report(resolved: Resolved, summary: Summary, fresh: bool) -> str:
    """What a finished run says."""
    if "incremental" in summary:
        return _report_steps(resolved, summary, fresh)
    relation, teacher = summary["relation"], summary["teacher"]
    lines = [
        f"{title(resolved)}: {'finished' if fresh else 'was finished before, nothing was trained'}",
        f"relation  {relation['kind']}, {relation['shared']} of {relation['student_classes']} student classes shared",
    ]
    lines += leak_lines(summary)
    if teacher:
        lines.append(
            f"teacher   {teacher['accuracy']:.2f} % on its own classes; the classifier that its embedding induces over "
            f"the student's classes: {teacher['induced_accuracy']:.2f} %"
        )
        for name, value in teacher.items():
            if name.startswith("confidence_auc/") and value is not None:
                kind = name.removeprefix("confidence_auc/")
                lines.append(f"weight    {kind} separates known from new classes with ROC-AUC {value:.3f}")
    for which, about in (
        ("last", "last epoch"),
        ("best", f"epoch {summary['best']['epoch']}, chosen by validation"),
    ):
        judged = summary[which]
        agreement = judged.get("agreement")
        text = f"{which:10}test accuracy {judged['accuracy']:.2f} %"
        if judged["ece"] is None:
            text += f" by the {summary['judged_by']} (no head was trained)"
        else:
            text += f", ECE {judged['ece']:.2f} %, NLL {judged['nll']:.4f}"
        text += "" if agreement is None else f", agrees with the teacher on {agreement:.2f} %"
        lines.append(f"{text} ({about})")
        lines += few_shot_lines(judged)
    lines.append(
        f"speed     {summary['images_per_second']:.0f} images/s, {summary['seconds']:.1f} s of training"
    )
    lines.append(f"folder    {run_folder(resolved)}")
    return "\n".join(lines)


def leak_lines(results: dict[str, Any]) -> list[str]:
    """What a run with ``task.allow_leak`` says wherever its numbers stand."""
    return [f"leak      {told_leak(results['leak'])}"] if results.get("leak") else []


def _report_steps(resolved: Resolved, summary: Summary, fresh: bool) -> str:
    """What a finished incremental run says: a table of its steps."""
    folder = run_folder(resolved)
    return "\n".join(
        [
            f"{title(resolved)}: {'finished' if fresh else 'was finished before, nothing was trained'}",
            *step_table(read_matrices(folder), summary["incremental"]),
            f"speed     {summary['images_per_second']:.0f} images/s, {summary['seconds']:.1f} s of training, "
            f"{summary['bookkeeping_seconds']:.1f} s of evaluation and memory",
            f"folder    {folder}",
        ]
    )


def few_shot_lines(judged: dict[str, Any]) -> list[str]:
    """What a student is worth on episodes, a line a setting, with the difference to the teacher on the same ones."""
    lines = []
    for setting, of_setting in judged.get("few_shot", {}).items():
        values = [
            f"{name} {found['accuracy']:.2f} ± {found['interval']:.2f} %"
            for name, found in of_setting.items()
        ]
        gaps = judged.get("to_teacher", {}).get(setting, {})
        first = next(iter(gaps.values()), None)
        gap = f" (to the teacher {first['accuracy']:+.2f} ± {first['interval']:.2f})" if first else ""
        lines.append(f"          {setting}: {', '.join(values)}{gap}")
    return lines
