"""Vectors of class names in a teacher's embedding, such as those of CLIP's text tower."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.numerics import unit_rows, upcast
from gkd.core.short_repr import short_repr


@dataclass(frozen=True, eq=False)
class ClassVectors:
    """A vector for each of some class names, which stands where the mean of the class's images would.

    Attributes:
        space: the names, in the order of the rows.
        vectors: ``[N, D]``, of any length.
        source: where they are from, for messages.
    """

    space: LabelSpace
    vectors: Tensor
    source: str = "the vectors of the class names"

    __repr__ = short_repr

    def centres(self, relation: LabelRelation, dim: int) -> Tensor:
        """The L2-normalised vectors ``[C, D]`` of the student's classes, in the order of its columns.

        Args:
            relation: whose rules (aliases, ``match``) say which of the names a student's class is.
            dim: D, of the teacher's embedding.

        Raises:
            UserError: a class without a vector, or vectors of another dimension.
        """
        if self.vectors.shape[1] != dim:
            raise UserError(
                f"{self.source} has vectors of {self.vectors.shape[1]} numbers, and the teacher's embedding has {dim}; "
                "give those of the teacher's own text tower.",
                code="other-dimension",
            )
        student = relation.student
        columns = self._columns(relation)
        missing = [name for name in student if name not in columns]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise UserError(
                f"{self.source} has no vector for {len(missing)} of the student's {len(student)} classes ({shown}); "
                "add theirs, or say under which names they stand there: task.aliases, task.match.",
                code="names-missing",
            )
        return unit_rows(upcast(self.vectors[[columns[name] for name in student]]))

    def ordered(self, space: LabelSpace) -> Tensor:
        """The vectors of the names of a space, in its order; an unknown one is a UserError."""
        return self.vectors[[self.space.column(name) for name in space]]

    def _columns(self, relation: LabelRelation) -> dict[str, int]:
        """Student's class -> its row here: by its own name or alias, and by ``match`` where those are not enough."""
        aliases = {name: other for name, other in relation.aliases.items() if other in self.space}
        student = relation.student
        if all(aliases.get(name, name) in self.space for name in student):
            return {name: self.space.column(aliases.get(name, name)) for name in student}
        by_rules = LabelRelation(self.space, student, aliases, relation.match)
        pairs = zip(by_rules.student_index.tolist(), by_rules.teacher_index.tolist(), strict=True)
        return {student.names[column]: row for column, row in pairs}
