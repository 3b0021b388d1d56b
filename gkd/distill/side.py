"""TeacherSide: a teacher with its relation to a student's classes, its class centres and its view."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.network import Features, Unregistered
from gkd.core.short_repr import short_repr
from gkd.distill.teacher import Teacher, unnamed_classes
from gkd.losses.phi_s import Balance
from gkd.methods.term_checks import ONLY


@dataclass(frozen=True)
class View:
    """A teacher's images in a batch, where they differ from the student's.

    Attributes:
        image_shape: their ``(C, H, W)``; None where it is that of the student's images.
        name: their name in ``Batch.views``; None is ``Batch.view``.
    """

    image_shape: Sequence[int] | None = None
    name: str | None = None


@dataclass(frozen=True)
class TeacherSide:
    """One teacher in relation to a student.

    Attributes:
        teacher: the frozen network.
        relation: its classes against the student's.
        centres: ``[C, D_T]`` L2-normalised class centres of the training images in its embedding, zero rows for
            absent classes; needed by terms with ``centres: train``.
        view: its images, where they differ from the student's.
        rows: the rows that a loss on its logits reads where the term sets none: ``known`` (labels that it
            has) or ``all``.
        balance: the map of its embedding for terms with ``balance: phi-s``, as of ``gkd.losses.phi_s.phi_s``.
    """

    teacher: Teacher
    relation: LabelRelation
    centres: Tensor | None = None
    view: View | None = None
    rows: Literal["known", "all"] = "known"
    balance: Balance | None = None

    __repr__ = short_repr

    def image_shape(self, student: Sequence[int]) -> Sequence[int]:
        """``(C, H, W)`` of the teacher's images; ``student`` is that of the student's."""
        return student if self.view is None or self.view.image_shape is None else self.view.image_shape


Teachers = Teacher | TeacherSide | Mapping[str, Teacher | TeacherSide]

# The teachers of a training: one, or several by name, the first being the one that a term reads without naming it.
Guides = Teacher | Mapping[str, Teacher] | None


def by_name(guides: Guides) -> dict[str, Teacher]:
    """Teachers by name; one that was given without a name is called ``teacher``."""
    if guides is None:
        return {}
    return dict(guides) if isinstance(guides, Mapping) else {ONLY: guides}


def teacher_sides(
    teachers: Teachers | None, num_classes: int, classes: LabelSpace | None = None
) -> dict[str, TeacherSide]:
    """Sides by name, the first being the one that a term reads without naming it.

    A teacher without a side is related to the student's classes by name. Without ``classes``, a student with
    as many columns as the teacher has the teacher's classes in the teacher's order, and any other shares none
    of them.

    Args:
        teachers: one, by itself or as a side, or several by name; None is none.
        num_classes: the student's number of classes.
        classes: the student's classes, in the order of its columns.
    """
    if teachers is None:
        return {}
    if not isinstance(teachers, Mapping):
        teachers = {ONLY: teachers}
    return {name: _as_side(each, num_classes, classes) for name, each in teachers.items()}


def _as_side(teacher: Teacher | TeacherSide, num_classes: int, classes: LabelSpace | None) -> TeacherSide:
    if isinstance(teacher, TeacherSide):
        return teacher
    if classes is None:
        same = num_classes == len(teacher.space)
        classes = teacher.space if same else unnamed_classes(num_classes, "student")
    return TeacherSide(teacher, LabelRelation(teacher.space, classes))


def centres_of_names(term: str, teacher: Teacher, relation: LabelRelation) -> Tensor:
    """The teacher's L2-normalised vectors ``[C, D_T]`` of the names of the student's classes.

    Args:
        term: the name of the term that reads them, for messages.
        teacher: whose vectors they are.
        relation: its classes against the student's, whose rules hold for the names too.

    Raises:
        UserError: it has none, none of some class, or they are of another dimension than its embedding.
    """
    if teacher.names is None:
        raise UserError(
            f"The term {term!r} reads vectors of class names, and its teacher gives none; name their file by names in "
            "that teacher's section (from Python: Teacher(..., names=ClassVectors(...))), or set centres: train.",
            code="names-missing",
        )
    try:
        return teacher.names.centres(relation, teacher.network.embedding_dim)
    except UserError as error:
        raise UserError(f"The term {term!r}: {error}", code=error.code) from None


class Side(nn.Module):
    """A teacher's side on the device of the step: the columns of its relation, and its centres.

    The teacher is no sub-module, and the buffers can be recomputed and are not saved, so a side adds nothing
    to a state dict.
    """

    known: Tensor
    student_index: Tensor
    teacher_index: Tensor
    shared_column: Tensor
    centres: Tensor | None
    names: Tensor | None
    balance_mean: Tensor | None
    balance_matrix: Tensor | None

    def __init__(self, side: TeacherSide) -> None:
        super().__init__()
        self._teacher = Unregistered(side.teacher)
        self.rows = side.rows
        self.view = None if side.view is None else side.view.name
        relation = side.relation
        self.all_known = bool(relation.known.all())
        shared_column = torch.zeros(len(relation.student), dtype=torch.int64)
        shared_column[relation.student_index] = torch.arange(relation.num_shared)
        buffers = {
            "known": relation.known,
            "student_index": relation.student_index,
            "teacher_index": relation.teacher_index,
            "shared_column": shared_column,
            "centres": side.centres,
        }
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=False)
        # In checkpoints: eigenvectors, whose signs another machine may turn under a projector that has learnt them.
        self.register_buffer("balance_mean", None if side.balance is None else side.balance.mean)
        self.register_buffer("balance_matrix", None if side.balance is None else side.balance.matrix)
        self.relation: LabelRelation = relation
        self.register_buffer("names", None, persistent=False)

    @property
    def teacher(self) -> Teacher:
        return self._teacher.module

    def take_names(self, term: str) -> None:
        """Hold the vectors of the student's class names for a term; refused where the teacher has not got them."""
        self.names = centres_of_names(term, self.teacher, self.relation)

    @property
    def balance(self) -> Balance | None:
        if self.balance_mean is None or self.balance_matrix is None:
            return None
        return Balance(self.balance_mean, self.balance_matrix)

    def features(self, batch: Batch, *, preact: bool = False) -> Features:
        """The teacher's outputs for its own view of a batch; ``preact`` asks for maps before their activation, too."""
        no_view = self.view is None and batch.view is None and not batch.shared
        if no_view and self.teacher.mean is not None and not torch.compiler.is_compiling():
            warnings.warn(
                "The teacher has a mean and std of its own, but is shown the student's images as they are normalised; "
                "give Batch(..., view=teacher.normalised(pixels)), or shared=True where both have the same.",
                stacklevel=2,
            )
        return self.teacher.features(batch.seen_as(self.view), preact=preact)
