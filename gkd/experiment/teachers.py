"""An experiment's teacher: loaded from a file, or the run that trains it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gkd.config import schema
from gkd.config.layers import Layer
from gkd.config.resolve import Resolved, resolve
from gkd.config.shipped import load_method
from gkd.config.teacher_sections import named_teachers_read
from gkd.core.class_vectors import ClassVectors
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.distill.side import Guides
from gkd.distill.teacher import Teacher
from gkd.experiment.networks import build_side, given_weights, load_network, options_of, teacher_section
from gkd.experiment.prepare import Prepared, prepare
from gkd.experiment.projected_student import with_projector
from gkd.experiment.sources import statistics
from gkd.experiment.teacher_classes import of_named
from gkd.experiment.teacher_names import class_vectors
from gkd.methods.method import Method
from gkd.methods.readers import without_terms
from gkd.methods.term_checks import PREVIOUS
from gkd.methods.terms import Term
from gkd.models.pretrained import Description, describe, described_as_built
from gkd.problems.task import plain_task
from gkd.storage.checksums import sha256
from gkd.storage.weight_metadata import TENSORS, WeightMetadata, weights_name
from gkd.storage.weight_sets import WeightFile
from gkd.storage.weights import read_weight_file
from gkd.training.loop import check_method

# Keys of the data section that hold for the student's training, not for the teacher's on the same images.
_STUDENTS_ALONE = ("per_class", "subset_seed", "views", "images_per_class", "teacher_view", "unlabelled")


def load_teacher(prepared: Prepared, checkpoint: Path | None) -> tuple[Teacher, Prepared]:
    """Load the teacher, and relate the run's problem to the classes of the teacher's columns.

    What its file says (network, classes in column order, mean, std) is checked against the experiment; a file that
    says no classes is taken to have the task's, in order.

    Args:
        prepared: the run.
        checkpoint: the weight file; None loads the weights that its network's library publishes.

    Raises:
        UserError: another network, class count or class set than the experiment says.
    """
    options, images = teacher_section(prepared.experiment), prepared.problem.student.train.as_teacher_sees
    if checkpoint is None:
        weights, metadata = given_weights(options, images), WeightMetadata()
    else:
        weights, metadata = read_weight_file(checkpoint), WeightMetadata.read(checkpoint)
    check_checksum(options, weights)
    built_with = options_of(options, metadata, weights.path)
    space = _space(prepared, metadata, weights.path)
    loaded = load_network(options, weights, images, len(space), head="file" if space.named else "none")
    described = _described(options)
    mean, std = options.mean or metadata.mean, options.std or metadata.std
    if described is not None and len(described.mean) == images.channels:
        mean, std = mean or described.mean, std or described.std
    if mean is None or std is None:
        measured = _statistics_of_teacher(prepared)
        mean, std = mean or measured[0], std or measured[1]
    built_as = f"{options.network} {built_with} {options.taps}"
    source = statistics_source(options, metadata, described)
    teacher = Teacher(
        loaded.network,
        space,
        mean=mean,
        std=std,
        built_as=built_as,
        statistics_from=source,
        names=_vectors_of_names(prepared),
    )
    teacher = teacher.to(prepared.settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    prepared = replace(prepared, notes=(*prepared.notes, *loaded.notes))
    problem = prepared.problem
    return teacher, prepared.with_problem(problem.with_relation(problem.relation.of_teacher(space)))


def _space(prepared: Prepared, metadata: WeightMetadata, weights: Path) -> LabelSpace:
    """The classes of the columns of the teacher's weights.

    Raises:
        UserError: a file of other classes than the task gives the teacher, which keeps none of its own.
    """
    space, keeps = prepared.problem.relation.teacher, teacher_section(prepared.experiment).keeps_classes
    if metadata.classes is None or (keeps and (not space.named or metadata.classes == space.names)):
        return space
    names = list(metadata.classes)
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    if keeps:
        raise UserError(
            f"teacher.checkpoint {weights} states that its columns are [{shown}], and teacher.classes names others; "
            "set teacher.classes=file.",
            code="other-classes",
        )
    stated = LabelSpace(metadata.classes)
    if set(stated) == set(space):
        return stated
    raise UserError(
        f"teacher.checkpoint {weights} knows {len(stated)} classes, but the task gives the teacher {len(space)}, of "
        f"which it knows {len(set(space) & set(stated))}; choose the task's teacher classes to match, in "
        f"{prepared.task.teacher_classes_key}: [{shown}], or let it keep its own: teacher.classes=file.",
        code="other-classes",
    )


def _described(options: schema.Teacher) -> Description | None:
    """What the library says of a teacher that keeps its classes: of its weights, or of those of its network."""
    if options.pretrained is not False:
        return describe(options.network, options.pretrained)
    return described_as_built(options.network) if options.keeps_classes else None


def statistics_source(
    options: schema.Teacher, metadata: WeightMetadata, described: Description | None = None
) -> str:
    """Where a teacher's input normalisation is from, in a config's words."""
    library = f"what the library says of {described}" if described is not None else ""
    sources = {
        key: f"teacher.{key}" if getattr(options, key) else "its file" if getattr(metadata, key) else library
        for key in ("mean", "std")
    }
    known = " and ".join(dict.fromkeys(filter(None, sources.values())))
    assumed = [key for key, source in sources.items() if not source]
    if not assumed:
        return f"from {known}"
    rest = f"{' and '.join(assumed)} assumed to be those of the images, for neither its file nor teacher.mean says them"
    return f"{known}; {rest}" if known else rest


def check_checksum(options: schema.Teacher, weights: Path | WeightFile) -> None:
    """Refuse weights that are not those of ``teacher.sha256``, where the experiment names both.

    Args:
        options: the teacher's.
        weights: the file, or what was read of it or came from the library.
    """
    if options.sha256 is None or not options.is_given:
        return
    kind, _, wanted = options.sha256.rpartition(":")
    read = read_weight_file(weights) if isinstance(weights, Path) else weights
    if f"{kind}:" == TENSORS:
        name = weights_name(read, options.checkpoint_key)
    elif options.checkpoint is None:
        raise UserError(
            "teacher.sha256 is of a file, and teacher.pretrained takes the tensors of a library; give that of the "
            f"tensors, {weights_name(read, None)}, or drop it.",
            code="other-checksum",
        )
    else:
        name = sha256(read.path)
    found = name.rpartition(":")[2]
    if found != wanted:
        raise UserError(
            f"teacher.{read.given_as} {read.path} has the checksum {found[:12]}..., not the {wanted[:12]}... of "
            "teacher.sha256; get the right file, or change or drop teacher.sha256.",
            code="other-checksum",
        )


def random_teacher(prepared: Prepared) -> Teacher:
    """A teacher with random weights, for a dry run before the real one is trained."""
    options, space = teacher_section(prepared.experiment), prepared.problem.relation.teacher
    network = build_side(options, len(space), prepared.problem.student.train.as_teacher_sees)
    mean, std = _statistics_of_teacher(prepared)
    names = _vectors_of_names(prepared)
    teacher = Teacher(network, space, mean=mean, std=std, names=names)
    return teacher.to(prepared.settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _vectors_of_names(prepared: Prepared) -> ClassVectors | None:
    """The teacher's vectors of the names of the student's classes, in increments of those of all steps."""
    in_steps = prepared.task.students_teach
    student = prepared.sides.relation.student if in_steps else prepared.problem.relation.student
    return class_vectors(prepared.experiment, student)


def _statistics_of_teacher(prepared: Prepared) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The teacher's input normalisation where its file says none: that of the images it would be trained on."""
    problem, experiment = prepared.problem, prepared.experiment
    data = teacher_section(experiment).data or experiment.data
    images = None if problem.measured is None else problem.teacher.train
    return statistics(data, images, of_teacher=True, caches=prepared.settings.caches)


