"""Two networks spliced at spots: the layers after a spot get the teacher's output where a gate is on.

Where the gate is off they get the student's.

A spot is a pair of outputs, the student's and the teacher's: maps, embeddings or logits.

Source:
    Song, Chen, Ye, Song: Spot-Adaptive Knowledge Distillation, IEEE TIP 31 (2022), arXiv 2205.02399, section III.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.core.network import Features, Stages, Unregistered, through
from gkd.core.tapped import Shapes, as_staged
from gkd.distill.teacher import Teacher
from gkd.losses import Regressor
from gkd.methods.spots import Spot, SpotPair, output_at

LOGITS: SpotPair = ("logits", "logits")


class Splice(nn.Module):
    """Student and teacher, joined at spots by hints (to the teacher's shape) and anti-hints (to the student's).

    It holds neither network as a sub-module, so that neither enters its state dict. The student's layers are
    called through a copy that shares its memory, stays in eval mode and requires no gradient: a spliced pass
    changes none of the student's running statistics, and no gradient of it reaches the student's weights. The
    backward pass of a spliced pass must come before the student changes.

    Args:
        student: the network that is trained; cut into stages where a map is a spot.
        teacher: the frozen teacher, likewise.
        spots: as ``ordered_spots`` gives them; the last are the logits.
        shapes: the student's and the teacher's, of one sample's outputs.
        relation: teacher against student classes.

    Raises:
        UserError: a network that is not cut into stages, or outputs of different kinds at a spot.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        spots: Sequence[SpotPair],
        shapes: tuple[Shapes, Shapes],
        relation: LabelRelation,
    ) -> None:
        super().__init__()
        student_shapes, teacher_shapes = shapes
        self.spots = tuple(spots)
        self._shapes = shapes
        inner = self.spots[:-1]
        self._student = Unregistered(student)
        self._reader = Unregistered(copy.deepcopy(student).requires_grad_(False).eval())
        self._chains = (
            _chain(self._reader.module, "student", [spot for spot, _ in inner], student_shapes),
            _chain(teacher.network, "teacher", [spot for _, spot in inner], teacher_shapes),
        )
        self.hints = nn.ModuleList(
            _Hint(output_at(student_shapes, s), output_at(teacher_shapes, t)) for s, t in inner
        )
        self.anti_hints = nn.ModuleList(
            _Hint(output_at(teacher_shapes, t), output_at(student_shapes, s)) for s, t in inner
        )
        # The teacher's head has no columns for classes that the teacher does not have: a linear layer
        # replaces it.
        self.teacher_head: nn.Linear | None = None
        self.columns: Tensor | None
        columns = None
        if bool(relation.known.all()):
            columns = torch.empty(len(relation.student), dtype=torch.int64)
            columns[relation.student_index] = relation.teacher_index
        else:
            self.teacher_head = nn.Linear(teacher_shapes.embedding[0], len(relation.student))
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, images: Tensor, teacher: Features, gates: Tensor) -> Tensor:
        """Logits ``[B, C]`` over the student's classes of both networks spliced at the spots.

        Args:
            images: ``[B, C, H, W]``, the student's.
            teacher: the teacher's own outputs for its view of them.
            gates: ``[B, S]``, 1 where the teacher's output goes on and 0 where the student's does.
        """
        self._follow_student()
        chain, student_shapes = self._chains[0], self._shapes[0]
        x, grafted, before = images, None, (-1, -1)
        for number, spot in enumerate(self.spots[:-1]):
            output = through(chain[before[0] + 1 : _position(spot[0], student_shapes) + 1], x)
            other = self._of_teacher(spot[1], teacher, grafted, before[1])
            gate = gates[:, number].view(-1, *[1] * (output.dim() - 1))
            grafted = _mixed(self.hints[number](output), other, gate)
            x = _mixed(output, self.anti_hints[number](other), gate)
            before = (_position(spot[0], student_shapes), _position(spot[1], self._shapes[1]))
        output = through(chain[before[0] + 1 :], x)
        if self.teacher_head is not None:
            other = self.teacher_head(self._of_teacher("embedding", teacher, grafted, before[1]))
        else:
            other = self._of_teacher("logits", teacher, grafted, before[1])[:, self.columns]
        return _mixed(output, other, gates[:, -1:])

    def _of_teacher(self, spot: Spot, teacher: Features, grafted: Tensor | None, before: int) -> Tensor:
        """The teacher's output at a spot, from the graft at ``before``; its plain output before any graft."""
        if grafted is None:
            output: Tensor = output_at(teacher, spot)
            return output
        return through(self._chains[1][before + 1 : _position(spot, self._shapes[1]) + 1], grafted)

    def _follow_student(self) -> None:
        """Point the copy at the student's memory, which changes when the student moves to another device."""
        student, reader = self._student.module, self._reader.module
        for tensors in (nn.Module.parameters, nn.Module.buffers):
            for source, target in zip(tensors(student), tensors(reader), strict=True):
                target.data = source.data


