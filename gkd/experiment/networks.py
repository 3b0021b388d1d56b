"""From a student or teacher section to its network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gkd.config import schema
from gkd.core.errors import UserError
from gkd.core.tapped import TappedNetwork, output_shapes
from gkd.data import ImageSet
from gkd.models import EXTRACTORS, build_network
from gkd.models.cut_check import check_stages
from gkd.problems.problem import Problem
from gkd.storage.weight_metadata import WeightFacts
from gkd.storage.weights import load_weights, read_weights


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


def build_student(experiment: schema.Experiment, problem: Problem) -> nn.Module:
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
