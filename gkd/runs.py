"""Runs: one folder each, continued where they stopped, reported where they are finished."""

from __future__ import annotations

import fcntl
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from gkd import schema
from gkd.builders import Prepared, build_side, options_of, prepare, use_threads
from gkd.checkpoint import (
    latest_checkpoint,
    load_body,
    load_weights,
    read_json,
    read_weights,
    write_json,
)
from gkd.config import Resolved, load
from gkd.data import ImageSet, StreamedPixels
from gkd.environment import command, environment
from gkd.errors import UserError
from gkd.few_shot import EPISODES, summarised
from gkd.identity import NO_EFFECT
from gkd.incremental import MATRIX, STEPS
from gkd.judge import (
    check_expected,
    class_scores,
    judge,
    on_episodes,
    on_frozen,
    prove_teacher,
)
from gkd.logging import Reporter
from gkd.method import Method
from gkd.report.incremental import CURVES_PLOT, plot_run
from gkd.report.plots import FEW_SHOT_PLOT, ROUTING, ROUTING_PLOT, can_plot, plot_few_shot, plot_routing
from gkd.results import CORRECT, WEIGHTS, Summary, finish
from gkd.sequence import solve_steps
from gkd.settings import Settings
from gkd.step_answers import final_scores
from gkd.task import Problem
from gkd.teacher import Teacher
from gkd.teachers import check_shapes, load_teacher, pretraining_experiment, teacher_experiment
from gkd.train import fit
from gkd.weight_facts import WeightFacts


def run_folder(resolved: Resolved) -> Path:
    """``out/<config>/<method>-<overrides>-<identity>/seed<seed>``: another override is another folder.

    The identity covers all that decides the result (``Resolved.identity``); the overrides stand before
    it for the reader.
    """
    experiment = resolved.experiment
    parent = experiment.run.out / resolved.name
    for same in sorted(parent.glob(f"{experiment.method.name}*-{resolved.identity}")):
        return same / f"seed{experiment.run.seed}"  # the same run, reached by other words
    parts = [experiment.method.name, *slug(resolved.overrides, "compare"), resolved.identity]
    return parent / "-".join(parts) / f"seed{experiment.run.seed}"


def slug(overrides: Sequence[str], *hidden_sections: str) -> list[str]:
    """Overrides as a part of a folder's name, each key by its last two parts; none where nothing is to show.

    Those that change no result, or that the folder's name shows otherwise, are left out.
    """
    hidden = {"method", "method.name", "run.seed", *NO_EFFECT}
    pairs = [override.split("=", 1) for override in overrides]
    kept = {k: v for k, v in pairs if k not in hidden and k.split(".")[0] not in hidden_sections}
    text = ",".join(f"{'.'.join(key.split('.')[-2:])}={value}" for key, value in kept.items())
    text = re.sub(r"[^A-Za-z0-9_.=\-]+", "_", text)[:60].strip("_")
    return [text] if text else []


def finished(folder: Path) -> Summary | None:
    """The summary of a finished run, or None."""
    needed = ["summary.json", CORRECT, *([MATRIX] if (folder / STEPS).is_dir() else [])]
    if not all((folder / name).is_file() for name in needed):
        return None
    summary: Summary = read_json(folder / "summary.json", keys=("config", "method", "relation", *WEIGHTS))
    return summary


def run(resolved: Resolved, console: Console, *, wait: bool = False) -> tuple[Summary, bool]:
    """Solves an experiment's problem, or continues it, or reports it where it is finished.

    Args:
        resolved: the experiment.
        console: where to say how it goes.
        wait: whether to wait for another process that is at the same run, rather than refuse.

    Returns:
        The summary, and whether anything was trained now.

    Raises:
        UserError: bad input, a full disk, a changed machine.
        Interrupted: a signal asked to stop; everything is saved.
    """
    folder = run_folder(resolved)
    done = finished(folder)
    experiment = resolved.experiment
    if done is not None:
        if done.get("teacher") and experiment.teacher is not None:
            accuracy = done["teacher"]["accuracy"]
            told = f"The run {folder} is finished; its teacher had {accuracy:.2f} % on its own classes"
            check_expected(experiment.teacher, accuracy, told)
        _plot(folder, console)
        return done, False
    threads = use_threads(experiment.run.threads)
    torch.use_deterministic_algorithms(experiment.run.deterministic)
    prepared = prepare(resolved)
    if prepared.problem.step is not None:
        return _run_steps(prepared, folder, console, threads, wait=wait)
    console.print(
        f"data      {describe_images(prepared.problem.student.train)}", markup=False, highlight=False
    )
    teacher, problem = obtain_teacher(prepared, console)
    _start_from_pretrained(prepared, console)
    frozen = on_frozen(prepared.student, problem, prepared.settings)
    with _locked(folder, console if wait else None):
        done = finished(folder)
        if done is not None:  # by the process that was waited for
            return done, False
        _describe(folder, prepared, threads)
        with Reporter(console, title(resolved), every=experiment.run.log_seconds) as reporter:
            last, best, position = fit(
                prepared.student,
                teacher,
                problem,
                experiment.method,
                prepared.epochs,
                prepared.settings,
                folder,
                reporter,
            )
        states = {"last": last, "best": best}
        summary = finish(folder, prepared, problem, teacher, states, position, threads, frozen)
        _plot(folder, console)
        return summary, True


