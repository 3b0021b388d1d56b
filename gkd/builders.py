"""From a validated experiment to the objects of a run: data, problem, teacher, student, settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gkd import config, schema
from gkd.checkpoint import load_weights, read_weights
from gkd.data import (
    LAYOUTS,
    ImageSet,
    channel_statistics,
    check_balanced,
    check_episodes,
    fingerprint,
    limit_per_class,
    listing_of,
    load_images,
    split_validation,
)
from gkd.data.listing import Split
from gkd.data.rotations import with_rotations
from gkd.errors import UserError
from gkd.features import TappedNetwork, output_shapes
from gkd.labels import LabelRelation
from gkd.method import refusal, require
from gkd.mixup import without_mixup
from gkd.models import EXTRACTORS, build_network
from gkd.problem_check import check_growth, check_problem
from gkd.settings import Settings, images_per_class
from gkd.stage_check import check_stages
from gkd.task import TASKS, Problem, Source, Task, students_teach
from gkd.weight_facts import WeightFacts


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its teacher is there."""

    resolved: config.Resolved
    problem: Problem
    student: nn.Module
    settings: Settings
    epochs: dict[str, int]

    @property
    def experiment(self) -> schema.Experiment:
        return self.resolved.experiment


def prepare(resolved: config.Resolved, *, final: bool = False) -> Prepared:
    """Reads the data, lets the task select classes, checks the method's needs, builds the student.

    Args:
        resolved: the experiment.
        final: of several problems the last one, rather than the first to train.

    Raises:
        UserError: anything that can be known to be wrong before training.
    """
    experiment = resolved.experiment
    problem = problem_of(experiment)
    if final and problem.step is not None:
        *_, problem = problems_of(experiment)
    torch.manual_seed(experiment.run.seed)
    student = _build_student(experiment, problem)
    if problem.step is not None:
        check_growth(experiment, problem.step, student)
    settings = _settings(experiment, problem)
    for stage in experiment.method.stages.values():
        per_class = images_per_class(stage, settings)
        if per_class is not None:
            check_balanced(problem.student.train, settings.batch_size, per_class)
        if stage.episodes is not None:
            check_episodes(problem.student.train, stage.episodes)
    student = student.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Prepared(resolved, problem, student, settings, experiment.method.epochs(experiment.run.epochs))


def problem_of(experiment: schema.Experiment) -> Problem:
    """Which classes and images each side has, where the method can work so; of several problems the first to train.

    Raises:
        UserError: a method that the relation denies, images of the teacher's that are not adapted, or what an
            incremental run cannot have.
    """
    relation = relation_to_check(experiment)
    if (
        refusal(experiment.method, relation) is not None
    ):  # to read all methods takes longer than to refuse one
        steps = students_teach(experiment.task.name)
        others = {name: other for name, other in config.shipped_methods().items() if steps or not other.after}
        require(experiment.method, relation, others)
    problem = next(problem for problem in problems_of(experiment) if not _is_given(problem, experiment))
    check_problem(experiment, problem)
    return problem


def problems_of(experiment: schema.Experiment) -> Iterator[Problem]:
    """The task's problems in their order, the training images limited to ``data.per_class``."""
    source, teacher_source, task = _sides(experiment)
    data, run = experiment.data, experiment.run
    seed = run.seed if data.subset_seed is None else data.subset_seed
    of_all_classes = None
    for problem in task.problems(teacher_source, source, run.seed):
        train = problem.student.train
        if data.per_class is not None and problem.step is not None:
            if of_all_classes is None:
                of_all_classes = limit_per_class(problem.step.images, data.per_class, seed=seed)
            problem = replace(problem, step=replace(problem.step, images=of_all_classes))
            assert problem.step is not None
            train = problem.step.new_images()
        elif data.per_class is not None:
            train = limit_per_class(train, data.per_class, seed=seed)
        yield replace(problem, student=replace(problem.student, train=train))


def _is_given(problem: Problem, experiment: schema.Experiment) -> bool:
    """Whether the model of an incremental step is the experiment's teacher, or comes before it."""
    step = problem.step
    return step is not None and experiment.teacher is not None and step.number <= step.start_from


