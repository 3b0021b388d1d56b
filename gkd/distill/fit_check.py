"""Whether terms fit two networks' outputs, found before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import as_network
from gkd.core.tapped import Shapes, output_shapes
from gkd.distill.teacher import Teacher
from gkd.losses import AT_SPOTS
from gkd.methods.spots import SpotPair, output_at
from gkd.methods.terms import Term


def both_shapes(
    student: nn.Module,
    teacher: Teacher | None,
    image_shape: Sequence[int],
    teacher_image_shape: Sequence[int],
) -> tuple[Shapes, Shapes | None]:
    """The shapes of the student's and the teacher's outputs, each for one image of its own."""
    theirs = output_shapes(teacher.network, teacher_image_shape) if teacher else None
    return output_shapes(as_network(student), image_shape), theirs


def check_terms(
    terms: Mapping[str, Term], student: Shapes, teacher: Shapes | None, train_labels: Tensor | None
) -> None:
    """Refuses terms that do not fit the shapes of the networks' outputs, or the labels."""
    for name, term in terms.items():
        if term.needs_teacher and teacher is None:
            raise UserError(f"The term {name!r} reads {', '.join(term.needs)}, but there is no teacher.")
        try:
            for reading in term.readings:
                _rehearse(term, reading, student, teacher, train_labels)
        except UserError as error:
            raise UserError(f"The term {name!r}: {error}") from None


def check_head(name: str, term: Term, student: nn.Module) -> None:
    """Refuses a term that reads cosines of a head that has none."""
    head = as_network(student).head
    if {"student_cosines", "student_scale"} & set(term.needs) and not hasattr(head, "cosines"):
        raise UserError(
            f"The term {name!r} reads the head's cosines, but the student's head is a {type(head).__name__}; build the "
            "student with the option head: cosine, or head: proxy."
        )


def _rehearse(
    term: Term,
    reading: tuple[SpotPair, SpotPair],
    student: Shapes,
    teacher: Shapes | None,
    train_labels: Tensor | None,
) -> None:
    """Builds what a term would build, or calls it with zeros, and throws it away."""
    if term.entry.module is not None:
        if term.entry.takes_labels and train_labels is None:
            return
        more = {"labels": train_labels} if term.entry.takes_labels else {}
        with torch.random.fork_rng(devices=[]):
            term.entry.module(*shapes_of_pair(term, reading[0], student, teacher), **term.options, **more)
    elif set(term.needs) <= set(AT_SPOTS):
        inputs = []
        for need in term.needs:
            shapes = student if need.startswith("student") else teacher
            assert shapes is not None  # checked above
            pair = reading[1] if need.endswith("_after") else reading[0]
            inputs.append(torch.zeros(2, *output_at(shapes, pair[int(need.startswith("teacher"))])))
        term.entry.function(*inputs, **term.options)


def shapes_of_pair(
    term: Term, pair: SpotPair, student: Shapes, teacher: Shapes | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of one sample that a module's two inputs have."""
    assert teacher is not None  # every loss with parameters reads a teacher
    if set(term.needs) & set(AT_SPOTS):
        return output_at(student, pair[0]), output_at(teacher, pair[1])
    return student.embedding, teacher.embedding