def _run_steps(
    prepared: Prepared, folder: Path, console: Console, threads: int, *, wait: bool
) -> tuple[Summary, bool]:
    """``run`` for a task of several problems, each of which follows from the one before."""
    step = prepared.problem.step
    assert step is not None
    images = describe_images(step.images)
    console.print(f"data      {images}, {len(step.steps)} steps", markup=False, highlight=False)
    given = None
    if prepared.experiment.teacher is not None:
        given = teacher_checkpoint(prepared, prepared.experiment.teacher, console)
    with _locked(folder, console if wait else None):
        done = finished(folder)
        if done is not None:  # by the process that was waited for
            return done, False
        _describe(folder, prepared, threads)
        summary = solve_steps(prepared, given, folder, console, title(prepared.resolved), threads)
        _plot(folder, console)
        return summary, True


def _plot(folder: Path, console: Console) -> None:
    """Draws what a run's files show, where it has not been drawn yet."""
    for content, plot, draw in (
        (ROUTING, ROUTING_PLOT, plot_routing),
        (EPISODES, FEW_SHOT_PLOT, plot_few_shot),
        (MATRIX, CURVES_PLOT, plot_run),
    ):
        if not (folder / content).is_file() or (folder / plot).is_file():
            continue
        shown = "no plot: matplotlib is missing; pip install 'gkd-torch[report]' and repeat the command"
        if can_plot():
            shown = f"plot      {draw(folder)}"
        console.print(shown, markup=False, highlight=False, soft_wrap=True)


def title(resolved: Resolved) -> str:
    """What a run is called in logs."""
    experiment = resolved.experiment
    return f"{resolved.name} {experiment.method.name} seed {experiment.run.seed}"


def describe_images(images: ImageSet) -> str:
    """How many images there are, of which shape, and whether they are in memory or streamed from disk."""
    shape = "x".join(map(str, images.image_shape))
    gigabytes = len(images) * math.prod(images.image_shape) / 2**30
    if isinstance(images.images, StreamedPixels):
        where = f"streamed from {images.images.root} by {images.images.workers} workers"
        return f"{len(images)} training images of {shape}, {where} ({gigabytes:.1f} GiB decoded)"
    return f"{len(images)} training images of {shape} in memory ({gigabytes:.2g} GiB)"


def obtain_teacher(prepared: Prepared, console: Console) -> tuple[Teacher | None, Problem]:
    """The teacher that the method needs: its checkpoint, or the run that trains it, shared by all."""
    options = prepared.experiment.teacher
    if options is None or not prepared.experiment.method.needs_teacher:
        return None, prepared.problem
    checkpoint = teacher_checkpoint(prepared, options, console)
    teacher, problem = load_teacher(prepared, checkpoint)
    console.print(prove_teacher(teacher, problem, prepared, checkpoint), markup=False, highlight=False)
    return teacher, problem


def teacher_checkpoint(prepared: Prepared, options: schema.Teacher, console: Console) -> Path:
    """Where the teacher's weights are, after its run where they are trained here."""
    if options.checkpoint is not None:
        return options.checkpoint
    if prepared.experiment.method.needs_teacher:
        check_shapes(prepared)
    training = teacher_experiment(prepared)
    run(training, console, wait=True)
    return run_folder(training) / WEIGHTS[options.weights]


def _start_from_pretrained(prepared: Prepared, console: Console) -> None:
    """Lets the student start from the run that trains it on the base classes, where the experiment says so."""
    if prepared.experiment.student.pretrain is None:
        return
    training = pretraining_experiment(prepared)
    run(training, console, wait=True)
    path = run_folder(training) / WEIGHTS["last"]
    load_body(prepared.student, path, name=prepared.experiment.student.network)


