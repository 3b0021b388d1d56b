"""What a run says before it trains of choices that its user may not expect, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gkd.config import schema
from gkd.config.teacher_sections import named_teachers_read, teacher_sections
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.data.read.arrays import BUNDLED
from gkd.methods.refusal import Relations, left_out
from gkd.methods.stage import WITHOUT_LABELS
from gkd.models.pretrained import describe
from gkd.problems.problem import Problem
from gkd.problems.task import students_teach
from gkd.storage.run_files import WEIGHTS

_WORDNET_IDS = r"n\d{8}"


def start_notes(
    experiment: schema.Experiment, problem: Problem, mean: tuple[float, ...], std: tuple[float, ...]
) -> Iterator[str]:
    """Notes on the run itself: what its settings come to on these images.

    Args:
        experiment: the run's.
        problem: the first to solve.
        mean, std: by which the student's input is normalised, one number a channel.
    """
    yield from _other_normalisation(experiment.student, mean, std)
    data = experiment.data
    images, batch_size = len(problem.student.train), data.batch_size
    shuffled = any(
        stage.data not in ("balanced", "episodes", *WITHOUT_LABELS)
        for stage in experiment.method.stages.values()
    )
    if batch_size > images and shuffled and data.images_per_class is None:
        yield (
            f"data.batch_size={batch_size} is more than the {images} training images, so each step is on all {images}, "
            "and an epoch is one step"
        )
    method = experiment.method
    if data.unlabelled is not None and not method.uses_unlabelled:
        able = [
            name
            for name, stage in method.stages.items()
            if not all(t.reads_labels for t in stage.terms.values())
        ]
        how = f"; method.stages.{able[0]}.data=both does" if able else ""
        yield f"data.unlabelled is not read, for no stage of the method {method.name} trains on it{how}"
    if data.root is not None and data.name in BUNDLED:
        yield (
            f"data.root={data.root} is not read, for {data.name} brings its own images; data.name=folder reads "
            "photographs"
        )
    if experiment.student.peer is not None and not method.reads_peer:
        yield f"student.peer is not trained, for no term of the method {method.name} reads it; method=mutual does"
    yield from _left_out(experiment, problem)
    if method.needs_teacher:
        yield from _teachers_notes(experiment, problem)
    for name, teacher in teacher_sections(experiment).items():
        if teacher.checkpoint is None:
            continue
        stated = [f"{name}.train.{key}" for key in sorted(teacher.train.model_fields_set)]
        if stated:
            yield f"{', '.join(stated)} is not read, for {name}.checkpoint is given"
        if teacher.weights != "last":
            yield (
                f"{name}.weights={teacher.weights} is of a teacher that is trained here, and {name}.checkpoint is "
                f"given: {teacher.checkpoint} is taken; a run's folder has {WEIGHTS[teacher.weights]} too"
            )
    kept = {f"run.{key}" for key in ("teacher_cache", "teacher_cache_precision")}
    unread = sorted(kept & {f"run.{key}" for key in experiment.run.model_fields_set})
    if unread and data.views is None and experiment.method.needs_teacher:
        yield (
            f"{', '.join(unread)} keeps nothing, for every epoch augments anew; data.views=10 gives each image 10 "
            "augmented views, and the teacher's outputs on them are kept"
        )
    if data.subset_seed is not None and data.per_class is None:
        yield "data.subset_seed draws nothing, for data.per_class is not given and all images are taken"


def _teachers_notes(experiment: schema.Experiment, problem: Problem) -> Iterator[str]:
    """Notes on teachers that no term reads, and on those that share classes by another name."""
    if experiment.teacher is not None and (hint := shared_by_ids(problem.relation)) is not None:
        yield hint
    read = named_teachers_read(experiment)
    for name in experiment.teachers:
        if name not in read:
            yield f"teachers.{name} is not read, for no term names it (teacher: {name}, a list, or all)"
        elif (hint := shared_by_ids(problem.of_teacher(name).relation)) is not None:
            yield f"teachers.{name}: {hint}"


def shared_by_ids(relation: LabelRelation) -> str | None:
    """A word on classes that share no name and would share WordNet ids; None of others."""
    if relation.kind != "disjoint" or relation.match is not None:
        return None
    try:
        by_ids = LabelRelation(relation.teacher, relation.student, match=_WORDNET_IDS)
    except UserError:
        return None
    if by_ids.num_shared == 0:
        return None
    return (
        f"no class of the teacher's is called as one of the student's, but {by_ids.num_shared} have one WordNet id; "
        f"task.match='{_WORDNET_IDS}' makes them one"
    )


def _other_normalisation(
    student: schema.Student, mean: tuple[float, ...], std: tuple[float, ...]
) -> Iterator[str]:
    """A note where a library's weights were trained on input that was normalised in another way."""
    if student.pretrained is False:
        return
    library = describe(student.network, student.pretrained)
    if len(library.mean) != len(mean) or (library.mean, library.std) == (mean, std):
        return
    shown = f"mean {_listed(mean)}, std {_listed(std)}"
    yield (
        f"the student's images are normalised by {shown}, and those that the weights of {library} were trained on "
        f"otherwise; data.mean={_listed(library.mean)} data.std={_listed(library.std)} does as they were"
    )


def _listed(values: tuple[float, ...]) -> str:
    """Numbers as a word of the command line."""
    return f"[{','.join(f'{value:.4g}' for value in values)}]"


def training_note(
    key: str, network: str, training: schema.TeacherTraining, classes: int, folder: Path
) -> str:
    """A line on the network of a side that is trained before the run itself.

    Args:
        key: ``teacher.train`` or ``student.pretrain``.
        network: its name.
        training: what stands under the key.
        classes: how many classes it is trained on.
        folder: of the run that trains it.
    """
    side = key.partition(".")[0]
    length = f"{training.epochs} epoch" + "s" * (training.epochs > 1)
    if "epochs" not in training.model_fields_set:
        length += f" (the default of {key}.epochs)"
    return (
        f"{side:<9} {network} is trained first, on {classes} classes for {length}, in {folder}; "
        f"{side}.checkpoint=FILE takes one that is trained"
    )


def generation_note(generation: int, folder: Path) -> str:
    """A line on the generation before one, which is trained first, in its folder."""
    return f"teacher   of generation {generation} is the student of generation {generation - 1}, trained in {folder}"


def _left_out(experiment: schema.Experiment, problem: Problem) -> Iterator[str]:
    """A line on the terms of each stage that the relation leaves out (a term's ``where``)."""
    relations: Relations = {name: teacher.relation for name, teacher in problem.teachers.items()}
    if students_teach(experiment.task.name):
        return  # each step has a relation of its own
    if not relations and experiment.teacher is not None:
        relations = problem.relation
    yield from left_out(experiment.method, relations)
