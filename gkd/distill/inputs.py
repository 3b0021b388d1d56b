"""The inputs of losses: a provider for each that a loss may name.

:func:`add_provider` adds another::

    def image_brightness(reading: Reading) -> Tensor:
        return reading.batch.images.flatten(1).mean(1)

    add_provider("brightness", Need("mean pixel of each image [B]"), image_brightness)

and a loss gets it that names ``brightness`` among its positional parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.core.class_means import class_centres
from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.distill.mixing import interpolated_logits
from gkd.distill.outputs import Outputs
from gkd.distill.side import Side
from gkd.losses.induced import teacher_confidence
from gkd.losses.needs import NEEDS, Need
from gkd.losses.signature import Filled
from gkd.methods.spots import PlacePair, no_pooled_map, output_at
from gkd.methods.terms import Term
from gkd.models import AuxiliaryHead, newest_part


@dataclass(frozen=True)
class Reading:
    """The sources of a loss's inputs for one value of a term in one step.

    Attributes:
        term: the term.
        spots: its (student, teacher) spots: one pair, and where the loss reads more the pairs that follow.
        outputs: the networks' outputs for the term's samples.
        network: the student.
        side: the side of the teacher that the term reads, or of the first; None without a teacher.
        teacher_name: that teacher's name.
        known: Bool ``[C]``, the student's columns of classes that the teacher has; without one, of old
            classes.
        auxiliary: the term's own head, where it has one.
        epoch: of the method's own, with a fraction.
        traded: the term counts by the share of rows that the teacher knows, and a mixture of images by the share of its
            labels (`gkd.distill.unknown_rows`).
    """

    term: Term
    spots: tuple[PlacePair, ...]
    outputs: Outputs
    network: Any
    side: Side | None
    teacher_name: str | None
    known: Tensor
    auxiliary: AuxiliaryHead | None = None
    traded: bool = False
    epoch: float = 0.0

    @property
    def batch(self) -> Batch:
        return self.outputs.batch

    @property
    def student(self) -> Features:
        """The student's outputs."""
        return self.outputs.student

    @property
    def teacher(self) -> Features:
        """The teacher's outputs."""
        if self.teacher_name is None or self.teacher_name not in self.outputs.teachers:
            raise UserError(
                f"The loss {self.term.loss!r} reads a teacher, but there is none.", code="needs-teacher"
            )
        return self.outputs.teachers[self.teacher_name]

    @property
    def columns(self) -> Side:
        """The teacher's side, which has the columns that the term compares."""
        if self.side is None:
            raise UserError(
                f"The loss {self.term.loss!r} reads a teacher, but there is none.", code="needs-teacher"
            )
        return self.side

    @property
    def _of_known_rows(self) -> bool:
        """Whether the term leaves out rows whose label the teacher does not have."""
        return (self.term.rows or self.columns.rows) == "known" or self.term.entry.needs_target

    def inputs(self) -> list[Any]:
        """The tensors, or lists of them, that the loss names as its positional parameters."""
        return [PROVIDERS[need](self) for need in self.term.needs]

    def selection(self) -> dict[str, Tensor]:
        """The mask of rows and the weights of samples, where the term has them, by the loss's keywords."""
        chosen: dict[str, Tensor] = {}
        labels, filled = self.batch.labels, self.term.entry.filled
        labelled, rows = self.batch.labelled, None
        # A loss with a target among the shared classes cannot take a row of another class.
        if self.term.needs_shared_classes and not self.columns.all_known and self._of_known_rows:
            mixed = labels.dim() > 1
            if mixed and self.traded and Filled.WEIGHTS in filled:
                share = (labels * self.known).sum(1)
                chosen[filled[Filled.WEIGHTS]], rows = share, share > 0
            else:
                rows = ~((labels > 0) & ~self.known).any(1) if mixed else self.known[labels]
        if labelled is not None and (rows is not None or self.term.reads_labels):
            rows = labelled if rows is None else rows & labelled
        if rows is not None:
            if Filled.MASK not in filled:
                raise UserError(
                    f"The loss {self.term.loss!r} must leave out rows, but it takes no mask; give it a keyword mask: "
                    "gkd.losses.Mask = None.",
                    code="needs-mask",
                )
            chosen[filled[Filled.MASK]] = rows
        if self.term.confidence is not None:
            # Weights are relative to the rows that count; without unlabelled ones they are so to the batch.
            counted = None if labelled is None else rows
            weights = teacher_confidence(self.teacher.logits, self.term.confidence, mask=counted)
            name = filled[Filled.WEIGHTS]
            chosen[name] = weights * chosen[name] if name in chosen else weights
        return chosen