def check_shapes(prepared: Prepared) -> None:
    """Refuse a method that does not fit the networks' outputs, before a teacher is trained for it."""
    teachers: Guides = None
    if prepared.problem.teachers:
        teachers = {name: random_teacher(prepared.of_teacher(name)) for name in prepared.problem.teachers}
    else:
        teachers = random_teacher(prepared)
    prepared = with_projector(prepared, teachers)
    check_method(prepared.experiment.method, prepared.student, teachers, prepared.problem)


def check_before_training(prepared: Prepared) -> None:
    """Refuse a run's teacher and what the method reads of it, as far as can be known before it is trained or loaded.

    Raises:
        UserError: a weight file that is not there, or is of another network, options or classes; a training run that
            cannot be prepared; a method that does not fit the networks.
    """
    experiment, problem = prepared.experiment, prepared.problem
    if experiment.student.pretrain is not None:
        prepare(
            pretraining_experiment(prepared, experiment.student.pretrain), caches=prepared.settings.caches
        )
    if experiment.teachers:
        _check_named_before_training(prepared)
    if experiment.teacher is None or not problem.uses_teacher(experiment.method):
        return
    if not experiment.teacher.is_given:
        training = teacher_experiment(prepared)
        before = prepare(training, caches=prepared.settings.caches)
        if prepared.generation > 1:
            check_before_training(before)
        if experiment.method.needs_teacher and not prepared.task.students_teach:
            check_shapes(prepared)
    elif not prepared.task.students_teach:
        teacher, known = load_teacher(prepared, experiment.teacher.checkpoint)
        check_method(experiment.method, prepared.student, teacher, known.problem)
    elif experiment.teacher.checkpoint is not None:
        check_checksum(experiment.teacher, experiment.teacher.checkpoint)
        options_of(
            experiment.teacher,
            WeightMetadata.read(experiment.teacher.checkpoint),
            experiment.teacher.checkpoint,
        )


