"""Label spaces, selections of their classes, and the relation of two of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gkd.core.errors import UserError, unknown
from gkd.core.short_repr import short_repr

RelationKind = Literal["same", "overlapping", "disjoint", "none"]


@dataclass(frozen=True)
class LabelSpace:
    """Ordered, unique class names; a name's position is its column in the logits.

    Attributes:
        names: of the classes.
        named: False where they stand for columns of which nobody knows the classes (``unnamed_classes``).

    Raises:
        UserError: no class, a name that appears twice, or a text in place of a list of names.
    """

    names: tuple[str, ...]
    named: bool = field(default=True, repr=False)

    def __init__(self, names: Iterable[str], *, named: bool = True) -> None:
        if isinstance(names, (str, bytes)):
            raise UserError(
                f"A label space is a list of class names, and {names!r} is a text, whose letters would be its classes; "
                f"give [{names!r}], or list({names!r}) where the letters are meant.",
                code="not-a-list-of-names",
            )
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "named", named)
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


def unnamed_classes(num_classes: int, whose: str = "teacher") -> LabelSpace:
    """Placeholder classes ``teacher's column 0``, ..., names that no data set has."""
    return LabelSpace([f"{whose}'s column {number}" for number in range(num_classes)], named=False)


class LabelRelation:
    """How the teacher's classes relate to the student's, by name.

    Args:
        teacher: the teacher's label space.
        student: the student's label space.
        aliases: student name -> teacher name, for data sets that name the same class differently.
        match: a regular expression: two names are one class where its first match in them is equal, as of
            ``n\\d{8}`` in ``n01443537`` and ``n01443537_goldfish``. A name without a match, and one with an alias, is
            its whole name.

    Attributes:
        kind: ``"same"`` (each class of one has its class in the other, in any order),
            ``"disjoint"`` (no class shared), ``"overlapping"``, or ``"none"`` (the teacher has no classes that anybody
            knows, ``LabelSpace.named``, and the student has others).
        overlap: |shared| / |student|, in [0, 1].
        teacher_index, student_index: int64 ``[|shared|]`` columns of the shared classes, aligned,
            in the student's order.

    Raises:
        UserError: an alias names an unknown class, two student classes map to one teacher class, or a match that is no
            regular expression, is in no name of a side, or is the same in two names of a side.
    """

    def __init__(
        self,
        teacher: LabelSpace,
        student: LabelSpace,
        aliases: Mapping[str, str] | None = None,
        match: str | None = None,
        counted: LabelSpace | None = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.aliases = dict(aliases or {})
        self.match = match
        self.counted = counted
        for student_name, teacher_name in self.aliases.items():
            student.column(student_name)
            teacher.column(teacher_name)
        matched = _matched(teacher, student, self.aliases, match) if match and teacher.named else {}
        shared: list[tuple[int, int]] = []
        taken: dict[str, str] = {}
        for student_column, name in enumerate(student):
            teacher_name = self.aliases.get(name, matched.get(name, name))
            if teacher_name not in (counted or teacher) or teacher_name not in teacher:
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

    def of_teacher(self, teacher: LabelSpace) -> LabelRelation:
        """The relation by the same rules of a teacher whose classes stand in other columns."""
        return LabelRelation(teacher, self.student, self.aliases, self.match, self.counted)

    @property
    def num_shared(self) -> int:
        return int(self.student_index.numel())

    @property
    def overlap(self) -> float:
        return self.num_shared / len(self.student)

    @property
    def kind(self) -> RelationKind:
        if self.num_shared == 0:
            return "disjoint" if self.teacher.named else "none"
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
        if self.kind == "none":
            return f"no classes of the teacher's are known; {len(self.student)} student classes"
        return (
            f"{self.kind}: {len(self.teacher)} teacher classes, {len(self.student)} student classes, "
            f"{self.num_shared} shared ({100 * self.overlap:.0f} %)"
        )


def _matched(
    teacher: LabelSpace, student: LabelSpace, aliases: Mapping[str, str], match: str
) -> dict[str, str]:
    """Student name -> teacher name of one class, for the names that the expression matches."""
    try:
        expression = re.compile(match)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"match={match!r} is no regular expression ({error}); one that finds WordNet's ids is 'n\\d{{8}}'.",
            code="match-unreadable",
        ) from None
    rest = [name for name in student if name not in aliases]
    by_key = [_by_match(names, side, expression) for names, side in ((teacher, "teacher"), (rest, "student"))]
    return {name: by_key[0][key] for key, name in by_key[1].items() if key in by_key[0]}


def _by_match(names: Iterable[str], side: str, expression: re.Pattern[str]) -> dict[str, str]:
    """What the expression finds in a name -> the name; names without a match are left out."""
    found: dict[str, str] = {}
    for name in names:
        first = expression.search(name)
        key = first.group() if first is not None else ""
        if not key:
            continue
        if key in found:
            raise UserError(
                f"match={expression.pattern!r} finds {key!r} in two of the {side}'s classes, {found[key]!r} and "
                f"{name!r}, which would be one; let it match more of a name.",
                code="match-joins-classes",
            )
        found[key] = name
    if not found:
        shown = ", ".join(itertools.islice(names, 3))
        raise UserError(
            f"match={expression.pattern!r} is found in none of the {side}'s classes ({shown}, ...); mend the "
            "expression, or leave it out.",
            code="match-finds-nothing",
        )
    return found