Provider = Callable[[Reading], Any]  # a tensor, or a list of tensors


def _student_at(number: int) -> Provider:
    """The student's output at a reading's spot (0) or at the one that follows it (1)."""

    def provide(reading: Reading) -> Any:
        return output_at(reading.student, reading.spots[number][0])

    return provide


def _teacher_at(number: int) -> Provider:
    """The teacher's output at a reading's spot (0) or at the one that follows it (1)."""

    def provide(reading: Reading) -> Any:
        return output_at(reading.teacher, reading.spots[number][1])

    return provide


def _student_maps(reading: Reading) -> list[Any]:
    return [output_at(reading.student, spot) for spot, _ in reading.spots]


def _teacher_maps(reading: Reading) -> list[Any]:
    return [output_at(reading.teacher, spot) for _, spot in reading.spots]


def _pooled_map(features: Features, side: str) -> Tensor:
    if features.pooled_map is None:
        raise no_pooled_map(side)
    return features.pooled_map


def _student_weight(reading: Reading) -> Tensor:
    """The rows of all of the student's columns; beside the teacher's those of the shared classes."""
    weight: Tensor = reading.network.head.weight
    return weight[reading.columns.student_index] if reading.term.needs_shared_classes else weight


def _teacher_weight(reading: Reading) -> Tensor:
    """The rows of the shared classes, in the student's order."""
    head = reading.columns.teacher.network.head
    return head.weight[reading.columns.teacher_index]


def _teacher_bias(reading: Reading) -> Tensor:
    """The entries of the shared classes, in the student's order; zeros of a head without a bias."""
    head, index = reading.columns.teacher.network.head, reading.columns.teacher_index
    return head.weight.new_zeros(len(index)) if head.bias is None else head.bias[index]


def _student_logits(reading: Reading) -> Tensor:
    """All of the student's columns; beside the teacher's logits those of the shared classes."""
    if reading.auxiliary is not None:
        logits: Tensor = reading.auxiliary(newest_part(reading.network, reading.student.embedding))
        return logits
    if reading.term.needs_shared_classes:
        return reading.student.logits[:, reading.columns.student_index]
    return reading.student.logits


def _teacher_logits(reading: Reading) -> Tensor:
    """The teacher's columns of the shared classes, in the student's order."""
    logits = reading.teacher.logits[:, reading.columns.teacher_index]
    if reading.outputs.mixture is not None:
        temperature = reading.term.options.get("temperature", 1.0)
        logits = interpolated_logits(logits, reading.outputs.mixture, temperature)
    return logits


def _peer_logits(reading: Reading) -> Tensor:
    """All columns of the other student, which has the same classes."""
    if reading.outputs.peer is None:
        raise UserError(
            f"The loss {reading.term.loss!r} reads a peer, and one student is trained alone; train two together: "
            "gkd.distill.peers.",
            code="needs-peer",
        )
    return reading.outputs.peer.logits


def _teacher_embedding(reading: Reading) -> Tensor:
    """The teacher's embedding, with equal variances where the term balances it."""
    embedding = reading.teacher.embedding
    if reading.term.balance is None or reading.columns.balance is None:
        return embedding
    return reading.columns.balance(embedding.flatten(1))


def _labels(reading: Reading) -> Tensor:
    """The labels as columns of the logits that the loss reads; any column in a row that the mask leaves out."""
    labels = reading.batch.labels
    if reading.batch.labelled is not None:
        labels = labels.clamp_min(0)
    if reading.auxiliary is not None:
        return reading.auxiliary.targets(labels)
    if not reading.term.needs_shared_classes:
        return labels
    if not reading.term.entry.takes_mixed_labels:
        return reading.columns.shared_column[labels]
    if labels.dim() == 1:
        labels = F.one_hot(labels, reading.network.num_classes)
    return labels[:, reading.columns.student_index]  # zeros in a row whose class is not shared


