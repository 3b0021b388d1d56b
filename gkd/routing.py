"""Routing: at which spots each sample is distilled, chosen step by step (spot-adaptive distillation).

A spot is a pair of outputs, the student's and the teacher's, that a term compares: maps, embeddings or logits. A gate
for each spot and sample says whether the sample is distilled there. In ``adaptive`` routing the gates come from a
policy that is trained with a network in which student and teacher are spliced at the spots: where a gate is on, what
follows gets the teacher's output, where it is off the student's.

Source:
    Song, Chen, Ye, Song: Spot-Adaptive Knowledge Distillation, IEEE TIP 31 (2022), arXiv 2205.02399; numbers of
    zju-vipa/spot-adaptive-pytorch@9d54c50.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.errors import UserError
from gkd.features import Features, Shapes, Stages, TappedNetwork, as_staged, through
from gkd.labels import LabelRelation
from gkd.losses import Regressor
from gkd.spots import Spot, SpotPair, output_at
from gkd.teacher import Teacher

if TYPE_CHECKING:
    from gkd.terms import Term

LOGITS: SpotPair = ("logits", "logits")
_SAME_FAMILY_BIAS = 10.0


class Routing(BaseModel):
    """Where the terms of a stage distil, sample by sample; ``spots: adaptive`` is short for ``{policy: adaptive}``.

    Attributes:
        policy: ``always`` distils every sample everywhere (no routing); ``adaptive`` where the policy says;
            ``anti`` where it says not to; ``random`` where a coin says.
        classify_weight: g, 1 or more: the cross-entropy of the spliced network counts g-fold while it is above the
            student's own, and 1/g-fold below.
        keep: share of each batch that the last gate should distil; each sample that is missing costs 1.
        temperature: of the Gumbel-softmax; it shapes the policy's gradient, not the choices.
        initial_bias: what the policy adds to distilling at first; None is 10 for two networks of one family (then
            nearly every gate starts on) and 0 for others.
        lr_scale, decay_scale: the policy's learning rate and weight decay as multiples of the stage's; the paper
            halves the rate and has a decay of 1e-3 beside the student's 5e-4.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["always", "adaptive", "anti", "random"] = "always"
    classify_weight: float = Field(default=1.0, ge=1)
    keep: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=5.0, gt=0)
    initial_bias: float | None = None
    lr_scale: float = Field(default=0.5, gt=0)
    decay_scale: float = Field(default=2.0, ge=0)


@dataclass(frozen=True)
class Decision:
    """What routing says of one batch.

    Attributes:
        gates: Bool ``[B, S]``: whether a sample is distilled at a spot; no gradient.
        loss: 0-dim with graph, what trains the policy; None where none is trained.
    """

    gates: Tensor
    loss: Tensor | None = None


