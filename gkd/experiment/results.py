"""What a finished run leaves: the students' weights, what they got right on test, and the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gkd import metrics
from gkd.core.labels import LabelRelation
from gkd.distill.teacher import Teacher
from gkd.experiment.environment import command, environment
from gkd.experiment.judge import (
    cached_predictions,
    class_scores,
    judge,
    keep_episodes,
    on_episodes,
    rounded,
    teacher_results,
)
from gkd.experiment.prepare import Prepared
from gkd.few_shot.judging import Accuracies, paired, summarised
from gkd.models import EXTRACTORS, count_parameters, num_extractors
from gkd.problems.problem import Problem
from gkd.storage.json_files import write_json
from gkd.storage.run_files import CORRECT, FROZEN, WEIGHTS, pack
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import save_weights
from gkd.training.meter import MetricsFile
from gkd.training.stage_run import Position, State

Summary = dict[str, Any]


def finish(
    folder: Path,
    prepared: Prepared,
    problem: Problem,
    teacher: Teacher | None,
    states: dict[str, State],
    position: Position,
    threads: int,
    frozen: Mapping[str, Tensor],
) -> Summary:
    """Judges last and best on test, once; writes the students, their correctness and the summary.

    Args:
        folder: the run's.
        prepared, problem, teacher: what was trained.
        states: ``last`` and ``best``.
        position: where training ended.
        threads: CPU threads that were used.
        frozen: classifier -> which test images it gets right on the embedding that the student started from.
    """
    resolved, settings, method = prepared.resolved, prepared.settings, prepared.experiment.method
    results, correct = _judged(folder, prepared, problem, teacher, states)
    results["best"].update(epoch=position.best_epoch, validation=rounded(position.best_metric))
    count = len(problem.student.test)
    correct |= {f"{FROZEN}{name}": pack(right) for name, right in frozen.items()}
    write_json(folder / CORRECT, {"count": count, **correct})
    summary: Summary = {
        "config": resolved.name,
        "identity": resolved.identity,
        "method": method.name,
        "judged_by": "head" if method.judged_by_head else "nearest class mean",
        "seed": settings.seed,
        "relation": describe_relation(problem.relation),
        "epochs": prepared.epochs,
        "note": "last: the last epoch; best: the epoch that validation chose; each judged on test once, at the end",
        "teacher": None,  # where there is one, what it was judged to be stands among the results
        **results,
        "leak": problem.leak,
        "empty_batches": empty_batches(folder),
        "images_per_second": round(position.images / max(position.seconds, 1e-9), 1),
        "seconds": round(position.seconds, 2),
        "parameters": count_parameters(prepared.student),
        "test_images": count,
        **environment(threads, settings.device, settings.dtype),
        "command": command(),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _judged(
    folder: Path, prepared: Prepared, problem: Problem, teacher: Teacher | None, states: dict[str, State]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What last and best are worth (and the teacher, under its own key), and what they got right, packed."""
    settings, student, method = prepared.settings, prepared.student, prepared.experiment.method
    test = problem.student.test
    labels = test.labels.cpu()
    results: dict[str, dict[str, Any]] = {}
    correct: dict[str, str] = {}
    on_novel: dict[str, Accuracies] = {}
    for which, state in states.items():
        student.load_state_dict(state)
        logits = class_scores(student, problem, method, settings)
        results[which] = judge(logits, labels, method)
        correct[which] = pack(metrics.correctness(logits, labels))
        if teacher is not None:
            teacher_logits, _ = cached_predictions(teacher, test, settings)
            results[which]["agreement"] = rounded(metrics.agreement(logits, teacher_logits, problem.relation))
        if problem.few_shot is not None:
            on_novel[which] = on_episodes(student, problem, settings)
            results[which]["few_shot"] = summarised(on_novel[which])
        metadata = weight_metadata(prepared)
        if method.judged_by_head:
            metadata = replace(metadata, test_accuracy=results[which]["accuracy"])
        save_weights(folder / WEIGHTS[which], state, metadata.to_header())
    if teacher is not None:
        results["teacher"] = teacher_results(teacher, problem, prepared)
    if problem.few_shot is not None:
        if teacher is not None:
            on_novel["teacher"] = on_episodes(teacher, problem, settings)
            results["teacher"]["few_shot"] = summarised(on_novel["teacher"])
            for which in states:
                results[which]["to_teacher"] = paired(on_novel[which], on_novel["teacher"])
        keep_episodes(folder, problem.few_shot, on_novel)
    return results, correct


def weight_metadata(prepared: Prepared, student: nn.Module | None = None) -> WeightMetadata:
    """The metadata of a student's weight file: all that builds the network again and feeds it.

    Args:
        prepared: the experiment.
        student: the network instead of the prepared one, which steps may have expanded.
    """
    settings, problem, section = prepared.settings, prepared.problem, prepared.experiment.student
    images = problem.student.train
    channels, (height, width) = images.channels, images.size
    extractors = num_extractors(prepared.student if student is None else student)
    return WeightMetadata(
        network=section.network,
        classes=problem.student.space.names,
        mean=settings.mean,
        std=settings.std,
        image_shape=(channels, height, width),
        method=prepared.experiment.method.name,
        options=section.options | ({EXTRACTORS: extractors} if extractors > 1 else {}),
        taps=section.taps.model_dump(mode="json", exclude_none=True),
    )


def describe_relation(relation: LabelRelation) -> dict[str, Any]:
    """A label relation as facts for a summary."""
    return {
        "kind": relation.kind,
        "overlap": round(relation.overlap, 4),
        "shared": relation.num_shared,
        "teacher_classes": len(relation.teacher),
        "student_classes": len(relation.student),
    }


def empty_batches(folder: Path) -> dict[str, int]:
    """How many batches held nothing for a counting term (no tuple, say), by stage and term."""
    counts: dict[str, int] = {}
    for record in MetricsFile(folder / "metrics.jsonl").read():
        for name, value in record.items():
            if name.startswith("empty/"):
                key = f"{record['stage']}/{name.removeprefix('empty/')}"
                counts[key] = counts.get(key, 0) + int(value)
    return counts