def _index(reading: Reading) -> Tensor:
    if reading.batch.index is None:
        raise UserError(
            f"The loss {reading.term.loss!r} reads index, but the batch has none; give each sample's number in its "
            "data set, as in Batch(images, labels, index).",
            code="index-missing",
        )
    if reading.batch.labelled is not None and reading.term.reads_labels:
        # A bank has no entry for a sample without a label, whose row the mask leaves out.
        return torch.where(reading.batch.labelled, reading.batch.index, 0)
    return reading.batch.index


def _way(reading: Reading) -> Tensor:
    return _of_episode(reading, "way", reading.batch.way)


def _support(reading: Reading) -> Tensor:
    return _of_episode(reading, "support", reading.batch.support)


def _of_episode(reading: Reading, need: str, values: Tensor | None) -> Tensor:
    if values is None:
        raise UserError(
            f"The loss {reading.term.loss!r} reads {need}, but the batch is no episode.",
            code="not-an-episode",
        )
    return values


def _student_cosines(reading: Reading) -> Tensor:
    cosines: Tensor = reading.network.head.cosines(reading.student.embedding)
    return cosines


def _student_scale(reading: Reading) -> Tensor:
    scale: Tensor = reading.network.head.scale
    return scale


def _centres(reading: Reading) -> Tensor:
    """The class centres of the training set, computed once, those of the batch, or the vectors of the names."""
    if reading.term.centres == "names" and reading.columns.names is not None:
        return reading.columns.names
    if reading.term.centres == "train" and reading.columns.centres is not None:
        return reading.columns.centres
    labels, num_classes = reading.batch.labels, reading.network.num_classes
    if (
        reading.batch.labelled is not None
    ):  # samples without a label make a class of their own, which is left out
        labels = torch.where(reading.batch.labelled, labels, num_classes)
        return class_centres(reading.teacher.embedding, labels, num_classes + 1)[0][:-1]
    return class_centres(reading.teacher.embedding, labels, num_classes)[0]


# Name of an input -> its provider; ``gkd.losses.NEEDS`` has the facts of each.
PROVIDERS: dict[str, Provider] = {
    "student_logits": _student_logits,
    "teacher_logits": _teacher_logits,
    "peer_logits": _peer_logits,
    "student_embedding": lambda reading: reading.student.embedding,
    "teacher_embedding": _teacher_embedding,
    "student_cosines": _student_cosines,
    "student_scale": _student_scale,
    "student": _student_at(0),
    "teacher": _teacher_at(0),
    "student_maps": _student_maps,
    "teacher_maps": _teacher_maps,
    "student_pooled_map": lambda reading: _pooled_map(reading.student, "student"),
    "teacher_pooled_map": lambda reading: _pooled_map(reading.teacher, "teacher"),
    "student_weight": _student_weight,
    "teacher_weight": _teacher_weight,
    "teacher_bias": _teacher_bias,
    "epoch": lambda reading: torch.tensor(reading.epoch, device=reading.batch.images.device),
    "student_map": _student_at(0),
    "student_map_after": _student_at(1),
    "teacher_map": _teacher_at(0),
    "teacher_map_after": _teacher_at(1),
    "labels": _labels,
    "index": _index,
    "centres": _centres,
    "way": _way,
    "support": _support,
    "known": lambda reading: reading.known,
}


def add_provider(name: str, need: Need, provider: Provider) -> None:
    """Add an input that losses can read by naming it as a positional parameter.

    Args:
        name: the parameter's name.
        need: the facts of the input.
        provider: computes the input for one reading of a term.

    Raises:
        UserError: a name that has another provider.
    """
    if PROVIDERS.get(name, provider) is not provider:
        raise UserError(f"Losses read {name!r} already; choose another name.", code="provider-twice")
    NEEDS[name] = need
    PROVIDERS[name] = provider