class _Hint(nn.Module):
    """A map from an output of one network to the shape of the other's: a ``Regressor`` for any two sizes of maps.

    The paper's pairs have equal sizes, or one twice the other; other maps are pooled (or repeated) to the size first.
    """

    def __init__(self, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        super().__init__()
        self.size: tuple[int, int] | None = None
        if len(source) == len(target) == 3 and not _simple(source[1:], target[1:]):
            self.size = (target[1], target[2])
            source = (source[0], *self.size)
        self.regressor = Regressor(source, target)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = F.adaptive_avg_pool2d(x, self.size)
        return self.regressor.joined(x)


def _simple(source: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether sizes are equal, or all of one network twice those of the other."""
    return any(
        all(a * source_factor == b * target_factor for a, b in zip(source, target, strict=True))
        for source_factor, target_factor in ((1, 1), (2, 1), (1, 2))
    )


def _mixed(off: Tensor, on: Tensor, gate: Tensor) -> Tensor:
    """``off`` where the gate is 0 and ``on`` where it is 1, exactly; the gate gets the gradient ``on − off``."""
    on = on.to(off.dtype)
    return torch.lerp(off, on, gate.to(off.dtype))


def _chain(network: Any, side: str, spots: Sequence[Spot], shapes: Shapes) -> Stages:
    """The callables from the images to each map, the embedding and the logits, one after the other.

    A network need not be cut where no map is a spot: then one callable leads to the embedding.

    Raises:
        UserError: a network that is not cut, with a map among the spots or logits that are not its head's.
    """
    if any(isinstance(spot, int) for spot in spots) or not _ends_in_head(network, shapes):
        return (*as_staged(network, side).stages(), network.head)

    def embedding(images: Tensor) -> Tensor:
        features: Features = network.features(images)
        return features.embedding

    return (*[nn.Identity()] * len(shapes.maps), embedding, network.head)


@torch.no_grad()
def _ends_in_head(network: Any, shapes: Shapes) -> bool:
    """Whether the logits are the head's output for the embedding, tried on an image in eval mode."""
    like = next(network.parameters())
    image = torch.randn(1, *shapes.image, generator=torch.Generator().manual_seed(0)).to(like)
    features: Features = network.features(image)
    logits = network.head(features.embedding)
    return logits.shape == features.logits.shape and torch.allclose(
        logits, features.logits, rtol=1e-3, atol=1e-3
    )


def _position(spot: Spot, shapes: Shapes) -> int:
    """The position of a spot in a network's chain: the maps in order, then the embedding, then the logits."""
    depth = len(shapes.maps)
    if isinstance(spot, int):
        output_at(shapes, spot)  # refuses one that is not there
        return spot % depth
    return depth if spot == "embedding" else depth + 1


def named(pair: SpotPair, shapes: tuple[Shapes, Shapes]) -> SpotPair:
    """The pair with maps counted from the first."""
    student, teacher = (
        _position(spot, side) if isinstance(spot, int) else spot
        for spot, side in zip(pair, shapes, strict=True)
    )
    return student, teacher


def ordered_spots(
    pairs: Sequence[SpotPair], shapes: tuple[Shapes, Shapes], *, crossing: bool = False
) -> list[SpotPair]:
    """The distinct pairs from shallow to deep, maps counted from the first.

    Args:
        crossing: whether one pair may be deeper than another in one network but not in the other.

    Raises:
        UserError: two such pairs where ``crossing`` is False.
    """
    depths = {named(pair, shapes): tuple(map(_position, pair, shapes)) for pair in pairs}
    ordered = sorted(depths, key=depths.__getitem__)
    for first, second in itertools.pairwise(ordered):
        if not crossing and any(b <= a for a, b in zip(depths[first], depths[second], strict=True)):
            ends = " (where the spliced networks end)" if second == LOGITS else ""
            raise UserError(
                f"The spots {spot_name(first)} and {spot_name(second)}{ends} of student and teacher cross or meet: "
                "each must be deeper than the one before it in both networks; pair them in order, or use "
                "spots: always.",
                code="spots-cross",
            )
    return ordered


def spot_name(pair: SpotPair) -> str:
    """``map2``, or ``map2-map3`` where the student's and the teacher's differ."""
    student, teacher = (f"map{spot}" if isinstance(spot, int) else spot for spot in pair)
    return student if student == teacher else f"{student}-{teacher}"
