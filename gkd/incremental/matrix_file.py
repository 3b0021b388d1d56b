"""The accuracy matrices of an incremental run as a file: rows by step, and the numbers computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gkd.incremental.accuracy_matrix import (
    accuracies_on_seen,
    accuracy_matrix,
    incremental_summary,
    matrix_rows,
)
from gkd.incremental.scenario import Steps
from gkd.storage.records import read_record, write_record
from gkd.storage.run_files import MATRIX
from gkd.storage.step_results import AnswerMatrix, Matrices, StepSummary


def write_matrices(folder: Path, steps: Steps, done: Sequence[StepSummary]) -> Matrices:
    """Write ``matrix.json`` of the steps that are finished.

    A forward transfer is not measured: a student has no columns for classes to come.

    Args:
        folder: the run's.
        steps: the classes of all steps, of those to come too.
        done: the summaries of the finished steps, the first of which may be later than step 1.

    Returns:
        The file's content.
    """
    counts = torch.tensor(done[-1].test_images)
    first = done[0].step - 1
    by_answer = {}
    for name in done[-1].rows:
        missing: list[list[float | None]] = [[None] * len(steps)] * first
        matrix = accuracy_matrix([*missing, *(summary.rows[name] for summary in done)])
        by_answer[name] = AnswerMatrix(
            rows=matrix_rows(matrix),
            seen=matrix_rows(accuracies_on_seen(matrix, counts).unsqueeze(0))[0],
            summary=_summary(matrix, counts, first),
        )
    facts = {
        "classes": [list(names) for names in steps],
        "num_classes": [len(names) for names in steps],
        "test_images": counts.tolist(),
        "first_step": first + 1,
    }
    matrices = Matrices.of(facts, by_answer)
    write_record(folder / MATRIX, matrices)
    return matrices


def _summary(matrix: Tensor, counts: Tensor, first: int) -> dict[str, float | None]:
    """The summary of one matrix; all classes of a given first model count as one step."""
    if first:
        of_first = matrix[first:, : first + 1] * counts[: first + 1] / counts[: first + 1].sum()
        matrix = torch.cat([of_first.sum(1, keepdim=True), matrix[first:, first + 1 :]], 1)
        counts = torch.cat([counts[: first + 1].sum().view(1), counts[first + 1 :]])
    rounded = incremental_summary(matrix, counts)
    return {name: None if value is None else round(value, 4) for name, value in rounded.items()}


def read_matrices(folder: Path) -> Matrices:
    """Read ``matrix.json`` of a run folder; a UserError where it is damaged."""
    return read_record(folder / MATRIX, Matrices)
