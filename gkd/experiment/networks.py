"""Build the network of a student or teacher section."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gkd.config import schema
from gkd.config.peers import peer_of
from gkd.config.teacher_sections import alone_with, named_teachers_read, teacher_sections
from gkd.core.errors import UserError
from gkd.core.user_code import is_import_name
from gkd.data import ImageSet
from gkd.experiment.teacher_classes import of_named
from gkd.models import load
from gkd.models.external import is_of_library
from gkd.models.image_sizes import options_for_images, takes_images
from gkd.models.load import Loaded
from gkd.models.pretrained import describe, pretrained_file
from gkd.problems.problem import Problem
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weight_sets import WeightFile
from gkd.storage.weights import read_weight_file

Section = schema.Student | schema.Teacher


def teacher_section(experiment: schema.Experiment) -> schema.Teacher:
    """The teacher section of an experiment.

    Raises:
        UserError: an experiment without one.
    """
    if experiment.teacher is None:
        raise UserError(
            "The experiment has no teacher; add the section, such as teacher: {network: resnet8x4}.",
            code="teacher-missing",
        )
    return experiment.teacher


def has_own_network(experiment: schema.Experiment) -> bool:
    """Whether the student's or the teacher's network is a module of the user's own, which building it would import."""
    networks = [experiment.student.network, *(side.network for side in teacher_sections(experiment).values())]
    if experiment.student.peer is not None:
        networks.append(experiment.student.peer.network)
    return any(map(is_import_name, networks))


def build_side(
    section: Section, num_classes: int, images: ImageSet, options: Mapping[str, Any] | None = None
) -> Any:
    """Build the network that a section names, for images like these; an external one is tried on one image.

    Args:
        section: the student's or the teacher's.
        num_classes: columns of the logits.
        images: whose channels and size it must take.
        options: instead of the section's.

    Raises:
        UserError: options or taps that the network does not have, or images that it cannot take.
    """
    return load.build_for_images(
        section.network,
        num_classes=num_classes,
        in_channels=images.channels,
        image_shape=images.image_shape,
        options=section.options if options is None else options,
        taps=section.taps.model_dump(exclude_none=True),
        section=_name_of(section),
    )


def check_image_sizes(experiment: schema.Experiment) -> None:
    """Refuse images of a stated size that a library's network does not take, before any image is read.

    Raises:
        UserError: such a size, with the nearest that work.
    """
    data, view = experiment.data, experiment.data.teacher_view or schema.TeacherView()
    teacher = experiment.teacher if experiment.method.needs_teacher else None
    sizes: list[tuple[Section | None, int | None, int | None]] = [
        (experiment.student, data.image_size, data.channels),
        (teacher, view.image_size or data.image_size, view.channels or data.channels),
    ]
    for section, size, channels in sizes:
        if section is None or size is None or not is_of_library(section.network):
            continue
        shape = (channels or 3, size, size)
        if not takes_images(section.network, section.options, shape):
            with torch.random.fork_rng(devices=[]):
                load.build_for_images(
                    section.network,
                    num_classes=2,
                    in_channels=shape[0],
                    image_shape=shape,
                    options=section.options,
                    taps=section.taps.model_dump(exclude_none=True),
                    section=_name_of(section),
                )
    for name in named_teachers_read(experiment):
        with of_named(name):
            check_image_sizes(alone_with(experiment, name))


def given_weights(section: Section, images: ImageSet) -> WeightFile:
    """The weights that a section gives: of its checkpoint, or those that its network's library publishes.

    The library adapts its own to the channels and the size of the images.

    Raises:
        UserError: a missing or unreadable file, or weights that cannot be fetched here.
    """
    if section.checkpoint is not None:
        return read_weight_file(section.checkpoint)
    description = describe(section.network, section.pretrained)
    options = options_for_images(section.network, section.options, images.image_shape)
    return pretrained_file(description, in_channels=images.channels, options=options)


def load_network(
    section: Section,
    weights: Path | WeightFile,
    images: ImageSet,
    num_classes: int | None = None,
    *,
    head: load.HeadOf = "file",
) -> Loaded:
    """The network that a section names with the weights of a file, and the file's metadata.

    Args:
        section: the student's or the teacher's; without options it takes those of the file.
        weights: the file, or what was read of one; where it is the section's checkpoint, the section's key says which
            entry of it.
        images: whose channels and size the network must take.
        num_classes: columns of the logits; as many as the file says classes where left out.
        head: whose head the network has (``gkd.models.load.load_network``).

    Raises:
        UserError: a missing or unreadable file, or one of another network than the section says.
    """
    path = weights.path if isinstance(weights, WeightFile) else weights
    return load.load_network(
        weights,
        network=section.network,
        num_classes=num_classes,
        in_channels=images.channels,
        options=section.options,
        taps=section.taps.model_dump(exclude_none=True),
        image_shape=images.image_shape,
        checkpoint_key=section.checkpoint_key if path == section.checkpoint else None,
        head=head,
        section=_name_of(section),
    )


def options_of(section: Section, metadata: WeightMetadata, weights: Path) -> dict[str, Any]:
    """The options that weights were trained with: the config's, or those that their file says.

    Raises:
        UserError: the file says another network or other options than the config.
    """
    return load.options_as_trained(metadata, weights, section.network, section.options, _name_of(section))


def build_peer(experiment: schema.Experiment, problem: Problem) -> nn.Module:
    """The second student of a method that trains two, freshly initialised."""
    section = peer_of(experiment)
    assert section is not None
    alone = schema.Student(network=section.network, options=section.options, taps=section.taps)
    network: nn.Module = build_side(alone, len(problem.student.space), problem.student.train)
    return network


def build_student(experiment: schema.Experiment, problem: Problem) -> tuple[nn.Module, tuple[str, ...]]:
    """The student, freshly initialised or as its checkpoint left it, and notes on how that file was read.

    Of a checkpoint over other classes the body is loaded and the head is new.

    Raises:
        UserError: weights of another network, or of the same classes in another order.
    """
    section, space, images = experiment.student, problem.student.space, problem.student.train
    path = section.checkpoint
    if section.pretrained is not False:
        loaded = load_network(section, given_weights(section, images), images, len(space), head="new")
        return loaded.network, loaded.notes
    if path is None:
        return build_side(section, len(space), images), ()
    columns = WeightMetadata.read(path).classes
    if columns is not None and columns != space.names and set(columns) == set(space):
        raise UserError(
            f"student.checkpoint {path} has the columns {', '.join(columns)}, but the task gives the student "
            f"{', '.join(space)}: the same classes; choose the task's in that order.",
            code="other-classes",
        )
    same = columns is None or columns == space.names
    loaded = load_network(section, path, images, len(space), head="either" if same else "new")
    return loaded.network, loaded.notes


def _name_of(section: Section) -> str:
    """What a section is called in a config."""
    return "teacher" if isinstance(section, schema.Teacher) else "student"
