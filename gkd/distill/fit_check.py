"""Checks before training that terms fit the outputs of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import as_network
from gkd.core.tapped import Shapes, TappedNetwork, network_name, output_shapes
from gkd.distill.side import Guides, Side, by_name
from gkd.losses.needs import NEEDS
from gkd.losses.signature import Filled
from gkd.methods.method import Method
from gkd.methods.mixup import Mixup
from gkd.methods.spots import PlacePair, no_pooled_map, output_at
from gkd.methods.terms import Term
from gkd.models.head_check import head_gives_logits


def both_shapes(
    student: nn.Module,
    teachers: Guides,
    image_shape: Sequence[int],
    teacher_image_shapes: Mapping[str, Sequence[int]],
) -> tuple[Shapes, dict[str, Shapes]]:
    """The shapes of the student's and of each teacher's outputs, each for an image of its own shape."""
    of_teachers = {
        name: output_shapes(teacher.network, teacher_image_shapes[name])
        for name, teacher in by_name(teachers).items()
    }
    return output_shapes(as_network(student), image_shape), of_teachers


def check_terms(
    terms: Mapping[str, Term], student: Shapes, teachers: Mapping[str, Shapes], train_labels: Tensor | None
) -> None:
    """Refuse terms, each of one teacher at most, that do not fit the shapes of the networks' outputs, or the labels."""
    for name, term in terms.items():
        if term.needs_teacher and not teachers:
            raise UserError(
                f"The term {name!r} reads {', '.join(term.needs)}, but there is no teacher.",
                code="needs-teacher",
            )
        try:
            for reading in term.readings:
                _try_reading(term, reading, student, teachers, train_labels)
        except UserError as error:
            raise UserError(f"The term {name!r}: {error}", code=error.code) from None


def check_term(name: str, term: Term, side: Side | None, student: nn.Module, mixup: Mixup | None) -> None:
    """Refuse a term that reads what its side, the student or the stage does not have."""
    if side is not None and "centres" in term.needs and term.centres == "train" and side.centres is None:
        raise UserError(
            f"The term {name!r} reads train-set centres; give them, or set centres: batch.",
            code="centres-missing",
        )
    if side is not None and term.reads_names:
        side.take_names(name)
    if side is not None and term.balance is not None and side.balance is None:
        raise UserError(
            f"The term {name!r} balances the teacher's embedding; give the statistics, as in "
            "TeacherSide(..., balance=gkd.losses.phi_s.phi_s(embeddings)), or leave balance out.",
            code="balance-missing",
        )
    if side is not None and term.needs_shared_classes and side.relation.num_shared == 0:
        raise UserError(
            f"The term {name!r} compares logits, but student and teacher share no class by name: the teacher has "
            f"{len(side.relation.teacher)} classes, the student {len(side.relation.student)}; give the student's "
            "classes=LabelSpace([...]) under the teacher's names, or use a loss on embeddings.",
            code="no-shared-class",
        )
    if (
        side is not None
        and term.needs_shared_classes
        and not side.all_known
        and Filled.MASK not in term.entry.filled
    ):
        raise UserError(
            f"The term {name!r} must leave out rows of classes that the teacher does not have, but its loss takes "
            "no mask; give it a keyword mask: gkd.losses.Mask = None.",
            code="needs-mask",
        )
    check_head(name, term, student)
    networks: dict[SideName, Any] = {"student": student}
    if side is not None:
        networks["teacher"] = side.teacher.network
    for of, network in networks.items():
        _check_preact(name, term, of, network)
        _check_linear_head(name, term, of, network)
    if term.samples == "virtual" and mixup is None:
        raise UserError(
            f"The term {name!r} is on virtual samples, but no mixup says how to make them.",
            code="needs-mixup",
        )


def check_head(name: str, term: Term, student: nn.Module) -> None:
    """Refuse a term that reads the head's cosines where the head has none."""
    head = as_network(student).head
    if any(NEEDS[need].cosine_head for need in term.needs) and not hasattr(head, "cosines"):
        raise UserError(
            f"The term {name!r} reads the head's cosines, but the student's head is a {type(head).__name__}; build the "
            "student with the option head: cosine, or head: proxy.",
            code="needs-cosine-head",
        )


def _check_preact(name: str, term: Term, side: SideName, network: Any) -> None:
    """Refuse a term that reads maps before their activation of a network that does not give them."""
    if term.reads_preact(side) and "preact" not in signature(network.features).parameters:
        kind = "the tapped" if isinstance(network, TappedNetwork) else "a"
        raise UserError(
            f"The term {name!r} reads the {side}'s maps before their activation, which {kind} "
            f"{network_name(network)} does not give; take a network of gkd's own, or set at.preact to the other side "
            "or to null.",
            code="no-preact-maps",
        )


def _check_linear_head(name: str, term: Term, side: SideName, network: Any) -> None:
    """Refuse a term that reads the parameters of a head that is not linear, or does not take the embedding."""
    of_teacher = side == "teacher"
    reads = [
        need for need in term.needs if NEEDS[need].linear_head and NEEDS[need].from_teacher == of_teacher
    ]
    if not reads:
        return
    if not isinstance(network.head, nn.Linear):
        raise UserError(
            f"The term {name!r} reads {', '.join(reads)} of a linear head, but the {side}'s head is a "
            f"{type(network.head).__name__}; take another loss, or build the {side} with a linear head.",
            code="needs-linear-head",
        )
    if isinstance(network, TappedNetwork) and network.embedding is not None:
        raise UserError(
            f"The term {name!r} reads {', '.join(reads)}, but the {side}'s embedding is tapped at "
            f"{network.embedding.path!r} and not where its head reads; leave {side}.taps.embedding out.",
            code="embedding-not-of-head",
        )


