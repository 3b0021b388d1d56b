"""Solve a run: the job that a task's solver gets, and the solver of a task with one problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from gkd.config.generations import generations_of
from gkd.config.resolve import Resolved
from gkd.config.teacher_sections import named_teachers_read
from gkd.core.errors import UserError
from gkd.core.text import say, visible
from gkd.data import ImageSet, StreamedPixels
from gkd.distill.fit_check import head_notes
from gkd.distill.peers import states_of
from gkd.distill.side import Guides, by_name
from gkd.distill.teacher import Teacher
from gkd.experiment.extension import extend
from gkd.experiment.judge import prove_teacher
from gkd.experiment.prepare import Prepared
from gkd.experiment.projected_student import with_projector
from gkd.experiment.results import Trained, finish
from gkd.experiment.run_folder import describe_run, finished_or_mended, locked, run_folder
from gkd.experiment.start_notes import generation_note, training_note
from gkd.experiment.teacher_classes import of_named
from gkd.experiment.teachers import check_shapes, load_teacher, pretraining_experiment, teacher_experiment
from gkd.models.load import load_body
from gkd.storage.run_files import SUMMARY, WEIGHTS
from gkd.storage.run_results import RunSummary
from gkd.training.loop import fit
from gkd.training.predictions import student_outputs
from gkd.training.progress import Reporter


@dataclass(frozen=True)
class Job:
    """A run that is not finished, as a task's solver gets it.

    Attributes:
        prepared: the experiment at its first problem to train.
        folder: the run's.
        threads: CPU threads that are used.
        console: where progress is printed.
        solve_first: solves another run that this one needs, where it is not finished; gives its folder.
        wait: whether to wait for another process that is at the same run, rather than refuse.
    """

    prepared: Prepared
    folder: Path
    threads: int
    console: Console
    solve_first: Callable[[Resolved], Path]
    wait: bool = False

    @contextmanager
    def begun(self) -> Iterator[RunSummary | None]:
        """Lock the run's folder and write the files that describe the run.

        Yields:
            None, or the summary where another process has finished the run meanwhile.
        """
        with locked(self.folder, self.console if self.wait else None):
            done = finished_or_mended(self.folder, lambda line: None)  # which was said before
            if done is None:
                describe_run(self.folder, self.prepared, self.threads)
            yield done

    def say(self, line: str) -> None:
        """Print a line as it is."""
        say(self.console, line)

    def say_once(self, line: str) -> None:
        """Print a line unless another run of this command has printed the same one, as the cells of a grid would."""
        said = self.prepared.settings.caches.said
        if line not in said:
            said.add(line)
            self.say(line)

    def note(self, notes: Iterable[str]) -> None:
        """Print what a user should know, a line each, once a command."""
        for note in notes:
            self.say_once(f"note      {note}")

    def introduce(self, images: ImageSet, more: str = "") -> None:
        """Print what the run trains on, on which machine, and what of it may not be expected.

        Args:
            images: the training images.
            more: how the line on them ends.
        """
        settings = self.prepared.settings
        self.say_once(f"data      {describe_images(images)}{more}")
        unlabelled = self.prepared.problem.unlabelled
        if unlabelled is not None:
            self.say_once(f"data      {describe_images(unlabelled)}, without labels")
        self.say_once(f"machine   {describe_machine(settings.device, settings.dtype, self.threads)}")
        self.note(self.prepared.notes)

    def reporter(self, about: str = "") -> Reporter:
        """Progress lines that begin with the run's title and ``about``."""
        resolved = self.prepared.resolved
        name = " ".join([title(resolved), *([about] if about else [])])
        return Reporter(self.console, name, every=resolved.experiment.run.log_seconds)


def title(resolved: Resolved) -> str:
    """The name of a run in logs."""
    experiment = resolved.experiment
    generation = generations_of(experiment)
    which = f" generation {generation}" if generation > 1 else ""
    return visible(f"{resolved.name} {experiment.method.name} seed {experiment.run.seed}{which}")


def describe_machine(device: torch.device, dtype: torch.dtype, threads: int) -> str:
    """The device, the precision and the CPU threads that a run uses."""
    return f"{device}, {str(dtype).removeprefix('torch.')}, {threads} threads"


def describe_images(images: ImageSet) -> str:
    """How many images there are, of which shape, and whether they are in memory or streamed from disk."""
    shape = "x".join(map(str, images.image_shape))
    gigabytes = len(images) * math.prod(images.image_shape) / 2**30
    if isinstance(images.images, StreamedPixels):
        where = f"streamed from {images.images.root} by {images.images.workers} workers"
        return f"{len(images)} training images of {shape}, {where} ({gigabytes:.1f} GiB decoded)"
    return f"{len(images)} training images of {shape} in memory ({gigabytes:.2g} GiB)"


