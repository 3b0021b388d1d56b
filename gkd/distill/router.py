"""Routing: at which spots each sample is distilled, chosen step by step (spot-adaptive distillation).

A spot is a pair of outputs, the student's and the teacher's, that a term compares: maps, embeddings or logits. A gate
for each spot and sample says whether the sample is distilled there. In ``adaptive`` routing the gates come from a
policy that is trained with a network in which student and teacher are spliced at the spots: the layers after
a spot get the teacher's output where its gate is on, and the student's where it is off.

Source:
    Song, Chen, Ye, Song: Spot-Adaptive Knowledge Distillation, IEEE TIP 31 (2022), arXiv 2205.02399; numbers of
    zju-vipa/spot-adaptive-pytorch@9d54c50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.core.network import Features
from gkd.core.tapped import Shapes, TappedNetwork
from gkd.distill.splice import LOGITS, Splice, named, ordered_spots, spot_name
from gkd.distill.teacher import Teacher
from gkd.losses.signature import Filled
from gkd.methods.routing import Routing, routing_problem
from gkd.methods.spots import SpotPair
from gkd.methods.terms import Term

_SAME_FAMILY_BIAS = 10.0


@dataclass(frozen=True)
class Decision:
    """The gates of one batch, and the policy's loss.

    Attributes:
        gates: Bool ``[B, S]``: whether a sample is distilled at a spot; no gradient.
        loss: 0-dim with graph, the policy's training loss; None where no policy is trained.
    """

    gates: Tensor
    loss: Tensor | None = None


class Router(nn.Module):
    """The gates of a stage, and the loss of their policy.

    ``names`` has a short name for each spot: ``map2``, ``map2-map3`` where the sides differ, ``embedding``, ``logits``;
    ``logits-gate`` where no term distils at the logits.

    Args:
        student: the network that is trained; cut into stages where the policy is trained and a map is a spot.
        teacher: the frozen teacher, likewise.
        pairs: the spots of the stage's terms, in any order.
        options: the policy and its numbers.
        shapes: the student's and the teacher's, of one sample's outputs.
        relation: teacher against student classes.

    Raises:
        UserError: a network that is not cut into stages, or spots that cross, deeper in one network alone.
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
        self.spots = ordered_spots([*pairs, LOGITS], shapes, crossing=not options.trained)
        self.names = [spot_name(spot) for spot in self.spots]
        if LOGITS not in pairs:
            self.names[-1] += "-gate"  # nothing is distilled there
        self.column = {pair: self.spots.index(named(pair, shapes)) for pair in [*pairs, LOGITS]}
        self._generator: torch.Generator | None = None
        # Not the stage's own seed, from which the networks' dropout draws.
        self._seed = torch.initial_seed() + 1
        num_classes = len(relation.student)
        self.seen: Tensor
        self.distilled: Tensor
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("distilled", torch.zeros(num_classes, len(self.spots), dtype=torch.float64))
        self.policy: nn.Linear | None = None
        if options.trained:
            # So that routing leaves all other random numbers of a run as they are.
            with torch.random.fork_rng(devices=[]):
                self.splice = Splice(student, teacher, self.spots, shapes, relation)
                self.policy = nn.Linear(shapes[1].embedding[0] + shapes[0].embedding[0], 2 * len(self.spots))
            bias = options.initial_bias
            if bias is None:
                bias = _SAME_FAMILY_BIAS if same_family(student, teacher.network) else 0.0
            with torch.no_grad():
                self.policy.bias[::2] += bias

    def forward(self, student: Features, teacher: Features, images: Tensor, labels: Tensor) -> Decision:
        """The gates of a batch, and the policy's loss.

        Args:
            student, teacher: both networks' own outputs for the batch; they get no gradient.
            images: the student's images ``[B, C, H, W]``.
            labels: int64 ``[B]`` columns of the student's classes, or distributions ``[B, C]``.
        """
        if self.policy is None:
            shape = (len(labels), len(self.spots))
            coins = torch.rand(shape, generator=self.generator, device=labels.device)
            return self._decided(coins < 0.5, labels, None)
        gates = self.choose(student.embedding.detach(), teacher.embedding)
        routed = self.splice(images, teacher, gates)
        with torch.autocast(images.device.type, enabled=False):
            student_logits = student.logits.detach().to(gates.dtype)
            loss = self.loss(routed.to(gates.dtype), student_logits, labels, gates)
        distilled = gates.detach() > 0.5
        return self._decided(~distilled if self.options.policy == "anti" else distilled, labels, loss)

    def choose(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """Gates ``[B, S]``, 0 or 1, with the gradient of the Gumbel-softmax (straight through)."""
        assert self.policy is not None
        both = torch.cat([teacher_embedding, student_embedding], 1).to(self.policy.weight.dtype)
        with torch.autocast(both.device.type, enabled=False):
            scores = self.policy(both).unflatten(1, (len(self.spots), 2))
        noise = torch.empty_like(scores).exponential_(generator=self.generator).log().neg()
        soft = ((scores + noise) / self.options.temperature).softmax(2)
        hard = (soft[..., 0] > soft[..., 1]).to(soft)
        # In this order a gate is exactly 0 or 1, and a spliced output exactly that of one side.
        return hard + (soft[..., 0] - soft[..., 0].detach())

    def loss(self, routed: Tensor, plain: Tensor, labels: Tensor, gates: Tensor) -> Tensor:
        """The policy's loss: the spliced network's weighted cross-entropy, and a penalty on too few open gates.

        Args:
            routed, plain: logits ``[B, C]`` of the spliced network and of the student.
            labels: as in ``forward``.
            gates: ``[B, S]``; the last column counts for the penalty.
        """
        spliced, alone = F.cross_entropy(routed, labels), F.cross_entropy(plain, labels)
        g = self.options.classify_weight
        factor = 1.0 + (g - 1.0) * (spliced > alone) + (1.0 / g - 1.0) * (spliced < alone)
        missing = self.options.keep * len(labels) - gates[:, -1].sum()
        return factor.detach() * spliced + missing.clamp_min(0)

    def _decided(self, gates: Tensor, labels: Tensor, loss: Tensor | None) -> Decision:
        """Add the gates to the counts by class that ``take_shares`` reports."""
        with torch.no_grad():
            classes = torch.arange(len(self.seen), device=labels.device)
            members = (labels.unsqueeze(1) == classes if labels.dim() == 1 else labels).to(torch.float64)
            self.seen += members.sum(0)
            self.distilled += members.T @ gates.to(torch.float64)
        return Decision(gates, loss)

    def take_shares(self) -> dict[str, list[float | None]]:
        """By spot, each class's share of samples distilled there since the last call; None without samples.

        Waits for the device, and resets the counts.
        """
        seen, distilled = self.seen.tolist(), self.distilled.T.tolist()
        self.seen.zero_()
        self.distilled.zero_()
        return {
            name: [round(on / of, 4) if of else None for on, of in zip(counts, seen, strict=True)]
            for name, counts in zip(self.names, distilled, strict=True)
        }

    @property
    def generator(self) -> torch.Generator:
        """The router's random generator, on the device of the step; its state is part of the state dict."""
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
    """Build the router of a stage's terms; None where every sample is distilled at every spot.

    Raises:
        UserError: as of :class:`Router` and ``routing_problem``, or no shapes or teacher to build it from.
    """
    if options is None or options.policy == "always":
        return None
    problem = routing_problem(terms)
    if problem is not None:
        raise UserError(f"spots: {options.policy} {problem}.", code="terms-not-routable")
    if shapes is None or shapes[1] is None or teacher is None or relation is None:
        raise UserError(
            f"spots: {options.policy} needs a teacher and image_shape=(C, H, W), from which the spots' shapes follow.",
            code="needs-teacher" if teacher is None else "needs-image-shape",
        )
    pairs = [pair for term in terms.values() if term.needs_teacher for pair in term.spot_pairs]
    return Router(student, teacher, pairs, options, (shapes[0], shapes[1]), relation)


def routed_teacher(
    readers: Mapping[str, str | None], terms: Mapping[str, Term], options: Routing
) -> str | None:
    """The name of the one teacher that the terms read; None where they read none.

    Args:
        readers: term -> the name of the teacher that it reads, None of one that reads none.
        terms: by the same names.
        options: of the stage's routing.

    Raises:
        UserError: the terms read several teachers, or one cannot leave out rows.
    """
    names = sorted({reader for reader in readers.values() if reader})
    if len(names) > 1:
        raise UserError(
            f"spots: {options.policy} routes what one teacher teaches, but the terms read {', '.join(names)}; use "
            "spots: always.",
            code="several-teachers",
        )
    for name, term in terms.items():
        if term.needs_teacher and Filled.MASK not in term.entry.filled:
            raise UserError(
                f"spots: {options.policy} leaves out rows, but the loss of the term {name!r} takes no mask; give "
                "it a keyword mask: gkd.losses.Mask = None, or use spots: always.",
                code="needs-mask",
            )
    return names[0] if names else None


def same_family(student: nn.Module, teacher: nn.Module) -> bool:
    """Whether both networks are of one class, whatever their depth and width."""
    kinds = [
        type(network.module if isinstance(network, TappedNetwork) else network)
        for network in (student, teacher)
    ]
    return kinds[0] is kinds[1]