def _check_named_before_training(prepared: Prepared) -> None:
    """``check_before_training`` of the named teachers that the method reads."""
    method, teachers = prepared.experiment.method, {}
    known = prepared
    for name in named_teachers_read(prepared.experiment):
        alone = prepared.of_teacher(name)
        section = teacher_section(alone.experiment)
        with of_named(name):
            if section.is_given:
                teachers[name], found = load_teacher(alone, section.checkpoint)
                known = known.with_teacher(name, found)
            else:
                prepare(teacher_experiment(alone), caches=prepared.settings.caches)
                teachers[name] = random_teacher(alone)
    read: Method | None = method
    if prepared.task.students_teach:  # the other terms read models that are not there yet
        read = without_terms(method, _reads_previous)
    if teachers and read is not None:
        check_method(read, prepared.student, teachers, known.problem)


def _reads_previous(term: Term) -> bool:
    """Whether a term reads the previous step's model by its name or for want of one, or no teacher at all."""
    named = term.teacher if isinstance(term.teacher, tuple) else (term.teacher,)
    return None in named or PREVIOUS in named


def teacher_experiment(prepared: Prepared) -> Resolved:
    """The run that trains the teacher over its classes, shared by all that need it; or the generation before."""
    if prepared.generation > 1:
        return prepared.of_generation(prepared.generation - 1)
    experiment, options = prepared.experiment, teacher_section(prepared.experiment)
    if load_method(options.train.method).needs_teacher:
        raise UserError(
            f"teacher.train.method={options.train.method} needs a teacher itself; use one without, such as student "
            "or mixup.",
            code="needs-teacher",
        )
    data = options.data or experiment.data
    if options.data is None:
        seen = data.teacher_view or schema.TeacherView()
        if seen.interpolation != "bilinear":
            raise UserError(
                f"data.teacher_view.interpolation is {seen.interpolation}, and a teacher that is trained here is "
                "trained on images that are resized bilinearly; drop it, or give the teacher's checkpoint.",
                code="other-interpolation",
            )
        form = {"channels": seen.channels or data.channels, "image_size": seen.image_size or data.image_size}
        data = data.model_copy(update={**form, **dict.fromkeys(_STUDENTS_ALONE)})
        images = prepared.problem.student.train
        if images.as_teacher_sees.channels != images.channels:
            data = data.model_copy(update={"mean": None, "std": None})  # which are for the student's channels
    task = _task_of_teacher(prepared)
    return _training(prepared, f"teachers/{options.network}", task, data, options, options.train)


def pretraining_experiment(prepared: Prepared, training: schema.TeacherTraining) -> Resolved:
    """The run that pretrains the student on the base classes, shared by all runs that start from it.

    Args:
        prepared: the run of the student.
        training: its ``student.pretrain``.

    Raises:
        UserError: a task without base classes.
    """
    experiment, task = prepared.experiment, prepared.task.teacher_task()
    if task is None:
        raise UserError(
            f"student.pretrain trains on the base classes, but the task {experiment.task.name} has none (or names "
            "the teacher's own classes); use a task that has, or student.checkpoint.",
            code="no-base-classes",
        )
    data = experiment.data.model_copy(update=dict.fromkeys(_STUDENTS_ALONE))
    section = experiment.student
    return _training(prepared, f"students/{section.network}", task, data, section, training)


def _training(
    prepared: Prepared,
    name: str,
    task: dict[str, Any],
    data: schema.Data,
    section: schema.Side,
    training: schema.TeacherTraining,
) -> Resolved:
    """The ordinary run that trains a side's network before the experiment trains the student."""
    experiment = prepared.experiment
    if training.batch_size is not None:
        data = data.model_copy(update={"batch_size": training.batch_size})
    run = experiment.run.model_dump(mode="json", exclude_unset=True)
    run.update(epochs=training.epochs, seed=training.seed)
    run.pop("extend", None)  # which is about the student's run
    content = {
        "task": task,
        "data": data.model_dump(mode="json", exclude_unset=True),
        "student": _as_student(section),
        "method": {"name": training.method},
        "optimiser": training.optimiser.model_dump(mode="json"),
        "evaluate": experiment.evaluate.model_dump(mode="json", exclude_unset=True),
        "run": run,
    }
    for key in _STUDENTS_ALONE:
        if getattr(data, key) is None:
            content["data"].pop(key, None)
    needs_teacher = load_method(training.method).needs_teacher
    if needs_teacher and experiment.teacher is not None:
        content["teacher"] = experiment.teacher.model_dump(mode="json", exclude_unset=True)
    return resolve(name, [Layer("training", content)])


def _task_of_teacher(prepared: Prepared) -> dict[str, Any]:
    """What the task says of its teacher's training, or the plain task over the teacher's classes."""
    teacher = prepared.experiment.teacher
    task = prepared.task.teacher_task()
    if task is not None and (teacher is None or teacher.data is None):
        return dict(task)
    return plain_task(prepared.problem.relation.teacher)


def _as_student(section: schema.Side) -> dict[str, Any]:
    """A side as the student of its training run, without the taps that only other runs read: they would rename it."""
    content = {
        "network": section.network,
        "options": section.options,
        "taps": section.taps.model_dump(mode="json", exclude={"maps", "stages"}, exclude_none=True),
    }
    return {key: value for key, value in content.items() if value}
