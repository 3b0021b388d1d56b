"""Spots: which of a network's outputs a term reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.core.tapped import Shapes

Spot = int | Literal["embedding", "logits"]


@dataclass(frozen=True)
class Preact:
    """The spot of a map before its last activation.

    Attributes:
        number: of the map.
    """

    number: int

    def __str__(self) -> str:
        return f"{self.number} before its activation"


# A map of a network's list, one of them before its activation, or the one that is averaged into the embedding.
MapSpot = int | Preact | Literal["pooled"]
Place = Spot | Preact
SpotPair = tuple[Spot, Spot]
PlacePair = tuple[Place, Place]


# Spots that are in the name of a loss's parameter, as in ``student_embedding``.
SIDELESS_SPOTS: tuple[Literal["embedding", "logits"], ...] = ("embedding", "logits")


class Spots(BaseModel):
    """Which of a network's outputs a loss on maps reads, on each side.

    An integer counts the maps (-1 is the last before pooling); ``embedding`` and ``logits`` are the outputs
    of those names. A list on each side pairs its entries one by one: the loss is summed over the pairs. A
    loss on two maps of a network (``student_map_after``) reads each pair and the one that follows it, one on all maps
    (``student_maps``) every pair at once.

    Attributes:
        student: the student's spot, or a list of them.
        teacher: the teacher's, as many.
        preact: the side whose maps are read before their last activation: ``student``, ``teacher`` or ``both``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: Spot | tuple[Spot, ...] = -1
    teacher: Spot | tuple[Spot, ...] = -1
    preact: Literal["student", "teacher", "both"] | None = None

    @model_validator(mode="after")
    def _pairs(self) -> Spots:
        lengths = [len(side) if isinstance(side, tuple) else None for side in (self.student, self.teacher)]
        if lengths[0] != lengths[1] or lengths[0] == 0:
            raise ValueError(
                "student and teacher need as many spots, one or more, which are paired one by one, such as "
                "{student: [1, 2, 3], teacher: [1, 2, 3]}"
            )
        return self

    def pairs(self) -> list[SpotPair]:
        """The (student, teacher) spots, one by one."""
        student, teacher = (
            side if isinstance(side, tuple) else (side,) for side in (self.student, self.teacher)
        )
        return list(zip(student, teacher, strict=True))

    def places(self) -> list[PlacePair]:
        """The same pairs, the maps of a side that is read before their last activation as such."""
        before = [self.preact in (side, "both") for side in ("student", "teacher")]
        return [
            (_before_activation(s) if before[0] else s, _before_activation(t) if before[1] else t)
            for s, t in self.pairs()
        ]


def _before_activation(spot: Spot) -> Place:
    return Preact(spot) if isinstance(spot, int) else spot


def no_pooled_map(side: str) -> UserError:
    """The sentence on a network whose embedding is not known to be the mean of one of its maps."""
    return UserError(
        f"The loss reads the map whose mean over space is the {side}'s embedding, but no map of it is known to be that "
        f"one; build the {side} as one of gkd's own networks, or name the map as the last of {side}.taps.maps.",
        code="no-pooled-map",
    )


def output_at(features: Features | Shapes, spot: Place) -> Any:
    """The output at a spot, or its shape."""
    if isinstance(spot, Preact):
        if isinstance(features, Shapes):  # the shape is that of the map
            return output_at(features, spot.number)
        if not features.preact_maps:
            raise UserError(
                "The outputs have no maps before their activation; compute them by network.features(images, "
                "preact=True), or leave preact out of the term's spots.",
                code="no-preact-maps",
            )
        return output_at(replace(features, maps=features.preact_maps), spot.number)
    if spot == "embedding":
        return features.embedding
    if spot == "logits":
        return features.logits
    if not features.maps:
        raise UserError(
            f"The spot {spot!r} is a map, but no module of the network is known to give one; name them in student.taps "
            "or teacher.taps, as in 'taps: {maps: [layer1, layer2]}', or read 'embedding' or 'logits'.",
            code="no-map",
        )
    if not -len(features.maps) <= spot < len(features.maps):
        raise UserError(
            f"The spot {spot} is outside the network's {len(features.maps)} maps; "
            f"use {-len(features.maps)} to {len(features.maps) - 1}, 'embedding' or 'logits'.",
            code="spot-out-of-range",
        )
    values = features.maps[spot]
    reason = features.left_out.get(spot % len(features.maps)) if isinstance(features, Shapes) else None
    if reason is not None or (isinstance(values, Tensor) and values.dim() == 1):
        why = f"{reason} " if reason else ""
        raise UserError(
            f"The spot {spot} is a map that the network's default taps do not give. {why}Name its maps in "
            "student.taps.maps or teacher.taps.maps, or read another spot, 'embedding' or 'logits'.",
            code="no-map",
        )
    return values
