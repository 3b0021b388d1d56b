"""Label spaces, selections of their classes, and the relation of two of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gkd.core.errors import UserError, unknown
from gkd.core.short_repr import short_repr

RelationKind = Literal["same", "overlapping", "disjoint"]


@dataclass(frozen=True)
class LabelSpace:
    """Ordered, unique class names; a name's position is its column in the logits.

    Raises:
        UserError: no class, a name that appears twice, or a text in place of a list of names.
    """

    names: tuple[str, ...]

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, (str, bytes)):
            raise UserError(
                f"A label space is a list of class names, and {names!r} is a text, whose letters would be its classes; "
                f"give [{names!r}], or list({names!r}) where the letters are meant.",
                code="not-a-list-of-names",
            )
        object.__setattr__(self, "names", tuple(names))
        if not self.names:
            raise UserError("A label space needs at least one class; none was given.", code="no-classes")
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise UserError(
                    f"The class {name!r} appears twice in a label space; class names are unique.",
                    code="class-twice",
                )
            seen.add(name)

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._column

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.names)}

    def column(self, name: str) -> int:
        """The column of a class name; an unknown one is a UserError with the closest match."""
        if name not in self._column:
            raise UserError(unknown("class", name, self.names), code="unknown-class")
        return self._column[name]

    def select(self, classes: Sequence[str | int]) -> LabelSpace:
        """A new space from names or column numbers of this one, in the given order."""
        names = []
        for entry in classes:
            if isinstance(entry, str):
                names.append(self.names[self.column(entry)])
            elif 0 <= entry < len(self):
                names.append(self.names[entry])
            else:
                raise UserError(
                    f"Class index {entry} is outside the data's {len(self)} classes (0 to {len(self) - 1}).",
                    code="class-out-of-range",
                )
        return LabelSpace(names)


class LabelRelation:
    """How the teacher's classes relate to the student's, by name.

    Args:
        teacher: the teacher's label space.
        student: the student's label space.
        aliases: student name -> teacher name, for data sets that name the same class differently.

    Attributes:
        kind: ``"same"`` (each class of one has its class in the other, in any order),
            ``"disjoint"`` (no class shared) or ``"overlapping"``.
        overlap: |shared| / |student|, in [0, 1].
        teacher_index, student_index: int64 ``[|shared|]`` columns of the shared classes, aligned,
            in the student's order.

    Raises:
        UserError: an alias names an unknown class, or two student classes map to one teacher class.
    """

    def __init__(
        self, teacher: LabelSpace, student: LabelSpace, aliases: Mapping[str, str] | None = None
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.aliases = dict(aliases or {})
        for student_name, teacher_name in self.aliases.items():
            student.column(student_name)
            teacher.column(teacher_name)
        shared: list[tuple[int, int]] = []
        taken: dict[str, str] = {}
        for student_column, name in enumerate(student):
            teacher_name = self.aliases.get(name, name)
            if teacher_name not in teacher:
                continue
            if teacher_name in taken:
                raise UserError(
                    f"The student classes {taken[teacher_name]!r} and {name!r} both mean the teacher's "
                    f"{teacher_name!r}; give each its own alias.",
                    code="alias-twice",
                )
            taken[teacher_name] = name
            shared.append((teacher.column(teacher_name), student_column))
        self.teacher_index: Tensor = torch.tensor([t for t, _ in shared], dtype=torch.int64)
        self.student_index: Tensor = torch.tensor([s for _, s in shared], dtype=torch.int64)

    @property
    def num_shared(self) -> int:
        return int(self.student_index.numel())

    @property
    def overlap(self) -> float:
        return self.num_shared / len(self.student)

    @property
    def kind(self) -> RelationKind:
        if self.num_shared == 0:
            return "disjoint"
        if self.num_shared == len(self.student) == len(self.teacher):
            return "same"
        return "overlapping"

    @cached_property
    def known(self) -> Tensor:
        """Bool ``[C_student]``: the student classes that the teacher has."""
        mask = torch.zeros(len(self.student), dtype=torch.bool)
        mask[self.student_index] = True
        return mask

    def __str__(self) -> str:
        return (
            f"{self.kind}: {len(self.teacher)} teacher classes, {len(self.student)} student classes, "
            f"{self.num_shared} shared ({100 * self.overlap:.0f} %)"
        )