def solve_problem(job: Job) -> tuple[RunSummary, bool]:
    """Train the student of a task's one problem and judge it; the summary, and whether it was trained now.

    Raises:
        UserError: bad input, a full disk, a changed machine.
        Interrupted: a signal asked to stop; everything is saved.
    """
    job.introduce(job.prepared.problem.student.train)
    teacher, prepared = obtain_teacher(job)
    job.note(notes_on_heads(prepared, teacher))
    start_from_pretrained(job)
    prepared = with_projector(prepared, teacher)
    problem, student, method = prepared.problem, prepared.student, prepared.experiment.method
    before = problem.judging.before_training(student_outputs(student, prepared.settings), problem.student)
    with job.begun() as done:
        if done is not None:
            return done, False
        if prepared.generation == 1:  # of a later one the shorter run has another teacher
            extend(job.folder, prepared.resolved, sum(prepared.epochs.values()), job.say)
        with job.reporter() as reporter:
            last, best, position = fit(
                prepared.trained,
                teacher,
                problem,
                method,
                prepared.epochs,
                prepared.settings,
                job.folder,
                reporter,
            )
        peers = None
        if prepared.peer is not None:
            (last, last_peer), (best, best_peer) = states_of(last), states_of(best)
            peers = {"last": last_peer, "best": best_peer}
        trained = Trained(teacher, last, best, position, before, peers)
        return finish(job.folder, prepared, trained, job.threads), True


def notes_on_heads(prepared: Prepared, teachers: Guides = None) -> list[str]:
    """``gkd.distill.fit_check.head_notes`` of a run and its teachers."""
    problem = prepared.problem
    images, named = problem.student.train, by_name(teachers)
    shapes = {name: problem.seen_by(name, images).as_teacher_sees.image_shape for name in named}
    of_teachers = [(teacher.network, shapes[name]) for name, teacher in named.items()]
    student = (prepared.student, images.image_shape)
    method = prepared.experiment.method
    notes = head_notes(method, student, None)
    for each in of_teachers:
        notes += [note for note in head_notes(method, student, each) if note not in notes]
    return notes


def obtain_named_teachers(job: Job) -> tuple[dict[str, Teacher], Prepared]:
    """The named teachers that the method reads, judged, and the run with their classes."""
    prepared, teachers = job.prepared, dict[str, Teacher]()
    for name in named_teachers_read(prepared.experiment):
        alone = prepared.of_teacher(name)
        with of_named(name):
            checkpoint = teacher_weights(replace(job, prepared=alone), prepared)
            teachers[name], known = load_teacher(alone, checkpoint)
            job.note(known.notes)
            for line in prove_teacher(teachers[name], known, checkpoint, name=name):
                job.say_once(line)
        prepared = prepared.with_teacher(name, known)
    return teachers, prepared


def obtain_teacher(job: Job) -> tuple[Guides, Prepared]:
    """The teacher that the method needs, or several by name, and the run with the problem over their classes."""
    prepared = job.prepared
    if prepared.experiment.teachers:
        teachers, prepared = obtain_named_teachers(job)
        return teachers or None, prepared
    section = prepared.experiment.teacher
    if section is None or not prepared.problem.uses_teacher(prepared.experiment.method):
        return None, prepared
    checkpoint = teacher_weights(job)
    teacher, prepared = load_teacher(prepared, checkpoint)
    job.note(prepared.notes)
    for line in prove_teacher(teacher, prepared, checkpoint):
        job.say_once(line)
    return teacher, prepared


def teacher_weights(job: Job, whole: Prepared | None = None) -> Path | None:
    """The weight file of the experiment's teacher, after its run where it is trained here.

    None where none is used, or its library has the weights. Of one of several, which ``job`` has as its only one,
    ``whole`` is the run with all.
    """
    prepared, method = job.prepared, job.prepared.experiment.method
    section = prepared.experiment.teacher
    if section is None or not prepared.problem.uses_teacher(method):
        return None
    if section.is_given:
        return section.checkpoint
    training = teacher_experiment(prepared)
    folder = run_folder(training)
    if not (folder / SUMMARY).is_file():
        if method.needs_teacher:
            check_shapes(whole or prepared)
        if prepared.generation > 1:
            job.say_once(generation_note(prepared.generation, folder))
        else:
            about = ("teacher.train", section.network, section.train)
            job.say_once(training_note(*about, len(prepared.problem.relation.teacher), folder))
    return _weights(job.solve_first(training), section.weights)


def start_from_pretrained(job: Job) -> None:
    """Let the student start from the run that trains it on the base classes, where the experiment says so."""
    section = job.prepared.experiment.student
    if section.pretrain is None:
        return
    training = pretraining_experiment(job.prepared, section.pretrain)
    folder = run_folder(training)
    if not (folder / SUMMARY).is_file():
        about = ("student.pretrain", section.network, section.pretrain)
        job.say_once(training_note(*about, len(job.prepared.problem.relation.teacher), folder))
    job.solve_first(training)
    load_body(job.prepared.student, _weights(folder, "last"), name=section.network)


def _weights(folder: Path, which: str) -> Path:
    """A weight file of a finished run; refused where it is gone."""
    path = folder / WEIGHTS[which]
    if not path.is_file():
        raise UserError(
            f"{path} is gone, though its run is finished; remove {folder / SUMMARY} and repeat the command to train it "
            "again, or bring the file back.",
            code="file-missing",
        )
    return path
