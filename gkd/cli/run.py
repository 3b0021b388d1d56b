"""gkd run: one experiment, to its end."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from torch import nn

from gkd import config
from gkd.builders import Prepared, prepare, use_threads
from gkd.cli import add_config_arguments
from gkd.judge import prove_teacher
from gkd.matrices import read_matrices
from gkd.method import Method
from gkd.models import count_parameters
from gkd.report.incremental import step_table
from gkd.report.table import told_leak
from gkd.results import WEIGHTS, Summary
from gkd.runs import finished, run, run_folder, title
from gkd.sequence import rehearse_steps
from gkd.settings import Settings
from gkd.task import Problem
from gkd.teacher import Teacher
from gkd.teachers import load_teacher, pretraining_experiment, random_teacher, teacher_experiment
from gkd.train import Position, one_step

HELP = "run an experiment, or continue it, or report it where it is finished"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, run one batch forward and backward, train nothing",
    )


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = config.load(arguments.config, arguments.overrides)
    if arguments.dry_run:
        _dry_run(resolved, console)
        return 0
    summary, fresh = run(resolved, console)
    console.print(_report(resolved, summary, fresh), markup=False, highlight=False)
    return 0


def _report(resolved: config.Resolved, summary: Summary, fresh: bool) -> str:
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


def _report_steps(resolved: config.Resolved, summary: Summary, fresh: bool) -> str:
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


@dataclass(frozen=True)
class Trial:
    """What ``_try_stages`` tries."""

    method: Method
    epochs: dict[str, int]
    student: nn.Module
    settings: Settings


def _dry_run(resolved: config.Resolved, console: Console) -> None:
    """Builds everything, runs one batch forward and backward a stage, and says what a run would cost."""
    threads = use_threads(resolved.experiment.run.threads)
    prepared = prepare(resolved)
    if prepared.problem.step is not None:
        _dry_run_steps(resolved, prepared, threads, console)
        return
    teacher, problem, note = None, prepared.problem, ""
    before, total = _try_pretraining(prepared)  # and the teacher's own stages
    options = resolved.experiment.teacher
    if options is not None and resolved.experiment.method.needs_teacher:
        checkpoint = options.checkpoint
        if checkpoint is None:
            training = teacher_experiment(prepared)
            trained = run_folder(training)
            checkpoint = trained / WEIGHTS[options.weights] if finished(trained) else None
        if checkpoint is not None:
            teacher, problem = load_teacher(prepared, checkpoint)
            note = f"; {prove_teacher(teacher, problem, prepared, checkpoint).partition(': ')[2]}"
        else:
            teacher = random_teacher(prepared)
            first = prepare(training)
            stages, seconds = _try_stages(_trial(first), None, first.problem)
            note = " (not trained yet; a run does that first)"
            before, total = [*before, *(f"teacher, {stage}" for stage in stages)], total + seconds
    folder = run_folder(resolved)
    settings, student = prepared.settings, problem.student
    images = (
        f"{len(student.train)} train, {len(student.validation)} validation, {len(student.test)} test images"
    )
    lines = [
        f"{title(resolved)} (dry run)",
        f"relation  {problem.relation}",
        f"data      {images} of {student.train.channels}x{student.train.size[0]}x{student.train.size[1]}",
        f"student   {resolved.experiment.student.network}, {count_parameters(prepared.student):,} parameters",
    ]
    if teacher is not None and options is not None:
        lines.append(f"teacher   {options.network}, {count_parameters(teacher.network):,} parameters{note}")
    lines.append(
        f"machine   {settings.device}, {str(settings.dtype).removeprefix('torch.')}, {threads} threads"
    )
    stages, expected = _try_stages(_trial(prepared), teacher, problem)
    lines += [f"stage     {stage}" for stage in (*before, *stages)]
    total += expected
    state = "finished already" if finished(folder) else f"about {total:.0f} s of training"
    lines.append(f"expected  {state}, in {folder}")
    console.print("\n".join(lines), markup=False, highlight=False)


def _try_pretraining(prepared: Prepared) -> tuple[list[str], float]:
    """As ``_try_stages``, of the run that the student starts from where it has yet to run."""
    if prepared.experiment.student.pretrain is None:
        return [], 0.0
    training = pretraining_experiment(prepared)
    if finished(run_folder(training)):
        return [], 0.0
    first = prepare(training)
    if first.experiment.method.needs_teacher:
        return ["pretraining, by a method with a teacher: not tried"], 0.0
    stages, seconds = _try_stages(_trial(first), None, first.problem)
    return [f"pretraining, {stage}" for stage in stages], seconds


def _dry_run_steps(resolved: config.Resolved, prepared: Prepared, threads: int, console: Console) -> None:
    """``_dry_run`` of an incremental run: its first step with a teacher, and the one without where there is one."""
    step, settings, folder = prepared.problem.step, prepared.settings, run_folder(resolved)
    assert step is not None
    images = step.images
    lines = [
        f"{title(resolved)} (dry run)",
        f"steps     {', '.join(str(len(names)) for names in step.steps)} classes",
        f"data      {len(images)} train images of {images.channels}x{images.size[0]}x{images.size[1]}",
        f"student   {resolved.experiment.student.network}, {count_parameters(prepared.student):,} parameters",
        f"machine   {settings.device}, {str(settings.dtype).removeprefix('torch.')}, {threads} threads",
    ]
    total, expected = 0.0, 0.0
    for tried in rehearse_steps(prepared):
        number = tried.problem.step.number + 1 if tried.problem.step else 0
        own = Trial(tried.method, tried.epochs, tried.student, settings)
        stages, expected = _try_stages(own, tried.teacher, tried.problem)
        lines += [f"step {number}    {stage}" for stage in stages]
        total += expected
    # Later steps are much like the first with a teacher.
    total += expected * (len(step.steps) - step.start_from - 2)
    if resolved.experiment.teacher is not None and resolved.experiment.teacher.checkpoint is None:
        lines.append(
            "teacher   not counted: the first model is trained once for all methods, if it is not there yet"
        )
    state = "finished already" if finished(folder) else f"about {total:.0f} s of training"
    lines.append(f"expected  {state}, in {folder}")
    console.print("\n".join(lines), markup=False, highlight=False)


def _trial(prepared: Prepared) -> Trial:
    return Trial(prepared.experiment.method, prepared.epochs, prepared.student, prepared.settings)


def _try_stages(trial: Trial, teacher: Teacher | None, problem: Problem) -> tuple[list[str], float]:
    """One batch through every stage: a line about each, and the seconds that all of them would take."""
    lines, total = [], 0.0
    for number, (name, stage) in enumerate(trial.method.stages.items()):
        seconds, loss, steps = one_step(
            name,
            stage,
            trial.student,
            teacher,
            problem,
            trial.settings,
            Position(stage=number),
        )
        expected = seconds * steps * trial.epochs[name]
        total += expected
        lines.append(
            f"{name}: loss {loss:.4f}, {1000 * seconds:.0f} ms a step, "
            f"{steps} steps x {trial.epochs[name]} epochs, about {expected:.0f} s"
        )
    return lines, total
