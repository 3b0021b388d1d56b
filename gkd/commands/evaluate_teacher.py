"""Judge the network in a weight file as a teacher: of classes of its own, or none, on anybody's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gkd.config.load import from_content
from gkd.config.resolve import override_layers
from gkd.experiment.judge import prove_teacher
from gkd.experiment.prepare import prepare
from gkd.experiment.start_notes import shared_by_ids
from gkd.experiment.teachers import load_teacher
from gkd.storage.weight_metadata import WeightMetadata
from gkd.training.device import use_threads

_BY_NAME = "classes are one where their names are; task.aliases and task.match relate others"


def names_a_teacher(overrides: Sequence[str]) -> bool:
    """Whether overrides speak of a teacher, so that a weight file is to be judged as one."""
    return any("teacher" in layer.content for layer in override_layers(overrides))


def evaluate_teacher(path: Path, overrides: Sequence[str]) -> list[str]:
    """Judge the network in a weight file as the teacher of a run.

    Args:
        path: the weight file.
        overrides: ``a.b=c`` over an experiment of the task ``cross_task``: the images (``data.name=folder``,
            ``data.root``), the network, its classes (``teacher.classes``) and ``task.match``.

    Returns:
        Lines on how the file was read; a line with its accuracy over all of its columns and over the shared ones, what
        its embedding knows of the images' classes, and its input normalisation; and a warning.

    Raises:
        UserError: no data set is named, or the file does not fit.
    """
    stated = WeightMetadata.read(path)
    teacher: dict[str, Any] = {"checkpoint": str(path)}
    teacher |= {key: getattr(stated, key) for key in ("network", "options", "taps") if getattr(stated, key)}
    content = {
        "task": {"name": "cross_task"},
        "teacher": teacher,
        "student": {"network": "resnet8"},  # which nobody trains or judges
        "method": "student",
    }
    prepared = prepare(from_content(path.name, content, overrides))
    use_threads(prepared.experiment.run.threads)
    network, prepared = load_teacher(prepared, path)
    relation = prepared.problem.relation
    apart = []
    if relation.kind == "disjoint":
        apart = [f"classes   {relation}; {shared_by_ids(relation) or _BY_NAME}"]
    return [*prepared.notes, *apart, *prove_teacher(network, prepared, path)]
