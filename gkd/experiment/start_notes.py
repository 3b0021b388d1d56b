"""What a run says before it trains of choices that its user may not expect, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gkd.config import schema
from gkd.data.read.arrays import BUNDLED
from gkd.problems.problem import Problem


def start_notes(experiment: schema.Experiment, problem: Problem) -> Iterator[str]:
    """Notes on the run itself: what its settings come to on these images.

    Args:
        experiment: the run's.
        problem: the first to solve.
    """
    images, batch_size = len(problem.student.train), experiment.data.batch_size
    shuffled = any(stage.data not in ("balanced", "episodes") for stage in experiment.method.stages.values())
    if batch_size > images and shuffled and experiment.data.images_per_class is None:
        yield (
            f"data.batch_size={batch_size} is more than the {images} training images, so each step is on all {images}, "
            "and an epoch is one step"
        )
    data = experiment.data
    if data.root is not None and data.name in BUNDLED:
        yield (
            f"data.root={data.root} is not read, for {data.name} brings its own images; data.name=folder reads "
            "photographs"
        )
    teacher = experiment.teacher
    if teacher is not None and teacher.checkpoint is not None and teacher.train.model_fields_set:
        stated = ", ".join(f"teacher.train.{key}" for key in sorted(teacher.train.model_fields_set))
        yield f"{stated} is not read, for teacher.checkpoint is given"
    if experiment.data.subset_seed is not None and experiment.data.per_class is None:
        yield "data.subset_seed draws nothing, for data.per_class is not given and all images are taken"


def training_note(side: str, section: schema.Teacher | schema.Student, classes: int, folder: Path) -> str:
    """A line on the network of a side that is trained before the run itself.

    Args:
        side: ``teacher`` or ``student``.
        section: the side's.
        classes: how many classes it is trained on.
        folder: of the run that trains it.
    """
    key, training = "pretrain", section.pretrain if isinstance(section, schema.Student) else None
    if isinstance(section, schema.Teacher):
        key, training = "train", section.train
    assert training is not None
    length = f"{training.epochs} epoch" + "s" * (training.epochs > 1)
    if "epochs" not in training.model_fields_set:
        length += f" (the default of {side}.{key}.epochs)"
    return (
        f"{side:<9} {section.network} is trained first, on {classes} classes for {length}, in {folder}; "
        f"{side}.checkpoint=FILE takes one that is trained"
    )
