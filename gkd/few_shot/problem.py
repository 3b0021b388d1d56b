"""FewShotProblem: the problem of a task that keeps novel classes from training."""

from __future__ import annotations

from dataclasses import dataclass

from gkd.data import ImageSet
from gkd.problems.problem import Problem


@dataclass(frozen=True)
class FewShotProblem(Problem):
    """Training on base classes, of data that has novel ones too.

    Attributes:
        measured: the images of base classes whose mean and std normalise the input where data.mean is not given.
        leak: novel classes that the teacher knows, which the experiment allows.
    """

    measured: ImageSet | None = None  # defaults stand in the place of the base's properties
    leak: tuple[str, ...] = ()
