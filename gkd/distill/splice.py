"""Two networks spliced at spots: what follows a spot gets the teacher's output where a gate is on, else the student's.

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

    It holds neither network as a sub-module, so that neither enters its state dict. The student is read through a copy
    that shares its memory, stays in eval mode and asks for no gradient: a spliced pass moves none of the student's
    statistics, and no gradient of it reaches the student's weights. A pass is followed by its backward pass before the
    student changes.

    Args:
        student: the network that learns; cut into stages where a map is a spot.
        teacher: the frozen teacher, likewise.
        spots: as ``ordered_spots`` gives them; the last are the logits.
        shapes: of one sample's outputs, of the student and of the teacher.
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
        ours, theirs = shapes
        self.spots = tuple(spots)
        self._shapes = shapes
        inner = self.spots[:-1]
        self._student = Unregistered(student)
        self._reader = Unregistered(copy.deepcopy(student).requires_grad_(False).eval())
        self._chains = (
            _chain(self._reader.module, "student", [spot for spot, _ in inner], ours),
            _chain(teacher.network, "teacher", [spot for _, spot in inner], theirs),
        )
        self.hints = nn.ModuleList(_Hint(output_at(ours, s), output_at(theirs, t)) for s, t in inner)
        self.anti_hints = nn.ModuleList(_Hint(output_at(theirs, t), output_at(ours, s)) for s, t in inner)
        # Of classes that the teacher does not have its head says nothing: a linear layer speaks for it.
        self.teacher_head: nn.Linear | None = None
        self.columns: Tensor | None
        columns = None
        if bool(relation.known.all()):
            columns = torch.empty(len(relation.student), dtype=torch.int64)
            columns[relation.student_index] = relation.teacher_index
        else:
            self.teacher_head = nn.Linear(theirs.embedding[0], len(relation.student))
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, images: Tensor, teacher: Features, gates: Tensor) -> Tensor:
        """Logits ``[B, C]`` over the student's classes of both networks spliced at the spots.

        Args:
            images: ``[B, C, H, W]``, the student's.
            teacher: the teacher's own outputs for what it sees of them.
            gates: ``[B, S]``, 1 where the teacher's output goes on and 0 where the student's does.
        """
        self._follow_student()
        chain, ours = self._chains[0], self._shapes[0]
        x, grafted, before = images, None, (-1, -1)
        for number, spot in enumerate(self.spots[:-1]):
            own = through(chain[before[0] + 1 : _position(spot[0], ours) + 1], x)
            other = self._of_teacher(spot[1], teacher, grafted, before[1])
            gate = gates[:, number].view(-1, *[1] * (own.dim() - 1))
            grafted = _mixed(self.hints[number](own), other, gate)
            x = _mixed(own, self.anti_hints[number](other), gate)
            before = (_position(spot[0], ours), _position(spot[1], self._shapes[1]))
        own = through(chain[before[0] + 1 :], x)
        if self.teacher_head is not None:
            other = self.teacher_head(self._of_teacher("embedding", teacher, grafted, before[1]))
        else:
            other = self._of_teacher("logits", teacher, grafted, before[1])[:, self.columns]
        return _mixed(own, other, gates[:, -1:])

    def _of_teacher(self, spot: Spot, teacher: Features, grafted: Tensor | None, before: int) -> Tensor:
        """The teacher's output at a spot: from what was grafted after ``before``, or its plain one before any graft."""
        if grafted is None:
            output: Tensor = output_at(teacher, spot)
            return output
        return through(self._chains[1][before + 1 : _position(spot, self._shapes[1]) + 1], grafted)

    def _follow_student(self) -> None:
        """Points the copy at the student's memory, which moves when a module changes its device."""
        student, reader = self._student.module, self._reader.module
        for tensors in (nn.Module.parameters, nn.Module.buffers):
            for own, read in zip(tensors(student), tensors(reader), strict=True):
                read.data = own.data


class _Hint(nn.Module):
    """Brings an output of one network to the shape of the other's: a ``Regressor``, between any two sizes of maps.

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
    """Whether sizes are equal, or all of one side twice those of the other."""
    return any(
        all(a * ours == b * theirs for a, b in zip(source, target, strict=True))
        for ours, theirs in ((1, 1), (2, 1), (1, 2))
    )


def _mixed(off: Tensor, on: Tensor, gate: Tensor) -> Tensor:
    """``off`` where the gate is 0 and ``on`` where it is 1, exactly; the gate gets the gradient ``on − off``."""
    on = on.to(off.dtype)
    return torch.lerp(off, on, gate.to(off.dtype))


def _chain(network: Any, side: str, spots: Sequence[Spot], shapes: Shapes) -> Stages:
    """What leads from the images to each map, the embedding and the logits, one after the other.

    Where no map is a spot, a network need not be cut: then one step leads to the embedding.

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
    """Whether the logits are what the head makes of the embedding, tried on an image in eval mode."""
    like = next(network.parameters())
    image = torch.randn(1, *shapes.image, generator=torch.Generator().manual_seed(0)).to(like)
    features: Features = network.features(image)
    logits = network.head(features.embedding)
    return logits.shape == features.logits.shape and torch.allclose(
        logits, features.logits, rtol=1e-3, atol=1e-3
    )


def _position(spot: Spot, shapes: Shapes) -> int:
    """Where a spot stands in a network's chain: the maps in order, then the embedding, then the logits."""
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
    """The different pairs from shallow to deep, maps counted from the first.

    Args:
        crossing: whether pairs may be deeper in one network and not in the other.

    Raises:
        UserError: two such pairs where they may not.
    """
    depths = {named(pair, shapes): tuple(map(_position, pair, shapes)) for pair in pairs}
    found = sorted(depths, key=depths.__getitem__)
    for first, second in itertools.pairwise(found):
        if not crossing and any(b <= a for a, b in zip(depths[first], depths[second], strict=True)):
            ends = " (where the spliced networks end)" if second == LOGITS else ""
            raise UserError(
                f"The spots {spot_name(first)} and {spot_name(second)}{ends} of student and teacher cross or meet: "
                "each must be deeper than the one before it in both networks; pair them in order, or use spots: always."
            )
    return found


def spot_name(pair: SpotPair) -> str:
    """``map2``, or ``map2-map3`` where the student's and the teacher's differ."""
    student, teacher = (f"map{spot}" if isinstance(spot, int) else spot for spot in pair)
    return student if student == teacher else f"{student}-{teacher}"