def _describe(folder: Path, prepared: Prepared, threads: int) -> None:
    """config.yaml, command.txt and env.json; a resumed run must find the machine it was started on."""
    resolved, settings = prepared.resolved, prepared.settings
    env = environment(threads, settings.device, settings.dtype)
    path = folder / "env.json"
    # Of an incremental run each step has checkpoints of its own.
    begun = (folder / STEPS).is_dir() or latest_checkpoint(folder / "checkpoints") is not None
    if path.is_file() and begun:
        before = read_json(path, keys=("versions", "threads", "device"))
        for key in ("versions", "threads", "device"):
            if before.get(key) != env[key] and key not in resolved.experiment.run.allow_changed:
                raise UserError(
                    f"The run {folder} was started with {key} {before.get(key)} and would go on with {env[key]}, "
                    f"which can change its bits; restore {key}, or allow it with run.allow_changed=[{key}]."
                )
    (folder / "config.yaml").write_text(f"# {resolved.name}\n{resolved.with_images_named().annotated_yaml()}")
    (folder / "command.txt").write_text(command() + "\n")
    write_json(path, env)


def evaluate_run(folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Judges a finished run's saved students on its test images again.

    Args:
        folder: the run's.
        overrides: ``a.b=c`` over its config, such as where the images are now.

    Raises:
        UserError: no run there, an unfinished one, or images that are not the run's.
    """
    summary = finished(folder)
    if summary is None:
        what = "is not finished; repeat its command to continue it" if folder.is_dir() else "does not exist"
        raise UserError(f"The run {folder} {what}; gkd eval takes a folder that holds summary.json.")
    prepared, method = final_problem(folder, summary, overrides)
    use_threads(prepared.experiment.run.threads)
    test = prepared.problem.student.test
    results: dict[str, Any] = {
        "config": summary["config"],
        "method": summary["method"],
        "seed": summary["seed"],
        "leak": summary.get("leak", []),
    }
    for which, name in WEIGHTS.items():
        tensors, metadata = read_weights(folder / name)
        facts = WeightFacts.read(metadata, folder / name)
        asked, known = prepared.problem.student.space.names, facts.classes
        if known is not None and asked != known:
            raise UserError(
                f"The student of {folder} knows {', '.join(known)}, but the overrides make the task "
                f"{', '.join(asked)}; override only where the images are (data.root) and what changes no result."
            )
        section, images = prepared.experiment.student, prepared.problem.student.train
        # Of the file's options, for it alone knows how often an incremental student was expanded.
        student = build_side(
            section, len(asked), images, options_of(section, facts, folder / name, "student")
        )
        load_weights(student, tensors, name=section.network, path=folder / name)
        student.to(prepared.settings.device, memory_format=torch.channels_last)
        logits = final_answers(folder, student, prepared.problem, method, prepared.settings)
        results[which] = judge(logits, test.labels.cpu(), method)
        if prepared.problem.few_shot is not None:
            found = on_episodes(student, prepared.problem, prepared.settings)
            results[which]["few_shot"] = summarised(found)
    return results


def final_problem(folder: Path, summary: Summary, overrides: Sequence[str] = ()) -> tuple[Prepared, Method]:
    """What a finished run's students are judged with, and the method that says what answers for them.

    Args:
        folder: the run's.
        summary: what ``finished`` says of it.
        overrides: ``a.b=c`` over its config.
    """
    # What the student started from and who taught it are of no use any more, and need not be there.
    method = load(folder / "config.yaml", overrides, from_run=True).experiment.method
    words = [*overrides, "student.checkpoint=null", "teacher=null", "method=student"]
    words += ["task.start_from=1"] if "incremental" in summary else []
    prepared = prepare(_of_student_alone(load(folder / "config.yaml", words, from_run=True)), final=True)
    return prepared, method


def final_answers(
    folder: Path, student: nn.Module, problem: Problem, method: Method, settings: Settings
) -> torch.Tensor:
    """``[N, C]``: scores of a problem's test images by what answers for the student of a finished run."""
    answer = class_scores if problem.step is None else partial(final_scores, folder)
    return answer(student, problem, method, settings)


def _of_student_alone(resolved: Resolved) -> Resolved:
    """The experiment without what its task says of a teacher's classes, which may be those of other images."""
    experiment = resolved.experiment
    own: dict[str, Any] = {"teacher_classes": None, "aliases": {}}
    own = {key: value for key, value in own.items() if key in type(experiment.task).model_fields}
    task = experiment.task.model_copy(update=own)
    return replace(resolved, experiment=experiment.model_copy(update={"task": task}))


@contextmanager
def _locked(folder: Path, waiting: Console | None) -> Iterator[None]:
    """Keeps a second process out of the run folder; with a console to say so, it waits."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"The run folder {folder} cannot be made ({error.strerror}); change run.out."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if waiting is None:
                raise UserError(f"Another process is working in {folder}; wait for it.") from None
            waiting.print(f"waiting for the process that works in {folder}", markup=False, highlight=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
