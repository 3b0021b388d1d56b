"""The summary of an incremental run whose steps are all finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gkd.experiment.environment import command, environment
from gkd.experiment.prepare import Prepared
from gkd.experiment.results import Summary, describe_relation
from gkd.models import count_parameters
from gkd.storage.json_files import write_json
from gkd.storage.run_files import CORRECT, STEPS, WEIGHTS
from gkd.storage.weights import read_weights, save_weights


def summarise_steps(
    folder: Path,
    prepared: Prepared,
    steps: Sequence[Mapping[str, Any]],
    matrices: Mapping[str, Any],
    threads: int,
) -> Summary:
    """Sums up an incremental run whose steps are all finished: the last student, its correctness and the summary.

    Args:
        folder: the run's, with those of its steps in it.
        prepared: with the problem of the last step.
        steps: the summaries of the steps.
        matrices: what ``gkd.incremental.matrix_file`` says of all of them.
        threads: CPU threads that were used.
    """
    resolved, settings, problem = prepared.resolved, prepared.settings, prepared.problem
    method, last, given = resolved.experiment.method, steps[-1], steps[0].get("given")
    for name in WEIGHTS.values():
        tensors, metadata = read_weights(folder / STEPS / str(last["step"]) / name)
        save_weights(folder / name, tensors, metadata)
    write_json(folder / CORRECT, {"count": len(problem.student.test), **last["correct"]})
    empty: dict[str, int] = {}
    for step in steps:
        for key, value in step["empty_batches"].items():
            empty[key] = empty.get(key, 0) + value
    seconds, images = sum(step["seconds"] for step in steps), sum(step["images"] for step in steps)
    teacher = given and {
        "accuracy": steps[0]["head_accuracy"],
        "induced_accuracy": None,
        "hash": given["hash"],
    }
    answers = "classifier" if method.judged_by_head else "ncm"
    shown = (
        "step",
        "teacher",
        "teacher_hash",
        "given",
        "rules",
        "memory",
        "last",
        "seconds",
        "bookkeeping_seconds",
    )
    summary: Summary = {
        "config": resolved.name,
        "identity": resolved.identity,
        "method": method.name,
        "judged_by": "head" if method.judged_by_head else "nearest class mean of the exemplars",
        "seed": settings.seed,
        "relation": describe_relation(problem.relation),
        "epochs": last["epochs"],
        "note": "last: the last epoch of the last step; best: its epoch that validation chose; on all classes",
        "last": last["last"],
        "best": last["best"],
        "teacher": teacher,
        "leak": (),
        "incremental": {
            "answers": answers,
            "summary": matrices[answers]["summary"],
            "steps": [{key: step[key] for key in shown if key in step} for step in steps],
        },
        "empty_batches": empty,
        "images_per_second": round(images / max(seconds, 1e-9), 1),
        "seconds": round(seconds, 2),
        "bookkeeping_seconds": round(sum(step["bookkeeping_seconds"] for step in steps), 2),
        "parameters": last.get("parameters", count_parameters(prepared.student)),
        "test_images": len(problem.student.test),
        **environment(threads, settings.device, settings.dtype),
        "command": command(),
    }
    write_json(folder / "summary.json", summary)
    return summary
