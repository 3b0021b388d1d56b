"""Shared by the losses that read all of a term's spots at once: checks, sizes, and the parts of a sum over spots."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.numerics import upcast, zero_unselected
from gkd.losses._common import check_rows
from gkd.losses.maps import check_map

Shape = Sequence[int]  # of one sample, (C, H, W) or (D,)


def check_spots(
    loss: str, student: Sequence[Shape], teacher: Sequence[Shape], *, embeddings: bool = False
) -> None:
    """Refuse shapes of one sample that a loss over several spots cannot be built for.

    Args:
        loss: its name.
        student, teacher: one shape a spot.
        embeddings: whether a spot may give a vector ``(D,)``.
    """
    if len(student) != len(teacher) or not student:
        raise UserError(
            f"The loss {loss!r} got {len(student)} spots of the student and {len(teacher)} of the teacher; give as "
            "many on both sides, one or more.",
            code="other-number-of-spots",
        )
    allowed = (1, 3) if embeddings else (3,)
    kinds = "maps [C, H, W] and embeddings [D]" if embeddings else "maps [C, H, W]"
    for side, shapes in (("student", student), ("teacher", teacher)):
        for shape in shapes:
            if len(shape) not in allowed:
                raise UserError(
                    f"A spot of the {side} for {loss!r} gives {list(shape)} a sample; the loss reads {kinds}, so "
                    "name spots that are such (0, 1, ... or -1).",
                    code="not-a-map",
                )


def both_maps(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], count: int, mask: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Both sides' outputs as maps ``[B, C, H, W]`` in computing precision, unselected rows zero, the teacher detached.

    An embedding ``[B, D]`` is a map of one position.

    Args:
        student_maps, teacher_maps: one tensor a spot.
        count: how many spots the loss was built for.
        mask: Bool ``[B]``, the rows that count.
    """
    for side, maps in (("student's", student_maps), ("teacher's", teacher_maps)):
        if len(maps) != count:
            raise UserError(
                f"The loss was built for {count} spots and got {len(maps)} of the {side} maps; give one a spot.",
                code="other-number-of-spots",
            )
    for one, other in zip(student_maps, teacher_maps, strict=True):
        check_rows(student_maps[0], one, "student's at another spot")
        check_rows(student_maps[0], other)

    def as_map(values: Tensor) -> Tensor:
        values = upcast(zero_unselected(values, mask))
        return values[:, :, None, None] if values.dim() == 2 else values

    return [as_map(each) for each in student_maps], [as_map(each.detach()) for each in teacher_maps]


def alike(
    student_map: Tensor, teacher_map: Tensor, mask: Tensor | None, *, what: str, brings: str
) -> tuple[Tensor, Tensor]:
    """Two maps ``[B, C, H, W]`` of one shape in computing precision, unselected rows zero, the teacher detached.

    Args:
        student_map, teacher_map: the maps.
        mask: Bool ``[B]``, the rows that count.
        what: the loss, as a message begins its clause on it.
        brings: the module that brings a student's map to its teacher's shape.

    Raises:
        UserError: inputs that are no maps, or of different shapes.
    """
    check_rows(student_map, teacher_map)
    for maps in (student_map, teacher_map):
        check_map(maps)
    if student_map.shape != teacher_map.shape:
        raise UserError(
            f"The student's map is {list(student_map.shape[1:])}, the teacher's {list(teacher_map.shape[1:])}: {what} "
            f"the same shape; use {brings}, which brings the student there.",
            code="other-shapes",
        )
    return upcast(zero_unselected(student_map, mask)), upcast(zero_unselected(teacher_map.detach(), mask))


def smaller(one: Shape, other: Shape) -> tuple[int, int]:
    """The size that both of two maps ``(C, H, W)`` can be pooled to."""
    return min(one[1], other[1]), min(one[2], other[2])


def pooled_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``[B, C, H, W]`` average-pooled to a size; themselves where they have it."""
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)


def depth_factors(count: int, growth: float) -> list[float]:
    """The factor of each spot from shallow to deep: the last has 1, each before it 1 / growth of the next."""
    return [growth ** (number - count + 1) for number in range(count)]
