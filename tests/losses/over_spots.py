"""Modules that read all of a term's spots at once, called as the others are."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

Shapes = tuple[tuple[int, ...], ...]


class OverSpots(nn.Module):
    """A module over all spots, called with one tensor ``[B, everything]`` a side, as the other modules are."""

    def __init__(self, module: nn.Module, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        self.module = module
        self.shapes = {"student_maps": student, "teacher_maps": teacher}

    def maps(self, values: Tensor, side: str) -> list[Tensor]:
        shapes = self.shapes[side]
        parts = values.split([math.prod(shape) for shape in shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def forward(self, **inputs: Any) -> Tensor:
        apart = {key: self.maps(x, key) if key in self.shapes else x for key, x in inputs.items()}
        value: Tensor = self.module(**apart)
        return value
