"""Problems over the same classes, each student starting from the one before, as domain-incremental tasks have them.

``RUN/problems/N`` has the files of an ordinary run of the N-th problem, whose summary marks it as finished; the run's
folder gets copies of the last problem's, and a summary with the last student's accuracy on every problem's test images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from gkd import metrics
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.distill.side import Guides
from gkd.distill.teacher import Teacher
from gkd.experiment.judge import rounded
from gkd.experiment.prepare import Prepared
from gkd.experiment.results import Trained, finish
from gkd.experiment.run_folder import finished_or_mended, write_summary
from gkd.experiment.solve import Job, notes_on_heads, obtain_teacher, start_from_pretrained
from gkd.incremental.first_method import without_teacher
from gkd.problems.problem import Problem
from gkd.storage.run_files import PROBLEMS, SUMMARY, WEIGHTS
from gkd.storage.run_results import RunSummary
from gkd.storage.weights import read_weights
from gkd.storage.whole_files import copy_whole
from gkd.training.loop import fit
from gkd.training.predictions import student_outputs


def solve_sequence(job: Job) -> tuple[RunSummary, bool]:
    """Solve one problem after the other; return the summary, and whether anything was trained.

    The first student is taught by the experiment's teacher, where it has one; each later one by the student before, of
    which it starts as a copy.

    Raises:
        UserError: bad input; a problem over other classes than the first.
        Interrupted: a signal asked to stop; everything is saved.
    """
    if job.prepared.experiment.teachers:
        raise UserError(
            f"In the task {job.prepared.experiment.task.name} each student is taught by the one before, so it takes "
            "one first teacher; write it as teacher in place of teachers.",
            code="several-teachers",
        )
    job.introduce(job.prepared.problem.student.train, " in the first problem")
    teacher, prepared = obtain_teacher(job)
    job.note(notes_on_heads(prepared, teacher))
    start_from_pretrained(job)
    with job.begun() as done:
        if done is not None:
            return done, False
        solved: list[tuple[Problem, RunSummary]] = []
        read = False  # whether the last problem was solved already
        for number, problem in enumerate(prepared.sides.problems(), 1):
            folder = job.folder / PROBLEMS / str(number)
            before, read = read, (folder / SUMMARY).is_file()
            if before and not read:
                job.say(f"note      continued at problem {number}: those before it are finished")
            if solved:
                teacher, prepared = _next(prepared, problem)
            solved.append((prepared.problem, _solve(job, prepared, teacher, folder)))
        return _summarise(job, prepared, solved, folder), True


def _next(prepared: Prepared, problem: Problem) -> tuple[Teacher, Prepared]:
    """The student so far as the teacher of the next problem, and the run with that problem."""
    space, settings = prepared.problem.student.space, prepared.settings
    if problem.student.space != space:
        raise UserError(
            f"The problem {problem.name} is over other classes than those before it, and its student starts from "
            "theirs; let every problem of the task have the same classes in the same order.",
            code="other-classes",
        )
    network = copy.deepcopy(prepared.student)
    teacher = Teacher(network, space, mean=settings.mean, std=settings.std)
    teacher = teacher.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher, prepared.with_problem(_taught(problem, space))


def _taught(problem: Problem, space: LabelSpace) -> Problem:
    """The problem with a teacher of some classes."""
    return problem.with_relation(problem.relation.of_teacher(space))


def _solve(job: Job, prepared: Prepared, teacher: Guides, folder: Path) -> RunSummary:
    """Train the student on one problem, or read its finished run; leave the student in its last state."""
    problem, student, settings = prepared.problem, prepared.student, prepared.settings
    done = finished_or_mended(folder, job.say)
    if done is None:
        experiment = prepared.experiment
        method = experiment.method if teacher is not None else without_teacher(experiment.method)
        teacher = teacher if method.needs_teacher else None
        prepared = replace(prepared, epochs=method.epochs(experiment.run.epochs))
        before = problem.judging.before_training(student_outputs(student, settings), problem.student)
        with job.reporter(problem.name) as reporter:
            last, best, position = fit(
                student, teacher, problem, method, prepared.epochs, settings, folder, reporter
            )
        done = finish(folder, prepared, Trained(teacher, last, best, position, before), job.threads)
    student.load_state_dict(read_weights(folder / WEIGHTS["last"])[0])
    return done


def _summarise(
    job: Job, prepared: Prepared, solved: Sequence[tuple[Problem, RunSummary]], last_folder: Path
) -> RunSummary:
    """Write the run's own results: the last problem's, with accuracies on the test images of all of them."""
    by_head = prepared.experiment.method.judged_by_head
    outputs = student_outputs(prepared.student, prepared.settings)
    accuracies = {}
    for problem, _ in solved:
        scores = problem.judging.scores(outputs, problem.student, by_head=by_head)
        labels = problem.student.test.labels.cpu()
        accuracies[f"accuracy/{problem.name}"] = rounded(metrics.accuracy(scores, labels))
    accuracies["average_accuracy"] = rounded(fmean(accuracies.values()))
    for path in last_folder.iterdir():
        if path.is_file() and path.name != SUMMARY:
            copy_whole(path, job.folder / path.name)
    summary = solved[-1][1]
    last = summary.last.model_copy(update={"metrics": {**summary.last.metrics, **accuracies}})
    seconds = round(sum(each.seconds for _, each in solved), 2)
    summary = summary.model_copy(update={"last": last, "seconds": seconds})
    write_summary(job.folder, summary)
    return summary