class Router(nn.Module):
    """The gates of a stage, and what trains them.

    It holds neither network as a sub-module, so that neither enters its state dict. The student is read through a copy
    that shares its memory, stays in eval mode and asks for no gradient: the spliced pass moves none of the student's
    statistics, and no gradient of it reaches the student's weights.

    Args:
        student: the network that learns; cut into stages where the policy is trained and a map is a spot.
        teacher: the frozen teacher, likewise.
        pairs: the spots of the stage's terms, in any order.
        options: the policy and its numbers.
        shapes: of one sample's outputs, of the student and of the teacher.
        relation: teacher against student classes.

    Raises:
        UserError: a network that is not cut into stages, or spots that cross: deeper in one network, not in the other.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        pairs: Sequence[SpotPair],
        options: Routing,
        shapes: tuple[Shapes, Shapes],
        relation: LabelRelation,
    ) -> None:
        super().__init__()
        self.options = options
        self.spots = ordered_spots([*pairs, LOGITS], shapes)
        self.column = {pair: self.spots.index(_named(pair, shapes)) for pair in [*pairs, LOGITS]}
        self._shapes = shapes
        self._generator: torch.Generator | None = None
        # Not the stage's own seed, whose numbers the networks' dropout draws.
        self._seed = torch.initial_seed() + 1
        num_classes = len(relation.student)
        self.seen: Tensor
        self.distilled: Tensor
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("distilled", torch.zeros(num_classes, len(self.spots), dtype=torch.float64))
        self.policy: nn.Linear | None = None
        if options.policy in ("adaptive", "anti"):
            # A run with routing draws the same numbers elsewhere as one without.
            with torch.random.fork_rng(devices=[]):
                self._build(student, teacher, relation)

    def _build(self, student: nn.Module, teacher: Teacher, relation: LabelRelation) -> None:
        """The policy, the hints between the networks, and the chains of both networks' stages."""
        ours, theirs = self._shapes
        inner = self.spots[:-1]
        # A tuple holds both, for an attribute of its own would make each a sub-module.
        self._student = (student, copy.deepcopy(student).requires_grad_(False).eval())
        self._chains = (
            _chain(self._student[1], "student", [spot for spot, _ in inner], ours),
            _chain(teacher.network, "teacher", [spot for _, spot in inner], theirs),
        )
        self.hints = nn.ModuleList(_Hint(output_at(ours, s), output_at(theirs, t)) for s, t in inner)
        self.anti_hints = nn.ModuleList(_Hint(output_at(theirs, t), output_at(ours, s)) for s, t in inner)
        self.policy = nn.Linear(theirs.embedding[0] + ours.embedding[0], 2 * len(self.spots))
        bias = self.options.initial_bias
        if bias is None:
            bias = _SAME_FAMILY_BIAS if same_family(student, teacher.network) else 0.0
        with torch.no_grad():
            self.policy.bias[::2] += bias
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

    @property
    def names(self) -> list[str]:
        """A short name for each spot: ``map2``, ``map2-map3`` where the sides differ, ``embedding``, ``logits``."""
        return [spot_name(spot) for spot in self.spots]

    def forward(self, student: Features, teacher: Features, images: Tensor, labels: Tensor) -> Decision:
        """The gates of a batch, and what trains the policy.

        Args:
            student, teacher: both networks' own outputs for the batch; they get no gradient.
            images: what the student's were computed from.
            labels: int64 ``[B]`` columns of the student's classes, or distributions ``[B, C]``.
        """
        if self.policy is None:
            shape = (len(labels), len(self.spots))
            coins = torch.rand(shape, generator=self.generator, device=labels.device)
            return self._decided(coins < 0.5, labels, None)
        gates = self.choose(student.embedding.detach(), teacher.embedding)
        routed = self.spliced(images, teacher, gates)
        with torch.autocast(images.device.type, enabled=False):
            loss = self.loss(routed.float(), student.logits.detach().float(), labels, gates)
        distilled = gates.detach() > 0.5
        return self._decided(~distilled if self.options.policy == "anti" else distilled, labels, loss)

    def choose(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """Gates ``[B, S]``, 0 or 1, with the gradient of the Gumbel-softmax (straight through)."""
        assert self.policy is not None
        both = torch.cat([teacher_embedding.float(), student_embedding.float()], 1)
        with torch.autocast(both.device.type, enabled=False):
            scores = self.policy(both).unflatten(1, (len(self.spots), 2))
        noise = torch.empty_like(scores).exponential_(generator=self.generator).log().neg()
        soft = ((scores + noise) / self.options.temperature).softmax(2)
        hard = (soft[..., 0] > soft[..., 1]).to(soft)
        # In this order a gate is 0 or 1 exactly, and what it splices is one side to the bit.
        return hard + (soft[..., 0] - soft[..., 0].detach())

    def spliced(self, images: Tensor, teacher: Features, gates: Tensor) -> Tensor:
        """Logits ``[B, C]`` over the student's classes of both networks spliced at the spots."""
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

    def loss(self, routed: Tensor, own: Tensor, labels: Tensor, gates: Tensor) -> Tensor:
        """The spliced network's cross-entropy, more or less than its worth beside the student's, and what is kept."""
        spliced, alone = F.cross_entropy(routed, labels), F.cross_entropy(own, labels)
        g = self.options.classify_weight
        factor = 1.0 + (g - 1.0) * (spliced > alone) + (1.0 / g - 1.0) * (spliced < alone)
        missing = self.options.keep * len(labels) - gates[:, -1].sum()
        return factor.detach() * spliced + missing.clamp_min(0)

    def _decided(self, gates: Tensor, labels: Tensor, loss: Tensor | None) -> Decision:
        """Counts the gates by class, for the record of the epoch."""
        with torch.no_grad():
            classes = torch.arange(len(self.seen), device=labels.device)
            members = (labels.unsqueeze(1) == classes if labels.dim() == 1 else labels).to(torch.float64)
            self.seen += members.sum(0)
            self.distilled += members.T @ gates.to(torch.float64)
        return Decision(gates, loss)

    def take_shares(self) -> dict[str, list[float | None]]:
        """Since the last call, for each spot the share of each class's samples that was distilled there; waits.

        None for a class that was not seen.
        """
        seen, distilled = self.seen.tolist(), self.distilled.T.tolist()
        self.seen.zero_()
        self.distilled.zero_()
        return {
            name: [round(on / of, 4) if of else None for on, of in zip(counts, seen, strict=True)]
            for name, counts in zip(self.names, distilled, strict=True)
        }

    def _follow_student(self) -> None:
        """Points the copy at the student's memory, which moves when a module changes its device."""
        student, reader = self._student
        for tensors in (nn.Module.parameters, nn.Module.buffers):
            for own, read in zip(tensors(student), tensors(reader), strict=True):
                read.data = own.data

    @property
    def generator(self) -> torch.Generator:
        """The router's own, on the device of the step; its state is part of the state dict."""
        if self._generator is None or self._generator.device != self.seen.device:
            self._generator = torch.Generator(self.seen.device).manual_seed(self._seed)
        return self._generator

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


def build_router(
    student: nn.Module,
    teacher: Teacher | None,
    terms: Mapping[str, Term],
    options: Routing | None,
    shapes: tuple[Shapes, Shapes | None] | None,
    relation: LabelRelation | None,
) -> Router | None:
    """The router of a stage's terms; None where every sample is distilled everywhere.

    Raises:
        UserError: as of :class:`Router`, or no shapes or teacher to build it from.
    """
    if options is None or options.policy == "always":
        return None
    if shapes is None or shapes[1] is None or teacher is None or relation is None:
        raise UserError(
            f"spots: {options.policy} needs a teacher and image_shape=(C, H, W), from which the spots' shapes follow."
        )
    pairs = [pair for term in terms.values() if term.needs_teacher for pair in term.spot_pairs]
    return Router(student, teacher, pairs, options, (shapes[0], shapes[1]), relation)


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
    """
    at_maps = any(isinstance(spot, int) for spot in spots)
    if at_maps or (isinstance(network, TappedNetwork) and network.embedding is not None):
        return (*as_staged(network, side).stages(), network.head)

    def embedding(images: Tensor) -> Tensor:
        features: Features = network.features(images)
        return features.embedding

    return (*[nn.Identity()] * len(shapes.maps), embedding, network.head)


def _position(spot: Spot, shapes: Shapes) -> int:
    """Where a spot stands in a network's chain: the maps in order, then the embedding, then the logits."""
    depth = len(shapes.maps)
    if isinstance(spot, int):
        output_at(shapes, spot)  # refuses one that is not there
        return spot % depth
    return depth if spot == "embedding" else depth + 1


def _named(pair: SpotPair, shapes: tuple[Shapes, Shapes]) -> SpotPair:
    """The pair with maps counted from the first."""
    student, teacher = (
        _position(spot, side) if isinstance(spot, int) else spot
        for spot, side in zip(pair, shapes, strict=True)
    )
    return student, teacher


def ordered_spots(pairs: Sequence[SpotPair], shapes: tuple[Shapes, Shapes]) -> list[SpotPair]:
    """The different pairs from shallow to deep, maps counted from the first.

    Raises:
        UserError: two pairs of which one is deeper in the student and not in the teacher.
    """
    distinct = {_named(pair, shapes) for pair in pairs}
    found = sorted(distinct, key=lambda pair: (_position(pair[0], shapes[0]), _position(pair[1], shapes[1])))
    for first, second in itertools.pairwise(found):
        depths = [
            _position(b, side) - _position(a, side) for a, b, side in zip(first, second, shapes, strict=True)
        ]
        if min(depths) < 1:
            raise UserError(
                f"The spots {spot_name(first)} and {spot_name(second)} (student-teacher) cross: routing needs the "
                "second deeper than the first in both networks; pair them in order, or use spots: always."
            )
    return found


def spot_name(pair: SpotPair) -> str:
    """``map2``, or ``map2-map3`` where the student's and the teacher's differ."""
    student, teacher = (f"map{spot}" if isinstance(spot, int) else spot for spot in pair)
    return student if student == teacher else f"{student}-{teacher}"


def same_family(student: nn.Module, teacher: nn.Module) -> bool:
    """Whether both networks are of one architecture, of whatever depth and width."""
    kinds = [
        type(network.module if isinstance(network, TappedNetwork) else network)
        for network in (student, teacher)
    ]
    return kinds[0] is kinds[1]
