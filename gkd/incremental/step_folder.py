"""Files of a finished incremental step: written when it ends, and read again only where all are intact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import nn

from gkd.core.errors import UserError
from gkd.core.text import say
from gkd.incremental.memory import Memory
from gkd.incremental.memory_file import MEMORY, read_memory, write_memory
from gkd.incremental.previous_model import Before
from gkd.incremental.step import Step
from gkd.storage.checksums import sha256
from gkd.storage.manifest import check_files, files_of
from gkd.storage.records import read_record, write_record
from gkd.storage.run_files import SUMMARY, WEIGHTS
from gkd.storage.step_results import StepSummary, WeightsFile
from gkd.storage.weights import read_weights, state_hash, tensors_hash


@dataclass(frozen=True)
class Done:
    """A finished step.

    Attributes:
        model: the step's, which the next step grows out of and learns from.
        memory: the exemplars of all classes so far.
        summary: the step's results.
    """

    model: Before
    memory: Memory
    summary: StepSummary

    @property
    def hash(self) -> str | None:
        """Hash of the model's state; None where an earlier version of gkd finished the step."""
        given_model = self.summary.given
        return self.summary.hashes.get("last") or (None if given_model is None else given_model.hash)


def hashes_of(student: nn.Module, before: Done | None) -> dict[str, str | None]:
    """Hashes for a step's summary: of its student's state, and of the model that the student learnt from."""
    return {"before": before.hash if before else None, "last": state_hash(student)}


def keep_step(step_folder: Path, model: Before, memory: Memory, step: Step, summary: StepSummary) -> Done:
    """Write the exemplars and the summary of a finished step; the summary last, for with it the step is finished."""
    write_memory(step_folder, memory, step)
    names = [name for name in (MEMORY, *WEIGHTS.values()) if (step_folder / name).is_file()]
    write_record(step_folder / SUMMARY, summary, files=names)
    return Done(model, memory, summary)


def read_step(
    step_folder: Path, step: Step, before: Done | None, model: Path | None, console: Console
) -> Done | None:
    """Read a finished step from its folder.

    Args:
        step_folder: the step's folder.
        step: the step, whose images the exemplars are of.
        before: the step before, as it is now.
        model: the weights of the step's model where that is the experiment's teacher.
        console: prints which files are damaged.

    Returns:
        None where the step is not finished, or its files were changed since: it is then trained again, from its
        last checkpoint where that is intact.

    Raises:
        UserError: a student that learnt from another model than there is now.
    """
    weights = step_folder / WEIGHTS["last"] if model is None else model
    if not (step_folder / SUMMARY).is_file() or not weights.is_file():
        return None
    try:
        summary = read_record(step_folder / SUMMARY, StepSummary)
        check_files(step_folder / SUMMARY, files_of(step_folder / SUMMARY) or {})
        if model is None:
            _check_students(step_folder, summary)
        elif summary.given is None or summary.given.sha256 != sha256(model):
            raise UserError(
                f"the model {model} is another file than the step was judged with", code="other-weights"
            )
        if not (step_folder / MEMORY).is_file():
            raise UserError(f"{step_folder / MEMORY}, its exemplars, is gone", code="memory-missing")
        done = Done(Before(weights, is_given=model is not None), read_memory(step_folder, step), summary)
    except UserError as error:
        say(
            console,
            f"note      step {step.number + 1} is finished again, for its files have changed: {error}",
        )
        return None
    learnt_from = summary.hashes.get("before")
    if before is not None and learnt_from is not None and before.hash not in (None, learnt_from):
        raise UserError(
            f"The student in {step_folder} learnt from another model of step {step.number} than there is now; remove "
            f"the folders of step {step.number + 1} and of those after it, to train them again, or bring that model "
            "back.",
            code="other-model",
        )
    return done


def _check_students(step_folder: Path, summary: StepSummary) -> None:
    """Refuse weight files that are not those that the step wrote."""
    for which, expected in summary.hashes.items():
        if which in WEIGHTS and tensors_hash(read_weights(step_folder / WEIGHTS[which])[0]) != expected:
            raise UserError(
                f"{step_folder / WEIGHTS[which]} holds other weights than the step left there",
                code="other-weights",
            )


def named_weights(weights: Path, step_folder: Path, out: Path) -> WeightsFile:
    """A weight file as a step's summary names it: by its place in the run or among all runs, else as it was given.

    Args:
        weights: the file.
        step_folder: the step's folder.
        out: where all runs are (``run.out``).
    """
    for base in (step_folder.parent.parent, out):
        if weights.is_relative_to(base):
            return WeightsFile(weights=str(weights.relative_to(base)), sha256=sha256(weights))
    return WeightsFile(weights=str(weights), sha256=sha256(weights))
