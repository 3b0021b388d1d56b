"""The results of a run of several generations: each student's accuracy, and that of all together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch

from gkd import metrics
from gkd.experiment.judge import rounded
from gkd.experiment.networks import load_network
from gkd.experiment.prepare import Prepared
from gkd.experiment.run_folder import run_folder
from gkd.storage.records import read_record
from gkd.storage.run_files import SUMMARY, WEIGHTS
from gkd.storage.run_results import GenerationResult, RunSummary
from gkd.storage.weight_metadata import weights_name
from gkd.storage.weights import read_weight_file
from gkd.training.predictions import student_outputs


class GenerationsResults(TypedDict):
    """The part of a summary on the generations of a run (``gkd.storage.run_results.Results``)."""

    generations: list[GenerationResult]
    ensemble: float | None


def generations_results(folder: Path, prepared: Prepared, summary: RunSummary) -> GenerationsResults:
    """The generations up to the run's own, whose students' files are written.

    Args:
        folder: the run's.
        prepared: the run, at its problem.
        summary: of the run, without its generations.
    """
    teaches = WEIGHTS[prepared.experiment.teacher.weights if prepared.experiment.teacher else "last"]
    before = run_folder(prepared.of_generation(prepared.generation - 1))
    earlier = read_record(before / SUMMARY, RunSummary)
    # The first generation is a plain run, whose summary speaks of no other.
    results = list(earlier.generations) or [_result(before, earlier, teaches)]
    results.append(_result(folder, summary, teaches))
    together = None
    if prepared.experiment.method.judged_by_head:
        folders = [run_folder(prepared.of_generation(number)) for number in range(1, prepared.generation)]
        together = _ensemble(prepared, [each / WEIGHTS["last"] for each in (*folders, folder)])
    return {"generations": results, "ensemble": together}


def _result(folder: Path, summary: RunSummary, teaches: str) -> GenerationResult:
    path = folder / teaches
    return GenerationResult(
        run=str(folder),
        identity=summary.identity,
        weights=weights_name(read_weight_file(path)) if path.is_file() else None,
        last=summary.last.accuracy,
        best=summary.best.accuracy,
    )


def _ensemble(prepared: Prepared, files: Sequence[Path]) -> float | None:
    """Test accuracy in percent of the mean of the students' logits; None where a file is gone.

    Born-again networks, section 3 (BANE): the mean of f(x, θ_i) over the generations i. Their logits are averaged, as
    in public code (nocotan/born_again_neuralnet@1186564, infer.py).
    """
    if not all(path.is_file() for path in files):
        return None
    images, section, settings = prepared.problem.student, prepared.experiment.student, prepared.settings
    logits = []
    for path in files:
        network = load_network(section, path, images.train, len(images.space)).network
        network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        outputs = student_outputs(network, settings)
        logits.append(prepared.problem.judging.scores(outputs, images, by_head=True))
    return rounded(metrics.accuracy(torch.stack(logits).mean(0), images.test.labels.cpu()))