def build_side(
    section: schema.Student | schema.Teacher,
    num_classes: int,
    images: ImageSet,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The network that a section names, for images like these; one from elsewhere has been tried on one.

    Args:
        section: the student's or the teacher's.
        num_classes: columns of the logits.
        images: whose channels and size it must take.
        options: instead of the section's.

    Raises:
        UserError: options or taps that the network does not have, or images that it cannot take.
    """
    network = build_network(
        section.network,
        num_classes=num_classes,
        in_channels=images.channels,
        taps=section.taps.model_dump(exclude_none=True),
        **(section.options if options is None else options),
    )
    if isinstance(network, TappedNetwork):
        output_shapes(network, images.image_shape)
        if network.stage_paths:
            check_stages(network, images.image_shape)
    return network


def options_of(
    section: schema.Student | schema.Teacher, facts: WeightFacts, checkpoint: Path, side: str
) -> dict[str, Any]:
    """The options that weights were trained with: the config's, or those that their file says.

    Raises:
        UserError: the file says another network or other options than the config.
    """
    if facts.network is None:
        return section.options
    if facts.network != section.network:
        raise UserError(
            f"{side}.checkpoint {checkpoint} was trained as {facts.network!r}, but {side}.network is "
            f"{section.network!r}; set {side}.network={facts.network}."
        )
    # A config need not count the extractors, which steps add.
    stated = {key: value for key, value in facts.options.items() if key != EXTRACTORS}
    if section.options not in ({}, stated, facts.options):
        raise UserError(
            f"{side}.checkpoint {checkpoint} was trained with the options {json.dumps(facts.options)}, but "
            f"{side}.options is {json.dumps(section.options)}; drop {side}.options, which takes those of the file."
        )
    return facts.options


def _build_student(experiment: schema.Experiment, problem: Problem) -> nn.Module:
    """The student: freshly initialised, or as its checkpoint left it."""
    section, space, images = experiment.student, problem.student.space, problem.student.train
    path = section.checkpoint
    if path is None:
        return build_side(section, len(space), images)
    tensors, metadata = read_weights(path)
    facts = WeightFacts.read(metadata, path)
    student = build_side(section, len(space), images, options_of(section, facts, path, "student"))
    load_weights(student, tensors, name=section.network, path=path)
    if facts.classes is not None and facts.classes != space.names:
        raise UserError(
            f"student.checkpoint {path} has the columns {', '.join(facts.classes)}, but the task gives the student "
            f"{', '.join(space)}; choose the task's classes to match, in that order."
        )
    return student


def _sides(experiment: schema.Experiment) -> tuple[Source, Source, Task]:
    """The student's images, the teacher's, and the adapter that chooses among their classes."""
    teacher_data = (experiment.teacher and experiment.teacher.data) or experiment.data
    task: Task = TASKS[experiment.task.name].load()(experiment.task)
    return load_source(experiment.data), load_source(teacher_data), task


def relation_to_check(experiment: schema.Experiment) -> LabelRelation | None:
    """What a method must be able to work with: None where nothing teaches."""
    if experiment.teacher is None and not students_teach(experiment.task.name):
        return None
    return relation_of(experiment)


def relation_of(experiment: schema.Experiment) -> LabelRelation:
    """How the classes of the two sides relate, before any image is selected."""
    source, teacher_source, task = _sides(experiment)
    return task.spaces(teacher_source.space, source.space)


@lru_cache(maxsize=4)
def load_source(data: schema.Data) -> Source:
    """A data set with its validation split, cut per class by the split's own seed."""
    if data.fingerprint is not None and data.root is not None:
        found = fingerprint(data.root, data.name)
        if found != data.fingerprint:
            raise UserError(
                f"The images at data.root {data.root} are not those of data.fingerprint {data.fingerprint[:12]}...: "
                f"get the right ones, or set data.fingerprint={found} (or null, for any)."
            )
    train, test = _load_split(data, "train"), _load_split(data, "test")
    cut = data.validation
    train, validation = split_validation(
        train, per_class=cut.per_class, fraction=cut.fraction, take=cut.take, seed=cut.seed
    )
    other = None
    if data.name in LAYOUTS and data.root is not None and not set(train.space) & set(test.space):
        there = listing_of(data.name, data.root).splits.get("validation")
        other = (
            _load_split(data, "validation") if there and not set(there.classes) & set(train.space) else None
        )
    return Source(train, validation, test, other)


def _load_split(data: schema.Data, split: Split) -> ImageSet:
    """The images of a split, with what the teacher sees of them where that is something else."""
    images = _read_split(data, split)
    return with_rotations(images) if data.rotations else images


def _read_split(data: schema.Data, split: Split) -> ImageSet:
    workers = available_cpus() if data.workers is None else data.workers
    read = partial(
        load_images,
        data.name,
        split,
        root=data.root,
        download=data.download,
        fit=data.fit,
        memory_gb=data.memory_gb,
        workers=workers,
    )
    images = read(channels=data.channels, image_size=data.image_size)
    view = data.teacher_view
    if view is None:
        return images
    size = images.size if view.image_size is None else (view.image_size, view.image_size)
    if (view.channels or images.channels, *size) == images.image_shape:
        return images  # the same pixels
    theirs = read(channels=view.channels or images.channels, image_size=view.image_size or data.image_size)
    return replace(images, teacher_images=theirs.images)


def statistics(
    data: schema.Data, images: ImageSet | None = None, *, of_teacher: bool = False
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The input normalisation: as configured, or measured over the training images (as the teacher sees them).

    Args:
        data: the data set.
        images: instead of all its training images.
        of_teacher: measures what the teacher sees of them.

    Raises:
        UserError: another number of values than the images have channels.
    """
    own = load_source(data).train if images is None else images
    images = own.as_teacher_sees if of_teacher else own
    # What is configured is for the student's channels; a teacher that sees others has its own.
    if data.mean is not None and data.std is not None and images.channels == own.channels:
        for key, values in (("mean", data.mean), ("std", data.std)):
            if len(values) != own.channels:
                raise UserError(
                    f"data.{key} has {len(values)} numbers but the images have {own.channels} channels; give one "
                    "number per channel, or leave out mean and std to have them measured."
                )
        return data.mean, data.std
    mean, std = channel_statistics(images)
    # Rounded, so that teacher and student over the same data share one normalised view.
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-4) for s in std)


def _settings(experiment: schema.Experiment, problem: Problem) -> Settings:
    run, data = experiment.run, experiment.data
    mean, std = statistics(data, problem.measured)
    device = choose_device(run.device)
    return Settings(
        seed=run.seed,
        batch_size=data.batch_size,
        augment=without_mixup(data.augment)[0],
        teacher_augment=data.teacher_view.augment if data.teacher_view else None,
        own_draws=data.teacher_view is not None and data.teacher_view.draws == "own",
        images_per_class=data.images_per_class,
        mean=mean,
        std=std,
        device=device,
        dtype=choose_dtype(run.precision, device),
        evaluate_every=experiment.evaluate.every,
        evaluate_batch_size=experiment.evaluate.batch_size,
        checkpoint_seconds=run.checkpoint_seconds,
        views=data.views,
        cache_bytes=run.cache_gb * 2**30,
    )


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"run.device={name!r} is no device; use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"run.device={name!r} is not supported; use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"run.device={name!r} was asked for, but this torch sees no GPU; use run.device=auto."
        )
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """``auto`` takes bf16 where the device has instructions for it, float32 elsewhere."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def use_threads(threads: int | None) -> int:
    """Sets torch's CPU threads once: as asked, OMP_NUM_THREADS, or allowed CPUs // local ranks."""
    if threads is None:
        threads = int(os.environ.get("OMP_NUM_THREADS") or available_cpus())
    torch.set_num_threads(threads)
    return threads


def available_cpus() -> int:
    """The CPUs that this process may use, shared among the ranks on this machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
