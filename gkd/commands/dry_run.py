"""Build everything, try one batch of every stage, say what a run would cost; train nothing."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from torch import nn

from gkd.commands.run import title
from gkd.config.resolve import Resolved
from gkd.distill.teacher import Teacher
from gkd.experiment.judge import prove_teacher
from gkd.experiment.prepare import Prepared, prepare
from gkd.experiment.run_folder import finished, run_folder
from gkd.experiment.teachers import load_teacher, pretraining_experiment, random_teacher, teacher_experiment
from gkd.incremental.dry_run import rehearse_steps
from gkd.methods.method import Method
from gkd.models import count_parameters
from gkd.problems.problem import Problem
from gkd.storage.run_files import WEIGHTS
from gkd.training.device import use_threads
from gkd.training.loop import one_step
from gkd.training.settings import Settings
from gkd.training.stage_run import Position


@dataclass(frozen=True)
class Trial:
    """What ``_try_stages`` tries."""

    method: Method
    epochs: dict[str, int]
    student: nn.Module
    settings: Settings


def dry_run(resolved: Resolved, console: Console) -> None:
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
            first = prepare(training, caches=prepared.settings.caches)
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
    first = prepare(training, caches=prepared.settings.caches)
    if first.experiment.method.needs_teacher:
        return ["pretraining, by a method with a teacher: not tried"], 0.0
    stages, seconds = _try_stages(_trial(first), None, first.problem)
    return [f"pretraining, {stage}" for stage in stages], seconds


def _dry_run_steps(resolved: Resolved, prepared: Prepared, threads: int, console: Console) -> None:
    """``dry_run`` of an incremental run: its first step with a teacher, and the one without where there is one."""
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
