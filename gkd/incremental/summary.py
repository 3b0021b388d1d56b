"""Summary of an incremental run whose steps are all finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gkd.experiment.prepare import Prepared
from gkd.experiment.results import run_facts
from gkd.experiment.run_folder import write_summary
from gkd.models import count_parameters
from gkd.storage.judged import Correctness, Judged, TeacherResult
from gkd.storage.preprocessing import EXEMPLAR_MEANS, HEAD
from gkd.storage.records import INCREMENTAL, VERSION, write_record
from gkd.storage.run_files import CONFUSION, CORRECT, STEPS, WEIGHTS
from gkd.storage.run_results import RunSummary
from gkd.storage.step_results import IncrementalResult, Matrices, StepSummary
from gkd.storage.weights import read_weights, save_weights
from gkd.storage.whole_files import copy_whole


def summarise_steps(
    folder: Path,
    prepared: Prepared,
    steps: Sequence[StepSummary],
    matrices: Matrices,
    threads: int,
    *,
    beside: Mapping[str, TeacherResult],
) -> RunSummary:
    """Sum up an incremental run whose steps are all finished: the last student, its correctness and the summary.

    Args:
        folder: the run's, which holds the folders of its steps.
        prepared: with the problem of the last step.
        steps: the summaries of the steps.
        matrices: the accuracy matrices of all of them.
        threads: CPU threads that were used.
        beside: named teachers, on the classes of the first step that was trained.
    """
    problem, last = prepared.problem, steps[-1]
    for name in WEIGHTS.values():
        tensors, metadata = read_weights(folder / STEPS / str(last.step) / name)
        save_weights(folder / name, tensors, metadata)
    for name in CONFUSION.values():
        of_step = folder / STEPS / str(last.step) / name
        if of_step.is_file():  # an earlier gkd, which wrote none, may have finished the step
            copy_whole(of_step, folder / name)
    write_record(folder / CORRECT, Correctness.of(len(problem.student.test), last.correct))
    seconds, images = sum(step.seconds for step in steps), sum(step.images for step in steps)
    by_head = prepared.experiment.method.judged_by_head
    answers = "classifier" if by_head else "ncm"
    summary = RunSummary(
        version=VERSION,
        kind=INCREMENTAL,
        judged_by=HEAD if by_head else EXEMPLAR_MEANS,
        epochs=last.epochs,
        note="last: the last epoch of the last step; best: its epoch that validation chose; on all classes",
        last=last.last,
        best=last.best if isinstance(last.best, Judged) else last.last,
        teacher=_given_model(steps[0]),
        leak=[],
        incremental=IncrementalResult(
            answers=answers,
            summary=matrices.by_answer[answers].summary,
            steps=[step.result() for step in steps],
        ),
        empty_batches=_empty_batches(steps),
        images_per_second=round(images / max(seconds, 1e-9), 1),
        seconds=round(seconds, 2),
        bookkeeping_seconds=round(sum(step.bookkeeping_seconds for step in steps), 2),
        parameters=count_parameters(prepared.student) if last.parameters is None else last.parameters,
        **run_facts(prepared, threads),
    )
    if beside:
        summary = summary.model_copy(update={"teachers": dict(beside)})
    write_summary(folder, summary)
    return summary


def _given_model(first: StepSummary) -> TeacherResult | None:
    """The model given for the first step, as the summary's teacher; None where that step was trained."""
    if first.given is None or first.head_accuracy is None:
        return None
    result = TeacherResult(accuracy=first.head_accuracy, induced_accuracy=None, hash=first.given.hash)
    near = first.given.near_chance
    return result if near is None else result.model_copy(update={"near_chance": near})


def _empty_batches(steps: Sequence[StepSummary]) -> dict[str, int]:
    """Stage and term -> how many batches of all steps held nothing for the term."""
    empty: dict[str, int] = {}
    for step in steps:
        for key, value in step.empty_batches.items():
            empty[key] = empty.get(key, 0) + value
    return empty
