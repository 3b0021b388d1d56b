"""The trial of a dry run: a method on untrained networks, at one problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from gkd.distill.side import Guides
from gkd.experiment.prepare import Prepared
from gkd.methods.method import Method
from gkd.problems.problem import Problem


@dataclass(frozen=True)
class Trial:
    """A problem as a dry run tries it.

    Attributes:
        name: begins its lines, such as ``step 2``.
        problem, method, epochs: what is tried.
        student, teacher: networks that are not trained, or not for this; several teachers by name.
        times: how many problems of the run are about as long.
    """

    name: str
    problem: Problem
    method: Method
    epochs: Mapping[str, int]
    student: nn.Module
    teacher: Guides = None
    times: int = 1


def trial_of(prepared: Prepared, teacher: Guides = None, name: str = "stage") -> Trial:
    """A prepared run's own problem and student."""
    method = prepared.experiment.method
    return Trial(name, prepared.problem, method, prepared.epochs, prepared.trained, teacher)
