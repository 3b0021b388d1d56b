"""In-memory caches that runs share: data sets, teachers' predictions and their outputs on augmented views."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor

from gkd.data import ImageSet
from gkd.distill.teacher_views import TeacherViews
from gkd.problems.problem import Problem, Source

V = TypeVar("V")


class Recent(Generic[V]):
    """The most recently used values, by key.

    Args:
        most: the number of values that are held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, V] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made where it is not held; the least recently used one gives way."""
        value = self._values.pop(key) if key in self._values else make()
        while len(self._values) >= self._most:
            self._values.pop(next(iter(self._values)))
        self._values[key] = value
        return value


class Caches:
    """Results that a command computes once for all its runs; their memory is freed with the object.

    A command makes one and hands it down: the cells of a grid share one, and a run that is handed none makes its own.

    Attributes:
        sources: data sets by their config section.
        unlabelled: images without labels, likewise.
        problems: the first problem that an experiment trains, by all that its classes and images depend on.
        predictions: a teacher's logits and embedding, by the teacher and the images.
        views: a teacher's outputs on augmented views, by everything that they depend on; the largest of the
            three (``Settings.cache_bytes``).
        said: lines that the command has printed, and that further runs do not print again.
    """

    def __init__(self) -> None:
        self.sources: Recent[Source] = Recent(4)
        self.unlabelled: Recent[ImageSet] = Recent(4)
        self.problems: Recent[Problem] = Recent(2)
        self.predictions: Recent[tuple[Tensor, Tensor]] = Recent(16)
        self.views: dict[tuple[str, ...], TeacherViews] = {}
        self.said: set[str] = set()