def head_notes(method: Method, student: Sided, teacher: Sided | None) -> list[str]:
    """Sentences on the terms and stages that take a side's embedding for what its logits are made of, where it is not.

    Such are terms on an embedding, among them a classifier that it induces, or on a head, and stages that train the
    head alone.

    Args:
        method: its stages.
        student, teacher: each network with the shape ``(C, H, W)`` of its images.
    """
    notes = []
    sides: tuple[tuple[Sided | None, SideName], ...] = ((student, "student"), (teacher, "teacher"))
    for side, name in sides:
        readers = [] if side is None else _readers_of_embedding(method, name)
        if side is not None and readers and not head_gives_logits(*side):
            notes.append(
                f"The logits of the {name}'s {network_name(side[0])} are not what its head makes of its embedding, "
                f"which {', '.join(readers)} {'read' if len(readers) > 1 else 'reads'}: {_HEAD_WISE[name]}"
            )
    return notes


# The network of a side and the shape (C, H, W) of its images.
Sided = tuple[nn.Module, Sequence[int]]
SideName = Literal["student", "teacher"]

_HEAD_WISE = {
    "student": "what is taught there reaches the logits in part alone.",
    "teacher": "what it says there is not what its logits say.",
}


def _readers_of_embedding(method: Method, side: SideName) -> list[str]:
    """The terms and stages that read or train a side's embedding or head by itself, as a sentence names them."""
    readers = []
    for stage_name, stage in method.stages.items():
        for name, term in stage.terms.items():
            spots = (
                {pair[int(side == "teacher")] for pair in term.spot_pairs} if term.entry.spot_needs else set()
            )
            needs = _EMBEDDING_NEEDS[side] & set(term.needs)
            if needs or "embedding" in spots or (side == "student" and term.head == "auxiliary"):
                readers.append(f"the term {name!r} of stage {stage_name!r}")
        if side == "student" and {"head", "backbone"} & set(stage.train):
            readers.append(f"stage {stage_name!r}, which trains {', '.join(stage.train)} alone,")
    return readers


_EMBEDDING_NEEDS = {
    "student": {"student_embedding", "student_cosines", "student_scale", "student_pooled_map"},
    "teacher": {"teacher_embedding", "centres", "teacher_pooled_map"},
}


def _try_reading(
    term: Term,
    reading: tuple[PlacePair, ...],
    student: Shapes,
    teachers: Mapping[str, Shapes],
    train_labels: Tensor | None,
) -> None:
    """Build a term's module, or call its function on zeros, to raise errors early; discard the result."""
    if "student_pooled_map" in term.needs and student.pooled is None:
        raise no_pooled_map("student")
    if "teacher_pooled_map" in term.needs and _teacher_of(term, teachers).pooled is None:
        raise no_pooled_map("teacher")
    if term.entry.module is not None:
        if term.entry.takes_labels and train_labels is None:
            return
        with torch.random.fork_rng(devices=[]):
            shapes = shapes_of_reading(term, reading, student, teachers)
            term.entry.build(shapes, term.options, train_labels, student.logits[0])
    elif set(term.needs) <= {*term.entry.spot_needs, *_TRIED}:
        inputs = [_zeros(term, need, reading, student, teachers) for need in term.needs]
        term.entry.call(term.entry.function, inputs, term.options)


# Inputs beside those at spots that zeros stand for well enough to try a loss.
_TRIED = ("student_embedding", "teacher_embedding", "labels", "index")


def _zeros(
    term: Term,
    need: str,
    reading: tuple[PlacePair, ...],
    student: Shapes,
    teachers: Mapping[str, Shapes],
) -> Any:
    """Two samples of an input of a loss, zero but for their labels and numbers."""
    if need in ("labels", "index"):
        return torch.arange(2) % student.logits[0]
    facts = NEEDS[need]
    shapes = _teacher_of(term, teachers) if facts.from_teacher else student
    if need in _TRIED:
        return torch.zeros(2, *shapes.embedding)
    at_spots = [torch.zeros(2, *output_at(shapes, pair[int(facts.from_teacher)])) for pair in reading]
    return at_spots if facts.every else at_spots[int(facts.after)]


def shapes_of_reading(
    term: Term, reading: tuple[PlacePair, ...], student: Shapes, teachers: Mapping[str, Shapes]
) -> tuple[Any, ...]:
    """The shapes of one sample that a module is built from: the student's, and the teacher's where the term reads one.

    At the term's spots where its loss reads them, a list of all where it reads all at once, else of the embeddings.
    """
    if not term.entry.built_from_shapes:
        return ()
    sides = [student, _teacher_of(term, teachers)] if term.needs_teacher else [student]
    if term.entry.reads_every_spot:
        return tuple([output_at(side, pair[of]) for pair in reading] for of, side in enumerate(sides))
    if term.entry.spot_needs:
        return tuple(output_at(side, spot) for side, spot in zip(sides, reading[0], strict=False))
    return tuple(side.embedding for side in sides)


def _teacher_of(term: Term, teachers: Mapping[str, Shapes]) -> Shapes:
    """The shapes of the teacher that a term reads; an unknown name is refused by the distiller."""
    named = teachers.get(term.teacher) if isinstance(term.teacher, str) else None
    return named or next(iter(teachers.values()))
